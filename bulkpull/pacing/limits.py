"""Adaptive limits on the exports in flight and on the concurrent downloads."""

from __future__ import annotations

import math
from collections.abc import Callable

INITIAL_EXPORTS = 4
QUEUED_PER_RUNNING = 1.0  # exports that may wait at the server for each that runs, so that no worker is ever idle
PROMPT_S = 3.0  # from the launch of an export, within which its status tells of free workers
QUEUED_S = 0.7  # from its launch: one that waits for a shorter time may do so although workers are free
PROBE_EVERY = 8  # launches, once an export was seen to wait: one of them is polled early
FAILURE_RATE = 0.2  # of exports, above which the limit is lowered
THROTTLE_WINDOW_S = 60.0  # in which several 429 answers count as one
INITIAL_DOWNLOADS = 4
MEASUREMENT_S = 1.0  # at least, of downloads
REST_MEASUREMENTS = 4  # for which the limit is kept after a change that did not help
WORTHWHILE_GAIN = 0.5  # of the proportional gain in throughput, which a change must bring to be kept


class AdaptiveLimit:
    """A limit that follows the throughput it brings.

    It is doubled until that brings less than half of the proportional gain, then falls back to what helped. After a
    rest it is lowered and raised by a quarter in turn, and a change is kept where it costs little or brings much. The
    first measurement after a change is discarded: it shows work that began before.

    Times are seconds on any monotonic clock.
    """

    def __init__(self, initial: int, maximum: int, now: float) -> None:
        self.value = min(initial, maximum)
        self._maximum = maximum
        self._baseline: tuple[int, float] | None = None  # the former limit and its throughput, while another is tried
        self._factor = 2.0  # of the next trial
        self._rest = 0
        self._begin(now, is_settling=True)

    def reset(self, value: float, now: float) -> None:
        """Sets the limit, within its bounds, and discards the measurements."""
        self.value = self._within_bounds(value)
        self._baseline = None
        self._begin(now, is_settling=True)

    def record_throughput(self, amount: float) -> None:
        """Add what was achieved to the current measurement."""
        self._amount += amount

    def measured_for(self, now: float) -> float:
        """Return the seconds since the current measurement began."""
        return now - self._began_at

    def end_measurement(self, now: float, *, may_raise: bool = True) -> None:
        """Adapt the limit to the measurement that ends, and begin the next one."""
        if self._is_settling:
            self._begin(now, is_settling=False)
            return
        throughput, value = self._amount / max(self.measured_for(now), 1e-9), self.value
        if self._baseline:
            former_value, former = self._baseline
            if throughput < former * (1 + WORTHWHILE_GAIN * (value / former_value - 1)):
                self.reset(former_value * max(1.0, throughput / former), now)
                self._factor, self._rest = (0.75 if value > former_value else 1.25), REST_MEASUREMENTS
                return
        self._baseline = None
        self._rest -= 1
        is_trial = may_raise and self._rest < 0
        if is_trial:
            if value == self._maximum:
                self._factor = 0.75
            self.value = self._within_bounds(value * self._factor)
            self._baseline = value, throughput
        self._begin(now, is_settling=is_trial)

    def _within_bounds(self, value: float) -> int:
        return max(1, min(self._maximum, math.ceil(value)))

    def _begin(self, now: float, *, is_settling: bool) -> None:
        self._began_at, self._amount, self._is_settling = now, 0.0, is_settling


