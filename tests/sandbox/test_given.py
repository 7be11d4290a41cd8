"""A sandbox with the rows of a test, in fixtures of any kind."""

from __future__ import annotations

import asyncio
import csv
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

import bulkpull
from bulkpull import Clickwrap
from bulkpull.errors import UsageError
from bulkpull.sandbox import Sandbox, SandboxConfig
from bulkpull.sandbox.data import Activities
from bulkpull.sandbox.given import GivenActivities

CONFIG = SandboxConfig(export_seconds=0.02)
START = CONFIG.start
ROWS: list[dict[str, Any]] = [
    {"id": "late", "created_time": "2024-03-01", "event_type": "sent", "custom_data.seats": 12},
    {"id": "early", "created_time": datetime(2024, 2, 1, 12, tzinfo=UTC), "event_type": "agreed"},
    {"created_time": date(2024, 2, 3), "connection_data": {"page_title": 'a "quoted", title', "geo": {"city": ""}}},
    {"event_type": "agreed"},
]


async def pulled(sandbox: Sandbox, out: Path, **options: Any) -> list[dict[str, str]]:
    async with Clickwrap(sandbox.token, base_url=sandbox.url) as clickwrap:
        await bulkpull.pull(clickwrap, **{"start": "2024-01-01", "end": "2024-06-01", "out": out, **options})
    with out.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


async def test_exactly_the_given_rows_are_exported(tmp_path: Path) -> None:
    async with Sandbox(CONFIG, rows=ROWS) as sandbox:
        rows = await pulled(sandbox, tmp_path / "all.csv", fields=["connection_data.page_title"])
        fields = ["event_type", "connection_data.geo.city", "custom_data.seats"]
        chosen = await pulled(sandbox, tmp_path / "march.csv", start="2024-03-01", fields=fields)
    assert [row["id"] for row in rows] == ["early", rows[1]["id"], rows[2]["id"], "late"]
    assert [row["created_time"] for row in rows] == [
        "2024-02-01T12:00:00.000Z",
        "2024-02-03T00:00:00.000Z",
        "2024-02-03T00:01:00.000Z",
        "2024-03-01T00:00:00.000Z",
    ]
    assert rows[1]["connection_data.page_title"] == 'a "quoted", title'
    assert chosen == [
        {
            "id": "late",
            "signer_id": "00001",
            "created_time": "2024-03-01T00:00:00.000Z",
            "event_type": "sent",
            "connection_data.geo.city": "",
            "custom_data.seats": "12",
        }
    ]


async def test_the_given_rows_are_counted_filtered_and_listed() -> None:
    async with Sandbox(CONFIG, rows=ROWS) as sandbox, Clickwrap(sandbox.token, base_url=sandbox.url) as clickwrap:
        assert await clickwrap.count() == 4
        assert await clickwrap.count("event_type==agreed and created_time>=2024-02-02") == 1
        assert await clickwrap.count("custom_data.seats==12") == 1
        newest = [activity async for activity in clickwrap.activity("created_time<2024-02-03", sort="-created_time")]
        assert [(activity["id"], activity["event_type"]) for activity in newest] == [("early", "agreed")]
        assert {"custom_data.seats", "connection_data.geo.city"} <= set(await clickwrap.export_fields(1))


async def test_rows_are_replaced_while_the_sandbox_runs(tmp_path: Path) -> None:
    async with Sandbox(CONFIG) as sandbox:
        assert len(sandbox.rows) == CONFIG.rows
        sandbox.rows = [{"id": "a"}]
        assert [row["id"] for row in await pulled(sandbox, tmp_path / "a.csv")] == ["a"]
        sandbox.rows = [{"id": "b"}, {"id": "c"}]
        assert [row["id"] for row in await pulled(sandbox, tmp_path / "b.csv")] == ["b", "c"]
        assert await sandbox.distinct_ids() == 3
        sandbox.rows = []
        assert await pulled(sandbox, tmp_path / "empty.csv") == []


def test_made_up_ids_and_times_depend_on_the_place_of_the_row_alone() -> None:
    first, second = (GivenActivities([{}, {"event_type": "sent"}], START, seed=7) for _ in range(2))
    assert [first.row(0), first.row(1)] == [second.row(0), second.row(1)]
    assert first.row(0)[0] != first.row(1)[0]
    assert [first.row(0)[2], first.row(1)[2]] == ["2024-01-01T00:00:00.000Z", "2024-01-01T00:01:00.000Z"]
    generated = Activities(1, START, CONFIG.end).row(0)[0]
    assert generated is not None
    assert len(generated) == len(first.row(0)[0] or "")


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"id": "a"}, {"id": "a"}], "have the id 'a'"),
        ([{"created_time": "yesterday"}], "'yesterday'"),
        ([{"created_time": 12}], "'12'"),
    ],
)
def test_rows_that_make_no_sense_are_refused(rows: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Sandbox(rows=rows)


async def test_entering_and_leaving_may_happen_in_different_tasks(tmp_path: Path) -> None:
    sandbox = Sandbox(CONFIG, rows=ROWS)
    await asyncio.create_task(sandbox.__aenter__())
    assert len(await pulled(sandbox, tmp_path / "all.csv")) == 4
    with anyio.CancelScope() as scope:  # that of the leaving task is left in peace
        await asyncio.create_task(sandbox.__aexit__(None, None, None))
    assert not scope.cancelled_caught
    async with Clickwrap(sandbox.token, base_url=sandbox.url, retry=bulkpull.RetryPolicy(seconds=0)) as clickwrap:
        with pytest.raises(bulkpull.UnavailableError, match="cannot connect"):
            await clickwrap.count()


async def test_a_port_in_use_is_an_ordinary_error() -> None:
    async with Sandbox(CONFIG) as sandbox:
        port = int(sandbox.url.split(":")[2].partition("/")[0])
        with pytest.raises(OSError, match="address already in use"):
            async with Sandbox(SandboxConfig(port=port)):
                pass


async def test_a_cancelled_start_leaves_nothing_running() -> None:
    before = asyncio.all_tasks()
    starting = asyncio.create_task(Sandbox(CONFIG).__aenter__())
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert asyncio.all_tasks() == before
