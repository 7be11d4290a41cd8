"""Downloads wait while too much waits for the merge, and never for what the merge waits for."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull.pacing import Backpressure, backpressure
from bulkpull.window import Window

WINDOWS = [
    Window(number, datetime(2024, 1, 1 + number, tzinfo=UTC), datetime(2024, 1, 2 + number, tzinfo=UTC))
    for number in range(4)
]


def startable(spooled: Backpressure, windows: Iterable[Window] = WINDOWS) -> list[int]:
    """The windows of which a download may start."""
    return [window.index for window in windows if spooled.may_start(window)]


@pytest.mark.parametrize(
    ("downloaded", "may_start"),
    [
        ([], [0, 1, 2, 3]),
        ([(1, 60)], [0, 1, 2, 3]),
        ([(1, 99)], [0, 1, 2, 3]),
        ([(1, 60), (2, 40)], [0]),  # which the merge awaits
        ([(0, 100)], [0]),
        ([(3, 1000)], [0]),
    ],
)
def test_only_what_the_merge_awaits_may_start_while_the_spool_is_full(
    downloaded: list[tuple[int, int]], may_start: list[int]
) -> None:
    spooled = Backpressure(100, WINDOWS)
    for window in WINDOWS:
        spooled.export_succeeded(window, 2)
    for index, size in downloaded:
        spooled.part_downloaded(WINDOWS[index], size)
    assert startable(spooled) == may_start


def test_downloads_start_again_once_windows_have_left() -> None:
    spooled = Backpressure(100, WINDOWS)
    for window in WINDOWS:
        spooled.export_succeeded(window, 1)
    spooled.part_downloaded(WINDOWS[1], 60)
    assert startable(spooled) == [0, 1, 2, 3]
    spooled.part_downloaded(WINDOWS[2], 40)
    assert startable(spooled) == [0]
    spooled.window_left(WINDOWS[0])
    assert startable(spooled, WINDOWS[1:]) == [1]  # the next that the merge awaits
    spooled.export_failed(WINDOWS[2])  # its part was damaged
    assert startable(spooled, WINDOWS[1:]) == [1, 2, 3]


def test_a_resumed_merge_awaits_its_first_window() -> None:
    spooled = Backpressure(1, WINDOWS[2:])
    spooled.export_succeeded(WINDOWS[3], 1)
    spooled.part_downloaded(WINDOWS[3], 60)
    assert startable(spooled, WINDOWS[2:]) == [2]


def test_a_download_waits_while_enough_can_be_merged_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backpressure, "MAX_MERGEABLE_BYTES", 100)
    spooled = Backpressure(1000, WINDOWS)
    spooled.export_succeeded(WINDOWS[0], 2)
    spooled.export_succeeded(WINDOWS[1], 1)
    spooled.part_downloaded(WINDOWS[0], 60)
    spooled.part_downloaded(WINDOWS[1], 60)
    assert spooled.may_start(WINDOWS[2])  # the merge awaits another part of the first window
    spooled.part_downloaded(WINDOWS[0], 40)
    assert not spooled.may_start(WINDOWS[2])
    spooled.window_left(WINDOWS[0])
    assert spooled.may_start(WINDOWS[2])


def halves_of(window: Window) -> tuple[Window, Window]:
    noon = window.start + (window.end - window.start) / 2
    return Window(4, window.start, noon), Window(5, noon, window.end)


def test_halves_take_the_place_of_the_window_and_what_is_skipped_is_not_awaited() -> None:
    spooled = Backpressure(1, WINDOWS)
    halves = halves_of(WINDOWS[0])
    spooled.window_split(WINDOWS[0], halves, is_merged=False)
    spooled.export_succeeded(WINDOWS[3], 1)
    spooled.part_downloaded(WINDOWS[3], 60)
    assert startable(spooled, halves) == [4]
    spooled.window_left(halves[0])
    assert startable(spooled, halves) == [4, 5]
    assert not spooled.may_start(WINDOWS[1])


def test_halves_of_a_merged_window_come_next_whether_or_not_it_has_left() -> None:
    for has_left in (True, False):
        spooled = Backpressure(1, WINDOWS)
        spooled.part_downloaded(WINDOWS[0], 60)
        if has_left:
            spooled.window_left(WINDOWS[0])
        halves = halves_of(WINDOWS[0])
        spooled.window_split(WINDOWS[0], halves, is_merged=True)
        spooled.part_downloaded(WINDOWS[3], 60)
        assert startable(spooled, [*halves, *WINDOWS[1:]]) == [4]
        spooled.window_left(WINDOWS[0])
        spooled.window_left(halves[0])
        assert startable(spooled, [*halves[1:], *WINDOWS[1:]]) == [5]


@given(st.lists(st.tuples(st.sampled_from(["exported", "downloaded", "failed", "left"]), st.integers(0, 3))))
def test_the_first_window_may_always_start_and_an_empty_spool_stops_nothing(steps: list[tuple[str, int]]) -> None:
    spooled, waiting = Backpressure(100, WINDOWS), list(WINDOWS)
    for step, index in steps:
        match step:
            case "exported":
                spooled.export_succeeded(WINDOWS[index], 1)
            case "downloaded":
                spooled.part_downloaded(WINDOWS[index], 60)
            case "failed":
                spooled.export_failed(WINDOWS[index])
            case _:
                spooled.window_left(WINDOWS[index])
                waiting = [window for window in waiting if window.index != index]
        assert startable(spooled, waiting[:1]) == [window.index for window in waiting[:1]]
    for window in WINDOWS:
        spooled.export_failed(window)
    assert startable(spooled) == [0, 1, 2, 3]


def test_launches_wait_while_exports_wait_for_downloads_that_may_not_start() -> None:
    windows = [
        Window(number, datetime(2024, 1, 1, number, tzinfo=UTC), datetime(2024, 1, 1, number + 1, tzinfo=UTC))
        for number in range(20)
    ]
    spooled = Backpressure(100, windows)
    for window in windows[1:]:
        spooled.export_succeeded(window, 2)
    spooled.part_downloaded(windows[1], 100)
    assert spooled.may_launch()  # the merge waits for the first window, which may have no export yet
    spooled.export_succeeded(windows[0], 1)
    assert not spooled.may_launch()
    for window in windows[backpressure.MAX_WAITING_EXPORTS :]:
        spooled.window_left(window)
    assert not spooled.may_launch()
    spooled.window_left(windows[2])
    assert spooled.may_launch()
    spooled.export_succeeded(windows[2], 1)
    assert not spooled.may_launch()
    spooled.export_failed(windows[1])
    assert spooled.may_launch()  # there is room for downloads again
