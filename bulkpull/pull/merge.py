"""Merge: from parts to rows not seen before, in plan order, while later windows are still on their way."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio import from_thread
from anyio.streams.memory import MemoryObjectReceiveStream

from bulkpull.disk import disk_errors, sync_directory
from bulkpull.errors import OutputError
from bulkpull.events import ColumnsDiffer, ColumnsEmpty, OnEvent, PartMerged, WindowMerged
from bulkpull.journal.journal import Figures, Journal
from bulkpull.pull.doubts import Doubt
from bulkpull.pull.journey import DamagedPart, Delivery, Journey, cancelled_from_within
from bulkpull.rows.dedup import Deduplicator, Merged
from bulkpull.rows.follow import Followed
from bulkpull.rows.records import CsvError
from bulkpull.rows.sink import CsvSink
from bulkpull.source import Columns
from bulkpull.threads import in_thread
from bulkpull.window import Window, instant

_UNCOMMITTED = 16  # windows that are merged and not yet durable


async def merge(
    journeys: Iterable[Journey],
    path: Path,
    journal: Journal,
    *,
    names: Sequence[str],
    columns: Columns,
    fixed: bool,
    memory: int,
    judge: Callable[[Journey, Delivery], Doubt | None],
    release: Callable[[Window], None],
    followed: Followed | None = None,
    on_event: OnEvent,
) -> Path:
    """Writes the rows of all journeys to `path`, the first of each id, in the order window, part, row; goes on where
    the journal says that it stood. Returns where the finished file is.

    The journeys come in plan order. A window goes in whole or not at all: one whose parts turn out to be damaged is
    turned back, and so is one that `judge` has a doubt about. Parts are removed from the disk once the rows of their
    window are durable. Ids take `memory` bytes, or a few times that for a moment. `followed` is told of all that can be
    read, and `release` is called with each window that is durable.
    """
    async with _opened(path, journal, names, columns, fixed=fixed, memory=memory) as work:
        work.followed = followed
        if followed and work.sink.offset:
            followed.reach(work.sink.offset, work.sink.columns)
        done = 0
        pending = deque(journeys)
        merged, to_commit = anyio.create_memory_object_stream[_MergedWindow](_UNCOMMITTED)
        async with anyio.create_task_group() as group, merged:
            group.start_soon(_commit, work, to_commit, release, on_event)
            while pending:
                journey = pending[0]
                await journey.settled.wait()
                if journey.pieces or journey.skipped:
                    pending.popleft()
                    pending.extendleft(reversed(journey.pieces))
                    continue
                try:
                    window = await in_thread(work.merge, journey)
                except DamagedPart as damage:
                    journey.reject(damage)
                    continue
                if doubt := judge(journey, window.delivery):
                    await in_thread(work.undo)
                    journey.reject(doubt)
                    continue
                await in_thread(work.deduplicator.keep)
                pending.popleft()
                pending.extendleft(reversed(journey.after))
                journey.accept(window.delivery)
                done += 1
                if followed:
                    followed.reach(window.offset, window.columns)
                try:
                    await merged.send(window)
                except anyio.BrokenResourceError:  # what ended the commits comes out of the group
                    break
        if pending or work.committed < done:
            raise cancelled_from_within()
        if empty := work.deduplicator.empty_columns():
            on_event(ColumnsEmpty(empty))
        return await in_thread(work.finish)


async def _commit(
    work: _Merge,
    windows: MemoryObjectReceiveStream[_MergedWindow],
    release: Callable[[Window], None],
    on_event: OnEvent,
) -> None:
    """Makes merged windows durable, as many at a time as there are, while further ones are merged."""
    with windows:
        async for window in windows:
            batch = [window]
            with suppress(anyio.WouldBlock, anyio.EndOfStream):
                while True:
                    batch.append(windows.receive_nowait())
            await in_thread(work.commit, batch)
            for done in batch:
                release(done.journey.window)
                _announce(done.journey, done.parts, on_event)


def _announce(journey: Journey, merged: Sequence[Merged], on_event: OnEvent) -> None:
    for part, came in zip(journey.parts, merged, strict=True):
        if came.missing or came.unasked:
            on_event(ColumnsDiffer(part.window, part.number, came.missing, came.unasked))
        on_event(PartMerged(part.window, part.number, came.rows, came.duplicates, came.conflicts, came.outside))
    on_event(WindowMerged(journey.window))


@dataclass(frozen=True, slots=True)
class _MergedWindow:
    """A window whose rows are in the output's first `offset` bytes, under `columns`; what came of each of its parts."""

    journey: Journey
    parts: list[Merged]
    delivery: Delivery
    offset: int
    columns: tuple[str, ...]