class ExportLimit(AdaptiveLimit):
    """The limit on the exports in flight.

    It starts low and grows to twice the number of exports that are seen to run, as long as exports start promptly and
    none is seen to wait in the server's queue: so at most as many wait as there are workers. Where the server does not
    report a queue, the limit follows the rows exported per second. A `fixed` limit never adapts.
    """

    def __init__(self, fixed: int | None, maximum: int, now: float) -> None:
        super().__init__(fixed or INITIAL_EXPORTS, fixed or maximum, now)
        self.is_fixed = fixed is not None
        self.reports_queueing = False  # exports were seen to start promptly, and others to wait
        self._created_at = now
        self._throttled_at: float | None = None
        self._running: set[str] = set()  # ids of exports that were seen to run
        self._is_queueing = False  # an export was seen to wait, in this measurement
        self._started_promptly = False
        self._launches = self._ended = self._failed = 0

    @property
    def should_probe(self) -> bool:
        """Whether the export that was launched last should be polled early, to see whether it runs."""
        return not self.is_fixed and (not self._is_queueing or self._launches % PROBE_EVERY == 0)

    def lower_maximum(self, exports: int, now: float) -> None:
        """Take account of a server that refuses more than `exports` at a time."""
        self._maximum = max(1, min(self._maximum, exports))
        self.reset(min(self.value, self._maximum), now)

    def resume(self, exports: int, now: float) -> None:
        """Take account of the exports that an earlier run left in flight."""
        if not self.is_fixed and exports > self.value:
            self.reset(exports, now)

    def record_launch(self) -> None:
        """Record that an export was launched."""
        self._launches += 1

    def record_queued(self, waited: float) -> None:
        """Record that an export was still queued `waited` seconds after its launch."""
        if not self.is_fixed and QUEUED_S <= waited <= PROMPT_S:
            self.reports_queueing = self.reports_queueing or self._started_promptly
            self._is_queueing = True

    def record_running(self, export_id: str, waited: float, now: float) -> None:
        """Record that an export was running `waited` seconds after its launch."""
        if not self.is_fixed and export_id not in self._running:
            self._running.add(export_id)
            if waited <= PROMPT_S:
                self._raise_to(len(self._running) * (1 + QUEUED_PER_RUNNING), now)

    def record_success(
        self, export_id: str, rows: int | None, waited: float, now: float, *, is_saturated: bool
    ) -> None:
        """Record that an export succeeded `waited` seconds after its launch; `is_saturated` if others wait for the
        limit."""
        if self.is_fixed:
            return
        if not self._running and waited <= PROMPT_S:  # exports are too short to be seen running
            self._raise_to(self.value + 1, now)
        self.record_throughput(rows or 1)
        self._record_end(export_id, now, is_saturated=is_saturated)

    def record_failure(self, export_id: str, now: float, *, is_saturated: bool) -> None:
        """Record that an export failed, or that its files are of no use."""
        if not self.is_fixed:
            self._failed += 1
            self._record_end(export_id, now, is_saturated=is_saturated)

    def record_throttling(self, throttled_at: float | None, now: float) -> None:
        """Halve the limit if the API answered 429, at `throttled_at` last, and not within a minute of the last time."""
        if self.is_fixed or throttled_at is None or throttled_at < self._created_at:
            return
        if self._throttled_at is None or throttled_at > self._throttled_at + THROTTLE_WINDOW_S:
            self._throttled_at = throttled_at
            self.reset(self.value / 2, now)

    def _raise_to(self, value: float, now: float) -> None:
        """Raise the limit after a prompt start, unless others were seen to wait."""
        self._started_promptly = True
        if value > self.value and not (self.reports_queueing and self._is_queueing):
            self.reset(value, now)

    def _record_end(self, export_id: str, now: float, *, is_saturated: bool) -> None:
        self._running.discard(export_id)
        self._ended += 1
        if self._ended < max(INITIAL_EXPORTS, self.value):
            return
        if self._failed > FAILURE_RATE * self._ended:
            self.reset(self.value * 3 / 4, now)
        else:
            self.end_measurement(now, may_raise=is_saturated and not self.reports_queueing)
        self._ended = self._failed = 0
        self._is_queueing = False


class DownloadLimit(AdaptiveLimit):
    """The limit on concurrent downloads.

    A transfer that breaks lowers it. Further breaks do not, until bytes have come in for a whole measurement: one
    outage breaks all transfers.
    """

    def __init__(self, maximum: int, now: float) -> None:
        super().__init__(INITIAL_DOWNLOADS, maximum, now)
        self._was_saturated = False
        self._is_lowered = False

    def record_bytes(self, size: int, now: float, *, is_saturated: bool) -> None:
        """Record that bytes came in; `is_saturated` if further downloads wait for the limit."""
        self.record_throughput(size)
        self._was_saturated = self._was_saturated or is_saturated
        if self.measured_for(now) >= MEASUREMENT_S:
            self._is_lowered = self._is_lowered and self._is_settling
            self.end_measurement(now, may_raise=self._was_saturated)
            self._was_saturated = False

    def record_break(self, now: float) -> None:
        """Record that a transfer broke."""
        if not self._is_lowered:
            self.reset(self.value * 3 / 4, now)
            self._is_lowered = True


class FixedLimit:
    """A limit on concurrent downloads that does not adapt: for workers, each of which downloads one file at a time.

    `on_change` is called when it is changed.
    """

    def __init__(self, value: int) -> None:
        self.value = value
        self.on_change: Callable[[], None] = lambda: None

    def change(self, value: int) -> None:
        """Change the limit."""
        self.value = value
        self.on_change()

    def record_bytes(self, size: int, now: float, *, is_saturated: bool) -> None:
        """A no-op."""

    def record_break(self, now: float) -> None:
        """A no-op."""
