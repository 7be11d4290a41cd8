"""Which window is launched next."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull.pacing import LaunchQueue
from bulkpull.window import Window

DAY = datetime(2024, 1, 1, tzinfo=UTC)


def launched(rows: Sequence[int | None], exports: int) -> list[int]:
    """The windows in the order of their launch."""
    windows = [Window(number, DAY + timedelta(days=number), DAY, counted) for number, counted in enumerate(rows)]
    queue = LaunchQueue(windows)
    return [queue.pop(exports).index for _ in range(len(queue))]


@pytest.mark.parametrize(
    ("rows", "exports", "order"),
    [
        ([], 3, []),
        ([1, 5, 3, 9, 2], 3, [3, 1, 2, 4, 0]),  # few: the largest first
        ([None] * 6, 3, [0, 1, 2, 3, 4, 5]),  # uncounted: in plan order
        ([10] * 6, 1, [0, 1, 2, 3, 4, 5]),
        ([1, 1, 1, 1, 1, 1, 2], 1, [0, 1, 2, 3, 4, 6, 5]),  # in plan order while 4 rows are left, twice the largest
        ([None, 7, None, 7], 1, [0, 1, 3, 2]),
        ([None, 7, None, 7], 2, [1, 3, 0, 2]),
    ],
)
def test_windows_go_in_plan_order_until_little_is_left_and_then_the_largest_first(
    rows: Sequence[int | None], exports: int, order: list[int]
) -> None:
    assert launched(rows, exports) == order


def test_a_large_window_goes_before_it_might_end_last() -> None:
    order = launched([10] * 40 + [50, 10, 10, 20, 10], exports=4)
    assert order[:10] == list(range(10))
    assert 10 <= order.index(40) < 15
    assert order.index(43) < 44
    assert sorted(order) == list(range(45))


@given(st.lists(st.none() | st.integers(0, 10**6), max_size=40), st.integers(1, 130))
def test_each_window_goes_once_and_the_largest_never_among_the_last(rows: list[int | None], exports: int) -> None:
    order = launched(rows, exports)
    assert sorted(order) == list(range(len(rows)))
    for at, index in enumerate(order):
        largest = max((rows[other] or 0 for other in order[at:]), default=0)
        left = sum(rows[other] or 0 for other in order[at:])
        assert (rows[index] or 0) == largest or left >= 2 * largest * exports
