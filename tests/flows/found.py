"""Pulls from a sandbox with faults, and assertions on their outcome."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

import bulkpull
from bulkpull import ApiError, BulkpullError, Clickwrap, Result, RetryPolicy, patience
from bulkpull.events import Event
from bulkpull.sandbox import Sandbox, SandboxConfig, SandboxStats

CONFIG = SandboxConfig(
    rows=1000,
    start=datetime(2024, 1, 1, tzinfo=UTC),
    end=datetime(2024, 7, 1, tzinfo=UTC),
    export_seconds=0.05,
    file_latency=0.0,
    rows_per_file=50,
)
RETRY = RetryPolicy(base=0.01, cap=0.1, seconds=5.0)
ENDLESS = 120.0  # seconds after which a pull counts as endless


@dataclass(slots=True)
class Pulled:
    """The outcome of a pull: a result or an error, its events, and the sandbox's statistics."""

    out: Path
    result: Result | None = None
    error: BulkpullError | None = None
    expected: list[str] = field(default_factory=list)  # the ids of all activities
    stats: SandboxStats = field(default_factory=SandboxStats)
    heard: list[Event] = field(default_factory=list)
    deliveries: list[int] = field(default_factory=list)  # complete ones, of each file

    @property
    def launches(self) -> int:
        """The number of POST requests for an export."""
        return self.stats.requests.get("POST /v1.1/tasks/export/activity", 0)

    @property
    def polls(self) -> int:
        return self.stats.requests.get("GET /v1.1/tasks/export/{id}", 0)

    def told(self, kind: type[Event]) -> int:
        """Return the number of events of this kind."""
        return sum(isinstance(event, kind) for event in self.heard)

    def ids(self) -> list[str]:
        """Return the ids in the output, sorted."""
        with self.out.open(encoding="utf-8", newline="") as file:
            return sorted(row["id"] for row in csv.DictReader(file, strict=True))

    def complete(self) -> Result:
        """Assert that the output has every activity once and the result says so; return the result."""
        assert self.result is not None, self.error
        assert self.ids() == self.expected
        assert self.result.rows == len(self.expected)
        assert self.result.complete
        assert self.result.completeness in ("counts reconciled", "counts unknown")
        assert self.result.short == ()
        assert self.stats.leaks == 0
        return self.result

    def refused(self, kind: type[BulkpullError] = ApiError) -> str:
        """Assert that the pull failed without an output; return the error's message."""
        assert isinstance(self.error, kind), self.error or self.result
        assert not self.out.exists()
        return str(self.error)


async def pulled(faults: str, out: Path, *, client: dict[str, Any] | None = None, **options: Any) -> Pulled:
    """Pull six months, one window per month, from a sandbox with these faults. `config` overrides CONFIG."""
    config = replace(CONFIG, faults=faults, **options.pop("config", {}))
    pull = Pulled(out)
    connection: dict[str, Any] = {"retry": RETRY} | (client or {})
    settings: dict[str, Any] = {"start": "2024-01-01", "end": "2024-07-01", "window": "1mo", "out": out} | options
    async with Sandbox(config) as sandbox:
        pull.expected = sorted(str(row["id"]) for row in sandbox.rows)
        try:
            async with Clickwrap(config.token, base_url=sandbox.url, **connection) as clickwrap:
                with anyio.fail_after(ENDLESS):
                    pull.result = await bulkpull.pull(clickwrap, on_event=pull.heard.append, **settings)
        except BulkpullError as error:
            pull.error = error
        pull.stats = sandbox.stats
        pull.deliveries = [
            sandbox.files.deliveries[task.id, number]
            for task in sandbox.exports.tasks.values()
            for number in range(len(task.files))
        ]
    return pull


@contextmanager
def short_patience(seconds: float = 0.5) -> Iterator[None]:
    """Wait `seconds` for stale replicas, in tests in which they never catch up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patience, "LAG", seconds)
        yield
