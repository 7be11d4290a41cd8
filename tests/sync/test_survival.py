"""A few of the seeded histories of a site and its syncs; `make soak` has many more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sync.survival import MemoryPlace, survive
from tests.tables.places import Place


@pytest.mark.parametrize("place", ["postgres"], indirect=True)
async def test_after_any_history_the_table_equals_the_site(place: Place, tmp_path: Path) -> None:
    await survive(5, place, tmp_path / "state")


@pytest.mark.parametrize("seed", range(1))
async def test_after_any_history_the_table_in_memory_equals_the_site(seed: int, tmp_path: Path) -> None:
    await survive(seed, MemoryPlace(), tmp_path / "state")
