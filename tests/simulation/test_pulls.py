"""Thousands of pulls, each drawn from its seed: faults, splits, small quotas, servers of all kinds.

A seed that fails does so again: `check(followed(seed))`.
"""

from __future__ import annotations

import pytest

from tests.simulation.schedule import AT_ONCE, SEEDS, check_seeds, followed


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_every_window_is_merged_once_within_the_limits(first: int) -> None:
    check_seeds(first, killed=False)


@pytest.mark.parametrize("seed", [1, 2, 3, 5, 8])
def test_the_same_seed_is_the_same_again(seed: int) -> None:
    first, second = followed(seed, killed=True), followed(seed, killed=True)
    assert first.log == second.log
    assert first.errors == second.errors
    assert first.rows == second.rows
