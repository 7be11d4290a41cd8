"""Poll schedule: when to poll each export in flight, learned from those that have finished."""

from __future__ import annotations

from bisect import insort
from collections import deque
from dataclasses import dataclass

from bulkpull.pacing.duration_model import DurationModel, Observation, fit

FIRST_PROBE_S = 0.15  # after the launch, for an export that is polled early to see whether it runs
SECOND_PROBE_S = 1.0  # after the launch, if it was queued then, though perhaps only for a moment
# Between two polls of an export: so much for each that runs, within bounds.
INTERVAL_PER_RUNNING_S = 0.06
MIN_INTERVAL_S, MIN_INTERVAL_OF_MANY_S = 0.2, 0.5
SOLE_GRACE_S = 1.5  # for which the interval of the only export in flight does not grow: its delay is the pull's
MIN_QUEUED_INTERVAL_S = 600.0  # to the next poll of an export that should still be queued
JITTER = 0.3  # share by which intervals vary, so that exports launched together drift apart
POLLING_SHARE = 0.5  # of the request quota, that polls may use: the rest is for launches
BURST_SHARE = 0.25  # of the quota of a minute: polls are spread over time only as this is used up
FINAL_EXPORTS = 8  # that are polled more often at the end of a pull, where the number of workers is unknown
# Before any export has finished, an export is polled again after a share of the time it has run: so much times the
# number of running exports, within bounds. The first to finish teaches about all others.
COLD_SHARE = 0.1
MIN_COLD_SHARE, MAX_COLD_SHARE = 0.25, 2.0
_MAX_OBSERVATIONS = 64


@dataclass(slots=True, eq=False)
class PendingExport:
    """An export in flight.

    `seen_at` is when it was last seen unfinished, if it was polled, and `is_queued` what it was then. `running_since`
    is when it may have begun to run, once it was seen running; `queue_moved_at` when an export launched before it was
    last found to have left the queue. `started_at` estimates when a worker took it, which was at `taken_at` at the
    latest; `finished_at` estimates when it finished.
    """

    launched_at: float
    queue_moved_at: float
    seen_at: float | None = None
    is_queued: bool = False
    running_since: float | None = None
    started_at: float | None = None
    taken_at: float | None = None
    finished_at: float | None = None

    @property
    def unfinished_at(self) -> float:
        """When it was certainly unfinished."""
        return self.launched_at if self.seen_at is None else self.seen_at

    @property
    def assumed_start(self) -> float:
        """When it started to run; its launch, where nothing else is known."""
        return self.launched_at if self.started_at is None else self.started_at

    @property
    def elapsed(self) -> float:
        """Seconds that it has run at least."""
        return max(0.0, self.unfinished_at - self.assumed_start)


