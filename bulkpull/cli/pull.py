"""`bulkpull pull`, `bulkpull plan` and `bulkpull status`."""

from __future__ import annotations

import math
import os
import re
import shlex
import string
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import click
import orjson
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

import bulkpull
from bulkpull.cli.progress import progress, summary
from bulkpull.cli.running import Interrupted, client, client_options, run, split_fields
from bulkpull.cli.streams import ReaderGone
from bulkpull.planning.length import AUTO
from bulkpull.planning.plan import MAX_WINDOWS, Plan
from bulkpull.planning.volume import ROWS_PER_EXPORT
from bulkpull.pull.extra import EXTRA, default_extra
from bulkpull.pull.orchestrator import DOWNLOADS, EXPORT_TIMEOUT, MAX_EXPORTS, check_fields
from bulkpull.rows.format import FORMATS, PARTITIONS
from bulkpull.store.file import Output
from bulkpull.window import instant

F = TypeVar("F", bound=Callable[..., Any])

EXIT_INCOMPLETE = 6
ASSUMED_SECONDS = 60.0  # that an export takes, as long as none was made
_BAR = 24  # characters


class Size(click.ParamType[int]):
    """A number of bytes: 4GB, 500MB, or a bare number."""

    name = "size"

    def convert(self, value: object, _parameter: click.Parameter | None, _context: click.Context | None) -> int:
        match = re.fullmatch(r"([1-9]\d{0,14})(|k|M|G|T)B?", str(value).strip())
        if not match:
            self.fail(f"{value!r} is no size such as 500MB or 4GB")
        return int(match[1]) * int(1000 ** " kMGT".index(match[2] or " "))


