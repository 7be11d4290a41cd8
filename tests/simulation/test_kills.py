"""As many pulls that are killed and taken up, some of them several times."""

from __future__ import annotations

import pytest

from tests.simulation.schedule import AT_ONCE, SEEDS, check_seeds


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_every_window_is_merged_once_whatever_kills_the_pull(first: int) -> None:
    check_seeds(first, killed=True)
