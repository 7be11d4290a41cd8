"""A few of the schedules of which `make soak` runs hundreds."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from bulkpull.sandbox.faults import KINDS
from tests.flows.survival import Survival, survive_faults, survive_kills, undisturbed


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return anyio.run(undisturbed, tmp_path_factory.mktemp("undisturbed") / "a.csv")


@pytest.mark.parametrize("seed", range(3))
async def test_survives_repeated_kills(tmp_path: Path, expected: bytes, seed: int) -> None:
    survival = await survive_kills(seed, tmp_path / "a.csv", expected)
    assert not survival.impossible


async def test_survives_every_fault(tmp_path: Path, expected: bytes) -> None:
    """The seeds include an outage, windows whose exports always fail, and failing runs."""
    survivals: list[Survival] = []
    four_at_a_time = anyio.CapacityLimiter(4)

    async def survive(seed: int) -> None:
        async with four_at_a_time:
            (tmp_path / str(seed)).mkdir()
            try:
                survivals.append(await survive_faults(seed, tmp_path / str(seed) / "a.csv", expected))
            except Exception as error:
                error.add_note(f"seed {seed}")
                raise

    async with anyio.create_task_group() as group:
        for seed in (2, *range(6, 18), 32):
            group.start_soon(survive, seed)

    def met() -> set[str]:
        return {kind for survival in survivals for kind in survival.faults}

    every_kind = {kind for kinds in KINDS.values() for kind in kinds}
    for seed in range(33, 53):  # which requests a seed's faults meet depends on timing: a rare kind may need more seeds
        if met() >= every_kind:
            break
        await survive(seed)
    assert met() >= every_kind
    assert not any(survival.impossible for survival in survivals)  # windows whose exports always fail are split


@pytest.mark.parametrize("seed", range(2))
async def test_survives_kills_and_faults_together(tmp_path: Path, expected: bytes, seed: int) -> None:
    await survive_kills(seed, tmp_path / "a.csv", expected, faults=f"everything:{seed}")
