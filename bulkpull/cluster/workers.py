"""The coordinator: it hands parts and buckets to the workers, and decides which of their results count.

Launches, polls and the quota stay with the pull, in one process; what is in here is what fans out. See
`bulkpull.pull.Workers`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import field, replace
from itertools import islice
from pathlib import Path

import anyio
import orjson
from anyio.abc import TaskGroup

from bulkpull import patience
from bulkpull.cluster.connection import Connection, check_workers
from bulkpull.cluster.destination import ClusterDataSet, ClusterDirectory
from bulkpull.cluster.facts import facts_of_part, part_from
from bulkpull.cluster.merging import BucketMerge, conclude
from bulkpull.cluster.run import Failure
from bulkpull.cluster.scatter import Scattered, ScatterTask, TallyTask, scatter, tally
from bulkpull.cluster.storage import Storage
from bulkpull.cluster.tasks import Tasks
from bulkpull.disk import disk_errors
from bulkpull.download import Checkpoints, Downloaded, FileMissingError, Link, LinkSettings, Progress
from bulkpull.errors import MalformedPartError, OutputError, PartError, UsageError
from bulkpull.events import ColumnsDiffer, OnEvent, PartMerged, Retried, WindowAppended, WindowMerged
from bulkpull.journal import Figures, Journal, PartRecord
from bulkpull.pacing import FixedLimit
from bulkpull.pull import (
    MAX_BUCKETS,
    DamagedPart,
    Delivery,
    Doubts,
    ExportFailure,
    Journey,
    Links,
    Part,
    PartLink,
    PullOptions,
)
from bulkpull.record import record
from bulkpull.source import Export, Source
from bulkpull.store import DataSetFile
from bulkpull.threads import in_thread
from bulkpull.window import Window, instant, total_count

_TOLERATED = 1.01  # times the count
_MAX_RENEWALS = 5  # of a link
_TALLIES_AHEAD = 32
_WATCH_S = 1.0
_ROWS_PER_BUCKET = 5_000_000  # about a gigabyte of CSV, on the disk of a worker
_BUCKETS = 64  # if the rows were not counted


@record(frozen=False)
class ClusterWorkers:
    """Workers of a cluster, as `bulkpull.pull.Workers`. The `destination` is set before `start`."""

    connection: Connection
    source: Source
    options: PullOptions
    settings: LinkSettings
    destination: ClusterDirectory | ClusterDataSet = field(init=False)
    limit: FixedLimit = field(default_factory=lambda: FixedLimit(1))
    _journal: Journal = field(init=False)
    _on_event: OnEvent = field(init=False)
    _tasks: Tasks = field(init=False)
    _kept: dict[str, Scattered] = field(default_factory=dict)  # of earlier runs, by name
    _scattered: dict[tuple[int, int], Scattered] = field(default_factory=dict)  # by window and number of the part
    _tallies: dict[tuple[str, ...], int | Failure] = field(default_factory=dict)
    _tallying: set[tuple[str, ...]] = field(default_factory=set)
    _tallied: anyio.Event = field(default_factory=anyio.Event)
    _parts: Storage = field(init=False)
    _buckets: int = 0

    async def start(self, journal: Journal, on_event: OnEvent) -> None:
        """Take up what earlier runs have left: the scattered parts that are still in the storage."""
        self._journal, self._on_event = journal, on_event
        self._tasks = Tasks(self.connection, self.source.retry, self.limit, on_event)
        await in_thread(self._open)
        await self._tasks.wait_for_workers()
        await check_workers(self.connection, self._parts, self.destination.output, self.destination.suffix)

    def _open(self) -> None:
        journal = self._journal
        self._buckets = journal.buckets
        if not self._buckets and journal.frontier.windows:
            raise UsageError(
                "the pull to be resumed was started without --cluster. Rerun with the original options, or discard the "
                "progress with --fresh"
            )
        self.destination.open()
        self._parts = self.destination.parts
        names = self._parts.names()
        self._kept = {name: part_from(facts) for name, facts in journal.scattered().items() if name in names}
        if not self._buckets:
            self._buckets = self.options.buckets or _buckets_for(total_count(journal.windows) or journal.total)
            journal.record_buckets(self._buckets)

    async def fetch(self, part: Part, link: Link, checkpoints: Checkpoints, progress: Progress) -> Downloaded:
        """Let a worker download and divide a part. See `bulkpull.pull.Workers`."""
        place = part.window.index, part.number
        if part.record.checksum in self._kept:
            self._scattered[place] = found = self._kept[part.record.checksum]
            return Downloaded(found.size, found.name)
        self._scattered[place] = found = await self._scatter(part, link)
        progress.received(found.received)
        downloaded = Downloaded(found.size, found.name)
        await in_thread(self._journal.record_scattered, part.window, part.number, found.name, facts_of_part(found))
        await in_thread(checkpoints.save_complete, downloaded)
        return downloaded

    async def merge(
        self,
        journeys: Iterable[Journey],
        path: Path,
        *,
        names: Sequence[str],
        fixed: bool,
        doubts: Doubts,
        release: Callable[[Window], None],
    ) -> Path:
        """Accept the windows in plan order, then merge the buckets. See `bulkpull.pull.Workers`."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._tasks.watch)
            columns = await self._accept_all(group, journeys, names, doubts, release, fixed=fixed)
            merge = BucketMerge(
                self._tasks,
                self._journal,
                self.options,
                self.source.columns,
                self.destination,
                self._buckets,
                names,
                fixed,
                self._scatter_again,
                self._on_event,
            )
            buckets = await merge.merge(columns)
            group.cancel_scope.cancel()
        for event in await in_thread(conclude, self._journal, buckets, columns):
            self._on_event(event)
        files = sorted((file for bucket in buckets for file in bucket.files), key=lambda file: file.path)
        await in_thread(_write_files, path, files)
        return path

    # Parts

    async def _scatter(self, part: Part, link: Link) -> Scattered:
        window, renewals = part.window, 0
        name = f"window-{window.index + 1:06d}-part-{part.number:04d}"
        url = await link.get()
        while True:
            outcome = await self._tasks.run(
                scatter,
                ScatterTask(
                    self._parts,
                    name,
                    url,
                    self.settings,
                    self.source.retry,
                    self.source.columns,
                    (instant(window.start), instant(window.end)),
                    self._buckets,
                    self.options.divided_memory.parts,
                ),
                f"scatter-{name}",
                str(part),
            )
            if isinstance(outcome, Scattered):
                return replace(outcome, export_id=part.record.export_id, file=part.record.name)
            if outcome.kind == "missing":
                raise FileMissingError(outcome.message)
            if outcome.kind == "malformed":
                raise MalformedPartError(outcome.message)
            if outcome.kind == "part":
                raise PartError(f"{outcome.message} (on the worker {outcome.worker})")
            renewals += 1
            if renewals > _MAX_RENEWALS:
                raise FileMissingError(f"the file host rejects {_MAX_RENEWALS} fresh links")
            if renewals > 1:  # the first link may simply have been old
                await anyio.sleep(patience.LAG / _MAX_RENEWALS)
            url = await link.get(expired=url)

    async def _scatter_again(self, name: str, reason: str) -> None:
        """Let a worker download and divide a file again, in place of the object `name`, which is damaged or missing."""
        accepted = await in_thread(self._journal.accepted)
        [(window, number, facts)] = [(window, number, facts) for window, number, one, facts in accepted if one == name]
        former = part_from(facts)
        files = {
            other: found.file
            for of, other, found in ((of, other, part_from(facts)) for of, other, _, facts in accepted)
            if of.index == window.index and found.export_id == former.export_id
        }
        records = [PartRecord(other, file, former.export_id) for other, file in sorted(files.items())]
        part = Part(window, number, Path(name), PartRecord(number, former.file, former.export_id))
        self._on_event(Retried(str(part), 1, 0.0, reason))
        links = Links(self.source, Export(former.export_id, "succeeded"), records)
        try:
            found = await self._scatter(part, PartLink(links, number))
        except (ExportFailure, PartError) as error:
            raise OutputError(f"{reason}, and cannot be written again: {error}. Start over with --fresh") from None
        if found.checksum != former.checksum:
            raise OutputError(f"{reason}, and its file has other rows now. Start over with --fresh")
        await in_thread(self._journal.replace_scattered, name, found.name, facts_of_part(found))

    # Windows

    async def _accept_all(
        self,
        group: TaskGroup,
        journeys: Iterable[Journey],
        names: Sequence[str],
        doubts: Doubts,
        release: Callable[[Window], None],
        *,
        fixed: bool,
    ) -> tuple[str, ...]:
        """Judge what each window delivered, in plan order. Returns the columns of the output."""
        frontier = await in_thread(lambda: self._journal.frontier)
        columns = list(frontier.columns or names)
        pending = deque(journeys)
        while pending:
            journey = pending[0]
            while not journey.settled.is_set():
                self._tally_ahead(group, pending)
                with anyio.move_on_after(_WATCH_S):
                    await journey.settled.wait()
            if journey.pieces or journey.is_skipped:
                pending.popleft()
                pending.extendleft(reversed(journey.pieces))
                continue
            self._tally_ahead(group, pending)
            try:
                delivery = await self._delivery(journey)
            except DamagedPart as damage:
                journey.reject(damage)
                continue
            if doubt := doubts.judge(journey.window, delivery, journey.evidence):
                journey.reject(doubt)
                continue
            pending.popleft()
            pending.extendleft(reversed(journey.after))
            journey.accept(delivery)
            await self._accept(journey, delivery, columns, fixed=fixed)
            release(journey.window)
        return tuple(columns)

    async def _delivery(self, journey: Journey) -> Delivery:
        """What a window delivered. Which of its ids an earlier window has delivered is unknown before buckets are
        merged. Until then, its rows are those with a time in the window; a few more than were counted may be such ids,
        and say nothing against the count. Raises DamagedPart."""
        parts = self._parts_of(journey)
        names = tuple(part.name for part in parts)
        if len(parts) > 1:
            while names not in self._tallies:
                await self._tallied.wait()
            tallied = self._tallies[names]
            if isinstance(tallied, Failure):
                raise DamagedPart(journey.parts[names.index(tallied.name)], tallied.message)
            ids = tallied
        else:
            ids = sum(int(part.divided.ids.sum()) for part in parts)
        newest = [
            self._scattered[part.window.index, part.number].divided.records
            for part in journey.parts
            if part.record.export_id == journey.export_id
        ]
        outside = sum(part.divided.outside for part in parts)
        rows, counted = max(0, ids - outside), journey.window.rows
        if counted is not None and counted < rows <= counted * _TOLERATED:
            rows = counted
        is_foreign = 0 < sum(part.divided.records for part in parts) == outside
        return Delivery(records=sum(newest), ids=ids, rows=rows, is_foreign=is_foreign)

    async def _accept(self, journey: Journey, delivery: Delivery, columns: list[str], *, fixed: bool) -> None:
        parts = self._parts_of(journey)
        numbered = [(place.number, part) for place, part in zip(journey.parts, parts, strict=True)]
        for number, part in numbered:
            if part.divided.columns:
                known = frozenset(columns)
                unasked = tuple(column for column in part.divided.columns if column not in known)
                if not fixed:
                    columns += unasked
                    unasked = ()
                missing = tuple(column for column in columns if column not in frozenset(part.divided.columns))
                if missing or unasked:
                    self._on_event(ColumnsDiffer(journey.window, number, missing, unasked))
        records = sum(part.divided.records for part in parts)
        outside = sum(part.divided.outside for part in parts)
        figures = Figures(len(parts), delivery.rows, records - delivery.rows, 0, outside)
        await in_thread(
            lambda: self._journal.record_merge(
                journey.window,
                figures,
                0,
                columns,
                records=delivery.records,
                ids=delivery.ids,
                scattered=[part.name for part in parts],
            )
        )
        for number, part in numbered:
            ids = int(part.divided.ids.sum())
            repeats = part.divided.records - ids
            self._on_event(PartMerged(journey.window, number, ids, repeats, 0, part.divided.outside))
            self._scattered.pop((journey.window.index, number))
        self._tallies.pop(tuple(part.name for part in parts), None)
        self._on_event(WindowAppended(journey.window, 0.0))
        self._on_event(WindowMerged(journey.window))

    def _parts_of(self, journey: Journey) -> list[Scattered]:
        return [self._scattered[part.window.index, part.number] for part in journey.parts]

    def _tally_ahead(self, group: TaskGroup, pending: Iterable[Journey]) -> None:
        """Let the ids of the next windows with several parts be counted."""
        for journey in islice(pending, _TALLIES_AHEAD):
            if journey.settled.is_set() and len(journey.parts) > 1:
                parts = self._parts_of(journey)
                names = tuple(part.name for part in parts)
                if names not in self._tallying:
                    self._tallying.add(names)
                    group.start_soon(self._tally, journey.window, parts, names)

    async def _tally(self, window: Window, parts: Sequence[Scattered], names: tuple[str, ...]) -> None:
        keys = tuple(
            (part.name, int(part.divided.sizes.sum()), tuple(part.divided.ids.tolist()), part.divided.checksum)
            for part in parts
        )
        task = TallyTask(self._parts, keys)
        outcome = await self._tasks.run(tally, task, f"tally-window-{window.index + 1:06d}", str(window))
        if isinstance(outcome, Failure) and outcome.kind != "damaged":
            raise OutputError(f"{window}: {outcome.message}")
        self._tallies[names] = outcome
        self._tallied.set()
        self._tallied = anyio.Event()


def _buckets_for(rows: int | None) -> int:
    """Return how many buckets there are for so many rows."""
    return _BUCKETS if rows is None else max(1, min(MAX_BUCKETS, -(-rows // _ROWS_PER_BUCKET)))


def _write_files(path: Path, files: Sequence[DataSetFile]) -> None:
    with disk_errors(f"write {path}", at=path):
        path.write_bytes(orjson.dumps(files))
