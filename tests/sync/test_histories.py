"""Random histories: whatever happened, a table ends equal to the site."""

from __future__ import annotations

import os
import random
from datetime import timedelta
from pathlib import Path

import pytest

from bulkpull.errors import OutputError, ShrinkError
from bulkpull.events import Event
from bulkpull.tables import Changes, Delivery, Policy
from bulkpull.window import instant
from tests.sync.memory_table import MemoryTable
from tests.sync.site import START, Site, a_site

DAY = timedelta(days=1)
SEEDS = -(-int(os.environ.get("BULKPULL_SEEDS", "7")) // 10)


class Killed(Exception):  # noqa: N818
    """Ends a run from within."""


class UnsteadyTable(MemoryTable):
    """A table that sometimes loses its connection, before or after a commit."""

    chance: random.Random

    def replace(self, delivery: Delivery, policy: Policy) -> Changes:
        luck = self.chance.random()
        if luck < 0.1:
            raise OutputError("the connection was lost before the commit")
        changes = super().replace(delivery, policy)
        if luck < 0.2:
            raise OutputError("the connection was lost after the commit")
        return changes


def live(site: Site, chance: random.Random, day: int) -> None:
    """A day at the site: activity arrives on time and late, and is deleted, changed and moved."""
    end = START + day * DAY
    site.add(end - DAY, end, chance.randrange(10))
    for _ in range(chance.randrange(4)):
        late = START + (end - START) * chance.random()
        site.add(late, late + timedelta(seconds=1), 1)
    ids = list(site.activity)
    if ids and chance.random() < 0.5:
        site.delete(*chance.sample(ids, min(len(ids), chance.choice([1, 1, 3]))))
    ids = list(site.activity)
    if ids and chance.random() < 0.3:
        site.change(chance.choice(ids), event_type=f"changed-{day}")
    if ids and chance.random() < 0.3:
        site.change(chance.choice(ids), created_time=instant(START + (end - START) * chance.random()))


def killer(chance: random.Random) -> int:
    return chance.choice([5, 20, 60, 10**6, 10**6, 10**6])


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_a_table_ends_equal_to_the_site(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with a_site(tmp_path, rows=100, days=20) as site:
        table = site.table = UnsteadyTable()
        table.chance = chance
        day = 20
        for _ in range(7):
            day += chance.choice([0, 1, 1, 3])
            live(site, chance, day)
            left = killer(chance)

            def listen(_event: Event) -> None:
                nonlocal left
                left -= 1
                if not left:
                    raise Killed

            options = {
                "lookback": chance.choice(["0", "1d", "3d"]),
                "recheck": chance.choice(["0", "10d", "all"]),
                "rows_per_export": chance.choice([3, 20, 100_000]),
                "full_recheck": chance.random() < 0.1,
            }
            try:
                found = await site.sync(START + day * DAY, on_event=listen, **options)
            except (Killed, OutputError, ShrinkError):
                continue
            assert found.complete, seed
            assert found.frontier <= START + day * DAY
        table.chance = random.Random("steady")
        table.chance.random = lambda: 1.0  # type: ignore[method-assign]
        end = START + day * DAY
        await site.sync(end)
        await site.sync(end, full_recheck=True)
        assert site.held() == site.expected(end), seed
        quiet = await site.sync(end)
        assert (quiet.exports, quiet.rewritten) == (0, 0), seed
