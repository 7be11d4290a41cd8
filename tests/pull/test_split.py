"""Where a window is cut in two."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull import Window
from bulkpull.pull.split import LEAST_LENGTH, LEAST_ROWS, middle
from tests.simulation.clock import simulated
from tests.simulation.server import Model, Server, SimulatedClickwrap

START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def cut(
    window: Window, moments: list[datetime], *, counting: bool = True
) -> tuple[datetime, int | None, int | None] | None:
    clickwrap = SimulatedClickwrap(Server(Model(counting=counting), moments))
    return simulated(0, partial(middle, clickwrap, window, ""))


@given(st.integers(0, 10**6), st.floats(0.2, 9), st.booleans())
def test_about_as_many_lie_before_as_after(seed: int, skew: float, known: bool) -> None:
    luck = random.Random(seed)
    moments = sorted(START + DAY * 0.999 * luck.random() ** skew for _ in range(5000))
    found = cut(Window(3, START, START + DAY, 5000 if known else None), moments)
    assert found is not None
    at, before, after = found
    assert START < at < START + DAY
    assert before is not None
    assert before == sum(moment < at for moment in moments)
    assert before + (after or 0) == 5000
    assert 1 / 3 <= before / 5000 <= 2 / 3


def test_a_burst_is_homed_in_on() -> None:
    moments = [START + timedelta(hours=23, minutes=50, seconds=number / 20) for number in range(5000)]
    found = cut(Window(0, START, START + DAY, 5000), moments)
    assert found is not None
    assert 0 < (found[1] or 0) < 5000


def test_without_counts_the_middle_of_the_time_it_is() -> None:
    assert cut(Window(0, START, START + DAY), [], counting=False) == (START + DAY / 2, None, None)
    assert cut(Window(0, START, START + DAY, 9000), [], counting=False) == (START + DAY / 2, None, None)


@pytest.mark.parametrize(
    "window",
    [
        Window(0, START, START + LEAST_LENGTH),
        Window(0, START, START + DAY, LEAST_ROWS),
        Window(0, START, START + DAY),  # counted, it has none
    ],
)
def test_what_is_small_is_not_cut(window: Window) -> None:
    assert cut(window, []) is None
