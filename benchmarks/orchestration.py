"""The orchestrator compared with common strategies, on simulated servers, and with the sandbox in real time.

    python benchmarks/orchestration.py [--seeds 5] [--strategy bulkpull] [--processes 1] [--plot orchestration.svg]
        [--no-sandbox]

All strategies run on the same servers: same activity, seeds, quota and latency. bulkpull is measured from the first
probe to the published output; its files have five rows and arrive within a second, so that waiting is measured. The
other strategies are typical scripts, and end with the last finished export:

- fixed slices, 5 s: windows of equal length, 16 in flight, each polled every five seconds
- first come: windows of equal volume, as planned by bulkpull, 16 in flight, polled at a quarter of the elapsed time
- gather: windows of equal length, all launched at once, each polled every five seconds

"of bound" is the makespan divided by its lower bound, max(total work / workers, longest export), for the exports of the
strategy itself. "in order" is the makespan of the same exports in their order of launch if no worker is ever idle, also
divided by that bound: without knowing durations in advance, no strategy can be relied on to do better.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import fmean
from time import perf_counter

import anyio
from measure import machine, run, table

from bulkpull import Export, Window, plan, pull
from bulkpull.clickwrap.filters import window_filter
from bulkpull.planning.length import by_length
from bulkpull.sandbox.process import sandbox_process
from tests.simulation.clock import simulated
from tests.simulation.schedule import memory
from tests.simulation.server import END, START, Model, Server, SimulatedClickwrap, evenly, in_bursts

ROWS = 5  # per export in simulations; each represents thousands
OURS = "bulkpull"


@dataclass(frozen=True, slots=True)
class Case:
    """A server, the number of windows by volume per worker, and whether activity comes in bursts."""

    name: str
    model: Model
    windows_per_worker: float
    bursts: bool = False

    def server(self, seed: int) -> Server:
        rows = int(self.model.workers * self.windows_per_worker * ROWS)
        moments = in_bursts(rows, START, END, seed) if self.bursts else evenly(rows, START, END)
        return Server(self.model, moments, seed)


CASES = [
    Case("2 workers, 1 min each", Model(workers=2), 30),
    Case("8 workers, 1 min each", Model(workers=8), 10),
    Case("8 workers, 10 min each, 3 per worker", Model(workers=8, seconds=600), 3),
    Case("64 workers, 10 min each, 3 per worker", Model(workers=64, seconds=600), 3),
    Case("64 workers, 1 min each", Model(workers=64), 10),
    Case("8 workers, 5 s each", Model(workers=8, seconds=5), 20),
    Case("16 workers, 1 h each", Model(workers=16, seconds=3600), 10),
    Case("2 workers, log-normal, 1 min", Model(workers=2, sigma=0.6), 30),
    Case("8 workers, log-normal, 10 min", Model(workers=8, seconds=600, sigma=0.6), 30),
    Case("64 workers, log-normal, 10 min, 3 per worker", Model(workers=64, seconds=600, sigma=0.6), 3),
    Case("64 workers, log-normal, 1 h", Model(workers=64, seconds=3600, sigma=0.6), 10),
    Case("8 workers, by rows, in bursts", Model(workers=8, seconds=20, seconds_per_row=20), 10, bursts=True),
    Case("32 workers, by rows, in bursts", Model(workers=32, seconds=20, seconds_per_row=40), 10, bursts=True),
    Case("8 workers, 10 % failures", Model(workers=8, seconds=120, sigma=0.3, failing=0.1), 30),
    Case("8 workers, queueing not reported", Model(workers=8, seconds=120, tells=False), 30),
]


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements of one strategy on one server."""

    makespan: float
    least: float
    unforeseen: float
    duration: float
    delay: float
    polls: float
    exports: int
    requests: int
    peak: int
    throttled: int


Strategy = Callable[[Server], Awaitable[None]]


async def bulkpull(server: Server) -> None:
    with memory() as directory:
        await pull(
            SimulatedClickwrap(server),
            start=START,
            end=END,
            out=directory / "activity.csv",
            rows_per_export=ROWS,
            max_windows=100_000,
            export_timeout=1e6,
        )


async def fixed_slices(server: Server) -> None:
    await _by_hand(server, _slices(server), in_flight=16, interval=lambda _waited: 5.0)


