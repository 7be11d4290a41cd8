"""Short pulls in real time: how long after the exports themselves, compared with a plain script.

    python benchmarks/short_pulls.py [--seeds 10] [--small 10]

The sandbox runs in a process of its own. Its exports take two seconds times a random factor, log-normal with sigma 0.6,
drawn for the first, the second, ... export from the seed, so that the script has the same. 53 windows, 8 workers. The
script launches 16 exports at a time, polls each every half second and downloads nothing; it ends with the last export.

- "of bound": the makespan divided by max(total work / workers, longest export).
- "in order": the makespan of the same exports in the order of their launch if no worker is ever idle, also divided by
  that bound. Without knowing durations in advance, no strategy can be relied on to do better.
- "of in order": the makespan divided by that, which is what the strategy itself loses.
- "full after": seconds from the start of the pull until all workers are busy.
- "after the last": seconds from the end of the last export to the end of the pull.
- "waiting": most exports in flight beyond the number of workers.

The small pull has one window, whose export takes from 0.5 to 1.5 seconds.
"""

from __future__ import annotations

import argparse
import heapq
import multiprocessing
import random
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import fmean, median
from time import monotonic
from typing import Any

import anyio
from measure import machine, table

from bulkpull import Clickwrap, plan, pull
from bulkpull.sandbox import Sandbox, SandboxConfig
from bulkpull.sandbox import server as sandbox_server
from bulkpull.sandbox.exports import Exports, File, Task

START, END = datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC)
MANY_WINDOWS = "7d"  # 53
ROWS = 50_000
WORKERS = 8
SECONDS = 2.0
SIGMA = 0.6
IN_FLIGHT = 16  # of the script
POLL_INTERVAL_S = 0.5  # of the script
PROCESSES = multiprocessing.get_context("spawn")


@dataclass(slots=True)
class Served:
    """What the sandbox has seen. Times are seconds of the machine's monotonic clock, in the order of the launches."""

    started: list[float]
    finished: list[float]
    polls: int
    peak: int  # exports in flight
    throttled: int

    @property
    def durations(self) -> list[float]:
        return [finished - started for started, finished in zip(self.started, self.finished, strict=True)]

    @property
    def least(self) -> float:
        """The lower bound of the makespan, in seconds."""
        return max(sum(self.durations) / WORKERS, *self.durations)

    @property
    def in_order(self) -> float:
        """The makespan in the order of launch if no worker is ever idle, in seconds."""
        free = [0.0] * WORKERS
        for duration in self.durations:
            heapq.heapreplace(free, free[0] + duration)
        return max(free)


class Durations(random.Random):
    """Draws the serials of exports as usual, and the factors of their durations from a seed of their own."""

    def __init__(self, seed: int, sigma: float) -> None:
        super().__init__(seed)
        self._sigma = sigma
        self._factors = random.Random(f"durations {seed}")

    def uniform(self, a: float, b: float) -> float:
        return self._factors.lognormvariate(0, self._sigma) if self._sigma else self._factors.uniform(a, b)