class PollSchedule:
    """When to poll the exports in flight.

    The server is assumed to have workers that take exports in the order of their launch, as long as what is seen agrees
    with that: an export starts when all but as many as there are workers have finished of those before it. How many
    workers there are is learned from which exports are queued.

    `requests_per_minute` is the quota that polls share with launches. Times are seconds on any monotonic clock.
    """

    def __init__(self, requests_per_minute: int) -> None:
        self.model: DurationModel | None = None  # of the time that exports run, once one has finished
        self._polls_per_second = POLLING_SHARE * requests_per_minute / 60
        self._burst = self._burst_left = BURST_SHARE * requests_per_minute  # polls: a token bucket
        self._polled_at = 0.0
        self._observations: deque[Observation] = deque(maxlen=_MAX_OBSERVATIONS)
        self._pending: list[PendingExport] = []  # in the order of their launch
        self._workers: int | None = None  # at most as many as exports were launched, while none was seen queued
        self._is_launching = True
        self._rescheduled: list[PendingExport] = []

    # What happened

    def add(self, launched_at: float, now: float) -> PendingExport:
        """Record an export in flight."""
        export = PendingExport(launched_at, queue_moved_at=launched_at)
        insort(self._pending, export, key=_launched_at)
        self._assign_workers(now)
        return export

    def remove(self, export: PendingExport, now: float) -> None:
        """Record that an export is no longer polled."""
        self._pending.remove(export)
        self._assign_workers(now, since=export.finished_at)
        if not self._is_launching and len(self._pending) == self._final_exports:
            self._reschedule(*self._pending)

    def record_unfinished(self, export: PendingExport, *, is_queued: bool, seen_at: float, now: float) -> None:
        """Record that an export was queued, or running, at `seen_at`."""
        self._record_poll(now)
        export.seen_at, export.is_queued = seen_at, is_queued
        position = self._pending.index(export)
        if is_queued and position < (self._workers or position + 1):
            # Those ahead of it that were seen running tell how many workers there are.
            self._workers = max(1, sum(ahead.started_at is not None for ahead in self._pending[:position]))
            for behind in self._pending[position:]:
                behind.started_at = behind.taken_at = None
        elif not is_queued:
            if export.running_since is None:
                export.running_since = export.launched_at if export.taken_at is None else export.taken_at
                self._move_queue(export, seen_at)
            if self._workers is not None and position >= self._workers:
                self._workers = position + 1
            if export.started_at is None:
                export.started_at = export.launched_at
        self._assign_workers(now)

    def record_failure(self, export: PendingExport, seen_at: float) -> None:
        """Record that an export had failed at `seen_at`."""
        self._record_poll(seen_at)
        self._move_queue(export, seen_at)

    def record_success(self, export: PendingExport, now: float) -> None:
        """Record that an export has succeeded."""
        self._record_poll(now)
        self._move_queue(export, now)
        # It probably finished at the median duration if that is possible, else in the middle of what is possible.
        export.finished_at = (export.unfinished_at + now) / 2
        if self.model and export.unfinished_at < export.assumed_start + self.model.median < now:
            export.finished_at = export.assumed_start + self.model.median
        self._observations.append(Observation(export.elapsed, max(now - export.assumed_start, 1e-3)))
        former, self.model = self.model, fit(self._observations)
        if former is None or not 0.8 < former.median / self.model.median < 1.25:
            self._reschedule(*self._pending)

    def finish_launching(self) -> None:
        """Record that nothing is left to be launched."""
        self._is_launching = False
        self._reschedule(*self._pending)

    # What follows

    def next_poll_at(
        self, export: PendingExport, *, export_timeout: float, jitter: float = 1.0, should_probe: bool = False
    ) -> float:
        """Return when to poll an export next.

        Args:
            export: The export.
            export_timeout: Seconds for which the server may work on it; it is polled when they have passed.
            jitter: Factor of the intervals, within `JITTER` of 1.
            should_probe: Whether it is polled early, to see whether it runs.
        """
        shortest = min(MIN_INTERVAL_OF_MANY_S, max(MIN_INTERVAL_S, INTERVAL_PER_RUNNING_S * self._running))
        spread = self._running / self._polls_per_second * (1 - self._burst_left / self._burst)
        interval = max(jitter * max(shortest, spread), self._interval(export, jitter))
        waited = export.unfinished_at - export.launched_at
        if should_probe and export.seen_at is None:
            interval = min(interval, FIRST_PROBE_S * jitter)
        elif should_probe and export.is_queued and waited < (1 - JITTER) * SECOND_PROBE_S:
            interval = min(interval, jitter * max(MIN_INTERVAL_S, SECOND_PROBE_S - waited))
        return min(export.unfinished_at + interval, self.running_since(export) + export_timeout)

    def running_since(self, export: PendingExport) -> float:
        """Return since when the server could have worked on an export.

        That is when it may have started, once it was seen running; while it is queued, when an export launched before
        it last left the queue.
        """
        if export.running_since is not None:
            return export.running_since
        return max(export.launched_at, export.queue_moved_at)

    def take_rescheduled(self) -> list[PendingExport]:
        """Return the exports whose next poll may have changed since this was called last."""
        rescheduled, self._rescheduled = self._rescheduled, []
        return rescheduled

    def _interval(self, export: PendingExport, jitter: float) -> float:
        """Seconds from when an export was last seen to its next poll."""
        median = self.model.median if self.model else 0.0
        if self._should_be_queued(export):
            waited = export.unfinished_at - export.launched_at
            return jitter * max(MAX_COLD_SHARE * waited, MIN_QUEUED_INTERVAL_S, 4 * median)
        # An export that is queued though it should run may be queued for ever: intervals grow.
        stuck = COLD_SHARE * (export.unfinished_at - self.running_since(export)) if export.is_queued else 0.0
        if self.model:
            # Once no other export waits for its worker, each delay may be one of the whole pull.
            is_urgent = not self._is_launching and len(self._pending) <= self._final_exports
            due = self.model.next_poll(export.elapsed, jitter=jitter, is_urgent=is_urgent)
            return max(export.assumed_start + due - export.unfinished_at, jitter * stuck)
        share = min(MAX_COLD_SHARE, max(MIN_COLD_SHARE, COLD_SHARE * self._running))
        is_fresh = self._is_alone and export.elapsed < SOLE_GRACE_S
        return jitter * max(0.0 if is_fresh else export.elapsed * share, stuck)

    def _should_be_queued(self, export: PendingExport) -> bool:
        return self._workers is not None and export.started_at is None

    @property
    def _is_alone(self) -> bool:
        """Whether only one export is in flight."""
        return len(self._pending) == 1

    @property
    def _final_exports(self) -> int:
        return FINAL_EXPORTS if self._workers is None else self._workers

    @property
    def _running(self) -> int:
        """How many exports are likely to run, and so are worth polling."""
        return min(len(self._pending), self._workers or len(self._pending))

    def _move_queue(self, export: PendingExport, at: float) -> None:
        """The server has taken this export from its queue, so it may come to those behind it."""
        for behind in self._pending[self._pending.index(export) + 1 :]:
            behind.queue_moved_at = max(behind.queue_moved_at, at)

    def _assign_workers(self, now: float, since: float | None = None) -> None:
        """Exports are taken by workers that are free, since then or just now."""
        for export in self._pending[: self._workers or 0]:
            if export.started_at is None:
                export.taken_at = now
                export.started_at = max(export.unfinished_at, now if since is None else since)
                self._reschedule(export)

    def _record_poll(self, now: float) -> None:
        refilled = self._burst_left + max(0.0, now - self._polled_at) * self._polls_per_second
        self._burst_left = max(0.0, min(self._burst, refilled) - 1)
        self._polled_at = max(now, self._polled_at)

    def _reschedule(self, *exports: PendingExport) -> None:
        self._rescheduled += exports


def _launched_at(export: PendingExport) -> float:
    return export.launched_at