async def first_come(server: Server) -> None:
    planned = await plan(SimulatedClickwrap(server), start=START, end=END, rows_per_export=ROWS, max_windows=100_000)
    await _by_hand(server, planned.windows, in_flight=16, interval=lambda waited: min(30.0, max(0.5, 0.25 * waited)))


async def gather(server: Server) -> None:
    windows = _slices(server)
    await _by_hand(server, windows, in_flight=len(windows), interval=lambda _waited: 5.0)


STRATEGIES: dict[str, Strategy] = {
    OURS: bulkpull,
    "fixed slices, 5 s": fixed_slices,
    "first come": first_come,
    "gather": gather,
}


def _slices(server: Server) -> Sequence[Window]:
    """Return windows of equal length, as many as there would be windows of equal volume."""
    minutes = (END - START) / max(1, len(server.moments) / ROWS) / timedelta(minutes=1)
    return by_length(START, END, f"{math.ceil(minutes)}min", 100_000)


async def _by_hand(
    server: Server, windows: Iterable[Window], *, in_flight: int, interval: Callable[[float], float]
) -> None:
    """Launch exports until each window has a successful one; wait for the quota only after a 429."""
    clickwrap = SimulatedClickwrap(server, paced=False)
    limiter = anyio.CapacityLimiter(in_flight)

    async def export(window: Window) -> None:
        async with limiter:
            done = False
            while not done:
                task: Export = await clickwrap.start_export(window_filter(window, None))
                launched = anyio.current_time()
                while not (task.succeeded or task.failed):
                    await anyio.sleep(interval(anyio.current_time() - launched))
                    task = await clickwrap.get_export(task.id)
                done = task.succeeded

    async with anyio.create_task_group() as group:
        for window in windows:
            group.start_soon(export, window)


def measure(case: Case, strategy: str, seed: int) -> Measured:
    """Run one strategy on one server."""
    server = case.server(seed)

    async def timed() -> float:
        began = anyio.current_time()
        await STRATEGIES[strategy](server)
        return anyio.current_time() - began

    makespan = simulated(seed, timed)
    tasks = server.tasks.values()
    return Measured(
        makespan,
        server.least,
        server.unforeseen,
        fmean(task.finished - task.launched for task in tasks),
        fmean((task.detected or task.finished) - task.finished for task in tasks),
        fmean(task.polls for task in tasks),
        len(tasks),
        server.requests.total(),
        server.peak,
        server.throttled,
    )


def _job(job: tuple[Case, str, int]) -> Measured:
    return measure(*job)


def mean(measured: Sequence[Measured]) -> Measured:
    """Return the mean of several seeds."""
    return Measured(*(fmean(getattr(one, name) for one in measured) for name in Measured.__slots__))  # type: ignore[arg-type]


def report(results: dict[tuple[str, str], Measured], strategies: Sequence[str]) -> str:
    """The table."""
    rows: list[Sequence[object]] = []
    for case in CASES:
        for strategy in strategies:
            one = results[case.name, strategy]
            rows.append(
                (
                    case.name if strategy == strategies[0] else "",
                    strategy,
                    f"{one.exports:.0f}",
                    f"{one.makespan:.0f}",
                    f"{one.makespan / one.least:.3f}",
                    f"{one.unforeseen / one.least:.3f}",
                    f"{one.delay:.1f}",
                    f"{one.delay / one.duration:.1%}",
                    f"{one.polls:.1f}",
                    f"{one.requests:.0f}",
                    f"{one.peak:.0f}",
                    f"{one.throttled:.1f}",
                )
            )
    header = (
        *("server", "strategy", "exports", "makespan s", "of bound", "in order", "delay s", "of duration"),
        *("polls per export", "requests", "peak in flight", "429"),
    )
    return table(header, rows)


