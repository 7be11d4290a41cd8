"""Durations: what finished exports teach about how long others take, and so when to ask for them."""

from __future__ import annotations

import math
import random
from bisect import bisect_left, insort
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
QUEUED = 600.0  # seconds at least, to the next poll of an export that should still wait for a worker
JITTER = 0.1  # share by which an interval varies, so that exports launched together drift apart
POLLS = 4.2  # of an export, about, where durations differ much
DELAY = 0.06  # of its duration, with which an export is noticed on average where durations differ little
SHARE_OF_QUOTA = 0.5  # of all requests, that polls may take: the rest is for launches
COLD_SHARE = 0.1  # of the time waited so far, between polls of any export, while nothing has finished yet: so that of
COLD_GROWTH = 0.25, 2.0  # an export is this share at least and at most: the first to finish teaches about all others
COLD_JITTER = 0.3  # exports launched together should not be polled together then
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


@dataclass(slots=True, eq=False)
class Wait:
    """One export in flight: its `rows`, when it was launched, when a worker took it (as far as is known), and when it
    was last seen unfinished, all in seconds of the event loop."""

    rows: int | None
    launched: float
    started: float | None
    seen: float


class Durations:
    """What is known of how long exports take, and of how many workers the server has.

    Workers are taken to take exports in the order of their launch, as long as what is seen agrees with that: so an
    export begins when all but as many as there are workers have finished of those before it.
    `requests_per_minute` is the quota that polls share with launches.
    """

    def __init__(self, requests_per_minute: int) -> None:
        self._polls_per_second = SHARE_OF_QUOTA * requests_per_minute / 60
        self._finished: deque[tuple[int | None, float, float]] = deque(maxlen=_KEPT)
        self._waits: list[Wait] = []
        self._workers: int | None = None
        self._moved = 0.0  # when an export was last taken, or finished
        self._law: Law | None = None
        self._changed = anyio.Event()

    @property
    def law(self) -> Law | None:
        """That of the time from a worker's taking an export to its end; None until an export has finished."""
        return self._law

    @property
    def workers(self) -> int | None:
        """None until some exports were seen to wait."""
        return self._workers

    @contextmanager
    def waiting(self, rows: int | None, launched: float) -> Iterator[Wait]:
        """An export is in flight."""
        wait = Wait(rows, launched, None, launched)
        insort(self._waits, wait, key=_launched)
        self._take_up()
        try:
            yield wait
        finally:
            self._waits.remove(wait)
            self._moved = anyio.current_time()
            self._take_up()

    def see(self, wait: Wait, *, queued: bool, at: float) -> None:
        """The export was unfinished `at` some time: it waited for a worker, or was worked on."""
        wait.seen = at
        place = self._waits.index(wait)
        if queued:
            if place < (self._workers or place + 1):
                # Those before it that were seen to be worked on tell how many workers there are.
                self._workers = max(1, sum(before.started is not None for before in self._waits[:place]))
                for behind in self._waits[place:]:
                    behind.started = None
        else:
            if self._workers is not None and place >= self._workers:
                self._workers = place + 1
            if wait.started is None:
                wait.started = wait.launched
        self._take_up()

    def learn(self, wait: Wait, by: float) -> None:
        """The export has finished, at `by` at the latest."""
        started = wait.launched if wait.started is None else wait.started
        self._finished.append((wait.rows, max(0.0, wait.seen - started), max(by - started, 1e-3)))
        former, self._law = self._law, self._fitted()
        median = self._law.median(wait.rows)
        if former is None or not 0.8 < former.median(wait.rows) / median < 1.25:
            self._wake()

    def running_since(self, wait: Wait) -> float:
        """Since when the server has kept an export for itself alone: since a worker took it, or, while it waits for
        one, since anything moved."""
        if wait.started is None and self._workers is not None:
            return max(wait.launched, self._moved)
        return wait.started or wait.launched

    async def next_poll(self, wait: Wait, *, patience: float, peek: bool = False) -> None:
        """Waits until an export should be asked for; with `peek`, soon for the first time. In any case when the server
        has kept it for `patience` seconds."""
        share = JITTER if self._law else COLD_JITTER
        jitter = random.uniform(1 - share, 1 + share)
        while True:
            interval = max(self._interval(wait), LEAST, len(self._waits) / self._polls_per_second)
            if peek and wait.seen == wait.launched:
                interval = min(interval, PEEK)
            at_most = self.running_since(wait) + patience
            with anyio.CancelScope(deadline=min(wait.seen + interval * jitter, at_most)):
                await self._changed.wait()
                continue
            return

    def _interval(self, wait: Wait) -> float:
        """Seconds from when an export was last seen to when it should be asked for."""
        started = wait.launched
        if self._workers is not None:
            if wait.started is None:  # it cannot be done, if all is as it seems
                return max(COLD_GROWTH[1] * (wait.seen - wait.launched), QUEUED, 4 * self._median(wait))
            started = wait.started
        known = max(0.0, wait.seen - started)
        if self._law:
            return started + self._law.next_poll(wait.rows, known) - wait.seen
        running = min(len(self._waits), self._workers or len(self._waits))
        least, most = COLD_GROWTH
        return known * min(most, max(least, COLD_SHARE * running))

    def _median(self, wait: Wait) -> float:
        return self._law.median(wait.rows) if self._law else 0.0

    def _take_up(self) -> None:
        """Exports are taken by workers that became free."""
        now = anyio.current_time()
        taken = [wait for wait in self._waits[: self._workers or 0] if wait.started is None]
        for wait in taken:
            wait.started = now
        if taken:
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

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
        running = [wait for wait in self._waits if self._workers is None or wait.started is not None]
        if len(logs) < min(len(running), _KEPT):
            mean, spread = self._with_unfinished(running, logs, mean, spread, base, per_row)
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
        self, running: list[Wait], logs: list[float], mean: float, spread: float, base: float, per_row: float
    ) -> tuple[float, float]:
        """Mean and spread where exports that still run count too: the first to finish are the shortest. Found by
        expectation and maximization, for a normal law censored from the right."""
        ages = [
            math.log(max(1e-3, wait.seen - (wait.started or wait.launched)) / (base + per_row * (wait.rows or 0)))
            for wait in running
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


def _launched(wait: Wait) -> float:
    return wait.launched
