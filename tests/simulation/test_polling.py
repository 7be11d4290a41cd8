"""When exports are polled in a pull: on simulated servers, on a clock that jumps."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import anyio
import pytest

from bulkpull import pull
from tests.simulation.clock import simulated
from tests.simulation.schedule import memory
from tests.simulation.server import END, START, Model, Server, SimulatedClickwrap, evenly


def pulled(model: Model, windows: int, **options: Any) -> Server:
    """What a server saw of a pull of so many windows of five rows each."""
    return timed(model, windows, 7, **options)[0]


def timed(model: Model, windows: int, seed: int, **options: Any) -> tuple[Server, float]:
    """The same, and the seconds that the pull took."""
    server = Server(model, evenly(5 * windows, START, END), seed)

    async def main() -> float:
        with memory() as directory:
            every: dict[str, Any] = {"rows_per_export": 5, "export_timeout": 1e6, "out": directory / "a.csv"}
            await pull(SimulatedClickwrap(server), start=START, end=END, **(every | options))
            return anyio.current_time()

    return server, simulated(seed, main)


@pytest.mark.parametrize("seconds", [1, 3600])
@pytest.mark.parametrize(("workers", "sigma"), [(2, 0.0), (8, 0.6)])
def test_finished_exports_are_noticed_soon_and_with_few_polls(seconds: float, workers: int, sigma: float) -> None:
    server = pulled(Model(workers=workers, seconds=seconds, sigma=sigma), 30 * workers)
    tasks = server.tasks.values()
    duration = fmean(task.finished - task.launched for task in tasks)
    delay = fmean((task.detected or 0) - task.finished for task in tasks)
    assert delay <= max(0.75, (0.065 if sigma else 0.05) * duration)
    assert fmean(task.polls for task in tasks) <= 6.5
    assert server.throttled == 0


def test_polls_leave_half_of_the_quota_to_launches() -> None:
    server = pulled(Model(workers=64, seconds=0.1, latency=0.01, requests_per_minute=2000), 450, exports=64)
    assert server.requests["GET"] <= 1.3 * server.requests["POST"]
    assert server.throttled == 0


def test_an_export_may_wait_longer_than_its_timeout_for_others() -> None:
    server = pulled(Model(workers=1, seconds=3000), 12, exports=12, export_timeout=3600)
    assert len(server.tasks) == 12


@pytest.mark.parametrize("seed", [26, 27, 43])  # their exports end just after a poll of a sparser schedule
def test_a_small_pull_ends_soon_after_its_export(seed: int) -> None:
    server, seconds = timed(Model(seconds=1, spread=0.5, latency=0.02), 1, seed)
    [task] = server.tasks.values()
    assert seconds - task.finished <= 0.3
    assert task.polls <= 10


def test_the_queue_of_short_exports_stays_short_and_no_worker_is_idle() -> None:
    server, seconds = timed(Model(workers=8, seconds=2, sigma=0.6, latency=0.02), 53, 7, window="14d")
    assert server.peak <= 2 * 8
    assert seconds <= 1.05 * server.unforeseen
    assert fmean(task.polls for task in server.tasks.values()) <= 6.5
    assert server.throttled == 0
