"""A year of nights: a copy that is kept up to date while activity arrives late and is deleted.

    python benchmarks/nights.py [--nights 365] [--per-day 10000] [--dlt-nights 60] [--only sync,dlt,pull] [--work DIR]

The sandbox has a history: 10,000 activities a day, of which 10 arrive late by up to 30 days, and one is deleted within
30 days. After a backfill, each night at half past midnight:

- `bulkpull sync` brings a DuckDB database up to date.
- dlt loads what is younger than its cursor less one day, and merges it by id, also into DuckDB. bulkpull exports for
  it, one export a night.
- A full pull exports everything again, only in the first and the last night.

Exports take no time, apart from writing their rows, so their number matters. A row is missed if the site has it when
the night is over, with a `created_time` before the end of what was exported, and the copy has not; a deletion, if it is
the other way round.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import duckdb
from anyio import to_thread
from measure import machine, table

import bulkpull
from bulkpull import Clickwrap
from bulkpull.sandbox import History, Sandbox, SandboxConfig
from bulkpull.sandbox.data import made_up_id, milliseconds

START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
CLOCK = timedelta(minutes=30)  # after midnight, when a night's run begins
SETTLE = timedelta(minutes=15)
TITLES = ("", "nights", "exports", "requests", "polls", "rows rewritten", "rows missed", "deletions missed", "s")
ONE_EXPORT = 100_000_000  # rows
POLL = "GET /v1.1/tasks/export/{id}"


@dataclass
class Night:
    """What a night cost, and what it missed."""

    exports: int
    requests: int
    polls: int
    rewritten: int
    missed: int
    undeleted: int
    seconds: float


@dataclass
class Nights:
    """All nights of one way."""

    name: str
    nights: list[Night] = field(default_factory=list)

    def add(self, now: datetime, night: Night) -> None:
        """Add a night, and print it."""
        self.nights.append(night)
        print(f"{now:%F} {self.name}: {night}", flush=True)

    def summary(self) -> tuple[object, ...]:
        """Return a line of the table: mean and maximum, and of what was missed also that of the last night."""

        def of(name: str) -> str:
            values = [getattr(night, name) for night in self.nights]
            return f"{sum(values) / len(values):,.1f} / {max(values):,}"

        costs = map(of, ("exports", "requests", "polls", "rewritten"))
        missed = (f"{of(name)} / {getattr(self.nights[-1], name):,}" for name in ("missed", "undeleted"))
        return (
            self.name,
            len(self.nights),
            *costs,
            *missed,
            f"{sum(one.seconds for one in self.nights) / len(self.nights):.1f}",
        )


@dataclass
class Meter:
    """What one night costs."""

    sandbox: Sandbox
    began: float = field(default_factory=time.perf_counter)
    exports: int = field(init=False)
    requests: int = field(init=False)
    polls: int = field(init=False)

    def __post_init__(self) -> None:
        self.exports, self.requests, self.polls = self._figures()

    def night(self, rewritten: int, missed: int, undeleted: int, seconds: float) -> Night:
        """Return the figures of the night, from those before it."""
        exports, requests, polls = self._figures()
        return Night(
            exports - self.exports, requests - self.requests, polls - self.polls, rewritten, missed, undeleted, seconds
        )

    def seconds(self) -> float:
        """Return how long the night has taken until now."""
        return round(time.perf_counter() - self.began, 1)

    def _figures(self) -> tuple[int, int, int]:
        stats = self.sandbox.stats
        return stats.exports, sum(stats.requests.values()), stats.requests.get(POLL, 0)


class Truth:
    """What a copy must have.

    Only activities that arrive late or are deleted can be wrong in a copy, so only those are looked up. That nothing
    else is wrong, the number of all rows shows.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        late = history._arrives - history._created > SETTLE // timedelta(milliseconds=1)
        special = late | (history._leaves < history._leaves.max())
        self.created, self.arrives, self.leaves = (
            times[special] for times in (history._created, history._arrives, history._leaves)
        )
        numbers = history._numbers[special]
        arrivals = history._first_arrivals[numbers]
        self.ids = [
            made_up_id(arrival, history.seed, number)
            for arrival, number in zip(arrivals.tolist(), numbers.tolist(), strict=True)
        ]

    def compare(self, now: datetime, end: datetime, path: Path, query: str) -> tuple[int, int]:
        """Return how many rows, and how many deletions, a copy in DuckDB has missed."""
        with duckdb.connect(str(path), read_only=True) as connection:
            special = f"SELECT id {query} AND id IN (SELECT unnest(?))"
            copy = {id for (id,) in connection.execute(special, [end, self.ids]).fetchall()}
            [(number,)] = connection.execute(f"SELECT count(*) {query}", [end]).fetchall()
        now_ms, end_ms = milliseconds(now), milliseconds(end)
        is_there = (self.arrives <= now_ms) & (now_ms < self.leaves) & (self.created < end_ms)
        site = {id for id, there in zip(self.ids, is_there.tolist(), strict=True) if there}
        missed, undeleted = len(site - copy), len(copy - site)
        rows = self.history.at(now).first_from(end)
        if number != rows - missed + undeleted:
            raise SystemExit(
                f"{now}: {number:,} rows in the copy, {rows:,} on the site, {missed} and {undeleted} missed"
            )
        return missed, undeleted


