"""Merge: from parts to rows not seen before, in plan order, while later parts are still on their way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from anyio import from_thread, to_thread

from bulkpull.errors import MalformedPartError
from bulkpull.events import ColumnsDiffer, OnEvent, PartMerged, WindowMerged
from bulkpull.pull.fetch import Part
from bulkpull.pull.output import disk_errors
from bulkpull.rows.dedup import Deduplicator
from bulkpull.rows.records import CsvError
from bulkpull.rows.sink import CsvSink
from bulkpull.window import Window, instant


@dataclass(slots=True)
class Journey:
    """A window on its way: `parts` is complete once `exported` is set."""

    window: Window
    parts: list[Part] = field(default_factory=list)
    exported: anyio.Event = field(default_factory=anyio.Event)


async def merge(
    journeys: Iterable[Journey], path: Path, *, columns: Sequence[str], fixed: bool, on_event: OnEvent
) -> None:
    """Writes the rows of all journeys to `path`, the first of each id, in the order window, part, row.

    Parts are removed from the disk once they are merged. Raises MalformedPartError, naming part and row.
    """
    async with _sink(path, columns, fixed=fixed) as sink:
        deduplicator = Deduplicator(sink)
        for journey in journeys:
            await journey.exported.wait()
            for part in journey.parts:
                await part.fetched.wait()
                await _merge_part(deduplicator, part, on_event)
            on_event(WindowMerged(journey.window))
        await to_thread.run_sync(sink.finish)


async def _merge_part(deduplicator: Deduplicator, part: Part, on_event: OnEvent) -> None:
    start, end = (instant(bound).encode() for bound in (part.window.start, part.window.end))
    try:
        merged = await to_thread.run_sync(deduplicator.add, part.path, start, end, from_thread.check_cancelled)
    except CsvError as error:
        raise MalformedPartError(f"{part}: {error}. Pull again; if it recurs, the export itself is damaged") from error
    await to_thread.run_sync(part.path.unlink)
    if merged.missing or merged.unasked:
        on_event(ColumnsDiffer(part.window, part.number, merged.missing, merged.unasked))
    on_event(PartMerged(part.window, part.number, merged.rows, merged.duplicates, merged.conflicts, merged.outside))


@asynccontextmanager
async def _sink(path: Path, columns: Sequence[str], *, fixed: bool) -> AsyncIterator[CsvSink]:
    with disk_errors("merge into the output"):
        sink = await to_thread.run_sync(lambda: CsvSink(path, columns, fixed=fixed))
        try:
            yield sink
        except BaseException:
            # The rows are lost anyway: an error in closing must not hide the one that brought us here.
            with anyio.CancelScope(shield=True), suppress(OSError):
                await to_thread.run_sync(sink.close)
            raise
        await to_thread.run_sync(sink.close)
