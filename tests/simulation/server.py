"""An in-memory Clickwrap: a queue, workers, modelled durations, a quota and faults, all drawn from a seed."""

from __future__ import annotations

import heapq
import random
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self, cast

import anyio

from bulkpull import ApiError, Clickwrap, Export, LinkExpiredError, NotFoundError, RetryPolicy, TransferError
from bulkpull.clickwrap.quota import RequestBudget
from bulkpull.events import OnEvent, QuotaExhausted, Recovered, Requested, Retried, Throttled, ignore
from bulkpull.sandbox.quota import RateLimit
from bulkpull.source import Body
from bulkpull.window import instant

_BOUNDS = re.compile(r"created_time>=(\S+) and created_time<(\S+)")
Fate = Literal["success", "failed", "vanishes", "never", "damaged", "gone"]
_FATES: Sequence[Fate] = ("failed", "vanishes", "never", "damaged", "gone")


@dataclass(frozen=True, slots=True)
class Model:
    """The behaviour of a server.

    An export takes `seconds` plus `seconds_per_row` for each row, times a random factor: log-normal around 1 with the
    standard deviation `sigma` of its logarithm, or uniform within `spread` of 1. `tells` says whether the status of an
    export that waits for a worker is scheduled. `latency` is the mean latency of a request. The fraction `failing` of
    exports fails; those with more rows than `too_large` or with one of the `poisoned` moments always do. `trouble` is
    the fraction of requests and files with a fault. Without `files`, exports have none, so that only the orchestration
    takes time.
    """

    workers: int = 8
    seconds: float = 60.0
    seconds_per_row: float = 0.0
    sigma: float = 0.0
    spread: float = 0.0
    tells: bool = True
    latency: float = 0.1
    failing: float = 0.0
    too_large: float = float("inf")
    trouble: float = 0.0
    poisoned: tuple[datetime, ...] = ()
    counting: bool = True
    files: bool = True
    requests_per_minute: int = 2000


@dataclass(slots=True)
class Task:
    """An export: the times of its launch, start and end, and its outcome."""

    id: str
    start: datetime
    end: datetime
    rows: range
    launched: float
    started: float
    finished: float
    fate: Fate
    detected: float | None = None
    polls: int = 0