async def sync(sandbox: Sandbox, clickwrap: Clickwrap, truth: Truth, work: Path, clocks: Sequence[datetime]) -> Nights:
    """Sync after the backfill, and each night."""
    nights, path = Nights("bulkpull sync"), work / "synced.duckdb"
    for at, now in enumerate(clocks):
        sandbox.now, end, meter = now, now - SETTLE, Meter(sandbox)
        start = None if at else START
        result = await bulkpull.sync(clickwrap, to=f"duckdb:///{path}", start=start, end=end, settle=0, state=work)
        seconds = meter.seconds()
        if not result.complete:
            raise SystemExit(f"{now}: the sync is not complete: {result}")
        query = "FROM activity WHERE _deleted_at IS NULL AND created_time < ?"
        missed = await to_thread.run_sync(truth.compare, now, end, path, query)
        if at:
            nights.add(now, meter.night(result.rewritten, *missed, seconds))
    return nights


async def load(sandbox: Sandbox, _clickwrap: Clickwrap, truth: Truth, work: Path, clocks: Sequence[datetime]) -> Nights:
    """Load with dlt after the backfill, and each night."""
    os.environ |= {"RUNTIME__DLTHUB_TELEMETRY": "false", "RUNTIME__LOG_LEVEL": "ERROR", "DLT_DATA_DIR": str(work)}
    import dlt
    import pyarrow as pa

    cursor = dlt.sources.incremental("created_time", initial_value=START, lag=DAY // timedelta(seconds=1))

    async def activity(end: datetime, created: Any = cursor) -> AsyncIterator[Any]:
        # In an event loop of dlt's own, so with a client of its own.
        async with (
            Clickwrap(sandbox.token, base_url=sandbox.url) as own,
            bulkpull.stream(own, start=created.start_value, end=end, rows_per_export=ONE_EXPORT) as rows,
        ):
            async for batch in rows:
                yield pa.Table.from_batches([pa.record_batch(batch)])

    # Not a decorator: mypy would find it untyped where dlt is not installed.
    resource: Any = dlt.resource(activity, name="activity", primary_key="id", write_disposition="merge")
    nights, path = Nights("dlt, cursor less 1 d"), work / "loaded.duckdb"
    pipeline = dlt.pipeline("nights", destination=dlt.destinations.duckdb(str(path)), dataset_name="legal")
    for at, now in enumerate(clocks):
        sandbox.now, end, meter = now, now - SETTLE, Meter(sandbox)
        await to_thread.run_sync(pipeline.run, resource(end))
        seconds = meter.seconds()
        trace: Any = pipeline.last_trace
        merged = trace.last_normalize_info.row_counts["activity"]
        query = "FROM legal.activity WHERE created_time < ?"
        missed = await to_thread.run_sync(truth.compare, now, end, path, query)
        if at:
            nights.add(now, meter.night(merged, *missed, seconds))
    return nights


async def pull(sandbox: Sandbox, clickwrap: Clickwrap, truth: Truth, work: Path, clocks: Sequence[datetime]) -> Nights:
    """Pull everything in the first night and the last."""
    nights = Nights("full pull")
    for now in (clocks[1], clocks[-1]):
        sandbox.now, end, meter = now, now - SETTLE, Meter(sandbox)
        result = await bulkpull.pull(clickwrap, start=START, end=end, out=work / "pulled.csv", overwrite=True)
        missed = truth.history.at(now).first_from(end) - result.rows
        nights.add(now, meter.night(result.rows, missed, 0, meter.seconds()))
    return nights


Way = Callable[[Sandbox, Clickwrap, Truth, Path, Sequence[datetime]], Awaitable[Nights]]


async def main(asked: argparse.Namespace) -> None:
    """Run all ways, and print the table."""
    history = History(
        start=START,
        end=START + (asked.backfill + asked.nights + 1) * DAY,
        per_day=asked.per_day,
        late=asked.late / asked.per_day,
        deleted=asked.deleted / asked.per_day,
        within_days=30,
        seed=asked.seed,
    )
    clocks = [START + (asked.backfill + night) * DAY + CLOCK for night in range(asked.nights + 1)]
    config = SandboxConfig(export_seconds=0.0, file_latency=0.0, rows_per_file=100_000)
    ways: dict[str, tuple[Way, int]] = {
        "sync": (sync, asked.nights),
        "dlt": (load, asked.dlt_nights),
        "pull": (pull, asked.nights),
    }
    lines = []
    truth = Truth(history)
    for name in asked.only.split(","):
        way, number = ways[name]
        with tempfile.TemporaryDirectory(dir=asked.work) as made:
            async with (
                Sandbox(config, history=history) as sandbox,
                Clickwrap(sandbox.token, base_url=sandbox.url) as clickwrap,
            ):
                lines.append((await way(sandbox, clickwrap, truth, Path(made), clocks[: number + 1])).summary())
    print(f"\n{machine()}\n")
    print(table(TITLES, lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A year of nights.")
    parser.add_argument("--nights", type=int, default=365)
    parser.add_argument("--backfill", type=int, default=90, help="days before the first night")
    parser.add_argument("--per-day", type=float, default=10_000, help="activities a day")
    parser.add_argument("--late", type=float, default=10, help="late activities a day")
    parser.add_argument("--deleted", type=float, default=1, help="deleted activities a day")
    parser.add_argument("--dlt-nights", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="sync,dlt,pull", help="sync, dlt or pull, joined by commas")
    parser.add_argument("--work", default=None, help="directory for databases and progress")
    anyio.run(main, parser.parse_args())
