"""Exports the windows of an order, and says which of them may be taken over."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

from anyio import from_thread

from bulkpull.disk import disk_errors
from bulkpull.journal import JournalReader
from bulkpull.pull import Result, run
from bulkpull.record import record
from bulkpull.rows.instants import nanoseconds
from bulkpull.rows.records import read_chunks, read_header, records, unquote
from bulkpull.source import Columns, Source
from bulkpull.store import WorkDirectory
from bulkpull.sync.kept import KeptFile
from bulkpull.sync.options import SyncOptions
from bulkpull.sync.order import Order
from bulkpull.sync.state import Missing, span
from bulkpull.sync.stretches import overlaps, without
from bulkpull.tables import Table
from bulkpull.threads import in_thread
from bulkpull.window import Window, instant


@record
class Exported:
    """What the exports of an order delivered: a CSV with `columns`, of rows within `windows` alone. The others are
    `missing`, though what is new in them may be among the `windows`. `outside` rows were left out."""

    rows: Path
    columns: tuple[str, ...]
    windows: tuple[Window, ...]
    missing: tuple[Missing, ...]
    outside: int
    doubt: str


async def export(
    source: Source, options: SyncOptions, table: Table, order: Order, directory: WorkDirectory
) -> Exported:
    """Export the windows of an order, or go on with what an interrupted run has left of that."""
    held = await in_thread(_held, table, order, order.windows)
    kept = KeptFile(directory)
    of_run = options.of_run(
        start=order.windows[0].start,
        end=order.windows[-1].end,
        filter=order.state.filter or None,
        fields=order.state.fields,
        site=options.site if order.kind != "increment" and order.state.fields else None,
    )
    result = await run(source, of_run, directory, lambda _work, _provenance: kept, order.windows)
    return await in_thread(_judged, result, kept.path, source.columns, options, table, order, held, directory)


def _judged(
    result: Result,
    path: Path,
    columns: Columns,
    options: SyncOptions,
    table: Table,
    order: Order,
    held: Sequence[int],
    directory: WorkDirectory,
) -> Exported:
    """Say what of a pull's rows is taken over."""
    skipped = [Missing(bounds_of(window), "skipped") for window in result.skipped]
    empty = [
        Missing(bounds_of(window), "empty")
        for window, before, now in zip(order.windows, held, _delivered(directory, order.windows), strict=True)
        if before and not now and not any(overlaps(window, one) for one in (*order.believed, *result.skipped))
    ]
    short = [] if options.accept_short else [Missing(bounds_of(one.window), "short") for one in result.short]
    # Time that the table has no rows of loses nothing by being taken over, though it is exported again the next time.
    until = order.settled_until
    known = [span(one.window.start, min(one.window.end, until)) for one in short if one.window.start < until]
    harmful = [one for one, rows in zip(known, table.count(known), strict=True) if rows]
    left_out = [*harmful, *(one.window for one in (*skipped, *empty))]
    windows = tuple(without(list(map(bounds_of, order.windows)), left_out))
    if harmful or result.outside:
        path, outside = restricted(path, columns, windows, order.windows)
    else:
        outside = 0
    return Exported(path, header_of(path, columns), windows, (*skipped, *short, *empty), outside, result.doubt)


def _held(table: Table, order: Order, windows: Sequence[Window]) -> list[int]:
    """Return how many rows of the table each window would replace. A rebuild replaces all, even of a damaged one."""
    return [0] * len(windows) if order.kind == "rebuild" else table.count(windows)


def _delivered(directory: WorkDirectory, windows: Sequence[Window]) -> list[int]:
    """Return how many ids the exports of each window delivered, in pieces or not."""
    journal = JournalReader(directory.journal)
    try:
        outcomes = [outcome for outcome in journal.outcomes() if not outcome.is_split]
    finally:
        journal.close()
    return [sum(outcome.ids or 0 for outcome in outcomes if overlaps(outcome.window, window)) for window in windows]


def header_of(path: Path, columns: Columns) -> tuple[str, ...]:
    """Return the columns of a CSV."""
    with disk_errors(f"read {path}"), path.open("rb", buffering=0) as file:
        return read_header(file, from_thread.check_cancelled, columns.key)[0]


def restricted(path: Path, columns: Columns, windows: Sequence[Window], exported: Sequence[Window]) -> tuple[Path, int]:
    """Copy the rows within `windows` to another CSV; return its path, and how many rows were not in `exported`."""
    taken, asked = _in_nanoseconds(windows), _in_nanoseconds(exported)
    copied, outside = path.with_name("restricted.csv"), 0
    with (
        disk_errors(f"write {copied}", at=copied),
        path.open("rb", buffering=0) as file,
        copied.open("wb") as copy,
    ):
        header, offset = read_header(file, from_thread.check_cancelled, columns.key)
        time_at = header.index(columns.time)
        file.seek(0)
        copy.write(file.read(offset))
        for raw, fields, _ in records(read_chunks(file, from_thread.check_cancelled), row=2):
            moment = nanoseconds(unquote(fields[time_at]), zone=b"Z")
            if _contains(taken, moment):
                copy.write(raw + b"\n")
            else:
                outside += not _contains(asked, moment)
    return copied, outside


def _in_nanoseconds(windows: Sequence[Window]) -> list[tuple[int, int]]:
    return [
        (nanoseconds(instant(window.start).encode()) or 0, nanoseconds(instant(window.end).encode()) or 0)
        for window in windows
    ]


def _contains(spans: Sequence[tuple[int, int]], moment: int | None) -> bool:
    """Whether one of the spans, in order, contains the moment."""
    if moment is None:
        return False
    at = bisect_right(spans, moment, key=lambda bounds: bounds[0]) - 1
    return at >= 0 and moment < spans[at][1]


def bounds_of(window: Window) -> Window:
    """Return the window as part of no plan."""
    return span(window.start, window.end)
