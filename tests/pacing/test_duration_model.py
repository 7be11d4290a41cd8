"""What is learned from durations, and the polls that follow from it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull.pacing.duration_model import DurationModel, Observation, fit


def observed(seconds: Sequence[float], precision: float = 0.02) -> list[Observation]:
    return [Observation(second * (1 - precision), second * (1 + precision)) for second in seconds]


@pytest.mark.parametrize(
    ("observations", "median", "spread"),
    [
        (observed([60]), 60, 0.5),  # one leaves much open
        (observed([60] * 5), 60, 0.1),
        (observed([60] * 50), 60, 0.01),
        (observed([30, 120]), 60, 0.69),
        (observed([40, 90] * 20), 60, 0.41),
        (observed([0.001, 100_000]), 10, 2.0),
        ([Observation(50, 70)] * 40, 60, 0.01),  # how vaguely it is known is not how much they differ
        ([Observation(0, 0)], 0.001, 0.5),
    ],
)
def test_median_and_spread_fit_the_observations(observations: list[Observation], median: float, spread: float) -> None:
    model = fit([Observation(one.lower, max(one.upper, 1e-3)) for one in observations])
    assert model.median == pytest.approx(median, rel=0.01)
    assert model.spread == pytest.approx(spread, abs=0.015)


@pytest.mark.parametrize("sigma", [0.2, 0.6])
def test_the_model_that_made_the_durations_is_found(sigma: float) -> None:
    luck = random.Random(1)
    model = fit(observed([100 * luck.lognormvariate(0, sigma) for _ in range(400)]))
    assert model.median == pytest.approx(100, rel=0.1)
    assert model.spread == pytest.approx(sigma, rel=0.15)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(1e-3, 1e6)), min_size=1, max_size=64))
def test_the_median_lies_among_the_observations(bounds: list[tuple[float, float]]) -> None:
    observations = [Observation(lower, lower + width) for lower, width in bounds]
    model = fit(observations)
    seconds = [observation.seconds for observation in observations]
    assert min(seconds) * 0.999 <= model.median <= max(seconds) * 1.001
    assert 0.01 <= model.spread <= 2


SPREADS = st.floats(0.01, 2).map(lambda value: round(value, 2))


@given(spread=SPREADS, median=st.floats(0.01, 1e5), elapsed=st.floats(0, 1e6), is_urgent=st.booleans())
def test_the_next_poll_is_later_and_never_very_late(
    spread: float, median: float, elapsed: float, is_urgent: bool
) -> None:
    model = DurationModel(median, spread)
    due = model.next_poll(elapsed, is_urgent=is_urgent)
    assert due > elapsed
    assert due <= max(median * math.exp(2.5 * spread), elapsed * 2 + 2 * median * math.exp(2 * spread))
    assert model.next_poll(elapsed, is_urgent=True) <= due


@given(spread=SPREADS, median=st.floats(0.01, 1e5), share=st.floats(0, 10), jitter=st.floats(0.7, 1.3))
def test_a_longer_jitter_and_a_later_look_never_bring_the_poll_forward(
    spread: float, median: float, share: float, jitter: float
) -> None:
    model = DurationModel(median, spread)
    due = model.next_poll(share * median, jitter=jitter)
    tolerance = 1 + 1e-9
    assert due <= tolerance * model.next_poll(share * median, jitter=1.3)
    assert due <= tolerance * model.next_poll(1.1 * share * median, jitter=jitter)


@pytest.mark.parametrize(("sigma", "polls", "delay"), [(0.02, 2.5, 0.03), (0.2, 5, 0.06), (0.6, 6, 0.11)])
def test_polls_and_delay_are_near_what_is_possible(sigma: float, polls: float, delay: float) -> None:
    """For 0.6, six polls cannot do better than 7 % of the duration on average, whoever places them."""
    luck = random.Random(3)
    model = DurationModel(100.0, sigma)
    asked, delays, durations = [], [], []
    for _ in range(2000):
        seconds = 100 * luck.lognormvariate(0, sigma)
        elapsed, count = 0.0, 0
        while True:
            elapsed, count = model.next_poll(elapsed), count + 1
            if elapsed >= seconds:
                break
        asked.append(count)
        delays.append(elapsed - seconds)
        durations.append(seconds)
    assert fmean(asked) < polls
    assert fmean(delays) / fmean(durations) < delay
