"""Durations: what finished exports teach about how long others take, and so when to ask for them."""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from statistics import NormalDist, fmean

import anyio

PEEK = 1.0  # seconds after its launch, when an export is asked for only to see whether the server works on it yet
LEAST = 0.4  # seconds between two polls of an export
MOST = 300.0  # seconds
JITTER = 0.1  # share by which an interval varies, so that exports launched together drift apart
POLLS = 4.5  # of an export, about, where durations differ much
DELAY = 0.04  # of its duration, with which an export is noticed on average where durations differ little
SHARE_OF_QUOTA = 0.5  # of all requests, that polls may take: the rest is for launches
COLD_SHARE = 0.25  # of the time waited so far, to the next poll while nothing has finished yet, if few wait,
COLD_POLLED = 4  # this many; if more do, each is asked the less often: the first that finishes teaches about all
_KEPT = 64  # durations that are remembered
_LEAST_SPREAD = 0.01
_DOUBT = 0.5  # spread that a single duration leaves open
_NORMAL = NormalDist()
_GRID = [number / 20 for number in range(-80, 41)]  # standard deviations from the median: the last is `_LATE`
_LATE = _GRID[-1]


@dataclass(frozen=True, slots=True)
class Law:
    """Durations are `(base + per_row * rows)` seconds times a log-normal factor around 1, whose logarithm has the
    standard deviation `spread`."""

    base: float
    per_row: float
    spread: float

    def median(self, rows: int | None) -> float:
        return self.base + self.per_row * (rows or 0)

    def next_poll(self, rows: int | None, known: float) -> float:
        """When, in seconds after its launch, an export is best asked for that was unfinished after `known` seconds.

        Polls that come at the rate sqrt(h / (2 c)), where h is the hazard (how likely it finishes now, if it has not
        yet) and c what a poll costs in seconds of delay, make the sum of delay and cost the least; that is found by
        varying the rate in the integral of both. The number of polls is the integral of the rate; the next comes where
        that has grown by one.
        """
        median = self.median(rows)
        late = median * math.exp(_LATE * self.spread)
        reached = _polls(self.spread)
        if known < late:
            done = _at(_GRID, reached, math.log(known / median) / self.spread) if known > 0 else 0.0
            if done + 1 < reached[-1]:
                return median * math.exp(_at(reached, _GRID, done + 1) * self.spread)
        # It is late: the law may no longer hold, so that intervals grow.
        return max(known, late) + max(self.spread * median / _wanted(self.spread), 0.5 * (known - late))


def _wanted(spread: float) -> float:
    return min(POLLS, max(1.0, spread / DELAY))


@lru_cache(maxsize=256)
def _polls(spread: float) -> Sequence[float]:
    """The integral of the rate of polls, up to each point of the grid."""

    def rate(deviation: float) -> float:
        hazard = _NORMAL.pdf(deviation) / _NORMAL.cdf(-deviation)
        return _wanted(spread) * math.sqrt(math.exp(spread * deviation) * hazard / 2)

    return list(accumulate(rate(deviation) / 20 for deviation in _GRID))


def _at(points: Sequence[float], values: Sequence[float], point: float) -> float:
    """The value at a point between those given, linearly."""
    after = bisect_left(points, point)
    if after == 0:
        return values[0]
    if after == len(points):
        return values[-1]
    share = (point - points[after - 1]) / (points[after] - points[after - 1])
    return values[after - 1] + share * (values[after] - values[after - 1])


