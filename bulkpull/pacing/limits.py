"""Flight: how many exports are in flight, and how many files are streamed, by what comes of it."""

from __future__ import annotations

import math

import anyio

from bulkpull.clickwrap.quota import QUOTA_PERIOD_S
from bulkpull.events import Event, Exported, ExportFailed, Launched, Polled, Received, Retried, Throttled
from bulkpull.pacing.durations import PEEK

START = 4  # exports
QUEUE = 1.0  # exports that wait at the server, for each that it works on: its workers need not wait for us
EARLY = 3 * PEEK  # seconds after its launch, in which a look at an export tells of free workers
SAMPLE = 8  # one launch in so many is looked at, once something was seen to wait
FAILURES = 0.2  # the share of exports that fail, above which the limit falls
STREAMS = 4  # files at first
LOOK = 1.0  # seconds of streaming after which the rate is looked at
REST = 4  # measurements for which the limit stays, where a higher one brought nothing
GAIN = 0.5  # of what a raised limit could bring at best, that it must bring to stay


class Climb:
    """A limit that is raised as long as more comes of it.

    It is doubled until that brings less than half of what it could, and then stands where it helped. After a rest, a
    quarter less and a quarter more are tried in turn, and kept where that costs or brings little or much. The first
    measurement after a change counts for nothing: it still shows what was begun before.
    """

    def __init__(self, start: int, most: int) -> None:
        self.limiter = anyio.CapacityLimiter(min(start, most))
        self._most = most
        self._began = anyio.current_time()
        self._amount = 0.0
        self._base: tuple[int, float] | None = None  # the limit that stood, and its rate, while a higher one is tried
        self._factor = 2.0
        self._rest = 0
        self._settling = True

    @property
    def limit(self) -> int:
        return int(self.limiter.total_tokens)

    def set(self, limit: float) -> None:
        """Another limit, for a reason of its own: what was measured is forgotten."""
        self.limiter.total_tokens = max(1, min(self._most, math.ceil(limit)))
        self._base = None
        self._begin(settling=True)

    def add(self, amount: float) -> None:
        """So much came of it."""
        self._amount += amount

    @property
    def seconds(self) -> float:
        """Of the measurement that runs."""
        return anyio.current_time() - self._began

    def measured(self, *, climb: bool = True) -> None:
        """A measurement ends, and so the limit may change; with `climb` unset it is not raised."""
        if self._settling:
            self._begin(settling=False)
            return
        rate, limit = self._amount / max(self.seconds, 1e-9), self.limit
        if self._base:
            before, former = self._base
            if rate < former * (1 + GAIN * (limit / before - 1)):
                self.set(before * max(1.0, rate / former))
                self._factor, self._rest = (0.75 if limit > before else 1.25), REST
                return
        self._base = None
        self._rest -= 1
        if climb and self._rest < 0:
            if limit == self._most:
                self._factor = 0.75
            self.limiter.total_tokens = max(1, min(self._most, math.ceil(limit * self._factor)))
            self._base = limit, rate
            self._begin(settling=True)
        else:
            self._begin(settling=False)

    def _begin(self, *, settling: bool) -> None:
        self._began, self._amount, self._settling = anyio.current_time(), 0.0, settling


class Flight(Climb):
    """A listener that finds how many exports should be in flight, at most `most`; `fixed` where that is said.

    It begins with a few, and allows one more for each that the server is seen to work on right away, until some are
    seen to wait: that shows how many workers the server has, and as many may wait there besides. Where a server
    does not tell, the rows that finish in a second do.
    """

    def __init__(self, fixed: int | None, most: int) -> None:
        super().__init__(fixed or START, fixed or most)
        self._fixed = fixed is not None
        self._started: set[int] = set()  # windows whose export the server was seen to work on
        self._queue = False  # an export was seen to wait, in this measurement
        self._prompt = False  # one was seen to be worked on right away
        self._tells = False  # and another to wait
        self._launches = self._finished = self._failed = 0
        self._throttled_at = -math.inf

    def refused(self, exports: int) -> None:
        """The server takes no more than so many: that bounds the limit from now on."""
        self._most = max(1, min(self._most, exports))
        self.set(min(self.limit, self._most))

    def take_up(self, exports: int) -> None:
        """So many are in flight already, launched by an earlier run."""
        if not self._fixed and exports > self.limit:
            self.set(exports)

    @property
    def curious(self) -> bool:
        """Whether the export that was launched last should be looked at early."""
        return not self._fixed and (not self._queue or self._launches % SAMPLE == 0)

    def __call__(self, event: Event) -> None:
        if self._fixed:
            return
        match event:
            case Launched():
                self._launches += 1
            case Polled(state="queued"):
                if event.waited <= EARLY:
                    self._see_queue()
            case Polled(state="running"):
                if event.window.index not in self._started:
                    self._started.add(event.window.index)
                    self._see_worker(event.waited)
            case Exported():
                if event.window.index not in self._started and not self._queue:
                    self._see_worker(event.seconds)
                self._started.discard(event.window.index)
                self.add(event.window.rows or 1)
                self._finish()
            case ExportFailed():
                self._started.discard(event.window.index)
                self._failed += 1
                self._finish()
            case Throttled() if anyio.current_time() > self._throttled_at + QUOTA_PERIOD_S:
                self._throttled_at = anyio.current_time()
                self.set(self.limit / 2)

    def _see_worker(self, waited: float) -> None:
        if waited <= EARLY:
            self._prompt = True
            self.set(self.limit + 1)

    def _see_queue(self) -> None:
        self._tells = self._tells or self._prompt
        if self._tells and not self._queue:
            enough = len(self._started) * (1 + QUEUE)
            if enough > self.limit:
                self.set(enough)
        self._queue = True

    def _finish(self) -> None:
        self._finished += 1
        if self._finished < max(START, self.limit):
            return
        if self._failed > FAILURES * self._finished:
            self.set(self.limit * 3 / 4)
        else:
            saturated = self.limiter.statistics().tasks_waiting > 0
            self.measured(climb=saturated and not self._tells)
        self._finished = self._failed = 0
        self._queue = False


class Streams(Climb):
    """A listener that finds how many files should be streamed at a time, at most `most`.

    A transfer that breaks lowers the limit, and so does no other until bytes came for a whole measurement: one outage
    cuts all streams.
    """

    def __init__(self, most: int) -> None:
        super().__init__(STREAMS, most)
        self._waited = False
        self._lowered = False

    def __call__(self, event: Event) -> None:
        match event:
            case Received():
                self.add(event.size)
                self._waited = self._waited or bool(self.limiter.statistics().tasks_waiting)
                if self.seconds >= LOOK:
                    self._lowered = self._lowered and self._settling
                    self.measured(climb=self._waited)
                    self._waited = False
            case Retried() if not self._lowered:
                self.set(self.limit * 3 / 4)
                self._lowered = True
