"""Which window is launched next."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from bulkpull import Window
from bulkpull.pacing.durations import Durations
from bulkpull.pacing.launch_queue import Order
from bulkpull.pacing.limits import Flight
from bulkpull.pull.journey import Journey
from tests.simulation.clock import simulated

DAY = datetime(2024, 1, 1, tzinfo=UTC)


def launched(rows: Sequence[int | None], exports: int) -> list[int]:
    """The windows in the order of their launch."""
    windows = [Window(number, DAY + timedelta(days=number), DAY, counted) for number, counted in enumerate(rows)]

    async def main() -> list[int]:
        order = Order(map(Journey, windows), Flight(exports, exports), Durations(1800))
        return [order.next().window.index for _ in range(len(order))]

    return simulated(0, main)


def test_in_the_order_of_the_plan_until_so_little_is_left_that_the_largest_might_end_last() -> None:
    order = launched([10] * 40 + [50, 10, 10, 20, 10], exports=4)
    assert order[:10] == list(range(10))
    assert 10 <= order.index(40) < 15
    assert order.index(43) < 44
    assert sorted(order) == list(range(45))


def test_largest_first_where_there_are_few() -> None:
    assert launched([1, 5, 3, 9, 2], exports=3) == [3, 1, 2, 4, 0]


def test_in_the_order_of_the_plan_where_nothing_was_counted() -> None:
    assert launched([None] * 6, exports=3) == list(range(6))
