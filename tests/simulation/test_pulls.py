"""Thousands of pulls, each drawn from its seed: faults, splits, small quotas, servers of all kinds.

A seed that fails does so again: `check(followed(seed))`.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from bulkpull.events import Limited
from tests.simulation.schedule import AT_ONCE, SEEDS, check_seeds, followed


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_every_window_is_merged_once_within_the_limits(first: int) -> None:
    check_seeds(first, killed=False)


def test_limits_are_told_whenever_they_change_and_only_then() -> None:
    # Limits start anew in each run, so only the first run is checked.
    outcomes = [outcome for outcome in map(followed, range(30, 50)) if not outcome.errors]
    told = [[event for event in outcome.log if isinstance(event, Limited)] for outcome in outcomes]
    assert all(one != another for limits in told for one, another in pairwise(limits))
    fixed = [limits for outcome, limits in zip(outcomes, told, strict=True) if outcome.options["exports"]]
    assert any(fixed)  # the number of downloads adapts in these too


@pytest.mark.parametrize("seed", [1, 2, 3, 5, 8])
def test_the_same_seed_is_the_same_again(seed: int) -> None:
    first, second = followed(seed, killed=True), followed(seed, killed=True)
    assert first.log == second.log
    assert first.errors == second.errors
    assert first.rows == second.rows
