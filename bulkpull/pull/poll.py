"""Poll: from a launched export to its links."""

from __future__ import annotations

import random

import anyio

from bulkpull import patience
from bulkpull.errors import NotFoundError
from bulkpull.events import OnEvent, Polled
from bulkpull.pacing import JITTER, PendingExport, PollSchedule
from bulkpull.planning import suggests_smaller_export
from bulkpull.pull.journey import ExportFailure
from bulkpull.pull.slots import Slots
from bulkpull.source import Export, Source
from bulkpull.window import Window


class Poller:
    """Polls exports until they end, when a schedule makes that likely."""

    def __init__(self, source: Source, slots: Slots, *, export_timeout: float, on_event: OnEvent) -> None:
        self._source = source
        self._slots = slots
        self._export_timeout = export_timeout
        self._on_event = on_event
        self._schedule = PollSchedule(source.requests_per_minute)
        self._rescheduled: dict[PendingExport, anyio.Event] = {}

    async def poll(self, window: Window, export: Export, *, age: float | None = None) -> Export:
        """Poll an export until it has succeeded.

        Args:
            window: The window of the export.
            export: The export.
            age: Seconds since its launch by an earlier run, after which it is polled at once. None for one that was
                launched just now.

        Returns:
            The export with its links.

        Raises:
            ExportFailure: It failed, stays unknown to the API, or is unfinished when it is polled after the server has
                worked on it for `export_timeout` seconds, or kept it queued that long although nothing that was
                launched before it left the queue. Time in which no request can be sent does not count.
        """
        should_probe = self._slots.export_limit.should_probe
        launched_at = anyio.current_time() - (age or 0.0)
        pending = self._schedule.add(launched_at, anyio.current_time())
        self._wake_rescheduled()
        try:
            if age is not None:
                export = await self._ask(window, export, pending)
            while not export.succeeded and not export.failed:
                if anyio.current_time() - self._schedule.running_since(pending) >= self._export_timeout:
                    reason = f"it was still {export.status} after {self._export_timeout:g} s"
                    raise ExportFailure(export.id, reason, is_final=export.state == "running")
                await self._sleep_until_due(pending, should_probe=should_probe)
                export = await self._ask(window, export, pending)
        finally:
            self._rescheduled.pop(pending, None)
            self._schedule.remove(pending, anyio.current_time())
            self._wake_rescheduled()
        if export.failed:
            reason = export.message or "it failed, and the API gave no message"
            explained = suggests_smaller_export(reason)
            raise ExportFailure(export.id, reason, is_final=explained, is_explained=explained)
        return export

    def finish_launching(self) -> None:
        """Take account of that nothing is left to be launched."""
        self._schedule.finish_launching()
        self._wake_rescheduled()

    async def _ask(self, window: Window, export: Export, pending: PendingExport) -> Export:
        asked_at = anyio.current_time()
        answer = await patience.until(lambda: known(self._source, export.id), lambda found: found is not None)
        if answer is None:
            raise ExportFailure(export.id, "it vanished: the API does not know it (404)")
        now = anyio.current_time()
        waited = now - pending.launched_at
        limit = self._slots.export_limit
        match answer.state:
            case "succeeded":
                self._schedule.record_success(pending, now)
            case "failed":
                self._schedule.record_failure(pending, asked_at)
            case "queued":
                self._schedule.record_unfinished(pending, is_queued=True, seen_at=asked_at, now=now)
                limit.record_queued(waited)
            case "running":
                self._schedule.record_unfinished(pending, is_queued=False, seen_at=asked_at, now=now)
                limit.record_running(export.id, waited, now)
        limit.record_throttling(self._source.throttled_at, now)
        self._slots.adjust()
        self._wake_rescheduled()
        self._on_event(Polled(window, export.id, answer.status, answer.state, waited))
        return answer

    async def _sleep_until_due(self, pending: PendingExport, *, should_probe: bool) -> None:
        """Sleep until the export is to be polled, which may change meanwhile."""
        jitter = random.uniform(1 - JITTER, 1 + JITTER)
        while True:
            rescheduled = self._rescheduled[pending] = anyio.Event()
            due = self._schedule.next_poll_at(
                pending, export_timeout=self._export_timeout, jitter=jitter, should_probe=should_probe
            )
            with anyio.CancelScope(deadline=due) as sleep:
                await rescheduled.wait()
            if sleep.cancelled_caught:
                return

    def _wake_rescheduled(self) -> None:
        for pending in self._schedule.take_rescheduled():
            if pending in self._rescheduled:
                self._rescheduled[pending].set()


async def known(source: Source, export_id: str) -> Export | None:
    """The export; None where the API does not know it, or not yet (404)."""
    try:
        return await source.get_export(export_id)
    except NotFoundError:
        return None
