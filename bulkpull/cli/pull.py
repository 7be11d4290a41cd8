"""`bulkpull pull`: pull a range into one output."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

import bulkpull
from bulkpull.cli.client import client, client_options
from bulkpull.cli.dates import range_text, resolved_dates
from bulkpull.cli.exit_codes import EXIT_INCOMPLETE
from bulkpull.cli.next_step import next_step, next_step_of_table
from bulkpull.cli.observers import Observers, figures_of, observed
from bulkpull.cli.options import options_of, run_options
from bulkpull.cli.running import Interrupted, run
from bulkpull.cli.settings import Command
from bulkpull.cli.streams import ReaderGone
from bulkpull.cli.tables import path_json, window_json
from bulkpull.events import OnEvent, ignore
from bulkpull.options import declared
from bulkpull.sync import TableOptions

if TYPE_CHECKING:
    from bulkpull.progress import Progress


@click.command(cls=Command)
@options_of(bulkpull.PullOptions, optional=["out"])
@options_of(TableOptions, optional=["to"])
@client_options
@run_options
@observed
def pull(
    base_url: str,
    requests_per_minute: int,
    retry_for: float,
    accept_short: bool,
    fresh: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    observers: Observers,
    **values: Any,
) -> int:
    """Pull the activity of a time range into one CSV, NDJSON, Parquet or Arrow file, each id once.

    The range is split into windows with one export each. Exports run concurrently; their files are downloaded and
    merged as they become ready. Each export sends an email to the token's user.

    If interrupted, rerun the same command to resume. With --out -, or a pipe, rows are written as
    they are merged, and the pull cannot be resumed. With --to instead of --out, they go into a table.

    \b
    Example:
      bulkpull pull --start 2023-01-01 --end 2024-01-01 --out activity.csv \\
        --filter event_type==agreed --fields event_type,custom_data.vip
    """
    if values["to"] is None and values["out"] is None:
        raise bulkpull.UsageError("say where the rows go: --out FILE, or --to URL for a table")
    options = options_from(values, fresh=fresh)
    stream = None
    if isinstance(options, bulkpull.PullOptions):
        from bulkpull.store import byte_stream_at  # imports the event loop: --help need not

        stream = byte_stream_at(options.out)
    if as_json and stream and stream.is_standard_output:
        raise bulkpull.UsageError("--json would print among the rows: use it with an output other than standard output")
    resolved = resolved_dates(values, options)
    if not quiet:
        click.echo(f"range: {range_text(options)}", err=True)
    figures = _figures(observers, quiet=quiet)
    if figures and isinstance(options, bulkpull.PullOptions) and stream is None:
        _learn(figures, options, base_url)
    begun = False  # past what --fresh clears

    async def work() -> bulkpull.Result:
        async with client(base_url, requests_per_minute, retry_for) as clickwrap, observers.watching():
            with shown_progress(verbose, quiet, requests_per_minute, figures) as show:

                def listener(event: bulkpull.Event) -> None:
                    nonlocal begun
                    begun = True
                    show(event)
                    observers(event)

                function = bulkpull.load if isinstance(options, bulkpull.LoadOptions) else bulkpull.pull
                return await function(clickwrap, **options.asdict() | {"on_event": listener})

    try:
        result = run(work)
    except (bulkpull.BulkpullError, Interrupted) as end:
        if isinstance(options, bulkpull.LoadOptions):
            note = next_step_of_table(end, pull.params)
        else:
            note = next_step(
                values["out"], end, pull.params, begun=begun, fresh=fresh, state=values["state"], resolved=resolved
            )
        if note:
            end.add_note(note)
        raise
    from bulkpull.cli.summary import summary

    if not quiet:
        click.echo(summary(result), err=True)
    observers.finished(summary(result), figures_of(result))
    if as_json:
        import orjson

        with suppress(ReaderGone):  # the output is complete all the same
            click.echo(orjson.dumps(result_json(result)))
    return EXIT_INCOMPLETE if result.skipped or (result.short and not accept_short) else 0


def _figures(observers: Observers, *, quiet: bool) -> Progress | None:
    """The figures that the terminal and the observers show; None if there is nobody to see them."""
    if observers.figures or quiet:
        return observers.figures
    from bulkpull.progress import Progress

    return Progress()


def _learn(figures: Progress, options: bulkpull.PullOptions, base_url: str) -> None:
    """Start with an estimate from an earlier pull, if there was one."""
    from bulkpull.journal import earlier_pull

    if earlier := earlier_pull(options.out, options.state, base_url):
        figures.assume(earlier.prior)


def options_from(values: Mapping[str, Any], *, fresh: bool) -> bulkpull.PullOptions | bulkpull.LoadOptions:
    """Return the options of a pull into a file, or into a table if `to` is set. Raises UsageError for values that make
    no sense, and for options of files beside `to`."""
    names = [one.name for one, declaration in declared(TableOptions) if declaration.in_cli]
    of_table = {name: values[name] for name in names}
    values = {name: value for name, value in values.items() if name not in of_table}
    if of_table["to"] is None:
        return bulkpull.PullOptions(**values, resume=not fresh)
    of_files = {one.name: one.default for one, _ in declared(bulkpull.PullOptions)}
    for one, _ in declared(bulkpull.LoadOptions):
        of_files.pop(one.name, None)
    given = [name for name, default in of_files.items() if values[name] != (None if name == "out" else default)]
    if given:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise bulkpull.UsageError(f"{named} is for files, and --to names a table: use one of them")
    of_pull = {name: value for name, value in values.items() if name not in of_files}
    return bulkpull.LoadOptions(**of_table, **of_pull, resume=not fresh)


def shown_progress(
    verbose: bool, quiet: bool, requests_per_minute: int, figures: Progress | None
) -> AbstractContextManager[OnEvent]:
    """Return a context manager for a listener that shows events, unless `quiet`, and counts them in `figures`."""
    if quiet:
        return nullcontext(figures or ignore)
    from bulkpull.cli.progress import progress

    return progress(verbose=verbose, requests_per_minute=requests_per_minute, figures=figures)


def result_json(result: bulkpull.Result) -> dict[str, object]:
    """Return the result of a pull as an object for JSON."""
    return asdict(result) | {
        "output": path_json(result.output),
        "complete": result.complete,
        "skipped": [window_json(window) for window in result.skipped],
        "short": [_mismatch(one) for one in result.short],
        "over": [_mismatch(one) for one in result.over],
        "manifest": result.manifest and path_json(result.manifest),
    }


def _mismatch(found: bulkpull.CountMismatch) -> dict[str, object]:
    return window_json(found.window) | {"counted": found.counted, "delivered": found.delivered}
