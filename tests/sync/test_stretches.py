"""How settled time is divided."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from bulkpull.sync.state import span
from bulkpull.sync.stretches import STRETCHES, cut_out, joined, overlaps, stretches, without
from bulkpull.window import Window

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
MS = timedelta(milliseconds=1)


def at(number: int) -> datetime:
    return EPOCH + number * MS


@st.composite
def spans(draw: st.DrawFn) -> Window:
    start, length = draw(st.integers(0, 60)), draw(st.integers(1, 20))
    return span(at(start), at(start + length))


def instants(windows: list[Window]) -> set[int]:
    return {number for window in windows for number in range((window.start - EPOCH) // MS, (window.end - EPOCH) // MS)}


@given(st.integers(0, 10**13), st.integers(0, 1000))
def test_stretches_tile_the_range(length: int, revision: int) -> None:
    found = stretches(EPOCH, EPOCH + length // 10 * MS, revision)
    assert len(found) <= STRETCHES
    assert [window.start for window in found[1:]] == [window.end for window in found[:-1]]
    if length >= 10:
        assert (found[0].start, found[-1].end) == (EPOCH, EPOCH + length // 10 * MS)
    assert all(window.start < window.end for window in found)


def test_younger_stretches_are_shorter() -> None:
    found = stretches(EPOCH, EPOCH + timedelta(days=89), 7)
    lengths = [window.end - window.start for window in found[1:-1]]
    assert lengths == sorted(lengths, reverse=True)
    assert found[-2].end - found[-2].start < timedelta(days=1)


def test_two_moments_within_a_stretch_are_told_apart_by_later_runs() -> None:
    """A late row and a deletion that cancel out."""
    range_ = EPOCH, EPOCH + timedelta(days=89)
    one, other = EPOCH + timedelta(days=20), EPOCH + timedelta(days=21)
    apart = [
        revision
        for revision in range(30)
        if not any(window.start <= one and other < window.end for window in stretches(*range_, revision))
    ]
    assert len(apart) >= 3


@given(st.lists(spans(), max_size=6), st.lists(spans(), max_size=6))
def test_windows_are_sets_of_instants(some: list[Window], removed: list[Window]) -> None:
    union = joined(some)
    assert instants(union) == instants(some)
    assert not any(overlaps(one, other) for one in union for other in union if one is not other)
    left = without(union, removed)
    assert instants(left) == instants(some) - instants(removed)
    assert left == sorted(left, key=lambda window: window.start)


@given(st.lists(spans(), max_size=6))
def test_what_is_cut_out_is_a_window_of_its_own(cuts: list[Window]) -> None:
    apart = joined(cuts)
    tiles = [span(at(0), at(30)), span(at(30), at(70))]
    found = cut_out(tiles, apart)
    within = [cut for cut in apart if cut.end <= at(70)]
    assert all(cut in found for cut in within)
    assert instants(found) == set(range(70))
    assert sum((window.end - window.start) // MS for window in found) == 70
