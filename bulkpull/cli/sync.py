"""`bulkpull sync`: keep a table equal to the site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

import bulkpull
from bulkpull.cli.client import client, client_options
from bulkpull.cli.exit_codes import EXIT_INCOMPLETE
from bulkpull.cli.next_step import next_step_of_table
from bulkpull.cli.observers import Observers, figures_of, observed
from bulkpull.cli.options import options_of, run_options
from bulkpull.cli.pull import shown_progress
from bulkpull.cli.running import Interrupted, run
from bulkpull.cli.settings import Command
from bulkpull.cli.tables import window_json
from bulkpull.events import Planned
from bulkpull.waits import plural
from bulkpull.window import instant

_MAX_NAMED = 10  # windows


@click.command(cls=Command)
@options_of(bulkpull.SyncOptions)
@client_options
@run_options
@observed
def sync(
    base_url: str,
    requests_per_minute: int,
    retry_for: float,
    fresh: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    observers: Observers,
    **values: Any,
) -> int:
    """Keep a table equal to the site: a database, a data set or a file.

    The first run exports everything from --start on. Each later run exports what is new, counts the past, and exports
    again what differs; on a quiet night that is one export and one email. Everything else is remembered in the table.

    If interrupted, rerun the same command to resume.

    \b
    Example:
      bulkpull sync --to postgresql://db.example.com/legal --start 2020-01-01
      bulkpull sync --to postgresql://db.example.com/legal
    """
    options = bulkpull.SyncOptions(**values, resume=not fresh)

    async def work() -> bulkpull.SyncResult:
        async with client(base_url, requests_per_minute, retry_for) as clickwrap, observers.watching():
            with shown_progress(verbose, quiet, requests_per_minute, observers.figures) as show:

                def listener(event: bulkpull.Event) -> None:
                    show(event)
                    observers(event)
                    if options.add_field and isinstance(event, Planned) and not observers.log_is_on_stderr:
                        click.echo(
                            f"adding columns takes {plural(len(event.windows), 'export')}, and as many emails",
                            err=True,
                        )

                return await bulkpull.sync(clickwrap, **options.asdict() | {"on_event": listener})

    try:
        result = run(work)
    except (bulkpull.BulkpullError, Interrupted) as end:
        if note := next_step_of_table(end, sync.params):
            end.add_note(note)
        raise
    if not quiet:
        click.echo("\n".join(summary(result)), err=True)
    observers.finished("\n".join(summary(result)), figures_of(result))
    if as_json:
        import orjson

        more: dict[str, Any] = {name: list(map(window_json, getattr(result, name))) for name in ("windows", "missing")}
        more["recheck"] = asdict(result.recheck) | {"unreliable": list(map(window_json, result.recheck.unreliable))}
        more |= {"start": instant(result.start), "frontier": instant(result.frontier), "complete": result.complete}
        click.echo(orjson.dumps(asdict(result) | more))
    return 0 if result.complete else EXIT_INCOMPLETE


def summary(result: bulkpull.SyncResult) -> list[str]:
    """Return a line on what a sync has done, and one on each thing to know."""
    exports = plural(len(result.windows) if result.is_dry_run else result.exports, "export")
    requests = plural(result.requests, "request")
    frontier = instant(result.frontier).replace(":00.000Z", "Z").replace(".000Z", "Z")
    if result.is_dry_run:
        lines = [f"would sync to {frontier} with {exports}; nothing was changed; {requests}"]
        lines += [
            f"{window}: " + ("not counted" if window.rows is None else f"{window.rows:,} activities")
            for window in result.windows[:_MAX_NAMED]
        ]
        lines += [f"and {len(result.windows) - _MAX_NAMED:,} more"] if len(result.windows) > _MAX_NAMED else []
    else:
        lines = [
            f"synced to {frontier}: {result.inserted:,} new, {result.changed:,} changed, {result.deleted:,} deleted at "
            f"the source; {exports}, {requests}, {result.seconds:.0f} s"
        ]
    recheck = result.recheck
    if recheck.differing:
        again = "to be exported again" if result.is_dry_run else "exported again"
        lines.append(f"{recheck.differing:,} of {recheck.stretches:,} stretches of the past differ: {again}")
    if recheck.unavailable:
        lines.append(f"warning: the past was not compared: {recheck.unavailable}")
    if recheck.unreliable:
        lines.append(f"warning: the API's counts are wrong, and were ignored: {_named(recheck.unreliable)}")
    if result.doubt:
        lines.append(f"warning: the API's counts are unreliable: {result.doubt}")
    if result.outside:
        lines.append(f"warning: {plural(result.outside, 'row')} of exports outside their windows: left out")
    if result.missing:
        lines.append(f"warning: incomplete, to be exported again by the next run: {_named(result.missing)}")
    return lines


def _named(windows: Sequence[bulkpull.Window]) -> str:
    """The bounds of the first windows."""
    named = [f"[{instant(window.start)}, {instant(window.end)})" for window in windows[:_MAX_NAMED]]
    more = f" and {len(windows) - _MAX_NAMED:,} more" if len(windows) > _MAX_NAMED else ""
    return ", ".join(named) + more
