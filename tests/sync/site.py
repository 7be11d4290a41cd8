"""A site whose activity changes between syncs, and the syncs of it."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bulkpull
from bulkpull import Clickwrap, Export, RetryPolicy, SyncResult
from bulkpull.sandbox import Sandbox, SandboxConfig
from bulkpull.window import instant
from tests.sync.memory_table import MemoryTable

START = datetime(2024, 1, 1, tzinfo=UTC)
FIELDS = ["event_type"]


@dataclass
class Site:
    """The activity of a sandbox, by id, and a table in memory that is kept equal to it."""

    sandbox: Sandbox
    clickwrap: Clickwrap
    state: Path
    table: MemoryTable = field(default_factory=MemoryTable)
    activity: dict[str, dict[str, Any]] = field(default_factory=dict)
    random: random.Random = field(default_factory=lambda: random.Random(0))

    def add(self, first: datetime, last: datetime, number: int) -> list[str]:
        """Add activities within [first, last); return their ids."""
        added = []
        for _ in range(number):
            id = f"{self.random.getrandbits(96):024x}"
            moment = first + (last - first) * self.random.random()
            self.activity[id] = {"id": id, "created_time": instant(moment), "event_type": "sent", "signer_id": id[:5]}
            added.append(id)
        self.publish()
        return added

    def delete(self, *ids: str) -> None:
        for id in ids:
            del self.activity[id]
        self.publish()

    def change(self, id: str, **values: str) -> None:
        self.activity[id] |= values
        self.publish()

    def publish(self) -> None:
        self.sandbox.rows = sorted(self.activity.values(), key=lambda row: (row["created_time"], row["id"]))

    async def sync(self, end: datetime | str, **options: Any) -> SyncResult:
        if self.table.committed is None:
            options = {"start": START, "fields": FIELDS} | options
        defaults: dict[str, Any] = {"to": self.table, "end": end, "settle": 0, "state": self.state}
        return await bulkpull.sync(self.clickwrap, **defaults | options)

    def expected(self, end: datetime) -> dict[str, dict[str, str]]:
        """What a fresh pull would deliver."""
        return {
            id: {"event_type": row["event_type"], "created_time": row["created_time"]}
            for id, row in self.activity.items()
            if instant(START) <= row["created_time"] < instant(end)
        }

    def held(self) -> dict[str, dict[str, str | None]]:
        """What the table has."""
        return {
            id: {name: row[name] for name in ("event_type", "created_time")} for id, row in self.table.present().items()
        }


@asynccontextmanager
async def a_site(state: Path, faults: str = "", rows: int = 0, days: int = 100) -> AsyncIterator[Site]:
    """A sandbox with so many activities in the first `days`."""
    config = SandboxConfig(export_seconds=0.0, faults=faults)
    retry = RetryPolicy(base=0.01, cap=0.05)
    async with Sandbox(config, rows=[]) as sandbox, Clickwrap(sandbox.token, base_url=sandbox.url, retry=retry) as api:
        site = Site(sandbox, api, state)
        site.add(START, START + timedelta(days=days), rows)
        yield site


def fail_exports(site: Site, fails: Callable[[str], bool]) -> None:
    """Let the exports whose filter `fails` accepts fail at the API."""
    start_export = site.clickwrap.start_export
    numbers = itertools.count()

    async def failing(filter: str, fields: Sequence[str] = ()) -> Export:
        if fails(filter):
            return Export(f"failing-{next(numbers)}", "failed", "failed", "an internal error")
        return await start_export(filter, fields)

    site.clickwrap.start_export = failing  # type: ignore[method-assign]
