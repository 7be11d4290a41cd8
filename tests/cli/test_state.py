"""What the progress shows is counted from events."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bulkpull import Window
from bulkpull.cli.state import State
from bulkpull.events import Event, Exported, ExportFailed, Launched, PartFetched, Planned, Split, WindowMerged

WINDOWS = [Window(at, datetime(2024, 1, 1 + at, tzinfo=UTC), datetime(2024, 1, 2 + at, tzinfo=UTC)) for at in range(4)]


def seen(*events: Event) -> State:
    state = State()
    for event in (Planned(tuple(WINDOWS[:2])), Launched(WINDOWS[0], "e", 1), *events):
        state(event)
    return state


def figures(state: State) -> tuple[int, int, int, int, int]:
    return state.windows, state.in_flight, state.exports_launched, state.exports_done, state.parts


def test_counts_exports() -> None:
    assert figures(seen()) == (2, 1, 1, 0, 0)
    assert figures(seen(Exported(WINDOWS[0], "e", 3, 1.0))) == (2, 0, 1, 1, 3)


@pytest.mark.parametrize("delivered", [False, True])
def test_pieces_take_the_place_of_their_window(delivered: bool) -> None:
    events: tuple[Event, ...] = (ExportFailed(WINDOWS[0], "e", 1, "too large"),)
    if delivered:
        events = (Exported(WINDOWS[0], "e", 3, 1.0), PartFetched(WINDOWS[0], 1, 9))
    state = seen(*events, Split(WINDOWS[0], tuple(WINDOWS[2:]), "truncated"))
    assert figures(state) == (3, 0, 0, 0, 0)
    assert state.downloaded.total() == 0
    state(Launched(WINDOWS[2], "f", 1))
    assert figures(state) == (3, 1, 1, 0, 0)


def test_pieces_of_a_merged_window_come_in_addition() -> None:
    merged = (Exported(WINDOWS[0], "e", 1, 1.0), WindowMerged(WINDOWS[0]))
    state = seen(*merged, Split(WINDOWS[0], tuple(WINDOWS[2:]), "truncated", is_merged=True))
    assert figures(state) == (4, 0, 1, 1, 1)
    assert state.merged == 1
