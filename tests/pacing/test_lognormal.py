"""What is learned from durations, and the polls that follow from it."""

from __future__ import annotations

import math
import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull.pacing.lognormal import Law, Took, fit


def took(seconds: float, rows: int = 0, ahead: int = 0) -> Took:
    return Took(rows, ahead, seconds * 0.98, seconds * 1.02)


def test_a_constant_is_learned_from_one_and_trusted_after_some() -> None:
    one, many = fit([took(60)], []), fit([took(60)] * 40, [])
    assert one.median(0, 0) == pytest.approx(60)
    assert many.median(0, 0) == pytest.approx(60)
    assert one.spread == 0.5
    assert many.spread < 0.03


def test_rows_explain_durations_where_they_do() -> None:
    law = fit([took(20 + rows / 10, rows=rows) for rows in (100, 900, 300, 2000, 50, 1200)], [])
    assert law.by == "rows"
    assert law.median(5000, 0) == pytest.approx(520, rel=0.05)
    assert law.spread < 0.1


def test_what_is_ahead_explains_them_where_the_server_works_in_turn() -> None:
    law = fit([took(15 * ahead + 15, rows=1000 + ahead % 2, ahead=ahead) for ahead in range(8, 60)], [])
    assert law.by == "ahead"
    assert law.median(1000, 100) == pytest.approx(1515, rel=0.05)


@pytest.mark.parametrize("sigma", [0.2, 0.6])
def test_spread_and_median_are_found(sigma: float) -> None:
    luck = random.Random(1)
    law = fit([took(100 * luck.lognormvariate(0, sigma), rows=luck.randrange(100)) for _ in range(400)], [])
    assert law.median(50, 0) == pytest.approx(100, rel=0.1)
    assert law.spread == pytest.approx(sigma, rel=0.15)


def test_the_first_to_finish_are_known_to_be_the_shortest() -> None:
    luck = random.Random(2)
    seconds = sorted(100 * luck.lognormvariate(0, 0.6) for _ in range(64))
    finished = [took(second) for second in seconds[:8]]
    running = [Took(0, 0, seconds[8]) for _ in seconds[8:]]
    naive, law = fit(finished, []), fit(finished, running)
    assert naive.median(0, 0) < 60
    assert 70 < law.median(0, 0) < 150


@given(
    spread=st.floats(0.01, 2).map(lambda value: round(value, 2)),
    median=st.floats(0.01, 1e5),
    known=st.floats(0, 1e6),
    hurry=st.booleans(),
)
def test_the_next_poll_is_later_and_never_very_late(spread: float, median: float, known: float, hurry: bool) -> None:
    law = Law(median, 0.0, "rows", spread)
    following = law.next_poll(median, known, hurry=hurry)
    assert following > known
    assert following <= max(median * math.exp(2.5 * spread), known * 2 + 2 * median * math.exp(2 * spread))
    assert law.next_poll(median, known, hurry=True) <= following


@pytest.mark.parametrize(("sigma", "polls", "delay"), [(0.02, 2.5, 0.03), (0.2, 5, 0.06), (0.6, 6, 0.11)])
def test_polls_and_delay_are_near_what_is_possible(sigma: float, polls: float, delay: float) -> None:
    """For 0.6, six polls cannot do better than 7 % of the duration on average, whoever places them."""
    luck = random.Random(3)
    law = Law(100.0, 0.0, "rows", sigma)
    asked, delays, durations = [], [], []
    for _ in range(2000):
        seconds = 100 * luck.lognormvariate(0, sigma)
        known, count = 0.0, 0
        while True:
            known, count = law.next_poll(100.0, known), count + 1
            if known >= seconds:
                break
        asked.append(count)
        delays.append(known - seconds)
        durations.append(seconds)
    assert fmean(asked) < polls
    assert fmean(delays) / fmean(durations) < delay
