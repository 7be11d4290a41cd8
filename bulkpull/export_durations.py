"""How long exports take on the server: from what was seen of them to a model. No I/O, and no clock of its own."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from statistics import fmean

from bulkpull.pacing import DurationModel, Observation, fit
from bulkpull.record import record

HANGING_RATIO = 3.0  # of the longest duration seen, after which an export seems to hang
DELAY = 0.04  # share of its duration after which the last export is noticed
_MAX_FINISHED = 160  # exports that are remembered
_MIN_FOR_WORKERS = 6  # observations before the number of workers is sought
_MIN_GAIN = 0.7  # factor of the spread that a number of workers must bring, where no export was seen queued
_ITERATIONS = 6
_MIN_SPREAD, _PRIOR_SPREAD = 0.01, 0.4
_MIN_FOR_ROWS = 8  # observations before durations may depend on rows
_MIN_EXPLAINED = 0.3  # share of the variance that rows must explain


@dataclass(slots=True, eq=False)
class SeenExport:
    """An export and when it was seen: queued last, running first, unfinished last, and finished; infinite if never."""

    index: int
    rows: int | None
    launched_at: float
    unfinished_at: float
    queued_at: float = -math.inf
    running_at: float = math.inf
    finished_at: float = math.inf
    has_succeeded: bool = False

    @property
    def is_pending(self) -> bool:
        """Whether it is in flight."""
        return self.finished_at == math.inf


@record(frozen=False)
class ExportHistory:
    """What was seen of the exports of one pull, from their events.

    As in `bulkpull.pacing`, a server is assumed to have workers that take exports in the order of their launch. How
    many is learned from which exports are queued; None while none was. Times are seconds on any monotonic clock.
    """

    workers: int | None = None
    failed: int = 0
    succeeded: int = 0
    exports: list[SeenExport] = field(default_factory=list)  # in the order of their launch, the latest ones
    median: float | None = None  # of the durations, as fitted last

    def launched(self, index: int, rows: int | None, launched_at: float) -> None:
        """Record an export in flight."""
        insort(self.exports, SeenExport(index, rows, launched_at, launched_at), key=lambda one: one.launched_at)
        excess = len(self.exports) - _MAX_FINISHED - len(self.pending)
        if excess > _MAX_FINISHED // 4:
            oldest = next((at for at, one in enumerate(self.exports) if one.is_pending), excess)
            del self.exports[: min(excess, oldest)]

    def seen(self, index: int, *, is_queued: bool, now: float) -> None:
        """Record that an export was seen queued, or running."""
        pending = self.pending
        position = next((at for at, one in enumerate(pending) if one.index == index), None)
        if position is None:
            return
        export = pending[position]
        export.unfinished_at = now
        if is_queued:
            export.queued_at = now
            if position < (math.inf if self.workers is None else self.workers):
                self.workers = max(1, position)
            return
        export.running_at = min(export.running_at, now)
        at = export.running_at
        together = sum(one.running_at <= at <= one.unfinished_at for one in self.exports)
        if self.workers is not None:
            self.workers = max(self.workers, together)

    def ended(self, index: int, now: float, *, has_succeeded: bool) -> None:
        """Record that an export was found finished, or is of no use. A no-op if it is not in flight."""
        for export in self.pending:
            if export.index == index:
                export.finished_at, export.has_succeeded = now, has_succeeded
                self.succeeded += has_succeeded
                self.failed += not has_succeeded

    def copied(self) -> ExportHistory:
        """Return a copy that further events do not change."""
        return replace(self, exports=[copy(one) for one in self.exports])

    @property
    def pending(self) -> list[SeenExport]:
        """The exports in flight."""
        return [one for one in self.exports if one.is_pending]

    @property
    def failure_rate(self) -> float:
        """The share of exports that fail."""
        return min(0.8, self.failed / max(1, self.failed + self.succeeded))


@record(frozen=False)
class Reconstruction:
    """When workers took the exports, if they are so many.

    `observations` are the durations of finished exports, with their rows; `running` the start of those that run, with
    their rows; `queued` the rows of the others.
    """

    workers: int | None
    observations: list[tuple[int | None, Observation]] = field(default_factory=list)
    running: list[tuple[float, int | None]] = field(default_factory=list)
    queued: list[int | None] = field(default_factory=list)


def reconstruct(history: ExportHistory, workers: int | None) -> Reconstruction:
    """Return when so many workers took the exports; None for one worker for each export."""
    found = Reconstruction(workers)
    free: list[float] = [-math.inf] * (workers or 0)  # a heap
    is_cut = history.succeeded + history.failed > sum(not one.is_pending for one in history.exports)
    for number, export in enumerate(history.exports):
        start = export.launched_at
        if workers is not None:
            start = max(start, heappop(free), min(export.queued_at, export.finished_at))
            if history.workers is not None:  # else a queue is not reported, and what runs is not known either
                start = min(start, export.running_at)
        if export.is_pending:
            if start == math.inf:
                found.queued.append(export.rows)
            else:
                found.running.append((start, export.rows))
            end = math.inf
        else:
            start = min(start, export.finished_at - 1e-3)
            lower = max(0.0, export.unfinished_at - start)
            upper = export.finished_at - start
            likely = (lower + upper) / 2 if history.median is None else min(max(history.median, lower), upper)
            end = start + likely
            if is_cut and number < (workers or 0):  # its start depends on exports that are forgotten
                end = max(export.unfinished_at, export.finished_at - DELAY * (history.median or 0.0))
            elif export.has_succeeded:
                found.observations.append((export.rows, Observation(lower, upper)))
        if workers is not None:
            heappush(free, end)
    return found


@record
class Durations:
    """The model of durations: log-normal, and proportional to `base` plus the rows if these matter.

    `observed` is the number of exports that it was fitted to.
    """

    model: DurationModel
    observed: int
    base: float | None = None
    mean_rows: float = 0.0

    def factor(self, rows: int | None) -> float:
        """Return the duration of an export with so many rows, relative to the median."""
        if self.base is None or rows is None:
            return 1.0
        return (self.base + rows) / (self.base + self.mean_rows)


def fitted(found: Reconstruction, now: float) -> Durations | None:
    """Return the durations that fit what was seen; None if no export has finished.

    Exports that still run count as well: at the beginning, those that have finished are the short ones.
    """
    if not found.observations:
        return None
    base, mean_rows = _rows_matter(found.observations)
    durations = Durations(DurationModel(1.0, 0.1), len(found.observations), base, mean_rows)
    bounds = []
    for rows, one in found.observations:
        factor = durations.factor(rows)
        bounds.append((one.lower / factor, one.upper / factor))
    model = fit([Observation(*one) for one in bounds])
    for start, rows in found.running:
        age = (now - start) / durations.factor(rows)
        if age > 0.5 * model.median:
            bounds.append((age, math.inf))
    return Durations(_within(bounds, model), len(found.observations), base, mean_rows)


def explained(
    history: ExportHistory, now: float, *, in_flight: int | None = None
) -> tuple[Reconstruction, Durations | None]:
    """Return the reconstruction with the number of workers that is known, and the durations that fit it.

    If it is unknown, the smallest number is taken that makes durations vary clearly less, if there is one.
    `in_flight` is how many exports were in flight at most; None if as many as are now.
    """
    found = reconstruct(history, history.workers)
    durations = fitted(found, now)
    if history.workers is not None or durations is None or len(found.observations) < _MIN_FOR_WORKERS:
        return found, durations
    enough = durations.model.spread * _MIN_GAIN
    most = len(found.running) if in_flight is None else in_flight
    for workers in sorted({max(1, round(1.25**step)) for step in range(24)}):
        if workers >= most:
            break
        other = reconstruct(history, workers)
        if len(other.observations) < _MIN_FOR_WORKERS:
            break
        if fit([one for _, one in other.observations]).spread < enough:
            return other, fitted(other, now)
    return found, durations


def has_hanging(found: Reconstruction, now: float) -> bool:
    """Return whether an export has run for so much longer than others that nobody knows when it will finish."""
    longest = max((one.upper for _, one in found.observations), default=math.inf)
    return len(found.observations) >= _MIN_FOR_WORKERS and any(
        now - start > HANGING_RATIO * longest for start, _ in found.running
    )


def _rows_matter(seen: Sequence[tuple[int | None, Observation]]) -> tuple[float | None, float]:
    """Return the rows that weigh as much as an empty export takes, and the mean rows; or None if rows do not matter."""
    pairs = [(float(rows), one.seconds) for rows, one in seen if rows is not None]
    if len(pairs) < max(_MIN_FOR_ROWS, len(seen)):
        return None, 0.0
    mean_rows, mean_seconds = fmean(rows for rows, _ in pairs), fmean(seconds for _, seconds in pairs)
    variance = fmean((rows - mean_rows) ** 2 for rows, _ in pairs)
    covariance = fmean((rows - mean_rows) * (seconds - mean_seconds) for rows, seconds in pairs)
    spread = fmean((seconds - mean_seconds) ** 2 for _, seconds in pairs)
    if variance <= 0 or covariance <= 0 or covariance**2 < _MIN_EXPLAINED * variance * spread:
        return None, 0.0
    slope = covariance / variance
    return max(0.05 * mean_rows, (mean_seconds - slope * mean_rows) / slope), mean_rows


def _within(bounds: Sequence[tuple[float, float]], start: DurationModel) -> DurationModel:
    """Return the model of durations that lie within these bounds, by expectation maximization from `start`."""
    logarithms = [(math.log(max(low, high / 50, 1e-6) if high < math.inf else low), high) for low, high in bounds]
    intervals = [(low, math.log(high) if high < math.inf else math.inf) for low, high in logarithms]
    mean, spread = math.log(start.median), max(start.spread, 0.05)
    for _ in range(_ITERATIONS):
        first = second = 0.0
        for low, high in intervals:
            a, b = (low - mean) / spread, (high - mean) / spread
            if b - a < 0.02:
                moment, square = (a + b) / 2, ((a + b) / 2) ** 2
            else:
                moment, square = _truncated(a, b)
            first += mean + spread * moment
            second += mean**2 + 2 * mean * spread * moment + spread**2 * square
        mean = first / len(intervals)
        spread = math.sqrt(max(0.0, second / len(intervals) - mean**2))
        spread = min(2.0, max(spread, _PRIOR_SPREAD / len(bounds), _MIN_SPREAD))
    return DurationModel(math.exp(mean), spread)


def _truncated(a: float, b: float) -> tuple[float, float]:
    """Return the mean and the mean square of a standard normal variable between `a` and `b`."""
    if a > 4.0:  # so improbable that it lies near the bound
        return a, a * a
    if b < -4.0:
        return b, b * b
    b = min(b, 8.0)
    mass = _cdf(b) - _cdf(a)
    if mass < 1e-9:
        return (a + b) / 2, ((a + b) / 2) ** 2
    at_a, at_b = _pdf(a), _pdf(b)
    return (at_a - at_b) / mass, max(0.0, 1 + (a * at_a - b * at_b) / mass)


def _cdf(deviation: float) -> float:
    return 0.5 * math.erfc(-deviation / math.sqrt(2))


def _pdf(deviation: float) -> float:
    return math.exp(-deviation * deviation / 2) / math.sqrt(2 * math.pi)
