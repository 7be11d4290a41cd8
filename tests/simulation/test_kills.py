"""Thousands of pulls that are killed and resumed, some of them several times."""

from __future__ import annotations

import pytest

from tests.simulation.schedule import AT_ONCE, SEEDS, check_seeds


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_merges_every_window_once_despite_kills(first: int) -> None:
    check_seeds(first, killed=True)
