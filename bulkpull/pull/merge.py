"""Merge: from parts to rows with new ids, in plan order, while later windows are still being exported."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import from_thread
from anyio.streams.memory import MemoryObjectReceiveStream

from bulkpull.disk import disk_errors, sync_directory
from bulkpull.errors import OutputError
from bulkpull.events import ColumnsDiffer, ColumnsEmpty, OnEvent, PartMerged, WindowAppended, WindowMerged
from bulkpull.journal import Figures, Journal
from bulkpull.pull.ahead import Ahead, settled_or_arriving
from bulkpull.pull.doubts import Delivery, Doubts
from bulkpull.pull.journey import DamagedPart, Journey, cancelled_from_within
from bulkpull.record import record
from bulkpull.rows.growing_file import GrowingFile
from bulkpull.rows.records import CsvError
from bulkpull.source import Columns
from bulkpull.threads import in_thread
from bulkpull.window import Window, instant

if TYPE_CHECKING:
    from bulkpull.rows.dedup import Deduplicator, PartStats
    from bulkpull.rows.sink import CsvSink

_MAX_UNCOMMITTED = 16  # windows that are merged but not durable yet


async def merge(
    journeys: Iterable[Journey],
    path: Path,
    journal: Journal,
    *,
    names: Sequence[str],
    columns: Columns,
    fixed: bool,
    memory: int,
    doubts: Doubts,
    release: Callable[[Window], None],
    followed: GrowingFile,
    on_event: OnEvent,
    is_durable: bool = True,
    collects_conflicts: bool = False,
) -> Path:
    """Merge the parts of all journeys into one CSV: the first row of each id, in the order window, part, row.

    Resumes where the journal says that an earlier run stopped. A window is merged whole or not at all: one with a
    damaged part is rejected, and so is one that there are doubts about. The parts of a window are deleted once its
    rows are durable.

    Args:
        journeys: The windows, in plan order.
        path: The CSV.
        journal: What earlier runs have merged; records what this one does.
        names: The header's first columns.
        columns: The columns that have a meaning.
        fixed: Whether `names` are all columns. Otherwise those that parts bring are appended.
        memory: Bytes for ids; a few times that for moments. More ids go to the disk.
        doubts: Judges what each window delivered before its rows stay.
        release: Called in the event loop with each window whose rows are durable.
        followed: Told of what is durable, window by window, and of the end.
        on_event: Called in the event loop with each event.
        is_durable: Whether the CSV is synced, so that a later run can continue it.
        collects_conflicts: Whether the journal gets the rows with other values than the first ones of their ids.

    Returns:
        The complete CSV: `path`, or another file if columns were appended after the first row.

    Raises:
        OutputError: the disk failed, or `path` was changed since it was written.
    """
    opened = partial(
        _Merge.open,
        path,
        journal,
        names,
        columns,
        followed,
        fixed=fixed,
        memory=memory,
        is_durable=is_durable,
        collects_conflicts=collects_conflicts,
    )
    pending = deque(journeys)
    is_fresh = await in_thread(_clear_uncommitted, path, journal)
    if pending and is_fresh:
        # There are no ids to restore: what is imported for the merge would only delay the first launches.
        await settled_or_arriving(pending[0])
    async with _closing(await in_thread(opened)) as work:
        accepted = 0
        merged, to_commit = anyio.create_memory_object_stream[_MergedWindow](_MAX_UNCOMMITTED)
        async with anyio.create_task_group() as group, merged:
            group.start_soon(_commit, work, to_commit, release, on_event)
            while pending:
                journey = pending[0]
                await settled_or_arriving(journey)
                ahead = None if journey.settled.is_set() else await _merge_ahead(work, journey)
                if journey.pieces or journey.is_skipped:
                    pending.popleft()
                    pending.extendleft(reversed(journey.pieces))
                    continue
                if not ahead:
                    await work.wait_for_reader()
                began = anyio.current_time()
                try:
                    window = await in_thread(work.merge, journey, ahead)
                except DamagedPart as damage:
                    journey.reject(damage)
                    continue
                if doubt := doubts.judge(journey.window, window.delivery, journey.evidence):
                    await in_thread(work.undo)
                    journey.reject(doubt)
                    continue
                await in_thread(work.deduplicator.keep)
                pending.popleft()
                pending.extendleft(reversed(journey.after))
                journey.accept(window.delivery)
                seconds = anyio.current_time() - began + (ahead.seconds if ahead else 0.0)
                on_event(WindowAppended(journey.window, seconds))
                accepted += 1
                try:
                    await merged.send(window)
                except anyio.BrokenResourceError:  # the group raises the error that ended the commits
                    break
        if pending or work.committed < accepted:
            raise cancelled_from_within()
        if empty := work.deduplicator.empty_columns():
            on_event(ColumnsEmpty(empty))
        return await in_thread(work.finish)


def _clear_uncommitted(path: Path, journal: Journal) -> bool:
    """Empty the CSV if no earlier run has committed rows to it; return whether none has. Raises OutputError."""
    if journal.frontier.offset:
        return False
    with disk_errors("open the unfinished output", at=path):
        path.open("wb").close()
    return True


async def _merge_ahead(work: _Merge, journey: Journey) -> Ahead | None:
    """Merge a window while it arrives, and wait until it is settled. Returns None if its rows were removed again."""
    await work.wait_for_reader()
    ahead = Ahead(work.deduplicator, journey.window, work.path)
    work.begin()
    if await ahead.merge(journey):
        await journey.settled.wait()
        if ahead.is_all_of(journey):
            return ahead
    await in_thread(work.undo)
    await journey.settled.wait()
    return None


async def _commit(
    work: _Merge,
    windows: MemoryObjectReceiveStream[_MergedWindow],
    release: Callable[[Window], None],
    on_event: OnEvent,
) -> None:
    """Commit merged windows, all that are waiting at a time, while further ones are merged."""
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


def _announce(journey: Journey, merged: Sequence[PartStats], on_event: OnEvent) -> None:
    for part, came in zip(journey.parts, merged, strict=True):
        if came.missing or came.unasked:
            on_event(ColumnsDiffer(part.window, part.number, came.missing, came.unasked))
        on_event(PartMerged(part.window, part.number, came.rows, came.duplicates, came.conflicts, came.outside))
    on_event(WindowMerged(journey.window))


@record
class _MergedWindow:
    """A window whose rows end at byte `offset` of the CSV, with `columns` as its header; `parts` are in order."""

    journey: Journey
    parts: list[PartStats]
    delivery: Delivery
    offset: int
    columns: tuple[str, ...]


@record(frozen=False)
class _Merge:
    """The blocking half of the merge: its methods run in threads."""

    sink: CsvSink
    deduplicator: Deduplicator
    journal: Journal
    path: Path
    followed: GrowingFile
    committed: int = 0  # windows, in this run
    before: tuple[int, list[str]] = (0, [])  # the sink's offset and columns before the last window

    @classmethod
    def open(
        cls,
        path: Path,
        journal: Journal,
        names: Sequence[str],
        columns: Columns,
        followed: GrowingFile,
        *,
        fixed: bool,
        memory: int,
        is_durable: bool,
        collects_conflicts: bool,
    ) -> _Merge:
        """Open the CSV where the journal says that the last committed window ends."""
        # These import NumPy: not in the event loop's thread.
        from bulkpull.rows.dedup import Deduplicator
        from bulkpull.rows.sink import CsvSink

        frontier = journal.frontier
        offset = frontier.offset
        with disk_errors("open the unfinished output", at=path):
            if offset and (not path.exists() or path.stat().st_size < offset):
                raise OutputError(f"{path} was changed since it was written: it is too short. Start over with --fresh")
            with ExitStack() as stack:
                sink = CsvSink(
                    path,
                    frontier.columns or names,
                    fixed=fixed,
                    offset=offset,
                    is_durable=is_durable,
                    followed=followed,
                )
                stack.callback(sink.close)
                sync_directory(path.parent)
                deduplicator = Deduplicator(sink, memory, columns, collects_conflicts=collects_conflicts)
                stack.callback(deduplicator.close)
                try:
                    deduplicator.restore(
                        # The destination reads while the ids are restored.
                        lambda header: followed.advance(offset, sink.columns, header),
                        from_thread.check_cancelled,
                    )
                except CsvError as error:
                    raise OutputError(
                        f"{path} was changed since it was written: {error}. Start over with --fresh"
                    ) from error
                stack.pop_all()
        return cls(sink, deduplicator, journal, path, followed)

    async def wait_for_reader(self) -> None:
        """Wait while the destination is too far behind. Rows that are not committed would keep it waiting forever."""
        await in_thread(self.followed.wait_for_reader, self.sink.offset, from_thread.check_cancelled)

    def begin(self) -> None:
        """Remember where the sink is, before a window is appended."""
        self.before = self.sink.offset, list(self.sink.columns)

    def merge(self, journey: Journey, ahead: Ahead | None = None) -> _MergedWindow:
        """Append the new rows of a window's parts, unless that was done `ahead`.

        Raises DamagedPart, with nothing changed, if one is damaged.
        """
        merged = ahead.stats if ahead else self._append(journey)
        newest = [part.record.export_id == journey.export_id for part in journey.parts]
        delivery = Delivery(
            records=sum(came.delivered for came, is_newest in zip(merged, newest, strict=True) if is_newest),
            ids=sum(came.rows + came.earlier for came in merged),
            rows=sum(came.rows for came in merged),
            is_foreign=0 < sum(came.delivered for came in merged) == sum(came.outside for came in merged),
        )
        return _MergedWindow(journey, merged, delivery, self.sink.offset, tuple(self.sink.columns))

    def _append(self, journey: Journey) -> list[PartStats]:
        self.begin()
        start, end = (instant(bound).encode() for bound in (journey.window.start, journey.window.end))
        needed = sum(part.size or 0 for part in journey.parts)
        merged: list[PartStats] = []
        with disk_errors(f"merge {journey.window}", needed=needed, at=self.path):
            for part in journey.parts:
                try:
                    merged.append(
                        self.deduplicator.add(part.held or part.path, start, end, from_thread.check_cancelled)
                    )
                except CsvError as error:
                    self.undo()
                    raise DamagedPart(part, f"part {part.number} is damaged: {error}") from error
        return merged

    def undo(self) -> None:
        """Remove the last window again, which was not kept yet."""
        self.deduplicator.roll_back(*self.before)

    def commit(self, windows: Sequence[_MergedWindow]) -> None:
        """Sync the CSV, record the windows in the journal, then delete their parts."""
        with disk_errors(f"merge {windows[-1].journey.window}", at=self.path):
            self.sink.sync(None if self.followed.closed else self.followed.position)
            for merged in windows:
                figures = Figures(
                    parts=len(merged.parts),
                    rows=sum(came.rows for came in merged.parts),
                    duplicates=sum(came.duplicates for came in merged.parts),
                    conflicts=sum(came.conflicts for came in merged.parts),
                    outside=sum(came.outside for came in merged.parts),
                )
                self.journal.record_merge(
                    merged.journey.window,
                    figures,
                    merged.offset,
                    merged.columns,
                    records=merged.delivery.records,
                    ids=merged.delivery.ids,
                    conflicts=[one for came in merged.parts for one in came.conflicting],
                )
                self.committed += 1
                self.followed.advance(merged.offset, merged.columns)
                for part in merged.journey.parts:
                    part.path.unlink(missing_ok=True)

    def finish(self) -> Path:
        """Complete and sync the CSV; return its path."""
        with disk_errors("finish the output", at=self.path):
            finished = self.sink.finish(from_thread.check_cancelled)
            self.followed.finish(finished)
            return finished

    def close(self) -> None:
        """Close the CSV, and free the ids."""
        try:
            self.sink.close()
        finally:
            self.deduplicator.close()


@asynccontextmanager
async def _closing(work: _Merge) -> AsyncIterator[_Merge]:
    """Close the merge in a thread, whatever happens."""
    try:
        yield work
    except BaseException:
        # Rows that are not in the journal are lost anyway: an error of closing must not hide the original one.
        with anyio.CancelScope(shield=True), suppress(OSError):
            await in_thread(work.close)
        raise
    else:
        with anyio.CancelScope(shield=True), disk_errors("finish the output", at=work.path):
            await in_thread(work.close)