def _pull_options(*, out_required: bool) -> Callable[[F], F]:
    options = (
        click.option("--start", required=True, metavar="D", help="2024-01-31, or 2024-01-31T06:00Z; included."),
        click.option("--end", metavar="D", help="Likewise; not included. Now without it."),
        click.option(
            "--out",
            required=out_required,
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="What to write. It appears when it is whole.",
        ),
        click.option(
            "--format",
            type=click.Choice(FORMATS),
            help="Output format. Defaults to the file extension, else csv. .gz or .zst compresses csv and ndjson.",
        ),
        click.option("--flat", is_flag=True, help="NDJSON with dotted names instead of objects in objects."),
        click.option("--all-strings", is_flag=True, help="Parquet with created_time as text."),
        click.option(
            "--partition-by",
            type=click.Choice(PARTITIONS),
            help="Parquet as a directory of files by the month of created_time.",
        ),
        click.option("--filter", metavar="E", help="Comparisons joined by ' and ', such as event_type==agreed."),
        click.option(
            "--fields",
            metavar="A,B",
            help="Columns after id, signer_id and created_time, which always come. See `bulkpull fields`.",
        ),
        click.option("--site", metavar="ID", help="Check the fields against this site's before any export is made."),
        click.option(
            "--window",
            default="auto",
            show_default=True,
            metavar="LENGTH",
            help="Length of the window that one export covers: 30min, 6h, 1d, 2w, 1mo, 1y. "
            "auto: as long as --rows-per-export says, by counting what is there.",
        ),
        click.option(
            "--rows-per-export",
            type=click.IntRange(min=1),
            default=ROWS_PER_EXPORT,
            show_default=True,
            help="Activities that one export covers, about, where the window is auto.",
        ),
        click.option(
            "--max-windows",
            type=click.IntRange(min=1),
            default=MAX_WINDOWS,
            show_default=True,
            help="Refuse a plan with more: each is an export that mails somebody.",
        ),
        click.option(
            "--exports",
            type=click.IntRange(min=1),
            help="Exports in flight at most. Without it as many as the API is found to work on, and some more.",
        ),
        click.option(
            "--max-exports",
            type=click.IntRange(min=1),
            default=MAX_EXPORTS,
            show_default=True,
            help="The most that --exports is found to be.",
        ),
        click.option(
            "--downloads",
            type=click.IntRange(min=1),
            default=DOWNLOADS,
            show_default=True,
            help="Files streamed at a time at most.",
        ),
        click.option(
            "--spool",
            type=Size(),
            default="4GB",
            show_default=True,
            metavar="SIZE",
            help="Files that wait to be merged: beyond it no download starts.",
        ),
        click.option(
            "--memory",
            type=Size(),
            metavar="SIZE",
            help="The most that the process takes, about: ids beyond it go to the disk. "
            "[default: 256MB, or 364MB for Parquet]",
        ),
        client_options,
        click.option(
            "--export-timeout",
            type=click.FloatRange(min=0, min_open=True),
            default=EXPORT_TIMEOUT,
            show_default=True,
            metavar="S",
            help="Seconds that the server may work on an export; then its window is cut.",
        ),
        click.option(
            "--skip-failed",
            is_flag=True,
            help="Leave a window out that cannot be exported, however short, and exit with code 6.",
        ),
        click.option(
            "--accept-short",
            is_flag=True,
            help="Exit with 0 where windows brought less than was counted; they are named all the same.",
        ),
        click.option(
            "--max-extra-exports",
            type=click.IntRange(min=0),
            metavar="N",
            help=f"Maximum exports beyond one for each window. [default: {EXTRA} and half of the windows]",
        ),
        click.option("--overwrite", is_flag=True, help="Replace the output if it exists."),
        click.option("--fresh", is_flag=True, help="Start over instead of resuming what earlier runs have done."),
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
    site: str | None,
    window: str,
    rows_per_export: int,
    max_windows: int,
    format: str | None,
    flat: bool,
    all_strings: bool,
    partition_by: str | None,
    exports: int | None,
    max_exports: int,
    downloads: int,
    spool: int,
    memory: int | None,
    base_url: str,
    requests_per_minute: int,
    retry_for: float,
    export_timeout: float,
    skip_failed: bool,
    accept_short: bool,
    max_extra_exports: int | None,
    overwrite: bool,
    fresh: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> int:
    """Pull the activity of a range of time into one CSV, NDJSON or Parquet, each id once.

    The range is cut into windows, one export each; exports run side by side, their files are streamed and merged as
    they come. Each export mails the token's user.

    Interrupted in whatever way, the same command goes on where it stopped.

    \b
    Example:
      bulkpull pull --start 2023-01-01 --end 2024-01-01 --out activity.csv \\
        --filter event_type==agreed --fields event_type,connection_data.remote_address
    """

    begun = False  # past what --fresh clears

    async def work() -> bulkpull.Result:
        async with client(base_url, requests_per_minute, retry_for) as clickwrap:
            with progress(verbose=verbose, quiet=quiet) as show:

                def listener(event: bulkpull.Event) -> None:
                    nonlocal begun
                    begun = True
                    show(event)

                return await bulkpull.pull(
                    clickwrap,
                    start=start,
                    end=end,
                    out=out,
                    filter=filter,
                    fields=split_fields(fields),
                    site=site,
                    window=window,
                    rows_per_export=rows_per_export,
                    max_windows=max_windows,
                    format=format,
                    flat=flat,
                    all_strings=all_strings,
                    partition_by=partition_by,
                    exports=exports,
                    max_exports=max_exports,
                    downloads=downloads,
                    spool=spool,
                    memory=memory,
                    export_timeout=export_timeout,
                    skip_failed=skip_failed,
                    max_extra_exports=max_extra_exports,
                    overwrite=overwrite,
                    resume=not fresh,
                    on_event=listener,
                )

    try:
        result = run(work)
    except (bulkpull.BulkpullError, Interrupted) as end:
        if note := _what_next(out, end, begun=begun, fresh=fresh):
            end.add_note(note)
        raise
    if not quiet:
        click.echo(summary(result), err=True)
    if as_json:
        windows = {
            "complete": result.complete,
            "skipped": [_window(window) for window in result.skipped],
            "short": [_mismatch(one) for one in result.short],
            "over": [_mismatch(one) for one in result.over],
        }
        with suppress(ReaderGone):  # the output stands all the same
            click.echo(orjson.dumps(asdict(result) | {"output": _text(result.output)} | windows))
    return EXIT_INCOMPLETE if result.skipped or (result.short and not accept_short) else 0


def _what_next(out: Path, end: Exception, *, begun: bool, fresh: bool) -> str | None:
    """What a user may do after a pull that did not come to its end; `begun` once it has read, or cleared, what earlier
    runs left."""
    if isinstance(end, bulkpull.UsageError) or (isinstance(end, bulkpull.OutputError) and not begun):
        return None  # the sentence itself says what to do
    unfinished = Output(out)
    if unfinished.journal.exists():
        command = _without_fresh(sys.argv[1:]) if begun or not fresh else sys.argv[1:]
        return f"what is done is kept in {unfinished.directory}; go on with: bulkpull {' '.join(map(_quoted, command))}"
    if isinstance(end, Interrupted):
        return f"{unfinished.path} stands" if unfinished.path.exists() else "nothing was begun"
    return None


def _without_fresh(arguments: Sequence[str]) -> Iterator[str]:
    """The arguments without `--fresh`, which would discard what is to be resumed. As an option's value it stays."""
    with_value = {name for option in pull.params if not getattr(option, "is_flag", True) for name in option.opts}
    rest = iter(arguments)
    for argument in rest:
        if argument != "--fresh":
            yield argument
        if argument in with_value:
            yield from islice(rest, 1)


def _quoted(argument: str) -> str:
    """The argument for a shell. Control characters, and bytes that are no text, would not survive being printed: they
    are escaped as octal numbers in `$'...'`, which bash, zsh, ksh and POSIX.1-2024 know."""
    if argument.isprintable():
        return shlex.quote(argument)
    plain = frozenset(string.printable.encode()) - frozenset(b"\\'" + string.whitespace.encode()) | {ord(" ")}
    return "$'" + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in os.fsencode(argument)) + "'"


