"""Log-normal model of export durations, and the polls that follow from it."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from statistics import NormalDist, fmean, pvariance

from bulkpull.record import record

MAX_POLLS = 4.2  # of an export on average, where durations vary much
DELAY = 0.06  # share of its duration after which an export is noticed on average, where durations vary little
URGENT = 0.25  # of an interval, when the end of the pull waits for each export
NARROW_SPREAD, URGENT_NARROW = 0.1, 0.125  # for durations that vary this little, few polls are needed
_MIN_SPREAD = 0.01
_MAX_SPREAD = 2.0
_PRIOR_SPREAD = 0.5  # that a single observation leaves possible
_MIN_DURATION_S = 1e-3
_NORMAL = NormalDist()
_STEP = 1 / 20
_GRID = [number * _STEP for number in range(-80, 41)]  # in standard deviations from the median
_LATE = _GRID[-1]


@record
class Observation:
    """The duration of a finished export: between `lower` and `upper` seconds."""

    lower: float
    upper: float

    @property
    def seconds(self) -> float:
        """The midpoint."""
        return max(_MIN_DURATION_S, (self.lower + self.upper) / 2)


@record
class DurationModel:
    """A log-normal distribution: the median in seconds, and the standard deviation of the logarithm."""

    median: float
    spread: float

    def next_poll(self, elapsed: float, *, jitter: float = 1.0, is_urgent: bool = False) -> float:
        """Return when, in seconds after it started, to poll an export that was unfinished after `elapsed` seconds.

        With a hazard h (the rate at which unfinished exports finish) and a cost of c seconds of delay for each poll,
        polling at the rate sqrt(h / (2 c)) minimizes the sum of delay and cost (by the calculus of variations). The
        integral of that rate is the number of polls: the next one is due when it has grown by one, times `jitter`, or
        by less if it `is_urgent`.
        """
        step = jitter
        if is_urgent and elapsed > 0.95 * self.median:
            step *= URGENT_NARROW if self.spread <= NARROW_SPREAD else URGENT
        late = self.median * math.exp(_LATE * self.spread)
        polls = _cumulative_polls(self.spread)
        if elapsed < late:
            ratio = elapsed / self.median
            done = _interpolate(_GRID, polls, math.log(ratio) / self.spread) if ratio > 1e-9 else 0.0
            if done + step < polls[-1]:
                return self.median * math.exp(_interpolate(polls, _GRID, done + step) * self.spread)
        # It is late, so the model may no longer hold: intervals grow.
        return max(elapsed, late) + step * max(self.spread * self.median / _polls(self.spread), (elapsed - late) / 2)


def fit(observations: Sequence[Observation]) -> DurationModel:
    """Return the model that fits the observations, of which there is at least one."""
    logarithms = [math.log(observation.seconds) for observation in observations]
    # The midpoint of an interval is uncertain, which must not pass for a spread of the durations.
    uncertainty = fmean(
        math.log(observation.upper / max(observation.lower, observation.upper / 4)) ** 2 / 12
        for observation in observations
    )
    spread = math.sqrt(max(0.0, pvariance(logarithms) - uncertainty))
    spread = min(max(spread, _PRIOR_SPREAD / len(observations), _MIN_SPREAD), _MAX_SPREAD)
    return DurationModel(math.exp(fmean(logarithms)), round(spread, 2))


def _polls(spread: float) -> float:
    """Polls of an export on average."""
    return min(MAX_POLLS, max(1.0, spread / DELAY))


@lru_cache(maxsize=256)
def _cumulative_polls(spread: float) -> Sequence[float]:
    """The integral of the polling rate up to each point of the grid."""

    def rate(deviation: float) -> float:
        hazard = _NORMAL.pdf(deviation) / _NORMAL.cdf(-deviation)
        return _polls(spread) * math.sqrt(math.exp(spread * deviation) * hazard / 2)

    return list(accumulate(rate(deviation) * _STEP for deviation in _GRID))


def _interpolate(points: Sequence[float], values: Sequence[float], point: float) -> float:
    """Return the value at a point, linearly between those given."""
    after = bisect_left(points, point)
    if after == 0:
        return values[0]
    if after == len(points):
        return values[-1]
    share = (point - points[after - 1]) / (points[after] - points[after - 1])
    return values[after - 1] + share * (values[after] - values[after - 1])
