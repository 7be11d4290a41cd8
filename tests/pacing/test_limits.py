"""How many exports are in flight, and how many files are streamed, by what is heard."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count

import anyio
import anyio.lowlevel
import pytest

from bulkpull import Window
from bulkpull.clickwrap.models import state_of
from bulkpull.events import Exported, ExportFailed, Launched, Polled, Received, Retried, Throttled
from bulkpull.pacing.limits import LOOK, START, STREAMS, Climb, Flight, Streams
from tests.simulation.clock import simulated

DAY = datetime(2024, 1, 1, tzinfo=UTC)


def windows() -> Iterator[Window]:
    for number in count():
        yield Window(number, DAY + timedelta(days=number), DAY + timedelta(days=number + 1), 100)


def launch(flight: Flight, window: Window, status: str) -> None:
    """An export is launched, and looked at early if that is wanted."""
    flight(Launched(window, str(window.index), 1))
    if flight.curious:
        flight(Polled(window, str(window.index), status, state_of(status, has_links=False), 1.0))


def finish(flight: Flight, window: Window) -> None:
    flight(Exported(window, str(window.index), 1, 60.0))


def test_it_grows_with_every_export_that_is_taken_at_once_until_some_wait() -> None:
    async def main() -> None:
        flight, coming = Flight(None, 128), windows()
        assert flight.limit == START
        for window in [next(coming) for _ in range(20)]:
            launch(flight, window, "started")
        assert flight.limit == START + 20
        launch(flight, next(coming), "scheduled")
        assert flight.limit == 40  # as many may wait as are worked on
        for window in [next(coming) for _ in range(50)]:
            launch(flight, window, "pending")
        assert flight.limit == 40

    simulated(0, main)


def test_exports_that_are_done_at_once_show_free_workers_too() -> None:
    async def main() -> None:
        flight, coming = Flight(None, 128), windows()
        for window in [next(coming) for _ in range(20)]:
            flight(Exported(window, "1", 1, 0.4))
        assert flight.limit == START + 20

    simulated(0, main)


def test_a_bound_is_kept_and_a_fixed_number_stays() -> None:
    async def main() -> None:
        bounded, fixed, coming = Flight(None, 6), Flight(10, 3), windows()
        for window in [next(coming) for _ in range(20)]:
            launch(bounded, window, "started")
            launch(fixed, window, "started")
            fixed(ExportFailed(window, "1", 1, "no"))
        fixed(Throttled("POST", 60.0))
        assert (bounded.limit, fixed.limit, fixed.curious) == (6, 10, False)

    simulated(0, main)


def test_once_some_wait_only_one_launch_in_eight_is_looked_at() -> None:
    async def main() -> None:
        flight, coming = Flight(None, 128), windows()
        launch(flight, next(coming), "started")
        launch(flight, next(coming), "scheduled")
        looked = 0
        for window in [next(coming) for _ in range(80)]:
            flight(Launched(window, "1", 1))
            looked += flight.curious
        assert looked == 10

    simulated(0, main)


def test_failures_and_429_lower_it() -> None:
    async def main() -> None:
        flight, coming = Flight(None, 128), windows()
        for window in [next(coming) for _ in range(36)]:
            launch(flight, window, "started")
        assert flight.limit == 40
        for number in range(40):
            window = next(coming)
            flight(ExportFailed(window, "1", 1, "no")) if number % 3 == 0 else finish(flight, window)
        assert flight.limit == 30
        flight(Throttled("POST", 60.0))
        flight(Throttled("POST", 60.0))  # of the same minute
        assert flight.limit == 15
        await anyio.sleep(61)
        flight(Throttled("POST", 60.0))
        assert flight.limit == 8

    simulated(0, main)


def test_what_an_earlier_run_left_in_flight_counts() -> None:
    async def main() -> None:
        flight = Flight(None, 20)
        flight.take_up(12)
        assert flight.limit == 12
        flight.take_up(3)
        assert flight.limit == 12

    simulated(0, main)


@pytest.mark.parametrize("workers", [1, 3, 12, 50])
def test_where_the_server_does_not_tell_the_rate_finds_it(workers: int) -> None:
    async def main() -> None:
        climb = Climb(START, 128)
        for _ in range(60):
            await anyio.sleep(10)
            climb.add(10 * min(climb.limit, workers))
            climb.measured()
            assert climb.limit <= max(2 * START, 3 * workers)
        assert 0.7 * workers <= climb.limit <= max(START, 1.6 * workers)

    simulated(0, main)


def test_streams_grow_while_more_comes_and_fall_when_transfers_break() -> None:
    async def main() -> None:
        streams, window = Streams(16), next(windows())
        for _ in range(STREAMS + 4):
            await streams.limiter.acquire_on_behalf_of(object()) if streams.limiter.available_tokens else None
        async with anyio.create_task_group() as group:
            group.start_soon(streams.limiter.acquire_on_behalf_of, object())
            await anyio.lowlevel.checkpoint()
            for _ in range(2):
                await anyio.sleep(LOOK)
                streams(Received(window, 1, 1000 * streams.limit))
            assert streams.limit == 2 * STREAMS
            group.cancel_scope.cancel()
        streams(Retried("part", 1, 1.0, "503"))
        assert streams.limit == 6

    simulated(0, main)


def test_one_outage_lowers_the_streams_once() -> None:
    async def main() -> None:
        streams, window = Streams(16), next(windows())
        streams.set(16)
        for _ in range(2):
            for _ in range(16):  # all streams are cut, each a little later than the one before
                streams(Retried("part", 1, 1.0, "cut"))
                await anyio.sleep(3 * LOOK)
                streams(Retried("part", 2, 1.0, "no answer"))
            before = streams.limit
            streams(Received(window, 1, 1000))  # the first to come back
            streams(Retried("part", 3, 1.0, "no answer"))  # another that does not yet
            assert streams.limit == before
            for _ in range(2):
                await anyio.sleep(LOOK)
                streams(Received(window, 1, 1000))
        assert before == 9  # two outages: 16, 12, 9

    simulated(0, main)