@dataclass(slots=True)
class Server:
    """A server with activities at `moments`, in order, and its statistics."""

    model: Model
    moments: Sequence[datetime]
    seed: int = 0
    tasks: dict[str, Task] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    throttled: int = 0
    lost: int = 0  # launches whose response was lost
    in_flight: list[Task] = field(default_factory=list)
    peak: int = 0  # exports in flight
    downloads: int = 0
    peak_downloads: int = 0
    _launches: Counter[int] = field(default_factory=Counter)
    _random: random.Random = field(init=False)
    _quota: RateLimit = field(init=False)
    _free: list[float] = field(init=False)  # a heap: when each worker is free

    def __post_init__(self) -> None:
        self._random = random.Random(f"server {self.seed}")
        self._quota = RateLimit(self.model.requests_per_minute)
        self._free = [0.0] * self.model.workers

    # The API

    def selected(self, filter: str) -> tuple[datetime, datetime, range]:
        """Return the bounds of a filter, and the numbers of the activities in between."""
        match = _BOUNDS.match(filter)
        assert match, filter
        start, end = (datetime.fromisoformat(bound) for bound in match.groups())
        return start, end, range(bisect_left(self.moments, start), bisect_left(self.moments, end))

    def launch(self, filter: str) -> Task:
        """Create an export; its outcome is determined now, but not yet visible."""
        model, draw = self.model, self._random
        now = anyio.current_time()
        start, end, rows = self.selected(filter)
        # The same for every strategy that exports the same rows for the same number of times.
        key = rows.start // 5
        self._launches[key] += 1
        luck = random.Random(f"{self.seed} {key} {self._launches[key]}")
        factor = luck.lognormvariate(0, model.sigma) * luck.uniform(1 - model.spread, 1 + model.spread)
        seconds = (model.seconds + model.seconds_per_row * len(rows)) * factor
        fate: Fate = "success"
        hopeless = len(rows) > model.too_large or any(start <= moment < end for moment in model.poisoned)
        if hopeless or luck.random() < model.failing:
            fate = "failed"
        elif draw.random() < model.trouble:
            fate = draw.choice(_FATES if rows else _FATES[:1])
        if fate == "failed":
            seconds *= luck.random()
        started = max(now, heapq.heappop(self._free))
        heapq.heappush(self._free, started + (seconds if fate != "never" else 2 * seconds))
        finished = started + seconds if fate != "never" else float("inf")
        task = Task(f"{len(self.tasks):024x}", start, end, rows, now, started, finished, fate)
        self.tasks[task.id] = task
        self.in_flight = [task for task in self.in_flight if task.finished > now] + [task]
        self.peak = max(self.peak, len(self.in_flight))
        return task

    def show(self, id: str) -> Export:
        """Return the current status of an export."""
        now = anyio.current_time()
        task = self.tasks[id]
        if task.detected is None:
            task.polls += 1
        if now < task.started:
            return Export(id, "queued", "scheduled") if self.model.tells else Export(id, "running", "started")
        if task.fate == "vanishes" and now >= (task.started + task.finished) / 2:
            raise NotFoundError("no such export", status=404)
        if now < task.finished:
            return Export(id, "running", "started")
        if task.detected is None:
            task.detected = now
        if task.fate == "failed":
            return Export(id, "failed", "failed", "Export failed")
        has_file = self.model.files and (task.rows or int(id, 16) % 2)
        return Export(id, "succeeded", "success", links=(f"https://files/{id}.csv",) if has_file else ())

    def file(self, link: str) -> bytes:
        """Return the file of a link. Raises LinkExpiredError."""
        task = self.tasks[link.removeprefix("https://files/").removesuffix(".csv")]
        if task.fate == "gone":
            raise LinkExpiredError("404", status=404)
        lines = [f"{number:024x},{number % 97},{instant(self.moments[number])}\n" for number in task.rows]
        content = "".join(("id,signer_id,created_time\n", *lines)).encode()
        return content[: -len(lines[-1]) // 2] if task.fate == "damaged" else content

    def counts_against_quota(self, token: str = "token") -> float | None:  # noqa: S107
        """Count a request; return the seconds until the quota is reset if it is exhausted."""
        wait = self._quota.retry_after(token, anyio.current_time())
        self.throttled += wait is not None
        return wait

    def befalls(self) -> str | None:
        """Draw the fault of the next request, if any."""
        if self._random.random() >= self.model.trouble:
            return None
        return self._random.choice(("refused", "lost", "slow"))

    def latency(self) -> float:
        return self.model.latency * self._random.uniform(0.5, 1.5)

    # Statistics

    @property
    def work(self) -> float:
        """The total time that workers spent, in seconds."""
        return sum(task.finished - task.started for task in self.tasks.values() if task.finished != float("inf"))

    @property
    def longest(self) -> float:
        """The duration of the longest export, in seconds, from its start on a worker."""
        return max((task.finished - task.started for task in self.tasks.values()), default=0.0)

    @property
    def least(self) -> float:
        """The lower bound of the makespan of these exports, in seconds."""
        return max(self.work / self.model.workers, self.longest)

    @property
    def unforeseen(self) -> float:
        """The makespan in the order of launch if no worker is ever idle, in seconds.

        Without knowing durations in advance, no strategy can be relied on to do better.
        """
        free = [0.0] * self.model.workers
        for task in self.tasks.values():
            heapq.heapreplace(free, free[0] + task.finished - task.started)
        return max(free)


class SimulatedClickwrap:
    """A client of an in-memory server, with the request budget and the backoff of the real client."""

    retry = RetryPolicy(base=0.5, cap=5.0)
    base_url = "https://simulated"
    columns = Clickwrap.columns
    check_filter = staticmethod(Clickwrap.check_filter)
    window_filter = staticmethod(Clickwrap.window_filter)

    def __init__(self, server: Server, requests_per_minute: int = 1800, *, paced: bool = True) -> None:
        self.server = server
        self.paced = paced  # if not, the client waits for the quota only after a 429
        self.requests_per_minute = requests_per_minute
        self._budget = RequestBudget(requests_per_minute)
        self._on_event: OnEvent = ignore

    def observed(self, on_event: OnEvent) -> Self:
        twin = copy(self)
        twin._on_event = on_event
        return twin

    @property
    def throttled_at(self) -> float | None:
        return self._budget.throttled_at

    async def start_export(self, filter: str, fields: Sequence[str] = ()) -> Export:
        task = await self._request("POST", lambda: self.server.launch(filter))
        return Export(task.id, "queued", "pending")

    async def get_export(self, export_id: str) -> Export:
        return cast(Export, await self._request("GET", lambda: self.server.show(export_id)))

    async def export_fields(self, site: str | int) -> list[str]:
        return ["id", "signer_id", "created_time"]

    async def count(self, filter: str | None = None) -> int:
        if not self.server.model.counting:
            raise ApiError("this token may not count", status=403, undone=True)
        return cast(int, await self._request("COUNT", lambda: len(self.server.selected(filter or "")[2])))

    async def any_activity(self, filter: str | None = None) -> bool:
        return cast(bool, await self._request("LIST", lambda: len(self.server.selected(filter or "")[2]) > 0))

    async def _request(self, route: str, act: Any) -> Any:
        attempt = 0
        while True:
            attempt += 1
            async with self._budget.slot(on_wait=self._tell_quota) if self.paced else nullcontext():
                self._on_event(Requested(route))
                self.server.requests[route] += 1
                await anyio.sleep(self.server.latency() / 2)
                wait = self.server.counts_against_quota()
                if wait is None:
                    trouble = self.server.befalls()
                    if trouble != "refused":
                        answer = act()
                        await anyio.sleep(self.server.latency() / 2 + (20.0 if trouble == "slow" else 0.0))
                        if trouble != "lost":
                            if attempt > 1:
                                self._on_event(Recovered(route, attempt))
                            return answer
                        self.server.lost += route == "POST"
                else:
                    self._on_event(Throttled(route, self._budget.note_throttled(wait)))
            pause = self.retry.backoff(attempt) + (wait or 0.0)
            self._on_event(Retried(route, attempt, pause, "trouble"))
            await anyio.sleep(pause)

    def _tell_quota(self, wait: float) -> None:
        self._on_event(QuotaExhausted(wait))

    @asynccontextmanager
    async def download(self, link: str, *, offset: int = 0, validator: str | None = None) -> AsyncIterator[Body]:
        server = self.server
        await anyio.sleep(server.latency())
        content = server.file(link)
        server.downloads += 1
        server.peak_downloads = max(server.peak_downloads, server.downloads)
        try:
            yield Body(self._chunks(content), length=len(content))
        finally:
            server.downloads -= 1

    async def _chunks(self, content: bytes) -> AsyncIterator[bytes]:
        await anyio.sleep(self.server.latency())
        if self.server.befalls():
            yield content[: len(content) // 2]
            raise TransferError("the transfer broke")
        yield content


def evenly(rows: int, start: datetime, end: datetime) -> list[datetime]:
    """Return `rows` evenly distributed moments."""
    return [start + (end - start) * number / rows for number in range(rows)]


def in_bursts(rows: int, start: datetime, end: datetime, seed: int) -> list[datetime]:
    """Return `rows` moments, most of them in a few bursts."""
    draw = random.Random(f"bursts {seed}")
    bursts = [draw.random() for _ in range(draw.randint(1, 4))]
    places = sorted(
        min(1 - 1e-9, max(0.0, draw.gauss(draw.choice(bursts), 0.004))) if draw.random() < 0.9 else draw.random()
        for _ in range(rows)
    )
    span = (end - start) // timedelta(milliseconds=1)
    return [start + timedelta(milliseconds=int(place * span)) for place in places]


START, END = datetime(2022, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)
