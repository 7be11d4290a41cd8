"""`bulkpull pull`: pull a range into one output."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict
from typing import Any

import click

import bulkpull
from bulkpull.cli.client import client, client_options
from bulkpull.cli.dates import range_text, resolved_dates
from bulkpull.cli.next_step import next_step
from bulkpull.cli.options import options_of, run_options
from bulkpull.cli.running import Interrupted, run
from bulkpull.cli.settings import Command
from bulkpull.cli.streams import ReaderGone
from bulkpull.cli.tables import path_json, window_json
from bulkpull.events import OnEvent, ignore

EXIT_INCOMPLETE = 6


@click.command(cls=Command)
@options_of(bulkpull.PullOptions)
@client_options
@run_options
def pull(
    base_url: str,
    requests_per_minute: int,
    retry_for: float,
    accept_short: bool,
    fresh: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **values: Any,
) -> int:
    """Pull the activity of a time range into one CSV, NDJSON, Parquet or Arrow file, each id once.

    The range is split into windows with one export each. Exports run concurrently; their files are downloaded and
    merged as they become ready. Each export sends an email to the token's user.

    If interrupted, rerun the same command to resume. With --out -, or a pipe, rows are written as
    they are merged, and the pull cannot be resumed.

    \b
    Example:
      bulkpull pull --start 2023-01-01 --end 2024-01-01 --out activity.csv \\
        --filter event_type==agreed --fields event_type,custom_data.vip
    """
    from bulkpull.store import byte_stream_at  # imports the event loop: --help need not

    options = bulkpull.PullOptions(**values, resume=not fresh)
    resolved = resolved_dates(values, options)
    stream = byte_stream_at(values["out"])
    if as_json and stream and stream.is_standard_output:
        raise bulkpull.UsageError("--json would print among the rows: use it with an output other than standard output")
    if not quiet:
        click.echo(f"range: {range_text(options)}", err=True)
    begun = False  # past what --fresh clears

    async def work() -> bulkpull.Result:
        async with client(base_url, requests_per_minute, retry_for) as clickwrap:
            with _progress(verbose=verbose, quiet=quiet) as show:

                def listener(event: bulkpull.Event) -> None:
                    nonlocal begun
                    begun = True
                    show(event)

                return await bulkpull.pull(clickwrap, **options.asdict() | {"on_event": listener})

    try:
        result = run(work)
    except (bulkpull.BulkpullError, Interrupted) as end:
        note = next_step(
            values["out"], end, pull.params, begun=begun, fresh=fresh, state=values["state"], resolved=resolved
        )
        if note:
            end.add_note(note)
        raise
    if not quiet:
        from bulkpull.cli.summary import summary

        click.echo(summary(result), err=True)
    if as_json:
        import orjson

        windows = {
            "complete": result.complete,
            "skipped": [window_json(window) for window in result.skipped],
            "short": [_mismatch(one) for one in result.short],
            "over": [_mismatch(one) for one in result.over],
            "manifest": result.manifest and path_json(result.manifest),
        }
        with suppress(ReaderGone):  # the output is complete all the same
            click.echo(orjson.dumps(asdict(result) | {"output": path_json(result.output)} | windows))
    return EXIT_INCOMPLETE if result.skipped or (result.short and not accept_short) else 0


def _progress(*, verbose: bool, quiet: bool) -> AbstractContextManager[OnEvent]:
    if quiet:
        return nullcontext(ignore)
    from bulkpull.cli.progress import progress

    return progress(verbose=verbose)


def _mismatch(found: bulkpull.CountMismatch) -> dict[str, object]:
    return window_json(found.window) | {"counted": found.counted, "delivered": found.delivered}
