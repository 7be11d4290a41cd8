"""A pull from a source that has nothing to do with Clickwrap: no HTTP, another filter grammar, another key column."""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import pyarrow.parquet
import pytest

import bulkpull
from bulkpull import Body, Columns, Export, RetryPolicy, UsageError, Window, events
from bulkpull.events import Event, OnEvent
from bulkpull.window import instant

START = datetime(2024, 1, 1, tzinfo=UTC)
ROWS = [(f"order-{number}", instant(START + timedelta(hours=number)), f"a, {number}") for number in range(700)]


class Orders:
    """Rows in memory, selected by text such as `2024-01-01..2024-02-01`."""

    base_url = "memory:orders"
    requests_per_minute = 1000
    throttled_at = None
    retry = RetryPolicy()
    columns = Columns(key="order", time="placed", required=("order", "placed"))

    def observed(self, on_event: OnEvent) -> Self:
        return self

    def check_filter(self, filter: str | None) -> str | None:
        return filter

    def window_filter(self, window: Window, filter: str | None) -> str:
        return f"{instant(window.start)}..{instant(window.end)}"

    async def count(self, filter: str | None = None) -> int:
        first, last = (filter or "..~").split("..")
        return sum(first <= placed < last for _, placed, _ in ROWS)

    async def any_activity(self, filter: str | None = None) -> bool:
        return await self.count(filter) > 0

    async def start_export(self, filter: str, fields: Sequence[str] = ()) -> Export:
        return Export(filter, "queued")

    async def get_export(self, export_id: str) -> Export:
        return Export(export_id, "succeeded", links=(export_id,) if await self.count(export_id) else ())

    async def export_fields(self, site: str | int) -> list[str]:
        return ["order", "placed", "note"]

    @asynccontextmanager
    async def download(self, link: str, *, offset: int = 0, validator: str | None = None) -> AsyncIterator[Body]:
        first, last = link.split("..")
        lines = ["order,placed,note", *(f'{order},{at},"{note}"' for order, at, note in ROWS if first <= at < last)]
        data = "\n".join(lines).encode()

        async def chunks() -> AsyncIterator[bytes]:
            yield data

        yield Body(chunks(), length=len(data))


async def test_pulls_from_a_source_without_http(tmp_path: Path) -> None:
    heard: list[Event] = []
    out = tmp_path / "orders.csv"
    result = await bulkpull.pull(
        Orders(), start="2024-01-01", end="2024-02-01", out=out, rows_per_export=100, on_event=heard.append
    )
    with out.open(newline="") as file:
        assert [tuple(row) for row in csv.reader(file)] == [("order", "placed", "note"), *ROWS]
    assert (result.rows, result.complete, result.completeness) == (700, True, "counts reconciled")
    assert result.exports == sum(isinstance(event, events.Launched) for event in heard) >= 7


async def test_formats_follow_the_columns_of_the_source(tmp_path: Path) -> None:
    out = tmp_path / "orders.parquet"
    await bulkpull.pull(Orders(), start="2024-01-01", end="2024-02-01", out=out, window="2w", fields=["note"])

    table = pyarrow.parquet.read_table(out)
    assert table.column_names == ["order", "placed", "note"]
    assert str(table.schema.field("placed").type) == "timestamp[ms, tz=UTC]"
    assert table.num_rows == 700


@pytest.mark.parametrize("required", [(), ("order",), ("placed", "note")])
def test_a_source_requires_its_key_and_its_time(required: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="must be among its required columns"):
        Columns(key="order", time="placed", required=required)
