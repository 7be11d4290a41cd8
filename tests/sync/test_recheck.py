"""The choice of what is exported again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from bulkpull.sync.recheck import Choice, Item, choose, judge
from bulkpull.sync.state import Mismatch, span

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def items_of(rows: list[int], *, may_shrink: bool = True) -> list[Item]:
    """Items of a day each, with a day between."""
    return [
        Item(EPOCH + 2 * at * DAY, EPOCH + (2 * at + 1) * DAY, number, may_shrink) for at, number in enumerate(rows)
    ]


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=1, max_size=7),
    st.integers(0, 300),
)
def test_no_other_choice_has_fewer_exports_or_rows(drawn: list[tuple[int, int]], capacity: int) -> None:
    items, gaps = items_of([rows for rows, _ in drawn]), [gap for _, gap in drawn[1:]]
    chosen = choose(items, gaps, capacity)
    costs = []
    for cuts in product((False, True), repeat=len(gaps)):
        groups: list[list[int]] = [[items[0].rows]]
        for is_cut, gap, item in zip(cuts, gaps, items[1:], strict=True):
            if is_cut:
                groups.append([item.rows])
            else:
                groups[-1] += [gap, item.rows]
        if all(len(group) == 1 or sum(group) <= capacity for group in groups):
            costs.append((len(groups), sum(map(sum, groups))))
    assert (len(chosen), sum(choice.rows for choice in chosen)) == min(costs)
    assert [item for choice in chosen for item in choice.items] == items
    assert all(choice.window == span(choice.items[0].start, choice.items[-1].end) for choice in chosen)


def test_one_window_covers_late_rows_and_new_ones() -> None:
    items = items_of([10_000, 10_000, 20_000])
    [choice] = choose(items, [100_000, 80_000], 1_000_000)
    assert choice.window == span(items[0].start, items[-1].end)
    assert choice.rows == 220_000
    assert choice.narrowest_gain(1_000) is None  # no end has most of the rows


def test_only_an_end_with_most_of_the_rows_is_bisected() -> None:
    old, new = items_of([90_000, 20_000])
    choice = Choice(span(old.start, new.end), (old, new), 150_000)
    assert choice.narrowest_gain(1_000) == old
    assert choice.narrowest_gain(100_000) is None
    fixed = items_of([90_000, 20_000], may_shrink=False)
    assert Choice(choice.window, tuple(fixed), 150_000).narrowest_gain(1_000) is None


def test_a_count_is_wrong_if_an_export_has_not_changed_anything() -> None:
    windows = [span(EPOCH + at * DAY, EPOCH + (at + 1) * DAY) for at in range(5)]
    equal, fresh, lying, mended_in_part, known = windows
    found = judge(
        [
            Mismatch(equal, 5, 5),
            Mismatch(fresh, 6, 5),
            Mismatch(lying, 9, 5),
            Mismatch(mended_in_part, 9, 7),
            Mismatch(known, 14, 10),
        ],
        suspects=[Mismatch(lying, 9, 5), Mismatch(mended_in_part, 9, 5)],
        unreliable=[Mismatch(known, 9, 5)],
    )
    assert [one.window for one in found.differing] == [fresh, mended_in_part]
    assert [one.window for one in found.unreliable] == [lying, known]
    assert found.new_lies == 1
    changed = judge([Mismatch(known, 15, 10)], suspects=[], unreliable=[Mismatch(known, 9, 5)])
    assert [one.window for one in changed.differing] == [known]