@dataclass(slots=True)
class _Merge:
    """What blocks: the methods run in threads."""

    sink: CsvSink
    deduplicator: Deduplicator
    journal: Journal
    path: Path
    followed: Followed | None = None
    committed: int = 0  # windows, by this run
    before: tuple[int, list[str]] = (0, [])  # the sink's offset and columns, before the last window

    @classmethod
    def open(
        cls, path: Path, journal: Journal, names: Sequence[str], columns: Columns, *, fixed: bool, memory: int
    ) -> _Merge:
        frontier = journal.frontier
        offset = frontier.offset
        with disk_errors("open the unfinished output", at=path):
            if offset and (not path.exists() or path.stat().st_size < offset):
                raise OutputError(f"{path} is shorter than its journal says: it was changed; start over")
            with ExitStack() as stack:
                sink = CsvSink(path, frontier.columns or names, fixed=fixed, offset=offset)
                stack.callback(sink.close)
                sync_directory(path.parent)
                deduplicator = Deduplicator(sink, memory, columns)
                stack.callback(deduplicator.close)
                try:
                    deduplicator.restore(from_thread.check_cancelled)
                except CsvError as error:
                    raise OutputError(f"{path} was changed since it was written ({error}); start over") from error
                stack.pop_all()
        return cls(sink, deduplicator, journal, path)

    def merge(self, journey: Journey) -> _MergedWindow:
        """Takes a window's parts in. Raises DamagedPart, with nothing changed, where one is damaged."""
        sink = self.sink
        self.before = sink.offset, list(sink.columns)
        start, end = (instant(bound).encode() for bound in (journey.window.start, journey.window.end))
        needed = sum(part.size or 0 for part in journey.parts)
        merged: list[Merged] = []
        with disk_errors(f"merge {journey.window}", needed=needed, at=self.path):
            for part in journey.parts:
                try:
                    merged.append(self.deduplicator.add(part.path, start, end, from_thread.check_cancelled))
                except CsvError as error:
                    self.undo()
                    raise DamagedPart(part, f"part {part.number} is damaged: {error}") from error
        newest = [part.record.export_id == journey.export_id for part in journey.parts]
        delivery = Delivery(
            records=sum(came.delivered for came, is_newest in zip(merged, newest, strict=True) if is_newest),
            ids=sum(came.rows + came.earlier for came in merged),
            rows=sum(came.rows for came in merged),
        )
        return _MergedWindow(journey, merged, delivery, sink.offset, tuple(sink.columns))

    def undo(self) -> None:
        """Forgets the last window, which was not kept yet."""
        self.deduplicator.roll_back(*self.before)

    def commit(self, windows: Sequence[_MergedWindow]) -> None:
        """Brings merged windows to the disk, then into the journal; only then their parts go."""
        with disk_errors(f"merge {windows[-1].journey.window}", at=self.path):
            self.sink.sync(self.followed.position if self.followed else None)
            for merged in windows:
                figures = Figures(
                    parts=len(merged.parts),
                    rows=sum(came.rows for came in merged.parts),
                    duplicates=sum(came.duplicates for came in merged.parts),
                    conflicts=sum(came.conflicts for came in merged.parts),
                    outside=sum(came.outside for came in merged.parts),
                )
                self.journal.merged(
                    merged.journey.window,
                    figures,
                    merged.offset,
                    merged.columns,
                    records=merged.delivery.records,
                    ids=merged.delivery.ids,
                )
                self.committed += 1
                for part in merged.journey.parts:
                    part.path.unlink(missing_ok=True)

    def finish(self) -> Path:
        """The finished file."""
        with disk_errors("finish the output", at=self.path):
            finished = self.sink.finish(from_thread.check_cancelled)
            if self.followed:
                self.followed.end(finished)
            return finished

    def close(self) -> None:
        """Closes what has been merged, and lets go of the ids."""
        try:
            self.sink.close()
        finally:
            self.deduplicator.close()


@asynccontextmanager
async def _opened(
    path: Path, journal: Journal, names: Sequence[str], columns: Columns, *, fixed: bool, memory: int
) -> AsyncIterator[_Merge]:
    """The merge where it stood, closed in a thread whatever happens."""
    work = await in_thread(lambda: _Merge.open(path, journal, names, columns, fixed=fixed, memory=memory))
    try:
        yield work
    except BaseException:
        # What is not in the journal is lost anyway: an error in closing must not hide the one that brought us here.
        with anyio.CancelScope(shield=True), suppress(OSError):
            await in_thread(work.close)
        raise
    else:
        with anyio.CancelScope(shield=True), disk_errors("finish the output", at=path):
            await in_thread(work.close)