class Durations:
    """What is known of how long exports take; `requests_per_minute` is the quota that polls share with launches."""

    def __init__(self, requests_per_minute: int) -> None:
        self._polls_per_second = SHARE_OF_QUOTA * requests_per_minute / 60
        self._finished: deque[tuple[int | None, float, float]] = deque(maxlen=_KEPT)
        self._waiting: dict[object, tuple[int | None, float]] = {}
        self._law: Law | None = None
        self._changed = anyio.Event()

    @property
    def law(self) -> Law | None:
        """None until an export has finished."""
        return self._law

    @contextmanager
    def waiting(self, rows: int | None, launched: float) -> Iterator[None]:
        """An export of so many rows is in flight, since `launched`."""
        key = object()
        self._waiting[key] = rows, launched
        try:
            yield
        finally:
            del self._waiting[key]

    def learn(self, rows: int | None, after: float, by: float) -> None:
        """An export of so many rows finished between `after` and `by` seconds after its launch."""
        self._finished.append((rows, after, max(by, 1e-3)))
        former, self._law = self._law, self._fitted()
        median = self._law.median(rows)
        if former is None or not 0.8 < former.median(rows) / median < 1.25 or former.spread > 1.5 * self._law.spread:
            self._changed.set()
            self._changed = anyio.Event()

    async def next_poll(
        self, rows: int | None, launched: float, known: float, *, peek: bool = False, at_most: float
    ) -> None:
        """Waits until an export should be asked for that was launched at `launched` and unfinished `known` seconds
        after; with `peek`, soon for the first time. Never beyond the time `at_most`.
        """
        jitter = random.uniform(1 - JITTER, 1 + JITTER)
        while True:
            interval = max(self._next_poll(rows, known) - known, LEAST)
            if peek and not known:
                interval = min(interval, PEEK)
            interval = min(MOST, max(interval, len(self._waiting) / self._polls_per_second))
            with anyio.CancelScope(deadline=min(launched + known + interval * jitter, at_most)):
                await self._changed.wait()
                continue
            return

    def _next_poll(self, rows: int | None, known: float) -> float:
        if self._law:
            return self._law.next_poll(rows, known)
        return known * (1 + min(2.0, COLD_SHARE * max(1.0, len(self._waiting) / COLD_POLLED)))

    def _fitted(self) -> Law:
        """The law that fits best what has finished, and, as long as that is little, what has not yet."""
        base, per_row = self._line()
        logs = []
        blur = 0.0  # of what is known only to lie between two polls
        for rows, after, by in self._finished:
            logs.append(math.log(max(1e-3, (after + by) / 2) / (base + per_row * (rows or 0))))
            blur += math.log(by / max(after, by / 4)) ** 2 / 12
        mean = fmean(logs)
        variance = max(0.0, fmean((value - mean) ** 2 for value in logs) - blur / len(logs))
        spread = max(math.sqrt(variance), _DOUBT / len(logs), _LEAST_SPREAD)
        if len(logs) < len(self._waiting) and len(logs) < _KEPT:
            mean, spread = self._with_unfinished(logs, mean, spread, base, per_row)
        factor = math.exp(mean)
        return Law(base * factor, per_row * factor, round(min(spread, 2.0), 2))

    def _line(self) -> tuple[float, float]:
        """Seconds of an export without rows, and for each row: least squares, drawn to a constant as far as rows do not
        explain the difference."""
        middles = [(rows, (after + by) / 2) for rows, after, by in self._finished if rows is not None]
        seconds = fmean((after + by) / 2 for _, after, by in self._finished)
        if len(middles) < 4 or len(middles) < len(self._finished):
            return max(seconds, 1e-3), 0.0
        mean_rows, mean_seconds = fmean(rows for rows, _ in middles), fmean(second for _, second in middles)
        covariance = fmean((rows - mean_rows) * (second - mean_seconds) for rows, second in middles)
        variance_rows = fmean((rows - mean_rows) ** 2 for rows, _ in middles)
        variance = fmean((second - mean_seconds) ** 2 for _, second in middles)
        if covariance <= 0 or not variance_rows:
            return max(seconds, 1e-3), 0.0
        explained = covariance * covariance / (variance_rows * variance)
        per_row = min(explained * covariance / variance_rows, 0.98 * mean_seconds / mean_rows)
        return max(mean_seconds - per_row * mean_rows, 1e-3), per_row

    def _with_unfinished(
        self, logs: list[float], mean: float, spread: float, base: float, per_row: float
    ) -> tuple[float, float]:
        """Mean and spread where exports that still run count too: the first to finish are the shortest. Found by
        expectation and maximization, for a normal law censored from the right."""
        now = anyio.current_time()
        ages = [
            math.log(max(1e-3, now - launched) / (base + per_row * (rows or 0)))
            for rows, launched in self._waiting.values()
        ]
        for _ in range(8):
            total, squares = math.fsum(logs), math.fsum((value - mean) ** 2 for value in logs)
            for age in ages:
                deviation = min(4.0, (age - mean) / spread)
                hazard = _NORMAL.pdf(deviation) / _NORMAL.cdf(-deviation)
                total += mean + spread * hazard
                squares += spread**2 * (1 + deviation * hazard)
            count = len(logs) + len(ages)
            mean, spread = total / count, max(math.sqrt(squares / count), _LEAST_SPREAD)
        return mean, spread
