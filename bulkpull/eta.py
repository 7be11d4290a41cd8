"""How long a pull will still take: an estimate from the exports that were seen. No I/O, and no clock of its own."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import lru_cache
from heapq import heapify, heappop, heapreplace
from statistics import NormalDist

from bulkpull.export_durations import DELAY, Durations, ExportHistory, explained, has_hanging
from bulkpull.record import record

SAMPLES = 40  # simulated ends of a pull
LOWER, UPPER = 0.06, 0.94  # quantiles of the samples that bound the estimate
MARGIN = 0.05  # by which the bounds are widened: what the model does not know
MAX_RATIO = 4.0  # of the bounds; an estimate that is less certain is of no use
WORKERS_DOUBT = 0.12  # of the logarithm of the time, where the number of workers is guessed
EARLIER_DOUBT = 0.15  # of the logarithm of the time, where the durations are those of an earlier pull
LEAST_SPREAD = 0.25  # of the logarithm of what downloads, the merge and the request budget need
_MAX_SIMULATED = 150  # exports beyond those in flight; those before them take their mean duration
_NORMAL = NormalDist()
_STEPS = 512  # of the table of quantiles
_OVERDUE_SHARE = 0.2  # of its age that an overdue export is expected to take still


@record
class Estimate:
    """A time in seconds, between `low` and `high`."""

    low: float
    high: float

    @property
    def middle(self) -> float:
        """The geometric mean of the bounds."""
        return math.sqrt(max(self.low, 1e-3) * self.high)

    def after(self, seconds: float) -> Estimate:
        """Return what is left of it so much later."""
        return Estimate(max(0.0, self.low - seconds), max(0.0, self.high - seconds))


@record
class Prior:
    """What is assumed until an export has finished.

    Args:
        durations: Of exports.
        workers: How many exports the server works on at a time; None if unknown.
        doubt: Standard deviation of the logarithm of the time: the server may be faster or slower than assumed.
    """

    durations: Durations
    workers: int | None = None
    doubt: float = 0.0

    def concurrent(self, limit: int) -> int:
        """Return how many exports the server works on at a time, if at most `limit` are in flight."""
        return max(1, limit if self.workers is None else min(limit, self.workers))


def estimate(
    history: ExportHistory,
    waiting: Sequence[int | None],
    now: float,
    *,
    prior: Prior | None = None,
    concurrent: int,
    least: float = 0.0,
    tail: float = 0.0,
) -> Estimate | None:
    """Estimate the seconds until the end of a pull; None if that is too uncertain to mean anything.

    Args:
        history: The exports that were seen.
        waiting: The rows of the windows that are still to be launched, in the order of their launch.
        now: The time.
        prior: What to assume until an export has finished.
        concurrent: Maximum exports in flight.
        least: Seconds that downloads, the merge or the request budget need at least.
        tail: Seconds from the last export to the end.
    """
    found, durations = explained(history, now)
    if durations:
        history.median = durations.model.median
        prior = None
    elif prior:
        durations = prior.durations
    if durations is None or has_hanging(found, now):
        return None
    if prior and found.workers is None:
        workers = prior.concurrent(concurrent)
    else:
        workers = max(1, concurrent if found.workers is None else min(concurrent, found.workers))
    is_guessed = found.workers is not None and history.workers is None
    left = _simulated(
        durations,
        [(now - start, durations.factor(rows)) for start, rows in found.running],
        [durations.factor(rows) for rows in (*found.queued, *waiting)],
        workers,
        repeats=history.failure_rate / (1 - history.failure_rate),
        least=least,
        tail=tail,
        doubt=prior.doubt if prior else WORKERS_DOUBT if is_guessed else 0.0,
    )
    return left if left.high <= max(MAX_RATIO * left.low, 60.0) else None


def of_plan(rows: Sequence[int | None], prior: Prior, limit: int, least: float) -> Estimate:
    """Estimate the seconds of a pull that has not begun.

    Args:
        rows: The counts of its windows.
        prior: What is assumed of exports.
        limit: Maximum exports in flight.
        least: Seconds that the request budget needs at least.
    """
    durations = prior.durations
    factors = [durations.factor(one) for one in rows]
    workers = prior.concurrent(min(limit, len(rows)))
    return _simulated(durations, [], factors, workers, repeats=0.0, least=least, tail=0.0, doubt=prior.doubt)


def _simulated(
    durations: Durations,
    running: Sequence[tuple[float, float]],
    factors: Sequence[float],
    workers: int,
    *,
    repeats: float,
    least: float,
    tail: float,
    doubt: float,
) -> Estimate:
    """Estimate from simulated ends: `running` are the ages and factors of exports that run, `factors` those of the
    exports to come, in order, each of which is repeated `repeats` times on average."""
    draw = random.Random(0)
    median, spread = durations.model.median, durations.model.spread
    excess = max(0, len(factors) - _MAX_SIMULATED - workers)
    bulk = factors[: excess - excess % workers]  # whole rounds: exports that take equally long end together
    rest = factors[len(bulk) :]
    mean = math.exp(spread**2 / 2)
    doubt = math.hypot(spread / math.sqrt(durations.observed), doubt)
    ends = []
    for number in range(SAMPLES):
        typical = median * math.exp(doubt * _quantile((number + 0.5) / SAMPLES))
        busy = [max(0.0, _residual(age / factor / typical, spread, draw)) * factor * typical for age, factor in running]
        again = [factor for factor in rest if draw.random() < repeats]
        end = _schedule(busy, workers, [*rest, *again], typical, spread, draw)
        end += sum(bulk) * mean * typical * (1 + repeats) / workers
        ends.append(max(end, least * math.exp(LEAST_SPREAD * _quantile((number + 0.5) / SAMPLES))) + tail)
    ends.sort()
    low, high = ends[int(LOWER * SAMPLES)], ends[int(UPPER * SAMPLES)]
    # Exports are noticed later than they end, and the last one counts.
    return Estimate(low * (1 - MARGIN), high * (1 + MARGIN) + DELAY * median + 1.0)


def _schedule(
    busy: list[float], workers: int, factors: Sequence[float], median: float, spread: float, draw: random.Random
) -> float:
    """Return when workers that are `busy` until given times have finished further exports, in their order."""
    end = max(busy, default=0.0)
    free = [0.0] * max(0, workers - len(busy)) + busy
    heapify(free)
    for _ in range(len(free) - workers):  # more run than are thought to be able to
        heappop(free)
    for factor in factors:
        finished = free[0] + factor * median * math.exp(spread * _quantile(draw.random()))
        heapreplace(free, finished)
        end = max(end, finished)
    return end


def _residual(age: float, spread: float, draw: random.Random) -> float:
    """Draw how long an export takes after `age`, both relative to the median."""
    if age <= 0:
        return math.exp(spread * _quantile(draw.random()))
    passed = _NORMAL.cdf(math.log(age) / spread)
    if passed > 1 - 1 / _STEPS:
        return _OVERDUE_SHARE * age * draw.random() * 2 * min(1.0, spread * 2)
    return math.exp(spread * _quantile(passed + (1 - passed) * draw.random())) - age


@lru_cache(maxsize=1)
def _quantiles() -> Sequence[float]:
    return [_NORMAL.inv_cdf((step + 0.5) / _STEPS) for step in range(_STEPS)]


def _quantile(probability: float) -> float:
    """The quantile of the standard normal distribution, to a step of the table."""
    return _quantiles()[min(_STEPS - 1, int(probability * _STEPS))]
