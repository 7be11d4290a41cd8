"""The journeys of all windows, side by side: one coroutine a window, from its launch to the merge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

import anyio
from anyio.abc import TaskGroup

from bulkpull.errors import BulkpullError, ExportError
from bulkpull.events import CountsDoubted, Exported, OnEvent, Retried, Skipped, Split
from bulkpull.journal import Journal
from bulkpull.pacing import LaunchQueue
from bulkpull.planning.volume import split_window
from bulkpull.pull.collect import Collector
from bulkpull.pull.doubts import Delivery, Doubt, Doubts, Trial, is_suspicious
from bulkpull.pull.export import Exporter, NoExtraLeft
from bulkpull.pull.journey import DamagedPart, ExportFailure, Journey
from bulkpull.pull.reconcile import Reconciler
from bulkpull.source import Export, Source
from bulkpull.threads import in_thread
from bulkpull.window import Window

MAX_LAUNCHES = 3  # of one window of the plan, in one run
MAX_LAUNCHES_OF_PIECE = 2
MAX_CUTS_UNPROVEN = 2  # windows cut before any export has succeeded, where nothing says that they are too large
MAX_DEPTH_UNEXPLAINED = 4  # cuts within cuts, where nothing says so: something else is wrong with what is in there
MAX_DEPTH = 16  # cuts within cuts at most


@dataclass(slots=True)
class Journeys:
    """What the journeys share. Each runs in `group`, and so do those of the pieces that come of it."""

    source: Source
    journal: Journal
    group: TaskGroup
    _: KW_ONLY
    exporter: Exporter
    collector: Collector
    doubts: Doubts
    reconciler: Reconciler
    discard: Callable[[int], None]
    skip_failed: bool
    on_event: OnEvent
    cuts_unproven: int = 0

    async def start(self, journeys: Sequence[Journey]) -> None:
        """Starts all journeys: those whose export an earlier run has launched at once, the others as places in flight
        become free.

        A launch is answered before the next: a token or a filter that the API refuses is found out with one request,
        not with one for each export.
        """
        under_way = [journey for journey in journeys if journey.past]
        slots = self.exporter.slots
        slots.export_limit.resume(sum(not journey.exported for journey in under_way), anyio.current_time())
        slots.adjust()
        for journey in under_way:
            self.group.start_soon(self.travel, journey)
        to_launch = {journey.window.index: journey for journey in journeys if not journey.past}
        queue = LaunchQueue(journey.window for journey in to_launch.values())
        while queue:
            place = await self.exporter.place()
            journey = to_launch.pop(queue.pop(slots.export_limit.value).index)
            journey.place = place
            self.group.start_soon(self.travel, journey)
            await journey.launched.wait()
        self.exporter.poller.finish_launching()

    async def travel(self, journey: Journey) -> None:
        """One window's way from its launch to the merge: with another export where one will not do, or cut into pieces
        where that is of no use."""
        window = journey.window
        launches = MAX_LAUNCHES_OF_PIECE if journey.depth else MAX_LAUNCHES
        failure = None
        for attempt in range(1, launches + 1):
            if attempt > 1:
                await anyio.sleep(self.source.retry.backoff(attempt - 1))
            try:
                await self.attempt(journey, attempt)
                return
            except NoExtraLeft as spent:
                await self.give_up(journey, str(spent), ExportError, "")
                return
            except ExportFailure as error:
                failure = error
            journey.parts = [part for part in journey.parts if part.record.export_id != failure.export_id]
            await self.exporter.failed(window, failure, attempt)
            if failure.export_id:
                self.collector.export_failed(window)
            if failure.too_large:
                break
        assert failure is not None
        reason = f"export {failure.export_id}: {failure}" if failure.export_id else str(failure)
        if self.may_cut(journey, failure) and await self.cut(journey, reason):
            return
        if failure.is_size_related and self.exporter.extra.left < 2:
            reason += f"; it was not cut, since {self.exporter.extra}"
        advice = f"none of its {attempt} exports succeeded; the last, " if failure.export_id else ""
        await self.give_up(journey, reason, failure.kind, advice)

    async def attempt(self, journey: Journey, attempt: int) -> None:
        """One export's way to the merge. Raises ExportFailure where it will not do, and NoExtraLeft."""
        past, journey.past = journey.past, ()
        finished = [export for export in past if export.has_succeeded]
        if finished:
            self.exporter.proof.set()
            journey.is_exported_again = len(past) > 1
            parts = sum(len(export.parts) for export in finished)
            self.on_event(Exported(journey.window, finished[-1].id, parts, finished[-1].age))
        for export in finished:
            await self.collector.collect(journey, Export(export.id, "succeeded"), export.parts)
        unfinished = past[-1] if past and not past[-1].has_succeeded else None
        if finished and unfinished:
            await self.reconciler.export_again(journey, unfinished)
        elif not finished:
            await self.collector.collect(journey, await self.exporter.export(journey, attempt, unfinished))
        await self.deliver(journey)

    async def deliver(self, journey: Journey) -> None:
        """Hands the window's rows to the merge, until it has them or the window was cut. Raises ExportFailure."""
        downloaded_again: set[int] = set()
        while True:
            try:
                delivery = await journey.hand_over()
            except DamagedPart as damage:
                if damage.part.number in downloaded_again:
                    raise damage.as_failure() from damage
                downloaded_again.add(damage.part.number)
                self.on_event(Retried(str(damage.part), 1, 0.0, str(damage)))
                await self.collector.download_again(journey, damage.part)
            except Doubt as doubt:
                if await self.resolve(journey, doubt):
                    return
            else:
                await self.compare(journey.window, delivery)
                return

    async def resolve(self, journey: Journey, doubt: Doubt) -> bool:
        """Whether the window was cut; else it is to be handed over again. Raises ExportFailure."""
        if doubt.kind == "capped":
            if doubt.trial or doubt.is_to_be_counted:  # to count is cheaper than to export, and mails nobody
                is_whole = await self.reconciler.count_for_limit(journey, doubt)
                if is_whole:
                    self.doubts.refute_cap(doubt.delivery.records)
                    return False
                if is_whole is None and doubt.is_to_be_counted:
                    journey.is_uncountable = True
                    return False
                if is_whole is False:
                    doubt = await self.confirm_cap(doubt)
            return await self.cut_capped(journey, doubt)
        if not await self.reconciler.should_cut(journey, doubt):
            return False
        is_resolved = journey.is_resolved
        if is_suspicious(doubt.delivery.records):
            doubt = await self.confirm_cap(doubt)
        is_cut = await self.cut_capped(journey, doubt)
        if not is_cut:  # there may be other ways
            journey.cannot_be_cut, journey.is_resolved = True, is_resolved
        return is_cut

    async def confirm_cap(self, doubt: Doubt) -> Doubt:
        """Record that exports are truncated where the window's was, so merged windows that ended there are in doubt."""
        again = self.doubts.confirm_cap(doubt.delivery.records)
        await self.remember_caps()
        return Doubt("capped", doubt.delivery, again=again)

    async def compare(self, window: Window, delivery: Delivery) -> None:
        """More than was counted says that counts cannot be trusted; told once."""
        await self.remember_caps()
        if window.rows is not None and delivery.rows > window.rows and not self.doubts.are_counts_doubtful:
            reason = f"{window}: {window.rows:,} activities were counted, and {delivery.rows:,} exported"
            self.doubts.are_counts_doubtful = True
            await in_thread(self.journal.distrust_counts, reason)
            self.on_event(CountsDoubted(reason))

    def judge(self, journey: Journey, delivery: Delivery) -> Doubt | None:
        """For the merge: the doubt about a window that it has taken in."""
        trial, journey.trial = journey.trial, None
        doubt = self.doubts.judge(
            journey.window,
            delivery,
            trial,
            is_empty=journey.is_empty,
            is_resolved=journey.is_resolved,
            is_uncountable=journey.is_uncountable,
        )
        if doubt and doubt.kind != "capped":
            journey.trial = trial  # which has not heard of it yet
        return doubt

    async def remember_caps(self) -> None:
        for records, verdict in self.doubts.new_verdicts().items():
            await in_thread(self.journal.record_cap, records, verdict)

    # Cutting

    def may_cut(self, journey: Journey, failure: ExportFailure) -> bool:
        """Whether smaller windows may fare better. Where nothing says that they are too large, size is unlikely to be
        what is wrong before any export has succeeded, and after several cuts."""
        if not failure.is_size_related or journey.depth >= MAX_DEPTH:
            return False
        if failure.is_explained:
            return True
        if self.exporter.proof.is_set():
            return failure.too_large or journey.depth < MAX_DEPTH_UNEXPLAINED
        self.cuts_unproven += 1
        return self.cuts_unproven <= MAX_CUTS_UNPROVEN

    async def cut(self, journey: Journey, reason: str, doubt: Doubt | None = None) -> bool:
        """Replace the window by the journeys of its pieces; false if it cannot be made smaller, or that would take too
        many exports. The pieces settle the trial of the `doubt`, or that of which the window was a piece."""
        delivery, trial = (doubt.delivery, doubt.trial) if doubt else (None, None)
        cut = await self.cut_window(journey.window, reason, delivery, trial or journey.trial, depth=journey.depth)
        if not cut:
            return False
        if journey.trial:
            journey.trial.pieces -= 1
        journey.cut(cut)
        return True

    async def cut_capped(self, journey: Journey, doubt: Doubt) -> bool:
        """Cuts the window, and those that were merged already, because their exports may have ended early. Returns
        whether the window itself was cut; else it is merged, and then what became of the others."""
        records = doubt.delivery.records
        reason = f"its export ended at {records:,} records, and more are counted, or others ended there too"
        for window in doubt.again:
            cut = await self.cut_window(window, reason, doubt.delivery, doubt.trial, is_merged=True)
            journey.after = (*journey.after, *cut)
        if doubt.is_own:
            if await self.cut(journey, reason, doubt):
                return True
            self.doubts.leave_open(records)
        await self.remember_caps()
        journey.is_resolved = True
        return False

    async def cut_window(
        self,
        window: Window,
        reason: str,
        delivery: Delivery | None,
        trial: Trial | None,
        *,
        depth: int = 0,
        is_merged: bool = False,
    ) -> tuple[Journey, ...]:
        """Start the journeys of a window's pieces; none if it cannot be cut. `delivery` may have been truncated; it is
        the window's own unless that `is_merged`."""
        limits = [number for number in (delivery and delivery.records, self.exporter.sizes.limit) if number]
        cut = await split_window(
            self.source, window, self.exporter.filter, min(limits, default=None), self.exporter.extra.left
        )
        if not cut:
            return ()
        ids = delivery.ids if delivery and not is_merged else None
        numbered = await in_thread(self.journal.cut, window, cut, ids)
        await in_thread(self.discard, window.index)
        self.collector.window_split(window, numbered, is_merged=is_merged)
        self.on_event(Split(window, numbered, reason, is_merged))
        journeys = tuple(Journey(piece, depth=depth + 1, trial=trial) for piece in numbered)
        if trial:
            trial.pieces += len(journeys)
        self.group.start_soon(self.travel, journeys[0])
        for journey in journeys[1:]:
            self.group.start_soon(self.travel_proven, journey, journeys[0])
        return journeys

    async def travel_proven(self, journey: Journey, first: Journey) -> None:
        """As long as no export has succeeded, one piece after another is tried: all may be too large."""
        if not self.exporter.proof.is_set():
            async with anyio.create_task_group() as group:
                for event in (self.exporter.proof, first.settled):
                    group.start_soon(_cancel_after, event, group.cancel_scope)
        await self.travel(journey)

    async def give_up(self, journey: Journey, reason: str, kind: type[BulkpullError], what: str) -> None:
        """The window cannot be exported: it is left out, or ends the pull."""
        window = journey.window
        if not self.skip_failed:
            raise kind(
                f"{window}: {what}{reason}. Pull again to go on from here; if it recurs, try a longer export timeout, "
                "or leave the window out (--skip-failed)"
            )
        await in_thread(self.journal.skip, window, reason)
        await in_thread(self.discard, window.index)
        self.collector.window_left(window)
        self.on_event(Skipped(window, reason))
        if journey.trial:
            journey.trial.is_spoiled = True
            journey.trial.pieces -= 1
        journey.skip()


async def _cancel_after(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
