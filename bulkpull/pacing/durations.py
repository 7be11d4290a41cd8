"""Durations: what finished exports teach about how long others take, and so when to ask for them."""

from __future__ import annotations

import random
from bisect import insort
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio

from bulkpull.pacing.lognormal import Law, Took, fit

PEEK = 1.0  # seconds after its launch, when an export is asked for only to see whether the server works on it yet
LEAST = 0.4  # seconds between two polls of an export
LAST = 8  # exports that are asked for more often at the end, where the server does not tell how many it works on
UNSTARTED = 600.0  # seconds at least, to the next poll of an export that should still wait for a worker
JITTER = 0.3  # share by which an interval varies, so that exports launched together drift apart
SHARE_OF_QUOTA = 0.5  # of all requests, that polls may take: the rest is for launches
# While nothing has finished yet: the interval to the next poll of any export, as a share of the time waited so far. For
# each it is as many times that as there are exports, within bounds: the first to finish teaches about all others.
COLD_SHARE = 0.1
COLD_GROWTH = 0.25, 2.0
_KEPT = 64  # durations that are remembered


@dataclass(slots=True, eq=False)
class Wait:
    """One export in flight: its `rows`, when it was launched, with how many `ahead` of it, when it was last seen
    unfinished, about when a worker took it (`started`; `taken` at the latest) and about when it ended, as far as that
    is known. `queue_moved` is when an export that was launched before it was last found to have left the queue,
    `running_from` since when it has run, once it was seen to. Times are the event loop's."""

    rows: int
    launched: float
    ahead: int
    seen: float
    queue_moved: float
    running_from: float | None = None
    started: float | None = None
    taken: float | None = None
    ended: float | None = None
    queued: bool = False  # when it was last seen
    changed: anyio.Event = field(default_factory=anyio.Event)

    def wake(self) -> None:
        """Something was learned about it."""
        self.changed.set()
        self.changed = anyio.Event()

    @property
    def begun(self) -> float:
        """Since when it has run, about; since its launch, where nothing else is known."""
        return self.launched if self.started is None else self.started

    @property
    def known(self) -> float:
        """Seconds for which it has run at least."""
        return max(0.0, self.seen - self.begun)


