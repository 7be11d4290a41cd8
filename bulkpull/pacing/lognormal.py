"""Law: how long exports take, as a few numbers, and when to ask for one that follows it."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from statistics import NormalDist
from typing import Literal

POLLS = 4.2  # of an export, about, where durations differ much
DELAY = 0.06  # of its duration, with which an export is noticed on average where durations differ little
HURRY = 0.5  # of an interval, once the end of the pull waits for each export,
NARROW, HURRY_NARROW = 0.1, 0.125  # and where durations differ less than this, so that it takes few polls
_LEAST_SPREAD = 0.01
_MOST_SPREAD = 2.0
_DOUBT = 0.5  # spread that a single duration leaves open
_LEAST_SECONDS = 1e-3
_NORMAL = NormalDist()
_STEP = 1 / 20
_GRID = [number * _STEP for number in range(-80, 41)]  # standard deviations from the median
_LATE = _GRID[-1]


@dataclass(frozen=True, slots=True)
class Took:
    """What is known of one export's duration: between `after` and `by` seconds; of one that still runs, only `after`.

    `rows` it had, and `ahead` of it so many others were in flight when it was launched.
    """

    rows: int
    ahead: int
    after: float
    by: float = math.inf

    @property
    def seconds(self) -> float:
        """In the middle of what is possible."""
        return max(_LEAST_SECONDS, self.after if self.by == math.inf else (self.after + self.by) / 2)


@dataclass(frozen=True, slots=True)
class Law:
    """Durations are `base + slope * x` seconds, where x are an export's rows or what was ahead of it, times a
    log-normal factor around 1, whose logarithm has the standard deviation `spread`."""

    base: float
    slope: float
    by: Literal["rows", "ahead"]
    spread: float

    def median(self, rows: int, ahead: int) -> float:
        """Seconds, of an export with so many rows and so many others ahead."""
        return self.base + self.slope * (rows if self.by == "rows" else ahead)

    def next_poll(self, median: float, known: float, *, jitter: float = 1.0, hurry: bool = False) -> float:
        """When, in seconds after its begin, an export is best asked for that was unfinished after `known` seconds.

        Polls that come at the rate sqrt(h / (2 c)), where h is the hazard (how likely it finishes now, if it has not
        yet) and c what a poll costs in seconds of delay, make the sum of delay and cost the least; that is found by
        varying the rate in the integral of both. The number of polls is the integral of the rate; the next comes where
        that has grown by one, times a `jitter`, or, in a `hurry`, by less.
        """
        step = jitter
        if hurry and known > 0.95 * median:
            step *= HURRY_NARROW if self.spread <= NARROW else HURRY
        late = median * math.exp(_LATE * self.spread)
        polls = _polls(self.spread)
        if known < late:
            done = _at(_GRID, polls, math.log(known / median) / self.spread) if known > 1e-9 * median else 0.0
            if done + step < polls[-1]:
                return median * math.exp(_at(polls, _GRID, done + step) * self.spread)
        # It is late: the law may no longer hold, so that intervals grow.
        return max(known, late) + step * max(self.spread * median / _wanted(self.spread), (known - late) / 2)


def fit(finished: Sequence[Took], running: Sequence[Took]) -> Law:
    """The law that fits best what has finished, one at least, and, as long as that is little, what still runs."""
    base, slope, by = _line(finished)

    def ratio(took: Took) -> float:
        return math.log(took.seconds / (base + slope * getattr(took, by)))

    ratios = [ratio(took) for took in finished]
    blur = _mean([math.log(took.by / max(took.after, took.by / 4)) ** 2 / 12 for took in finished])
    mean = _mean(ratios)
    variance = max(0.0, _mean([(value - mean) ** 2 for value in ratios]) - blur)
    spread = max(math.sqrt(variance), _DOUBT / len(ratios), _LEAST_SPREAD)
    if len(finished) < len(running):
        mean, spread = _censored(ratios, [ratio(took) for took in running], mean, spread)
    factor = math.exp(mean)
    return Law(base * factor, slope * factor, by, round(min(spread, _MOST_SPREAD), 2))


def _line(finished: Sequence[Took]) -> tuple[float, float, Literal["rows", "ahead"]]:
    """Least squares by rows or by what was ahead, whichever explains more; drawn to a constant where neither does."""
    seconds = [took.seconds for took in finished]
    mean = _mean(seconds)
    best: tuple[float, float, float, Literal["rows", "ahead"]] = (0.0, mean, 0.0, "rows")
    variance = _mean([(second - mean) ** 2 for second in seconds])
    by: Literal["rows", "ahead"]
    for by in ("rows", "ahead"):
        values = [getattr(took, by) for took in finished]
        middle = _mean(values)
        width = _mean([(value - middle) ** 2 for value in values])
        covariance = _mean([(value - middle) * (second - mean) for value, second in zip(values, seconds, strict=True)])
        if len(finished) < 4 or covariance <= 0 or not width:
            continue
        explained = covariance**2 / (width * variance)
        slope = min(explained * covariance / width, 0.98 * mean / middle)
        best = max(best, (explained, mean - slope * middle, slope, by))
    return best[1], best[2], best[3]


def _censored(ratios: Sequence[float], running: Sequence[float], mean: float, spread: float) -> tuple[float, float]:
    """Mean and spread where exports that still run count too, since the first to finish are the shortest: by
    expectation and maximization, for a normal law censored from the right."""
    for _ in range(20):
        total, squares = math.fsum(ratios), math.fsum((value - mean) ** 2 for value in ratios)
        for value in running:
            deviation = min(4.0, (value - mean) / spread)
            hazard = _NORMAL.pdf(deviation) / _NORMAL.cdf(-deviation)
            total += mean + spread * hazard
            squares += spread**2 * (1 + deviation * hazard)
        count = len(ratios) + len(running)
        mean, spread = total / count, max(math.sqrt(squares / count), _LEAST_SPREAD)
    return mean, spread


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _wanted(spread: float) -> float:
    """Polls of an export."""
    return min(POLLS, max(1.0, spread / DELAY))


@lru_cache(maxsize=256)
def _polls(spread: float) -> Sequence[float]:
    """The integral of the rate of polls, up to each point of the grid."""

    def rate(deviation: float) -> float:
        hazard = _NORMAL.pdf(deviation) / _NORMAL.cdf(-deviation)
        return _wanted(spread) * math.sqrt(math.exp(spread * deviation) * hazard / 2)

    return list(accumulate(rate(deviation) * _STEP for deviation in _GRID))


def _at(points: Sequence[float], values: Sequence[float], point: float) -> float:
    """The value at a point between those given, linearly."""
    after = bisect_left(points, point)
    if after == 0:
        return values[0]
    if after == len(points):
        return values[-1]
    share = (point - points[after - 1]) / (points[after] - points[after - 1])
    return values[after - 1] + share * (values[after] - values[after - 1])
