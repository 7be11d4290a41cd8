"""The journeys of all windows, side by side: one coroutine a window, from its launch to the merge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from bulkpull.clickwrap import Export
from bulkpull.errors import ExportError
from bulkpull.events import Event, Exported, ExportFailed, Launched, OnEvent, Skipped, Split
from bulkpull.pull.api import Api
from bulkpull.pull.durations import Durations
from bulkpull.pull.fetch import fetch
from bulkpull.pull.flight import Flight, Streams
from bulkpull.pull.journal import Journal
from bulkpull.pull.journey import ExportFailure, Journey, Part, cancelled_from_within
from bulkpull.pull.launch import launch
from bulkpull.pull.links import Links, part_records
from bulkpull.pull.order import Order
from bulkpull.pull.poll import poll
from bulkpull.pull.split import middle
from bulkpull.pull.spool import Spool
from bulkpull.pull.threads import in_thread

MAX_LAUNCHES = 3  # of one window, in one run
MAX_SPLITS_UNPROVEN = 10  # windows cut in two before any export has succeeded


@dataclass(slots=True)
class Journeys:
    """What the journeys share. Each runs in `group`, and so do those of the halves that come of it."""

    api: Api
    journal: Journal
    group: TaskGroup
    _: KW_ONLY
    path: Callable[[int, int], Path]
    filter: str
    fields: Sequence[str]
    flight: Flight
    streams: Streams
    spool: Spool
    export_timeout: float
    skip_failed: bool
    on_event: OnEvent
    durations: Durations = field(init=False)
    launching: anyio.Lock = field(default_factory=anyio.Lock)
    exported: bool = False  # an export has succeeded
    splits: int = 0

    def __post_init__(self) -> None:
        self.durations = Durations(self.api.requests_per_minute)

    async def start(self, journeys: Sequence[Journey]) -> None:
        """Starts all journeys: those whose export an earlier run has launched at once, the others as places in flight
        become free.

        A launch is answered before the next: a token or a filter that the API refuses is found out with one request,
        not with one for each export.
        """
        under_way = [journey for journey in journeys if journey.past]
        self.flight.take_up(sum(not journey.exported for journey in under_way))
        for journey in under_way:
            self.group.start_soon(self.travel, journey)
        order = Order((journey for journey in journeys if not journey.past), self.flight, self.durations)
        while len(order):
            place = await self.place()
            journey = order.next()
            journey.place = place
            self.group.start_soon(self.travel, journey)
            await journey.launched.wait()
        self.durations.end()

    async def place(self) -> object:
        """A place in flight, to be released once the export is done."""
        place = object()
        await self.flight.limiter.acquire_on_behalf_of(place)
        return place

    async def travel(self, journey: Journey) -> None:
        """One window's way from its launch to the merge: with another export where one will not do, or cut in two where
        that is of no use."""
        window = journey.window
        for attempt in range(1, MAX_LAUNCHES + 1):
            if attempt > 1:
                await anyio.sleep(self.api.retry.backoff(attempt - 1))
            try:
                await self.attempt(journey, attempt)
                return
            except ExportFailure as failure:
                reason, kind = f"export {failure.export_id}: {failure}", failure.kind
                await in_thread(self.journal.failed, window, failure.export_id, str(failure))
                self.on_event(ExportFailed(window, failure.export_id, attempt, str(failure)))
                journey.past = None
                too_large = failure.kind is ExportError and (failure.too_large or attempt == MAX_LAUNCHES)
            if too_large and await self.split(journey, reason):
                return
        if not self.skip_failed:
            raise kind(
                f"{window}: none of its {MAX_LAUNCHES} exports succeeded; the last, {reason}. Pull again to go on from "
                "here; if it recurs, try a longer export timeout, or leave the window out (--skip-failed)"
            )
        await in_thread(self.journal.skip, window, reason)
        self.on_event(Skipped(window, reason))
        journey.skip()

    async def split(self, journey: Journey, reason: str) -> bool:
        """Lets two halves of the window travel in its place, unless it is too small, or nothing was exported yet after
        so many cuts: then it is not size that is wrong."""
        window = journey.window
        if not self.exported and self.splits >= MAX_SPLITS_UNPROVEN:
            return False
        cut = await middle(self.api, window, self.filter)
        if cut is None:
            return False
        self.splits += 1
        halves = await in_thread(self.journal.split, window, *cut)
        self.on_event(Split(window, halves, reason))
        journey.split(halves)
        for half in journey.halves:
            self.group.start_soon(self.travel, half)
        return True

    async def attempt(self, journey: Journey, attempt: int) -> None:
        """One export's way to the merge. Raises ExportFailure where it will not do."""
        past = journey.past
        if past and past.exported:
            export, records = Export(past.id, "success"), past.parts
            self.on_event(Exported(journey.window, past.id, len(records), past.age))
        else:
            journey.place = journey.place or await self.place()
            export = await self.export(journey, attempt)
            records = part_records(export)
            await in_thread(self.journal.exported, journey.window, export.id, records)
        journey.export_id = export.id
        index = journey.window.index
        journey.parts = [
            Part(journey.window, record.number, self.path(index, record.number), record) for record in records
        ]
        links = Links(self.api, export, records)
        failures: list[ExportFailure] = []
        async with anyio.create_task_group() as group:
            for part in journey.parts:
                group.start_soon(self.fetch, part, links, failures, group)
        if failures:
            raise failures[0]
        if any(part.size is None for part in journey.parts):
            raise cancelled_from_within()
        await journey.hand_over()

    async def export(self, journey: Journey, attempt: int) -> Export:
        """A succeeded export of the window: the one that an earlier run launched, or a new one."""
        window, past = journey.window, journey.past
        try:
            if past:
                export, waited = Export(past.id, "unknown"), past.age
            else:
                async with self.launching:  # one at a time: whatever ends this process loses one answer at most
                    export = await launch(self.api, window, self.journal, filter=self.filter, fields=self.fields)
                waited = 0.0
                self.on_event(Launched(window, export.id, attempt))
                journey.launched.set()
            began = anyio.current_time()
            export = await poll(
                self.api,
                window,
                export,
                durations=self.durations,
                peek=self.flight.curious,
                waited=waited,
                export_timeout=self.export_timeout,
                on_event=self.on_event,
            )
        finally:
            self.flight.limiter.release_on_behalf_of(journey.place)
            journey.place = None
        self.exported = True
        self.on_event(Exported(window, export.id, len(export.links), waited + anyio.current_time() - began))
        return export

    async def fetch(self, part: Part, links: Links, failures: list[ExportFailure], group: TaskGroup) -> None:
        """Streams one part, once there is room for it; what makes the export useless goes to `failures`."""
        streams = self.streams.limiter
        while True:
            await self.spool.room(part.window)
            async with streams:
                if not self.spool.has_room(part.window):  # any more: it must not be waited for with a place in hand
                    continue
                try:
                    await fetch(self.api, part, links, self.journal, streams=streams, on_event=self.streamed)
                except ExportFailure as failure:
                    failures.append(failure)
                    group.cancel_scope.cancel()
                return

    def streamed(self, event: Event) -> None:
        """Hears of the transfers of files, and no other requests."""
        self.streams(event)
        self.on_event(event)
