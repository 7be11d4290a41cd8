"""The journeys of all windows, concurrently: one coroutine per window, from its launch to the merge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY

import anyio
from anyio.abc import TaskGroup

from bulkpull.errors import BulkpullError, ExportError
from bulkpull.events import CountsDoubted, Exported, OnEvent, Retried, Skipped, Split
from bulkpull.journal import Journal
from bulkpull.pacing import LaunchQueue
from bulkpull.planning import split_window
from bulkpull.pull.collect import Collector
from bulkpull.pull.doubts import Delivery, Doubt, Doubts, Trial, contradiction, is_suspicious
from bulkpull.pull.export import Exporter, NoExtraLeft
from bulkpull.pull.journey import DamagedPart, ExportFailure, Journey
from bulkpull.pull.reconcile import Reconciler
from bulkpull.record import record
from bulkpull.source import Export, Source
from bulkpull.threads import in_thread
from bulkpull.window import Window

MAX_LAUNCHES = 3  # of one window of the plan, in one run
MAX_LAUNCHES_OF_PIECE = 2
MAX_UNPROVEN_SPLITS = 2  # before any export has succeeded, if nothing says that windows are too large
MAX_UNEXPLAINED_DEPTH = 4  # nested splits, if nothing says so: something other than size is wrong
MAX_DEPTH = 16  # nested splits


@record(frozen=False)
class Journeys:
    """What the journeys share. All run in `group`, and so do those of the pieces of split windows."""

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
    _unproven_splits: int = 0

    async def start(self, journeys: Sequence[Journey]) -> None:
        """Start all journeys: those whose export an earlier run has launched at once, the others as slots become free.

        A launch is answered before the next is sent: if the API refuses the token or the filter, that costs one
        request, not one for each export.
        """
        resumed = [journey for journey in journeys if journey.past]
        slots = self.exporter.slots
        slots.export_limit.resume(sum(not journey.is_exported for journey in resumed), anyio.current_time())
        slots.adjust()
        for journey in resumed:
            self.group.start_soon(self.travel, journey)
        to_launch = {journey.window.index: journey for journey in journeys if not journey.past}
        queue = LaunchQueue(journey.window for journey in to_launch.values())
        while queue:
            await self.collector.wait_for_launch()
            slot = await self.exporter.acquire_slot()
            journey = to_launch.pop(queue.pop(slots.export_limit.value).index)
            journey.slot = slot
            self.group.start_soon(self.travel, journey)
            await journey.is_launched.wait()
        self.exporter.poller.finish_launching()

    # One journey

    async def travel(self, journey: Journey) -> None:
        """Bring one window from its launch to the merge, with another export if one is of no use, or split into pieces
        if that is of no use either."""
        window = journey.window
        launches = MAX_LAUNCHES_OF_PIECE if journey.depth else MAX_LAUNCHES
        failure = None
        for attempt in range(1, launches + 1):
            if attempt > 1:
                await anyio.sleep(self.source.retry.backoff(attempt - 1))
            try:
                await self._export_and_deliver(journey, attempt)
                return
            except NoExtraLeft as error:
                await self._give_up(journey, str(error), ExportError, "")
                return
            except ExportFailure as error:
                failure = error
            journey.drop_parts(failure.export_id)
            await self.exporter.record_failure(window, failure, attempt)
            if failure.export_id:
                self.collector.export_failed(window)
            if failure.is_final:
                break
        assert failure is not None
        reason = f"export {failure.export_id}: {failure}" if failure.export_id else str(failure)
        if self._may_split(journey, failure) and await self._split(journey, reason):
            return
        if failure.is_size_related and self.exporter.extra.left < 2:
            reason += f"; it was not split, since {self.exporter.extra}"
        history = f"none of its {attempt} exports succeeded; the last, " if failure.export_id else ""
        await self._give_up(journey, reason, failure.kind, history)

    async def _export_and_deliver(self, journey: Journey, attempt: int) -> None:
        """Export the window, or use what earlier runs left of it, and deliver its rows. Raises ExportFailure and
        NoExtraLeft."""
        past, journey.past = journey.past, ()
        succeeded = [export for export in past if export.has_succeeded]
        if succeeded:
            self.exporter.is_proven.set()
            journey.evidence.ids_before = 0 if len(past) > 1 else None
            parts = sum(len(export.parts) for export in succeeded)
            self.on_event(Exported(journey.window, succeeded[-1].id, parts, succeeded[-1].age))
        for export in succeeded:
            await self.collector.collect(journey, Export(export.id, "succeeded"), export.parts)
        unfinished = past[-1] if past and not past[-1].has_succeeded else None
        if succeeded and unfinished:
            await self.reconciler.export_again(journey, unfinished)
        elif not succeeded:
            await self.collector.collect(journey, await self.exporter.export(journey, attempt, unfinished))
        await self._deliver(journey)

    async def _deliver(self, journey: Journey) -> None:
        """Hand the window's rows to the merge until it keeps them, or the window was split. Raises ExportFailure."""
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
                if await self._resolve(journey, doubt):
                    return
            else:
                await self._record_verdicts()
                await self._check_count(journey.window, delivery)
                return

    # Doubts

    async def _resolve(self, journey: Journey, doubt: Doubt) -> bool:
        """Resolve a doubt. Returns whether the window was split; otherwise it is to be handed over again. Raises
        ExportFailure."""
        if doubt.kind == "capped":
            if doubt.trial or doubt.is_to_be_counted:  # a count is cheaper than an export, and sends no email
                is_complete = await self.reconciler.count_for_limit(journey, doubt)
                if is_complete:
                    self.doubts.refute_cap(doubt.delivery.records)
                    return False
                if is_complete is None and doubt.is_to_be_counted:
                    journey.evidence.is_uncountable = True
                    return False
                if is_complete is False:
                    doubt = await self._confirm_cap(doubt)
            return await self._split_capped(journey, doubt)
        if not await self.reconciler.should_split(journey, doubt):
            if doubt.kind == "foreign" and journey.evidence.is_resolved:
                await self._distrust_counts(f"{journey.window}: no row of its exports lies in it")
            return False
        evidence, is_resolved = journey.evidence, journey.evidence.is_resolved
        delivery = doubt.delivery
        if doubt.is_at_cap or is_suspicious(delivery.records):
            doubt = await self._confirm_cap(doubt)
        elif evidence.trial is None:  # if the pieces deliver more, other windows that ended there are split at once
            doubt = Doubt("capped", delivery, trial=Trial(delivery.records, delivery.ids))
        is_split = await self._split_capped(journey, doubt)
        if not is_split:  # there may be other ways
            evidence.cannot_be_split, evidence.is_resolved = True, is_resolved
        return is_split

    async def _confirm_cap(self, doubt: Doubt) -> Doubt:
        """Record that exports are truncated where the window's was, so merged windows that ended there are in doubt."""
        again = self.doubts.confirm_cap(doubt.delivery.records)
        await self._record_verdicts()
        return Doubt("capped", doubt.delivery, again=again)

    async def _check_count(self, window: Window, delivery: Delivery) -> None:
        """Distrust counts once a window delivers more than was counted."""
        if reason := contradiction(window, delivery.rows):
            await self._distrust_counts(reason)

    async def _distrust_counts(self, reason: str) -> None:
        if not self.doubts.are_counts_doubtful:
            self.doubts.are_counts_doubtful = True
            await in_thread(self.journal.distrust_counts, reason)
            self.on_event(CountsDoubted(reason))

    async def _record_verdicts(self) -> None:
        for records, verdict in self.doubts.new_verdicts().items():
            await in_thread(self.journal.record_cap, records, verdict)

    # Splitting

    def _may_split(self, journey: Journey, failure: ExportFailure) -> bool:
        """Return whether smaller windows may succeed. If nothing says that windows are too large, size is an unlikely
        cause before any export has succeeded, and after several splits."""
        if not failure.is_size_related or journey.depth >= MAX_DEPTH:
            return False
        if failure.is_explained:
            return True
        if self.exporter.is_proven.is_set():
            return failure.is_final or journey.depth < MAX_UNEXPLAINED_DEPTH
        self._unproven_splits += 1
        return self._unproven_splits <= MAX_UNPROVEN_SPLITS

    async def _split(self, journey: Journey, reason: str, doubt: Doubt | None = None) -> bool:
        """Replace the window by the journeys of its pieces; false if it cannot be made smaller, or that would take too
        many exports. The pieces settle the trial of the `doubt`, or that of which the window was a piece."""
        delivery, trial = (doubt.delivery, doubt.trial) if doubt else (None, None)
        own_trial = journey.evidence.trial
        pieces = await self._start_pieces(journey.window, reason, delivery, trial or own_trial, depth=journey.depth)
        if not pieces:
            return False
        if own_trial:
            own_trial.pieces -= 1
        journey.split_into(pieces)
        return True

    async def _split_capped(self, journey: Journey, doubt: Doubt) -> bool:
        """Split the window, and those merged already, because their exports may be truncated. Returns whether the
        window itself was split; otherwise it is merged, and then the pieces of the others."""
        records = doubt.delivery.records
        reason = f"its export ended at {records:,} records, and more are counted, or others ended there too"
        for window in doubt.again:
            pieces = await self._start_pieces(window, reason, doubt.delivery, doubt.trial, is_merged=True)
            journey.after = (*journey.after, *pieces)
        if doubt.is_own:
            if await self._split(journey, reason, doubt):
                return True
            self.doubts.leave_open(records)
        await self._record_verdicts()
        journey.evidence.is_resolved = True
        return False

    async def _start_pieces(
        self,
        window: Window,
        reason: str,
        delivery: Delivery | None,
        trial: Trial | None,
        *,
        depth: int = 0,
        is_merged: bool = False,
    ) -> tuple[Journey, ...]:
        """Start the journeys of a window's pieces; none if it cannot be split. `delivery` may have been truncated; it
        is the window's own unless that `is_merged`."""
        exporter = self.exporter
        limits = [number for number in (delivery and delivery.records, exporter.sizes.limit) if number]
        pieces = await split_window(
            self.source, window, exporter.filter, min(limits, default=None), exporter.extra.left
        )
        if not pieces:
            return ()
        ids = delivery.ids if delivery and not is_merged else None
        pieces = await in_thread(self.journal.split, window, pieces, ids)
        await in_thread(self.discard, window.index)
        self.collector.window_split(window, pieces, is_merged=is_merged)
        self.on_event(Split(window, pieces, reason, is_merged))
        journeys = tuple(Journey.of_piece(piece, depth + 1, trial) for piece in pieces)
        if trial:
            trial.pieces += len(journeys)
        self.group.start_soon(self.travel, journeys[0])
        for journey in journeys[1:]:
            self.group.start_soon(self._travel_after, journeys[0], journey)
        return journeys

    async def _travel_after(self, first: Journey, journey: Journey) -> None:
        """Travel once any export has succeeded, or the first piece is settled: until then all may be too large."""
        if not self.exporter.is_proven.is_set():
            async with anyio.create_task_group() as group:
                for event in (self.exporter.is_proven, first.settled):
                    group.start_soon(_cancel_after, event, group.cancel_scope)
        await self.travel(journey)

    async def _give_up(self, journey: Journey, reason: str, kind: type[BulkpullError], history: str) -> None:
        """Skip a window that cannot be exported, or end the pull."""
        window = journey.window
        if not self.skip_failed:
            raise kind(
                f"{window}: {history}{reason}. Rerun to resume; if the error recurs, increase the export timeout, or "
                "skip the window (--skip-failed)"
            )
        await in_thread(self.journal.skip, window, reason)
        await in_thread(self.discard, window.index)
        self.collector.window_left(window)
        self.on_event(Skipped(window, reason))
        if trial := journey.evidence.trial:
            trial.is_spoiled = True
            trial.pieces -= 1
        journey.skip()


async def _cancel_after(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