def serve(seed: int, seconds: float, sigma: float, pipe: Connection) -> None:
    """Run a sandbox: send its URL and token, wait for a message, and send what it has seen."""
    started: dict[str, float] = {}
    finished: dict[str, float] = {}

    class TimedExports(Exports):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._random = Durations(seed, sigma)

        def _write_files(self, task: Task) -> list[File]:  # called when a worker takes the task
            started[task.id] = monotonic()
            return super()._write_files(task)

        async def run(self, task: Task) -> None:
            await super().run(task)
            finished[task.id] = monotonic()

    async def main() -> None:
        config = SandboxConfig(rows=ROWS, end=END, workers=WORKERS, export_seconds=seconds, seed=seed)
        async with Sandbox(config) as sandbox:
            pipe.send((sandbox.url, config.token))
            await anyio.to_thread.run_sync(pipe.recv)
            stats, tasks = sandbox.stats, sandbox.exports.tasks
            served = Served(
                [started[id] for id in tasks],
                [finished[id] for id in tasks],
                stats.requests.get("GET /v1.1/tasks/export/{id}", 0),
                stats.peak_exports,
                stats.throttled,
            )
            pipe.send(served)

    sandbox_server.Exports = TimedExports  # type: ignore[attr-defined]
    anyio.run(main)


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements of one pull."""

    makespan: float
    least: float
    in_order: float
    full_after: float
    after_the_last: float
    polls: float
    waiting: int
    throttled: int


Strategy = Callable[[Clickwrap, str], Awaitable[None]]


async def bulkpull(clickwrap: Clickwrap, window: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        await pull(clickwrap, start=START, end=END, window=window, out=Path(directory) / "activity.csv")


async def script(clickwrap: Clickwrap, window: str) -> None:
    limiter = anyio.CapacityLimiter(IN_FLIGHT)

    async def export(filter: str) -> None:
        async with limiter:
            task = await clickwrap.start_export(filter)
            while not task.succeeded:
                await anyio.sleep(POLL_INTERVAL_S)
                task = await clickwrap.get_export(task.id)

    async with anyio.create_task_group() as group:
        for one in (await plan(clickwrap, start=START, end=END, window=window)).windows:
            group.start_soon(export, clickwrap.window_filter(one, None))


STRATEGIES: dict[str, Strategy] = {"bulkpull": bulkpull, "script": script}


def measure(strategy: str, window: str, seed: int, seconds: float, sigma: float) -> Measured:
    """Run one strategy on a sandbox of its own."""
    ours, theirs = PROCESSES.Pipe()
    server = PROCESSES.Process(target=serve, args=(seed, seconds, sigma, theirs))
    server.start()
    url, token = ours.recv()

    async def timed() -> tuple[float, float]:
        async with Clickwrap(token, base_url=url) as clickwrap:
            began = monotonic()
            await STRATEGIES[strategy](clickwrap, window)
            return began, monotonic()

    began, ended = anyio.run(timed)
    ours.send("done")
    served: Served = ours.recv()
    server.join()
    return Measured(
        ended - began,
        served.least,
        served.in_order,
        sorted(served.started)[min(WORKERS, len(served.started)) - 1] - began,
        ended - max(served.finished),
        served.polls / len(served.started),
        max(0, served.peak - WORKERS),
        served.throttled,
    )


def cells(one: Measured) -> Sequence[object]:
    """The cells of one measurement."""
    return (
        f"{one.makespan:.2f}",
        f"{one.least:.2f}",
        f"{one.makespan / one.least:.3f}",
        f"{one.in_order / one.least:.3f}",
        f"{one.makespan / one.in_order:.3f}",
        f"{one.full_after:.2f}",
        f"{one.after_the_last:.2f}",
        f"{one.polls:.1f}",
        one.waiting,
        one.throttled,
    )


def many(strategies: Sequence[str], seeds: int) -> str:
    """The table of many exports."""
    results: dict[str, list[Measured]] = {strategy: [] for strategy in strategies}
    rows: list[Sequence[object]] = []
    for seed in range(seeds):
        for strategy in strategies:
            one = measure(strategy, MANY_WINDOWS, seed, SECONDS, SIGMA)
            results[strategy].append(one)
            rows.append((seed, strategy, *cells(one)))
    for strategy, found in results.items():
        rows.append(
            (
                "mean",
                strategy,
                f"{fmean(one.makespan for one in found):.2f}",
                f"{fmean(one.least for one in found):.2f}",
                f"{fmean(one.makespan / one.least for one in found):.3f}",
                f"{fmean(one.in_order / one.least for one in found):.3f}",
                f"{fmean(one.makespan / one.in_order for one in found):.3f}",
                f"{fmean(one.full_after for one in found):.2f}",
                f"{fmean(one.after_the_last for one in found):.2f}",
                f"{fmean(one.polls for one in found):.1f}",
                max(one.waiting for one in found),
                sum(one.throttled for one in found),
            )
        )
    header = ("seed", "strategy", "makespan s", "bound s", "of bound", "in order", "of in order", "full after")
    return table((*header, "after the last", "polls per export", "waiting", "429"), rows)


def small(pulls: int) -> str:
    """The table of small pulls."""
    found = [measure("bulkpull", "auto", seed, 1.0, 0.0) for seed in range(pulls)]
    after, polls = [one.after_the_last for one in found], [one.polls for one in found]
    rows = [
        ("seconds until the export starts", *spread([one.full_after for one in found], 2)),
        ("seconds after its end", *spread(after, 2)),
        ("polls", *spread(polls, 0)),
    ]
    return table(("small pull", "least", "median", "mean", "most"), rows)


def spread(values: Sequence[float], digits: int) -> Sequence[str]:
    return [f"{value:.{digits}f}" for value in (min(values), median(values), fmean(values), max(values))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="of many exports")
    parser.add_argument("--small", type=int, default=10, help="number of small pulls")
    parser.add_argument("--strategy", action="append", choices=list(STRATEGIES), help="only these")
    options = parser.parse_args()
    print(f"{machine()}\n")
    if options.seeds:
        print(f"{many(options.strategy or list(STRATEGIES), options.seeds)}\n")
    if options.small:
        print(small(options.small))


if __name__ == "__main__":
    main()
