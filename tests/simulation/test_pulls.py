"""Thousands of pulls, each drawn from its seed: faults, kills, splits, small quotas, servers of all kinds.

A seed that fails does so again: `followed(seed)`.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.schedule import check, followed

SEEDS = int(os.environ.get("BULKPULL_SEEDS", "2000"))
AT_ONCE = 50


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_every_window_is_merged_once_within_the_limits(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        try:
            check(followed(seed))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.parametrize("seed", [1, 2, 3, 5, 8])
def test_the_same_seed_is_the_same_again(seed: int) -> None:
    first, second = followed(seed), followed(seed)
    assert first.log == second.log
    assert first.errors == second.errors
    assert first.rows == second.rows
