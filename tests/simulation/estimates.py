"""Estimates of the time that is left, judged by how long a pull on a simulated server then takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import anyio

from bulkpull import Progress, pull
from bulkpull.eta import Estimate
from tests.simulation.clock import loop_time, simulated
from tests.simulation.schedule import memory
from tests.simulation.server import END, START, Server, SimulatedClickwrap

FROM = 0.2  # of the run: earlier estimates are not judged
MOMENTS = 50  # of a run


@dataclass(frozen=True, slots=True)
class Judged:
    """The estimates of one run, from `FROM` on: the true seconds left, and what was shown."""

    makespan: float
    moments: tuple[tuple[float, Estimate | None], ...]

    @property
    def shown(self) -> list[tuple[float, Estimate]]:
        """The moments with an estimate."""
        return [(left, estimate) for left, estimate in self.moments if estimate]


def judge(server: Server, rows_per_export: int, moments: int = MOMENTS) -> Judged:
    """Run a pull, and read its progress at about as many moments."""
    model, rows = server.model, len(server.moments)
    work = rows / rows_per_export * model.seconds + rows * model.seconds_per_row
    interval = work / model.workers / moments
    makespan, seen = simulated(server.seed, lambda: _run(server, rows_per_export, interval))
    return Judged(makespan, tuple((makespan - at, shown) for at, shown in seen if at >= FROM * makespan))


async def _run(
    server: Server, rows_per_export: int, interval: float
) -> tuple[float, list[tuple[float, Estimate | None]]]:
    seen: list[tuple[float, Estimate | None]] = []
    began = anyio.current_time()
    progress = Progress(loop_time)

    async def watch() -> None:
        while True:
            await anyio.sleep(interval)
            seen.append((anyio.current_time() - began, progress.estimate))

    with memory() as directory:
        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            await pull(
                SimulatedClickwrap(server, server.model.requests_per_minute * 9 // 10),
                start=START,
                end=END,
                out=directory / "activity.csv",
                rows_per_export=rows_per_export,
                max_windows=100_000,
                export_timeout=1e6,
                max_extra_exports=100_000,
                on_event=progress,
            )
            took = anyio.current_time() - began
            group.cancel_scope.cancel()
    return took, seen


def figures(judged: Sequence[Judged]) -> tuple[float, float, float, float]:
    """Return the share shown, the share in range, the median relative error, and the median ratio of the bounds."""
    shown = [one for run in judged for one in run.shown]
    if not shown:
        return 0.0, 1.0, 0.0, 1.0
    return (
        len(shown) / sum(len(run.moments) for run in judged),
        sum(one.low <= left <= one.high for left, one in shown) / len(shown),
        median(abs(one.middle - left) / left for left, one in shown),
        median(one.high / max(one.low, 1e-9) for _, one in shown),
    )
