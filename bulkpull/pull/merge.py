"""Merge: from parts to rows not seen before, in plan order, while later parts are still on their way."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from anyio import from_thread, to_thread

from bulkpull.errors import MalformedPartError
from bulkpull.events import ColumnsDiffer, OnEvent, PartMerged, WindowMerged
from bulkpull.pull.fetch import Part
from bulkpull.pull.output import disk_errors
from bulkpull.rows.dedup import Deduplicator, Merged
from bulkpull.rows.records import CsvError
from bulkpull.rows.sink import CsvSink
from bulkpull.window import Window, instant


@dataclass(slots=True, eq=False)
class Journey:
    """A window on its way: `parts` is complete once `exported` is set."""

    window: Window
    parts: list[Part] = field(default_factory=list)
    exported: anyio.Event = field(default_factory=anyio.Event)


async def merge(
    journeys: AsyncIterable[Journey], path: Path, *, columns: Sequence[str], fixed: bool, on_event: OnEvent
) -> None:
    """Writes the rows of all journeys to `path`, the first of each id, in the order window, part, row.

    The journeys come in plan order. Parts are removed from the disk once they are merged. Raises MalformedPartError,
    naming part and row.
    """
    async with _deduplicator(path, columns, fixed=fixed) as (deduplicator, sink):
        async for journey in journeys:
            await journey.exported.wait()
            for part in journey.parts:
                await part.fetched.wait()
                merged = await to_thread.run_sync(_merge_part, deduplicator, part)
                if merged.missing or merged.unasked:
                    on_event(ColumnsDiffer(part.window, part.number, merged.missing, merged.unasked))
                on_event(
                    PartMerged(
                        part.window, part.number, merged.rows, merged.duplicates, merged.conflicts, merged.outside
                    )
                )
            on_event(WindowMerged(journey.window))
        with disk_errors("finish the output"):
            await to_thread.run_sync(sink.finish, from_thread.check_cancelled)


def _merge_part(deduplicator: Deduplicator, part: Part) -> Merged:
    start, end = (instant(bound).encode() for bound in (part.window.start, part.window.end))
    with disk_errors(f"merge {part}"):
        try:
            merged = deduplicator.add(part.path, start, end, from_thread.check_cancelled)
        except CsvError as error:
            raise MalformedPartError(
                f"{part}: {error}. Pull again; if it recurs, the export itself is damaged"
            ) from error
        part.path.unlink()
    return merged


@asynccontextmanager
async def _deduplicator(
    path: Path, columns: Sequence[str], *, fixed: bool
) -> AsyncIterator[tuple[Deduplicator, CsvSink]]:
    """A deduplicator and its sink; both are let go of in a thread, whatever happens."""
    with disk_errors("open the output"):
        sink = CsvSink(path, columns, fixed=fixed)
    deduplicator = Deduplicator(sink)
    try:
        yield deduplicator, sink
    except BaseException:
        # The rows are lost anyway: an error in closing must not hide the one that brought us here.
        with anyio.CancelScope(shield=True), suppress(OSError):
            await to_thread.run_sync(sink.close)
        raise
    else:
        with anyio.CancelScope(shield=True), disk_errors("finish the output"):
            await to_thread.run_sync(sink.close)
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(deduplicator.forget)