def draw(results: dict[tuple[str, str], Measured], path: Path) -> None:
    """Plot makespans, and detection delay against polls."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "bulkpull"
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 8), width_ratios=(3, 2), layout="constrained")
    height = 0.8 / len(STRATEGIES)
    for number, strategy in enumerate(STRATEGIES):
        found = [results[case.name, strategy] for case in CASES]
        ours = [results[case.name, OURS] for case in CASES]
        places = [place + height * number for place in range(len(CASES))]
        left.barh(
            places, [one.makespan / our.makespan for one, our in zip(found, ours, strict=True)], height, label=strategy
        )
        right.scatter([one.polls for one in found], [one.delay / one.duration for one in found], label=strategy)
    left.set_yticks([place + 1.5 * height for place in range(len(CASES))], [case.name for case in CASES])
    left.invert_yaxis()
    left.set_xscale("log")
    left.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
    left.axvline(1, color="black", linewidth=0.5)
    left.set_xlabel("makespan relative to bulkpull")
    left.legend()
    right.axhline(0.05, color="grey", linewidth=0.5)
    right.axvline(6, color="grey", linewidth=0.5)
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlabel("polls per export")
    right.set_ylabel("detection delay of a finished export, relative to its duration")
    figure.savefig(path, metadata={"Date": None})


CONFIRMED = (
    ("4 workers, at least 6 s", 4, 6.0, 40),
    ("16 workers, at least 10 s", 16, 10.0, 96),
)


def confirm() -> str:
    """Compare pulls from the sandbox in real time with simulations of equivalent servers; return the table."""
    rows = []
    for name, workers, seconds, windows in CONFIRMED:
        per_export = 2000
        activities = str(windows * per_export)
        with (
            tempfile.TemporaryDirectory() as directory,
            sandbox_process(
                "--rows", activities, "--workers", str(workers), "--export-seconds", str(seconds)
            ) as sandbox,
        ):
            arguments = ["-m", "bulkpull", "pull", "--start", "2024-01-01", "--end", "2026-01-01", "-q", "--json"]
            arguments += ["--rows-per-export", str(per_export), "--out", str(Path(directory) / "activity.csv")]
            done = run(arguments, BULKPULL_BASE_URL=sandbox.url, BULKPULL_TOKEN=sandbox.token)
        result, stats = json.loads(done.stdout), sandbox.stats
        least = max(stats["worked"] / workers, stats["longest"])
        model = Model(workers=workers, seconds=seconds * (1 + per_export / 100_000), spread=0.5, latency=0.004)
        like = mean([measure(Case(name, model, windows / workers), OURS, seed) for seed in range(20)])
        polls = stats["requests"]["GET /v1.1/tasks/export/{id}"] / result["exports"]
        rows.append(
            (
                name,
                result["exports"],
                f"{result['seconds']:.1f}",
                f"{result['seconds'] / least:.3f}",
                f"{like.makespan / like.least:.3f}",
                f"{polls:.1f}",
                f"{like.polls:.1f}",
                stats["peak_exports"],
                f"{like.peak:.0f}",
            )
        )
    header = (
        *("sandbox", "exports", "makespan s", "of bound", "simulated", "polls per export", "simulated"),
        *("peak in flight", "simulated"),
    )
    return table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--strategy", action="append", choices=list(STRATEGIES), help="only these")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--plot", type=Path, help="of all strategies")
    parser.add_argument("--no-sandbox", action="store_true")
    options = parser.parse_args()
    strategies: list[str] = options.strategy or list(STRATEGIES)
    if options.plot and len(strategies) < len(STRATEGIES):
        parser.error("the plot compares all strategies")
    print(f"{machine()}; means of {options.seeds} seeds\n")
    jobs = [(case, strategy, seed) for case in CASES for strategy in strategies for seed in range(options.seeds)]
    random.Random(0).shuffle(jobs)  # long and short ones mixed
    with ProcessPoolExecutor(options.processes) as processes:
        measured = dict(
            zip(((case.name, strategy, seed) for case, strategy, seed in jobs), processes.map(_job, jobs), strict=True)
        )
    results = {
        (case.name, strategy): mean([measured[case.name, strategy, seed] for seed in range(options.seeds)])
        for case in CASES
        for strategy in strategies
    }
    print(report(results, strategies))
    if options.plot:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        draw(results, options.plot)
    large = Case("10,000 windows", Model(workers=64, sigma=0.6), 10_000 / 64)
    began = perf_counter()
    one = measure(large, OURS, 0)
    print(
        f"\n{one.exports:,} windows, 64 workers, log-normal, 1 min: {one.makespan / 3600:.1f} h of server time in "
        f"{perf_counter() - began:.0f} s; makespan {one.makespan / one.least:.3f} of its bound, {one.polls:.1f} polls "
        f"per export, {one.throttled} responses 429"
    )
    if not options.no_sandbox:
        print(f"\n{confirm()}")


if __name__ == "__main__":
    main()
