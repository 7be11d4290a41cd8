"""The governor, on a clock that jumps: hours pass in milliseconds."""

from __future__ import annotations

import random
from contextlib import suppress

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull.clickwrap.quota import WINDOW, Governor
from bulkpull.errors import UsageError
from tests.clock import on_a_jumping_clock


class FixedWindowServer:
    """Counts as the API does. Another program may have opened the window before our first request."""

    def __init__(self, opened: float | None) -> None:
        self.since = opened
        self.count = 0
        self.most = 0

    def arrive(self, now: float) -> None:
        if self.since is None or now >= self.since + 60:
            self.since, self.count = now, 0
        self.count += 1
        self.most = max(self.most, self.count)


@given(
    seed=st.integers(0, 2**32),
    budget=st.integers(1, 40),
    requests=st.integers(1, 200),
    slowest=st.floats(0, 90),
    pause=st.floats(0, 20),
    opened=st.none() | st.floats(-60, 0),
)
def test_no_window_of_the_server_holds_more_than_the_budget(
    seed: int, budget: int, requests: int, slowest: float, pause: float, opened: float | None
) -> None:
    chance = random.Random(seed)

    async def main() -> int:
        start = anyio.current_time()
        server = FixedWindowServer(None if opened is None else start + opened)
        governor = Governor(budget)

        async def request() -> None:
            given_up = chance.random() < 0.2
            with suppress(TimeoutError):
                async with governor.place():
                    if given_up:  # and yet it arrives, some time later
                        group.start_soon(arrive, chance.uniform(0, 59))
                        await anyio.sleep(chance.uniform(0, 1))
                        raise TimeoutError
                    await arrive(chance.uniform(0, slowest))
                    await anyio.sleep(chance.uniform(0, slowest))

        async def arrive(after: float) -> None:
            await anyio.sleep(after)
            server.arrive(anyio.current_time())

        async with anyio.create_task_group() as group:
            for _ in range(requests):
                group.start_soon(request)
                if chance.random() < 0.2:
                    await anyio.sleep(chance.uniform(0, pause))
        return server.most

    assert on_a_jumping_clock(main) <= budget


def test_a_burst_within_the_budget_does_not_wait() -> None:
    async def main() -> tuple[float, float]:
        governor, start = Governor(1800), anyio.current_time()
        for _ in range(1800):
            async with governor.place():
                pass
        burst = anyio.current_time() - start
        async with governor.place():
            return burst, anyio.current_time() - start

    burst, next_one = on_a_jumping_clock(main)
    assert burst == 0
    assert next_one == pytest.approx(WINDOW, abs=0.1)


def test_a_sustained_load_uses_the_whole_budget() -> None:
    async def main() -> float:
        governor, start = Governor(100), anyio.current_time()

        async def request() -> None:
            async with governor.place():
                await anyio.sleep(0.05)

        async with anyio.create_task_group() as group:
            for _ in range(1000):
                group.start_soon(request)
        return anyio.current_time() - start

    # Ten bursts of a hundred, a minute apart: nine minutes, and the answers' time each.
    assert on_a_jumping_clock(main) == pytest.approx(9 * WINDOW, rel=0.01)


def test_requests_go_first_come_first_served() -> None:
    async def main() -> list[int]:
        governor, order = Governor(1), list[int]()

        async def request(number: int) -> None:
            async with governor.place():
                order.append(number)

        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(request, number)
        return order

    assert on_a_jumping_clock(main) == [0, 1, 2, 3, 4]


def test_a_429_holds_everybody_as_long_as_the_server_says() -> None:
    async def main() -> tuple[float, float]:
        governor, start = Governor(10), anyio.current_time()
        assert governor.throttled_at is None
        held = governor.throttled(17.0)
        assert governor.throttled_at == start
        async with governor.place():
            return held, anyio.current_time() - start

    assert on_a_jumping_clock(main) == pytest.approx((17.0, 17.0), abs=0.01)


def test_without_retry_after_the_hold_doubles_until_an_answer_comes() -> None:
    async def main() -> list[float]:
        governor, holds = Governor(10), list[float]()
        for _ in range(3):
            holds.append(governor.throttled(None))
            await anyio.sleep(holds[-1])
        governor.accepted()
        holds.append(governor.throttled(None))
        return holds

    assert on_a_jumping_clock(main) == pytest.approx([2, 4, 8, 2], abs=0.01)


def test_several_429_at_once_are_one_hold() -> None:
    async def main() -> list[float]:
        governor = Governor(10)
        return [governor.throttled(None) for _ in range(5)]

    assert on_a_jumping_clock(main) == pytest.approx([2] * 5, abs=0.01)


def test_a_cancelled_wait_gives_its_turn_on() -> None:
    async def main() -> bool:
        governor = Governor(1)
        async with governor.place():
            with anyio.move_on_after(1):
                async with governor.place():
                    pass
        with anyio.move_on_after(WINDOW + 1):
            async with governor.place():
                return True
        return False

    assert on_a_jumping_clock(main)


@pytest.mark.parametrize("budget", [0, -1, 2001])
def test_impossible_budgets_are_refused(budget: int) -> None:
    with pytest.raises(UsageError, match="requests per minute"):
        Governor(budget)
