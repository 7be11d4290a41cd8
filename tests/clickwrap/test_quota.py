"""The request budget, on a virtual clock."""

from __future__ import annotations

import random
from contextlib import suppress

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull.clickwrap.quota import QUOTA_PERIOD_S, RequestBudget
from bulkpull.errors import UsageError
from tests.clock import on_a_jumping_clock


class FixedWindowServer:
    """Counts requests as the API does. Another program may have started the period before our first request."""

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
    per_minute=st.integers(1, 40),
    requests=st.integers(1, 200),
    slowest=st.floats(0, 90),
    pause=st.floats(0, 20),
    opened=st.none() | st.floats(-60, 0),
)
def test_no_period_of_the_server_exceeds_the_budget(
    seed: int, per_minute: int, requests: int, slowest: float, pause: float, opened: float | None
) -> None:
    chance = random.Random(seed)

    async def main() -> int:
        start = anyio.current_time()
        server = FixedWindowServer(None if opened is None else start + opened)
        budget = RequestBudget(per_minute)

        async def request() -> None:
            abandoned = chance.random() < 0.2
            with suppress(TimeoutError):
                async with budget.slot():
                    if abandoned:  # it still arrives some time later
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

    assert on_a_jumping_clock(main) <= per_minute


def test_a_burst_within_the_budget_is_not_delayed() -> None:
    async def main() -> tuple[float, float]:
        budget, start = RequestBudget(1800), anyio.current_time()
        for _ in range(1800):
            async with budget.slot():
                pass
        burst = anyio.current_time() - start
        async with budget.slot():
            return burst, anyio.current_time() - start

    burst, next_one = on_a_jumping_clock(main)
    assert burst == 0
    assert next_one == pytest.approx(QUOTA_PERIOD_S, abs=0.1)


def test_a_sustained_load_uses_the_whole_budget() -> None:
    async def main() -> float:
        budget, start = RequestBudget(100), anyio.current_time()

        async def request() -> None:
            async with budget.slot():
                await anyio.sleep(0.05)

        async with anyio.create_task_group() as group:
            for _ in range(1000):
                group.start_soon(request)
        return anyio.current_time() - start

    # Ten bursts of a hundred, a minute apart: nine minutes, plus the response times.
    assert on_a_jumping_clock(main) == pytest.approx(9 * QUOTA_PERIOD_S, rel=0.01)


def test_requests_are_granted_in_order_of_arrival() -> None:
    async def main() -> list[int]:
        budget, order = RequestBudget(1), list[int]()

        async def request(number: int) -> None:
            async with budget.slot():
                order.append(number)

        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(request, number)
        return order

    assert on_a_jumping_clock(main) == [0, 1, 2, 3, 4]


def test_a_429_blocks_all_requests_for_retry_after() -> None:
    async def main() -> tuple[float, float]:
        budget, start = RequestBudget(10), anyio.current_time()
        assert budget.throttled_at is None
        held = budget.note_throttled(17.0)
        assert budget.throttled_at == start
        async with budget.slot():
            return held, anyio.current_time() - start

    assert on_a_jumping_clock(main) == pytest.approx((17.0, 17.0), abs=0.01)


def test_without_retry_after_the_block_doubles_until_a_request_is_accepted() -> None:
    async def main() -> list[float]:
        budget, holds = RequestBudget(10), list[float]()
        for _ in range(3):
            holds.append(budget.note_throttled(None))
            await anyio.sleep(holds[-1])
        budget.note_accepted()
        holds.append(budget.note_throttled(None))
        return holds

    assert on_a_jumping_clock(main) == pytest.approx([2, 4, 8, 2], abs=0.01)


def test_simultaneous_429_responses_count_once() -> None:
    async def main() -> list[float]:
        budget = RequestBudget(10)
        return [budget.note_throttled(None) for _ in range(5)]

    assert on_a_jumping_clock(main) == pytest.approx([2] * 5, abs=0.01)


def test_a_cancelled_wait_lets_the_next_request_proceed() -> None:
    async def main() -> bool:
        budget = RequestBudget(1)
        async with budget.slot():
            with anyio.move_on_after(1):
                async with budget.slot():
                    pass
        with anyio.move_on_after(QUOTA_PERIOD_S + 1):
            async with budget.slot():
                return True
        return False

    assert on_a_jumping_clock(main)


@pytest.mark.parametrize("per_minute", [0, -1, 2001])
def test_rejects_budgets_out_of_range(per_minute: int) -> None:
    with pytest.raises(UsageError, match="requests per minute"):
        RequestBudget(per_minute)
