"""`bulkpull pull` and `bulkpull plan`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click
import orjson

import bulkpull
from bulkpull.cli.progress import progress, summary
from bulkpull.cli.running import client, client_options, run, split_fields
from bulkpull.clickwrap.filters import check_filter
from bulkpull.pull.orchestrator import DOWNLOADS, EXPORT_TIMEOUT, EXPORTS, check_fields
from bulkpull.window import instant

F = TypeVar("F", bound=Callable[..., Any])


def _pull_options(*, out_required: bool) -> Callable[[F], F]:
    options = (
        click.option("--start", required=True, metavar="D", help="2024-01-31, or 2024-01-31T06:00Z; included."),
        click.option("--end", metavar="D", help="Likewise; not included. Now without it."),
        click.option(
            "--out",
            required=out_required,
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="The CSV to write. It appears when it is whole.",
        ),
        click.option("--filter", metavar="E", help="Comparisons joined by ' and ', such as event_type==agreed."),
        click.option(
            "--fields",
            metavar="A,B",
            help="Columns after id, signer_id and created_time, which always come. See `bulkpull fields`.",
        ),
        click.option(
            "--window",
            default="auto",
            show_default=True,
            metavar="LENGTH",
            help="Length of the window that one export covers: 30min, 6h, 1d, 2w, 1mo, 1y. "
            "auto: the shortest of 1d, 7d, 1mo, 3mo, 6mo, 1y, ... that makes at most 24.",
        ),
        click.option(
            "--exports",
            type=click.IntRange(min=1),
            default=EXPORTS,
            show_default=True,
            help="Exports in flight at most.",
        ),
        click.option(
            "--downloads",
            type=click.IntRange(min=1),
            default=DOWNLOADS,
            show_default=True,
            help="Files streamed at a time at most.",
        ),
        client_options,
        click.option(
            "--export-timeout",
            type=click.FloatRange(min=0, min_open=True),
            default=EXPORT_TIMEOUT,
            show_default=True,
            metavar="S",
            help="Seconds after which an export is launched again.",
        ),
        click.option("--overwrite", is_flag=True, help="Replace the output if it exists."),
        click.option("--json", "as_json", is_flag=True, help="One JSON object as the last line of standard output."),
        click.option("-v", "--verbose", is_flag=True, help="A line for everything that happens."),
        click.option("-q", "--quiet", is_flag=True, help="Nothing but errors."),
    )

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.command()
@_pull_options(out_required=True)
def pull(
    start: str,
    end: str | None,
    out: Path,
    filter: str | None,
    fields: str | None,
    window: str,
    exports: int,
    downloads: int,
    base_url: str,
    requests_per_minute: int,
    export_timeout: float,
    overwrite: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Pull the activity of a range of time into one CSV, each id once.

    The range is cut into windows, one export each; exports run side by side, their files are streamed and merged as
    they come. Each export mails the token's user.

    \b
    Example:
      bulkpull pull --start 2023-01-01 --end 2024-01-01 --out activity.csv \\
        --filter event_type==agreed --fields event_type,connection_data.remote_address
    """

    async def work() -> bulkpull.Result:
        async with client(base_url, requests_per_minute) as clickwrap:
            with progress(verbose=verbose, quiet=quiet) as listener:
                return await bulkpull.pull(
                    clickwrap,
                    start=start,
                    end=end,
                    out=out,
                    filter=filter,
                    fields=split_fields(fields),
                    window=window,
                    exports=exports,
                    downloads=downloads,
                    export_timeout=export_timeout,
                    overwrite=overwrite,
                    on_event=listener,
                )

    result = run(work)
    if not quiet:
        click.echo(summary(result), err=True)
    if as_json:
        # A file name may hold bytes that are no text, which JSON cannot.
        output = os.fsencode(result.output).decode("utf-8", "replace")
        click.echo(orjson.dumps(asdict(result) | {"output": output}))


@click.command()
@_pull_options(out_required=False)
def plan(
    start: str, end: str | None, filter: str | None, fields: str | None, window: str, as_json: bool, **_unused: object
) -> None:
    """Show the windows of a pull with the same options, without making any export or request."""
    check_filter(filter)
    check_fields(split_fields(fields))
    windows = bulkpull.plan(start, end, window)
    least = 2 * len(windows)
    if as_json:
        spans = [{"start": instant(window.start), "end": instant(window.end)} for window in windows]
        click.echo(orjson.dumps({"windows": spans, "exports": len(windows), "requests": least}))
        return
    for span in windows:
        click.echo(f"{span.index + 1:>6}  {instant(span.start)}  {instant(span.end)}")
    click.echo(
        f"{len(windows)} exports, {least} requests or more: one launches an export, one or more ask whether it is done."
    )
