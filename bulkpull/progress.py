"""The progress of a pull, counted from its events."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import fields
from statistics import median
from threading import RLock
from typing import Any

from bulkpull import events
from bulkpull.eta import Estimate, Prior
from bulkpull.events import Event
from bulkpull.forecast import Forecast
from bulkpull.record import record
from bulkpull.waits import Troubles, Wait

_RATE_SPAN_S = 5.0
_QUOTA_SPAN_S = 60.0


@record
class ProgressSnapshot:
    """The figures of a `Progress` at one moment. `dataclasses.asdict` makes them JSON.

    Args:
        windows: Windows of the plan; 0 until the range is split.
        windows_merged: Windows merged into the output, or skipped.
        exports_queued: Exports launched that the API has not begun, as far as polls tell.
        exports_running: Exports that the API works on, as far as polls tell.
        exports_done: Windows whose export has succeeded, including earlier runs.
        exports_failed: Exports of this run that failed or were of no use. Their windows are launched again, or split.
        export_limit: Maximum exports in flight at present; 0 before the first one.
        parts: Files of the exports that succeeded in this run.
        parts_downloaded: Files of these that are completely downloaded.
        bytes: Bytes downloaded in this run.
        rate: Bytes per second, over the last five seconds.
        rows: Rows in the output, including earlier runs.
        rows_counted: Rows that the API has counted in the range; None if it has not.
        duplicates: Rows left out, since their id occurred before; including earlier runs.
        requests: Requests to the API in this run.
        requests_last_minute: Those of the last 60 seconds, which count against the quota.
        elapsed: Seconds since the start of this run, until the output is published.
        remaining: Estimated seconds until the end: the middle of the range. None while it is too uncertain.
        remaining_low: Lower bound of the estimate.
        remaining_high: Upper bound of the estimate.
        waits_for: What the pull waits for, in one sentence.
        is_published: Whether the output is complete and at its place.
    """

    windows: int
    windows_merged: int
    exports_queued: int
    exports_running: int
    exports_done: int
    exports_failed: int
    export_limit: int
    parts: int
    parts_downloaded: int
    bytes: int
    rate: float
    rows: int
    rows_counted: int | None
    duplicates: int
    requests: int
    requests_last_minute: int
    elapsed: float
    remaining: float | None
    remaining_low: float | None
    remaining_high: float | None
    waits_for: str
    is_published: bool


class Progress:
    """A listener that counts: `on_event=progress`. It can be read at any time, from any thread, and serves one pull.

    The attributes are those of `ProgressSnapshot`. Read several of them with `snapshot`, if they must fit together.

    Args:
        now: Returns the time in seconds, on any monotonic clock. Defaults to `time.monotonic`.
    """

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        self.windows = 0
        self.windows_merged = 0
        self.exports_failed = 0
        self.export_limit = 0
        self.bytes = 0
        self.rows = 0
        self.rows_counted: int | None = None
        self.duplicates = 0
        self.requests = 0
        self.is_published = False
        self.counting_requests = 0  # before there is a plan
        self.rendered: tuple[int, int] | None = None  # bytes of merged CSV: converted, and in all so far
        self.workers: int | None = None  # of the cluster, if there is one
        self.buckets: tuple[int, int] | None = None  # merged, and in all
        self.reported: Wait | None = None  # what the pull waits out, if another process has said so
        self._now = now or (lambda: time.monotonic())  # looked up at each call, for tests
        self._merged_before = 0  # windows merged by earlier runs
        self._launched: set[int] = set()  # indices of windows launched by this run
        self._running: set[int] = set()  # those of them whose export the API works on
        self._parts: Counter[int] = Counter()  # of exports that succeeded, by index of the window
        self._downloaded: Counter[int] = Counter()  # parts, by index of the window
        self._arrivals: deque[tuple[float, int]] = deque()
        self._request_times: deque[float] = deque()
        self._durations: deque[float] = deque(maxlen=64)  # from launch to success
        self._troubles = Troubles()
        self._forecast = Forecast()
        self._began: float | None = None
        self._ended: float | None = None
        self._lock = RLock()

    def __call__(self, event: Event) -> None:
        """Count an event."""
        with self._lock:
            now = self._now()
            if self._began is None:
                self._began = now
            self._count(event, now)
            self._troubles(event, now)
            self._forecast(event, now)

    def assume(self, prior: Prior) -> None:
        """Estimate from what an earlier pull has shown until an export has finished."""
        with self._lock:
            self._forecast.prior = prior

    def snapshot(self) -> ProgressSnapshot:
        """Return all figures, of the same moment."""
        estimate = self.estimate
        with self._lock:
            names = {field.name for field in fields(ProgressSnapshot)}
            figures: dict[str, Any] = {
                name: getattr(self, name) for name in names if not name.startswith(("remaining", "waits_for"))
            }
            return ProgressSnapshot(
                **figures,
                remaining=estimate.middle if estimate else None,
                remaining_low=estimate.low if estimate else None,
                remaining_high=estimate.high if estimate else None,
                waits_for=str(self.wait),
            )

    def _count(self, event: Event, now: float) -> None:
        match event:
            case events.Received():
                self.bytes += event.size
                self._arrivals.append((now, self.bytes))
                self._forget_old(now)
            case events.Requested():
                self.requests += 1
                self._request_times.append(now)
                self._forget_old(now)
                if not self.windows:
                    self.counting_requests += 1
            case events.Planned():
                self.windows = len(event.windows)
                counts = [window.rows for window in event.windows if window.rows is not None]
                self.rows_counted = sum(counts) if len(counts) == self.windows else None
            case events.Resumed():
                self.windows_merged = self._merged_before = event.merged + event.skipped
                self.rows, self.duplicates = event.rows, event.duplicates
            case events.Launched():
                self._launched.add(event.window.index)
            case events.Polled():
                self._launched.add(event.window.index)
                if event.state == "running":
                    self._running.add(event.window.index)
            case events.Exported():
                self._launched.add(event.window.index)
                self._running.discard(event.window.index)
                self._parts[event.window.index] = event.parts
                self._durations.append(event.seconds)
            case events.ExportFailed():
                self.exports_failed += 1
                self._forget_export(event.window.index)
            case events.Split():
                self.windows += len(event.pieces)
                if not event.is_merged:  # its export is of no use
                    self.windows -= 1
                    self._launched.discard(event.window.index)
                    self._forget_export(event.window.index)
            case events.Skipped():
                self.windows_merged += 1
                self._running.discard(event.window.index)
                self._parts[event.window.index] = 0
            case events.Limited():
                self.export_limit = event.exports
            case events.PartFetched():
                self._downloaded[event.window.index] += 1
            case events.PartMerged():
                self.rows += event.rows
                self.duplicates += event.duplicates
            case events.WindowMerged():
                self.windows_merged += 1
            case events.Deduplicated():
                self.rows, self.duplicates = event.rows, event.duplicates
            case events.WorkersChanged():
                self.workers = event.workers
            case events.BucketMerged():
                self.buckets = (event.merged, event.buckets)
            case events.Rendered():
                self.rendered = (event.size, event.merged)
            case events.Published():
                self.is_published = True
                self._ended = now

    def _forget_export(self, index: int) -> None:
        self._running.discard(index)
        self._parts.pop(index, None)
        self._downloaded.pop(index, None)

    def _forget_old(self, now: float) -> None:
        while self._arrivals and now - self._arrivals[0][0] > _RATE_SPAN_S:
            self._arrivals.popleft()
        while self._request_times and now - self._request_times[0] > _QUOTA_SPAN_S:
            self._request_times.popleft()

    @property
    def exports_in_flight(self) -> int:
        """Exports that are queued or running."""
        with self._lock:
            return len(self._launched) - len(self._parts)

    @property
    def exports_running(self) -> int:
        """See `ProgressSnapshot`."""
        with self._lock:
            return len(self._running - self._parts.keys())

    @property
    def exports_queued(self) -> int:
        """See `ProgressSnapshot`."""
        with self._lock:
            return self.exports_in_flight - self.exports_running

    @property
    def exports_launched(self) -> int:
        """Windows whose export was launched, those merged by earlier runs included."""
        return self._merged_before + len(self._launched)

    @property
    def exports_done(self) -> int:
        """See `ProgressSnapshot`."""
        return self._merged_before + len(self._parts)

    @property
    def parts(self) -> int:
        """See `ProgressSnapshot`."""
        with self._lock:
            return self._parts.total()

    @property
    def parts_downloaded(self) -> int:
        """See `ProgressSnapshot`."""
        with self._lock:
            return self._downloaded.total()

    @property
    def rate(self) -> float:
        """See `ProgressSnapshot`."""
        with self._lock:
            now = self._now()
            self._forget_old(now)
            if not self._arrivals:
                return 0.0
            since, before = self._arrivals[0]
            return (self.bytes - before) / max(1.0, now - since)

    @property
    def requests_last_minute(self) -> int:
        """See `ProgressSnapshot`."""
        with self._lock:
            self._forget_old(self._now())
            return len(self._request_times)

    @property
    def elapsed(self) -> float:
        """See `ProgressSnapshot`."""
        with self._lock:
            if self._began is None:
                return 0.0
            return (self._now() if self._ended is None else self._ended) - self._began

    @property
    def estimate(self) -> Estimate | None:
        """The seconds until the end, as a range; None while they are too uncertain, and during an outage."""
        with self._lock:
            if self.is_published:
                return Estimate(0.0, 0.0)
            wait = self.reported or self._troubles.wait(self._now())
            if not self.windows or (wait and wait.kind == "outage"):
                return None
            question = self._forecast.question(self._now(), self.export_limit)
        return self._forecast.answer(question)  # takes some milliseconds, for which events need not wait

    @property
    def remaining(self) -> float | None:
        """See `ProgressSnapshot`."""
        estimate = self.estimate
        return estimate.middle if estimate else None

    @property
    def remaining_low(self) -> float | None:
        """See `ProgressSnapshot`."""
        estimate = self.estimate
        return estimate.low if estimate else None

    @property
    def remaining_high(self) -> float | None:
        """See `ProgressSnapshot`."""
        estimate = self.estimate
        return estimate.high if estimate else None

    @property
    def waits_for(self) -> str:
        """See `ProgressSnapshot`."""
        return str(self.wait)

    @property
    def wait(self) -> Wait:
        """What the pull waits for."""
        with self._lock:
            now = self._now()
            if self.is_published:
                return Wait("end")
            if trouble := self.reported or self._troubles.wait(now):
                return trouble
            if not self.windows:
                return Wait("count" if self.counting_requests else "start")
            if self.windows_merged >= self.windows:
                if self.buckets and (left := self.buckets[1] - self.buckets[0]):
                    return Wait("buckets", left)
                is_rendering = self.rendered and self.rendered[0] < self.rendered[1]
                return Wait("render" if is_rendering else "publish")
            if behind := self._forecast.windows_behind:
                return Wait("backlog", behind)
            if oldest := self._forecast.oldest:
                usual = median(self._durations) if self._durations else None
                age = now - oldest.launched_at
                return Wait("exports", self._forecast.in_flight, oldest=age, oldest_window=oldest.index, usual=usual)
            if self._forecast.has_waiting:
                return Wait("launch")
            if missing := self.parts - self.parts_downloaded:
                return Wait("downloads", missing)
            return Wait("merge")
