"""The coordinator's half of the merge: each bucket becomes a task, whose result is recorded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import field
from itertools import islice
from uuid import uuid4

import anyio

from bulkpull.cluster.bucket import Bucket, BucketTask, CheckTask, StoredConflicts, check_bucket, merge_bucket
from bulkpull.cluster.destination import ClusterDataSet, ClusterDirectory
from bulkpull.cluster.facts import bucket_from, facts_of_bucket, part_from
from bulkpull.cluster.plan import BucketPlan, PlannedPart, write_plan
from bulkpull.cluster.run import Failure
from bulkpull.cluster.storage import DamagedError
from bulkpull.cluster.tasks import Tasks
from bulkpull.errors import FormatError, OutputError
from bulkpull.events import BucketMerged, ColumnsEmpty, CountsDoubted, Deduplicated, Event, OnEvent, Retried
from bulkpull.journal import Figures, Journal, PlacedConflict
from bulkpull.pull import PullOptions, cancelled_from_within, contradiction
from bulkpull.record import record
from bulkpull.source import Columns
from bulkpull.threads import in_thread
from bulkpull.window import instant

_MAX_ROUNDS = 5  # if objects are damaged each time


@record(frozen=False)
class BucketMerge:
    """Merges all buckets of a pull, once all windows are accepted.

    `names` are the first columns of the output, and all of them if they are `fixed`. `scatter_again` is called with the
    name of a scattered part that is damaged or missing, and why.
    """

    tasks: Tasks
    journal: Journal
    options: PullOptions
    meaning: Columns
    destination: ClusterDirectory | ClusterDataSet
    buckets: int
    names: Sequence[str]
    fixed: bool
    scatter_again: Callable[[str, str], Awaitable[None]]
    on_event: OnEvent
    _widths: list[int] = field(default_factory=list)  # how many columns one machine knows, part by part

    async def merge(self, columns: tuple[str, ...]) -> list[Bucket]:
        """Merge the buckets that no earlier run has merged. Returns all, in order. Raises OutputError."""
        done, rounds = await self._merged_before(), 0
        while len(done) < self.buckets:
            if rounds == _MAX_ROUNDS:
                raise OutputError(
                    f"objects in {self.destination.parts} were changed {_MAX_ROUNDS} times since they were written. "
                    "Check the storage, and run the same command again to resume"
                )
            rounds += 1
            for name in await in_thread(self._missing):
                await self.scatter_again(name, f"{self.destination.parts}/{name} is missing")
            damaged = await self._merge(columns, done)
            if not damaged and len(done) < self.buckets:
                raise cancelled_from_within()
            for failure in damaged.values():
                if failure.name.startswith("window-"):  # else it is the plan, or a bucket's own, which is written anew
                    await self.scatter_again(failure.name, failure.message)
        return [done[number] for number in range(self.buckets)]

    async def _merge(self, columns: tuple[str, ...], done: dict[int, Bucket]) -> dict[str, Failure]:
        """Merge the buckets that are not `done`, until an object is found to be damaged. Returns those, by name."""
        planned = await in_thread(self._plan)
        has_no_rows = not any(part.sizes.any() for part in planned)
        plans = await in_thread(write_plan, self.destination.parts, f"plan-{uuid4().hex}", planned, self.buckets)
        limit = self.tasks.limit
        limiter = anyio.CapacityLimiter(max(1, limit.value))
        damaged: dict[str, Failure] = {}

        async def work(number: int) -> None:
            async with limiter:
                limiter.total_tokens = max(1, limit.value)
                if damaged:
                    return
                outcome = await self._merge_bucket(
                    number, plans[number], columns, writes_empty=has_no_rows and not number
                )
                if isinstance(outcome, Failure):
                    damaged[outcome.name] = outcome
                    return
                done[number] = outcome
                self.on_event(BucketMerged(number, self.buckets, len(done)))

        async with anyio.create_task_group() as group:
            for number in range(self.buckets):
                if number not in done:
                    group.start_soon(work, number)
        return damaged

    async def _merge_bucket(
        self, number: int, plan: BucketPlan, columns: tuple[str, ...], *, writes_empty: bool
    ) -> Bucket | Failure:
        """Merge a bucket. Returns a failure if an object is damaged. Raises OutputError."""
        format = self.options.output_format
        task = BucketTask(
            self.destination.parts,
            plan,
            self.destination.output,
            self.destination.suffix,
            number,
            columns,
            self.meaning,
            all_strings=format.all_strings,
            by_month=format.partition_by == "month",
            provenance=self._provenance(number),
            memory=self.options.divided_memory.ids,
            writes_empty=writes_empty,
            collects_conflicts=self.options.conflicts is not None,
        )
        outcome = await self.tasks.run(merge_bucket, task, f"merge-bucket-{number:04d}", f"bucket {number}")
        if isinstance(outcome, Failure):
            if outcome.kind == "damaged":
                return outcome
            if outcome.kind == "format":
                raise FormatError(outcome.row, outcome.id, outcome.message)
            raise OutputError(f"bucket {number}: {outcome.message}")
        try:
            await in_thread(self._record, outcome)
        except DamagedError as error:
            return Failure("damaged", str(error), name=error.name)
        return outcome

    def _record(self, found: Bucket) -> None:
        conflicts = self._conflicts(found.conflicts) if found.conflicts else ()
        self.journal.record_bucket(found.bucket, facts_of_bucket(found), conflicts)

    def _conflicts(self, stored: StoredConflicts) -> Iterator[PlacedConflict]:
        """Yield the conflicts of a bucket, with the columns that one machine would have known when it met them."""
        for place, window, id, *rows in stored.read(self.destination.parts):
            kept, other = (dict(islice(row.items(), self._widths[place])) for row in rows)
            yield PlacedConflict(window, place, id, kept, other)

    async def _merged_before(self) -> dict[int, Bucket]:
        """The buckets that earlier runs have merged, if their files are there and were not changed."""
        written = await in_thread(self.destination.output.names)
        found = [bucket_from(facts) for facts in (await in_thread(self.journal.bucket_facts)).values()]
        done: dict[int, Bucket] = {}
        limiter = anyio.CapacityLimiter(max(1, self.tasks.limit.value))

        async def check(bucket: Bucket) -> None:
            files = tuple(file for file in bucket.files if file.path in written)  # others are in the data set already
            async with limiter:
                name = f"check-bucket-{bucket.bucket:04d}"
                task = CheckTask(self.destination.output, files)
                outcome = await self.tasks.run(check_bucket, task, name, f"bucket {bucket.bucket}") if files else True
            if outcome is True:
                done[bucket.bucket] = bucket
            else:
                reason = outcome.message if isinstance(outcome, Failure) else "a file was changed since it was written"
                self.on_event(Retried(f"bucket {bucket.bucket}", 1, 0.0, reason))

        async with anyio.create_task_group() as group:
            for bucket in found:
                if all(self.destination.has_file(file.path, written) for file in bucket.files):
                    group.start_soon(check, bucket)
        return done

    def _missing(self) -> list[str]:
        """The names of the scattered parts that are not in the storage."""
        written = self.destination.parts.names()
        return [name for _, _, name, _ in self.journal.accepted() if name not in written]

    def _plan(self) -> list[PlannedPart]:
        planned: list[PlannedPart] = []
        columns = list(self.names)
        self._widths = []
        for window, _, name, facts in self.journal.accepted():
            divided = part_from(facts).divided
            bounds = instant(window.start), instant(window.end)
            planned.append(PlannedPart(name, window.index, *bounds, divided.sizes))
            if not self.fixed:
                columns += [column for column in divided.columns if column not in columns]
            self._widths.append(len(columns))
        return planned

    def _provenance(self, bucket: int) -> dict[str, str]:
        """Where the rows of a bucket come from, for the metadata of its files."""
        options = self.journal.options
        return {
            "start": options["start"],
            "end": self.journal.end,
            "filter": options["filter"],
            "fields": ",".join(self.options.names(self.meaning)),
            "bucket": f"{bucket} of {self.buckets}",
        }


def conclude(journal: Journal, buckets: Sequence[Bucket], columns: tuple[str, ...]) -> list[Event]:
    """Record the figures of the windows, which only the merged buckets tell. Returns what they show. Blocks."""
    figures: dict[int, Figures] = {}
    for bucket in buckets:
        for index, came in bucket.figures.items():
            figures[index] = figures.get(index, Figures()) + came
    journal.record_figures(figures)
    total = journal.frontier.figures
    events: list[Event] = [Deduplicated(total.rows, total.duplicates, total.conflicts, total.outside)]
    filled = frozenset(column for bucket in buckets for column in bucket.filled)
    if filled and (empty := tuple(column for column in columns if column not in filled)):
        events.append(ColumnsEmpty(empty))
    if not journal.doubt and (reason := _contradiction(journal)):
        journal.distrust_counts(reason)
        events.append(CountsDoubted(reason))
    return events


def _contradiction(journal: Journal) -> str:
    """Return which window has more rows than were counted, now that they are known; empty if there is none."""
    in_order = sorted(journal.outcomes(), key=lambda one: one.window.start)
    return next(filter(None, (contradiction(one.window, one.rows or 0) for one in in_order)), "")