@click.command()
@_pull_options(out_required=False)
def plan(
    start: str,
    end: str | None,
    filter: str | None,
    fields: str | None,
    window: str,
    rows_per_export: int,
    max_windows: int,
    exports: int | None,
    max_exports: int,
    requests_per_minute: int,
    base_url: str,
    retry_for: float,
    max_extra_exports: int | None,
    as_json: bool,
    **_unused: object,
) -> None:
    """Show the windows of a pull with the same options, without making any export.

    Where the window is auto, requests are made that count; else none.
    """
    check_fields(split_fields(fields), bulkpull.Clickwrap.columns)
    at_once = exports or max_exports

    async def work() -> Plan:
        async with client(base_url, requests_per_minute, retry_for, needs_token=window.strip().lower() == AUTO) as api:
            return await bulkpull.plan(
                api,
                start=start,
                end=end,
                filter=filter,
                window=window,
                rows_per_export=rows_per_export,
                max_windows=max_windows,
            )

    found = run(work)
    windows = found.windows
    requests = 2 * len(windows)  # at least: one launches an export, one finds it done
    extra = default_extra(len(windows)) if max_extra_exports is None else max_extra_exports
    # In turns of as many exports as are in flight at most, unless the quota takes longer.
    seconds = max(math.ceil(len(windows) / at_once) * ASSUMED_SECONDS, 60.0 * (requests // requests_per_minute))
    if as_json:
        figures = {"rows": found.rows, "exports": len(windows), "probes": found.probes, "requests": requests}
        figures |= {"max_extra_exports": extra}
        times = {"seconds": seconds, "assumed_seconds_per_export": ASSUMED_SECONDS}
        reason = {"uncounted": found.uncounted or None, "doubt": found.doubt or None}
        click.echo(orjson.dumps({"windows": [_window(one) for one in windows]} | figures | times | reason))
        return
    table = _table("window", "start", "end", *(("rows", "share", "") if found.rows else ()))
    most = max((one.rows or 0 for one in windows), default=0)
    for one in windows:
        cells = [str(one.index + 1), instant(one.start), instant(one.end)]
        if found.rows:
            rows = one.rows or 0
            cells += [f"{rows:,}", f"{rows / found.rows:.1%}", "█" * math.ceil(_BAR * rows / most)]
        table.add_row(*cells)
    _print(table)
    if found.uncounted:
        click.echo(f"activity could not be counted, so windows are of equal length: {found.uncounted}")
    if found.doubt:
        click.echo(f"the API's counts cannot be trusted: {found.doubt}")
    counted = f"{found.rows:,} activities, counted with {found.probes:,} requests; " if found.rows is not None else ""
    click.echo(
        f"{counted}{len(windows):,} exports, {requests:,} requests or more: one launches an export, one or more ask "
        "whether it is done"
    )
    click.echo(f"at most {extra:,} exports more, if some fail or deliver too little (--max-extra-exports)")
    click.echo(
        f"about {_duration(seconds)}, if an export takes a minute and up to {at_once:,} are in flight; how long they "
        "take is known once some were made"
    )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def status(file: Path, as_json: bool) -> None:
    """Show how far the unfinished pull to FILE has come."""
    found = bulkpull.status(file)
    if as_json:
        windows = [
            _window(one.window) | {name: value for name, value in asdict(one).items() if name != "window"}
            for one in found.windows
        ]
        click.echo(orjson.dumps(asdict(found) | {"output": _text(found.output), "windows": windows}))
        return
    states = Counter(one.state for one in found.windows)
    table = _table("window", "start", "end", "state", "counted", "launches", "files", "rows", "export")
    for one in found.windows:
        table.add_row(
            str(one.window.index + 1),
            instant(one.window.start),
            instant(one.window.end),
            one.state,
            _count(one.window.rows),
            str(one.launches),
            f"{one.whole}/{one.parts}" if one.parts else "",
            f"{one.rows:,}" if one.state == "merged" else "",
            escape(f"{one.export_id or ''} {one.failure or ''}".strip()),
        )
    _print(table)
    options = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found.options.items() if value)
    click.echo(f"{found.output}: {options}")
    running = f"running (pid {found.pid})" if found.running else "not running"
    click.echo(
        f"{running}, run {found.runs:,}; {len(found.windows):,} windows: "
        f"{', '.join(f'{count:,} {state}' for state, count in states.items())}; {found.splits:,} were cut; "
        f"{found.launches:,} exports launched; "
        f"{found.merged.rows:,} rows ({decimal(found.size)}) merged, {found.merged.duplicates:,} duplicates left out"
    )


def _mismatch(found: bulkpull.CountMismatch) -> dict[str, object]:
    return _window(found.window) | {"counted": found.counted, "delivered": found.delivered}


def _window(window: bulkpull.Window) -> dict[str, object]:
    return {"start": instant(window.start), "end": instant(window.end), "counted": window.rows}


def _count(rows: int | None) -> str:
    return "" if rows is None else f"{rows:,}"


def _table(*headers: str) -> Table:
    """A table without lines, whose numbers are aligned on the right."""
    table = Table(*headers, box=None, pad_edge=False)
    for column in table.columns:
        if column.header in ("window", "counted", "share", "launches", "files", "rows"):
            column.justify = "right"
    return table


def _print(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)


def _text(path: Path) -> str:
    """A file name may hold bytes that are no text, which JSON cannot."""
    return os.fsencode(path).decode("utf-8", "replace")