class Durations:
    """What is known of how long exports take, and of how many workers the server has.

    Workers are taken to take exports in the order of their launch, as long as what is seen agrees with that: so an
    export begins when all but as many as there are workers have finished of those before it.
    `requests_per_minute` is the quota that polls share with launches.
    """

    def __init__(self, requests_per_minute: int) -> None:
        self._polls_per_second = SHARE_OF_QUOTA * requests_per_minute / 60
        self._finished: deque[Took] = deque(maxlen=_KEPT)
        self._waits: list[Wait] = []
        self._workers: int | None = None  # as long as none was seen to wait
        self._law: Law | None = None
        self._ending = False

    @property
    def law(self) -> Law | None:
        """That of the time from a worker's taking an export to its end; None until an export has finished."""
        return self._law

    def end(self) -> None:
        """Nothing is left to be launched."""
        self._ending = True
        self._wake_all()

    @contextmanager
    def waiting(self, rows: int | None, launched: float) -> Iterator[Wait]:
        """An export is in flight."""
        wait = Wait(rows or 0, launched, len(self._waits), launched, launched)
        insort(self._waits, wait, key=_launched)
        self._take_up()
        try:
            yield wait
        finally:
            self._waits.remove(wait)
            self._take_up(since=wait.ended)
            if self._ending and len(self._waits) == self._last:
                self._wake_all()

    def see(self, wait: Wait, *, queued: bool, at: float) -> None:
        """The export was unfinished `at` some time: it waited for a worker, or was worked on."""
        wait.seen, wait.queued = at, queued
        place = self._waits.index(wait)
        if queued and place < (self._workers or place + 1):
            # Those before it that were seen to be worked on tell how many workers there are.
            self._workers = max(1, sum(before.started is not None for before in self._waits[:place]))
            for behind in self._waits[place:]:
                behind.started = behind.taken = None
        elif not queued:
            if wait.running_from is None:
                wait.running_from = wait.launched if wait.taken is None else wait.taken
                self.leave_queue(wait, at)
            if self._workers is not None and place >= self._workers:
                self._workers = place + 1
            if wait.started is None:
                wait.started = wait.launched
        self._take_up()

    def leave_queue(self, wait: Wait, at: float) -> None:
        """The export was worked on, or had ended, `at` some time: the server has come to it, and so may come to those
        behind it."""
        for behind in self._waits[self._waits.index(wait) + 1 :]:
            behind.queue_moved = max(behind.queue_moved, at)

    def learn(self, wait: Wait, by: float) -> None:
        """The export has finished, at `by` at the latest."""
        self.leave_queue(wait, by)
        # As likely as not in the middle; more likely, if that is possible, after as long as others took.
        usual = wait.begun + self._median(wait)
        wait.ended = usual if wait.seen < usual < by else (wait.seen + by) / 2
        self._finished.append(Took(wait.rows, wait.ahead, wait.known, max(by - wait.begun, 1e-3)))
        running = [
            Took(other.rows, other.ahead, other.known)
            for other in self._waits
            if other is not wait and not self._is_queued(other)
        ]
        former, self._law = self._law, fit(self._finished, running)
        if former is None or not 0.8 < former.median(wait.rows, wait.ahead) / self._median(wait) < 1.25:
            self._wake_all()

    def running_since(self, wait: Wait) -> float:
        """Since when the server could have worked on an export: since it was seen to, or, while it waits for a worker,
        since something that was launched before it left the queue."""
        if wait.running_from is not None:
            return wait.running_from
        return max(wait.launched, wait.queue_moved)

    async def next_poll(self, wait: Wait, *, patience: float, peek: bool = False) -> None:
        """Waits until an export should be asked for; with `peek`, soon for the first time. In any case when the server
        has kept it for `patience` seconds."""
        jitter = random.uniform(1 - JITTER, 1 + JITTER)
        least = max(LEAST, self._running / self._polls_per_second)
        while True:
            interval = max(self._interval(wait, jitter), least * jitter)
            if peek and wait.seen == wait.launched:
                interval = min(interval, PEEK * jitter)
            at_most = self.running_since(wait) + patience
            with anyio.CancelScope(deadline=min(wait.seen + interval, at_most)):
                await wait.changed.wait()
                continue
            return

    def _interval(self, wait: Wait, jitter: float) -> float:
        """Seconds from when an export was last seen to when it should be asked for."""
        least, most = COLD_GROWTH
        if self._is_queued(wait):  # it cannot be done, if all is as it seems
            return jitter * max(most * (wait.seen - wait.launched), UNSTARTED, 4 * self._median(wait))
        # Where it is queued though its turn has come, as far as is known, its turn may never come.
        idle = COLD_SHARE * (wait.seen - self.running_since(wait)) if wait.queued else 0.0
        known = wait.known
        if self._law:
            # Once no other waits for its worker, each delay may be one of the whole pull.
            hurry = self._ending and len(self._waits) <= self._last
            following = self._law.next_poll(self._median(wait), known, jitter=jitter, hurry=hurry)
            return max(wait.begun + following - wait.seen, jitter * idle)
        return jitter * max(known * min(most, max(least, COLD_SHARE * self._running)), idle)

    def _is_queued(self, wait: Wait) -> bool:
        """Whether it should still wait for a worker."""
        return self._workers is not None and wait.started is None

    @property
    def _last(self) -> int:
        """How many exports are the last."""
        return LAST if self._workers is None else self._workers

    @property
    def _running(self) -> int:
        """How many exports are worked on, and so are worth asking for."""
        return min(len(self._waits), self._workers or len(self._waits))

    def _median(self, wait: Wait) -> float:
        return self._law.median(wait.rows, wait.ahead) if self._law else 0.0

    def _take_up(self, since: float | None = None) -> None:
        """Exports are taken by workers that became free, just now or `since` then."""
        for wait in self._waits[: self._workers or 0]:
            if wait.started is None:
                wait.taken = anyio.current_time()
                wait.started = max(wait.seen, wait.taken if since is None else since)
                wait.wake()

    def _wake_all(self) -> None:
        for wait in self._waits:
            wait.wake()


def _launched(wait: Wait) -> float:
    return wait.launched
