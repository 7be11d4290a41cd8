"""When exports are asked for, by what is known of the server: on simulated servers, on a clock that jumps."""

from __future__ import annotations

from contextlib import ExitStack
from statistics import fmean
from typing import Any

import anyio
import pytest

from bulkpull import pull
from bulkpull.pacing.durations import Durations, Wait
from tests.simulation.clock import simulated
from tests.simulation.schedule import memory
from tests.simulation.server import END, START, Model, Server, SimulatedClickwrap, evenly


def pulled(model: Model, windows: int, **options: Any) -> Server:
    """What a server saw of a pull of so many windows of five rows each."""
    server = Server(model, evenly(5 * windows, START, END), 7)

    async def main() -> None:
        with memory() as directory:
            every: dict[str, Any] = {"rows_per_export": 5, "export_timeout": 1e6, "out": directory / "a.csv"}
            await pull(SimulatedClickwrap(server), start=START, end=END, **(every | options))

    simulated(7, main)
    return server


@pytest.mark.parametrize("seconds", [1, 60, 3600])
@pytest.mark.parametrize(("workers", "sigma"), [(2, 0.0), (8, 0.0), (8, 0.6)])
def test_finished_exports_are_noticed_soon_and_with_few_polls(seconds: float, workers: int, sigma: float) -> None:
    server = pulled(Model(workers=workers, seconds=seconds, sigma=sigma), 30 * workers)
    tasks = server.tasks.values()
    duration = fmean(task.finished - task.launched for task in tasks)
    delay = fmean((task.detected or 0) - task.finished for task in tasks)
    assert delay <= max(0.75, (0.065 if sigma else 0.05) * duration)
    assert fmean(task.polls for task in tasks) <= 6.5
    assert server.throttled == 0


def test_polls_leave_half_of_the_quota_to_launches() -> None:
    server = pulled(Model(workers=64, seconds=0.1, latency=0.01, requests_per_minute=2000), 900, exports=64)
    assert server.requests["GET"] <= 1.3 * server.requests["POST"]
    assert server.throttled == 0


def test_exports_begin_as_workers_become_free_and_what_is_seen_corrects_that() -> None:
    async def main() -> None:
        durations = Durations(1800)
        with ExitStack() as stack:
            waits = [stack.enter_context(durations.waiting(100, 0.0)) for _ in range(6)]
            for wait in waits[:3]:
                durations.see(wait, queued=False, at=1.0)
            durations.see(waits[4], queued=True, at=1.0)  # three workers, then
            assert begun(waits) == [0, 1, 2]
            await anyio.sleep(60)
            with durations.waiting(100, 60.0) as finished:
                assert finished.started is None
            assert begun(waits) == [0, 1, 2]
            durations.see(waits[5], queued=False, at=61.0)  # more than that, after all
            assert begun(waits) == [0, 1, 2, 3, 4, 5]
            durations.see(waits[2], queued=True, at=62.0)  # or fewer
            assert begun(waits) == [0, 1]

    simulated(0, main)


def begun(waits: list[Wait]) -> list[int]:
    return [number for number, wait in enumerate(waits) if wait.started is not None]


def test_waiting_for_a_worker_is_not_running() -> None:
    async def main() -> None:
        durations = Durations(1800)
        with ExitStack() as stack:
            running = stack.enter_context(durations.waiting(100, 0.0))
            with ExitStack() as later:
                queued = later.enter_context(durations.waiting(100, 0.0))
                durations.see(running, queued=False, at=1.0)
                durations.see(queued, queued=True, at=1.0)
                await anyio.sleep(500)
                assert (durations.running_since(running), durations.running_since(queued)) == (0, 1)
                with durations.waiting(100, 500.0) as behind:
                    durations.see(behind, queued=False, at=500.0)
                assert durations.running_since(queued) == 1  # what comes after it says nothing of it
                durations.learn(running, by=500.0)
                assert durations.running_since(queued) == 500
                durations.see(queued, queued=False, at=600.0)
                durations.see(queued, queued=True, at=700.0)
                assert durations.running_since(queued) <= 600  # whatever it is called then

    simulated(0, main)


def test_an_export_may_wait_longer_than_its_timeout_for_others() -> None:
    server = pulled(Model(workers=1, seconds=3000), 12, exports=12, export_timeout=3600)
    assert len(server.tasks) == 12


@pytest.mark.parametrize("others", [0, 1])
def test_an_export_that_stays_queued_is_asked_for_ever_less_often(others: int) -> None:
    async def polls() -> int:
        durations = Durations(1800)
        polls = 0
        with durations.waiting(10, 0.0) as stuck:
            for _ in range(others):  # launched later, and done
                with durations.waiting(10, 0.0) as other:
                    await anyio.sleep(1.0)
                    durations.see(other, queued=False, at=0.5)
                    durations.learn(other, by=1.0)
            while anyio.current_time() < 3600:
                durations.see(stuck, queued=True, at=anyio.current_time())
                await durations.next_poll(stuck, patience=3600.0)
                polls += 1
        return polls

    assert simulated(7, polls) < 120
