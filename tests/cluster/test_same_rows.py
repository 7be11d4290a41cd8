"""A pull on a cluster has the same rows and figures as on one machine."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from distributed import Client

from bulkpull import FormatError
from bulkpull.sandbox import Sandbox
from bulkpull.sandbox.exports import Exports, File
from tests.cluster.both import CONFIG, agree, odd_files, pull_from
from tests.rows.test_dedup import SPECTRUM

SMALL = replace(CONFIG, rows=400, rows_per_file=70)
FIELDS = ["custom_data.vip", "connection_data.page_title"]
COUNTED = {"window": "auto", "rows_per_export": 120}


@pytest.mark.parametrize(
    ("seed", "options"),
    [
        (1, {"buckets": 1, "partition_by": "month", "window": "2mo"}),
        (2, {"buckets": 7, "fields": FIELDS, "window": "2mo"}),
        (3, {"buckets": 64, "window": "3mo"}),
    ],
)
async def test_of_odd_files(client: Client, tmp_path: Path, seed: int, options: dict[str, Any]) -> None:
    with odd_files(seed):
        here, _ = await agree(client, tmp_path, replace(SMALL, seed=seed), **options)
    assert here.result
    assert here.result.duplicates and here.result.conflicts and here.result.outside


@pytest.mark.parametrize(
    ("faults", "changes", "options"),
    [
        ("purged+expire+cut-first", {}, {"window": "2mo"}),
        ("rows-capped:50", {}, COUNTED),
        ("export-always-fails", {}, {"skip_failed": True, **COUNTED}),
        ("", {"rows": 0}, {"window": "3mo"}),
        ("body-zip", {"burst": 200}, COUNTED),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_under_faults(
    client: Client, tmp_path: Path, faults: str, changes: dict[str, Any], options: dict[str, Any]
) -> None:
    here, there = await agree(client, tmp_path, replace(SMALL, faults=faults, **changes), buckets=2, **options)
    assert there.stats.exports == here.stats.exports
    assert there.stats.throttled == there.stats.leaks == 0


async def test_files_that_are_damaged_at_first_are_downloaded_again(client: Client, tmp_path: Path) -> None:
    config = replace(SMALL, faults="damaged-once")
    here, there = await agree(
        client, tmp_path, config, buckets=2, ignored=("parts", "bytes"), window="3mo"
    )  # one machine counts them twice
    assert there.stats.exports == here.stats.exports


async def test_a_value_that_parquet_cannot_hold(client: Client, tmp_path: Path) -> None:
    write, changed = Exports._write_file, list[str]()

    def write_badly(self: Exports, name: str, content: str) -> File:
        if found := re.search(r"\n(\w+),[^\n]*(2024-05-\S+Z)", content):
            changed.append(found[1])
            content = content.replace(found[2], "in May", 1)
        return write(self, name, content)

    with patch.object(Exports, "_write_file", write_badly):
        here, there = await agree(client, tmp_path, replace(SMALL, rows_per_file=1000), window="1mo")
    assert isinstance(here.error, FormatError) and isinstance(there.error, FormatError)
    assert here.error.id == there.error.id == changed[0]
    assert "created_time" in there.error.reason
    assert there.error.reason.partition(" (")[0] == here.error.reason.partition(" (")[0]
    assert ", from window 5)" in there.error.reason


async def test_values_of_csv_spectrum(client: Client, tmp_path: Path) -> None:
    values = [
        value
        for path in sorted((SPECTRUM / "json").glob("*.json"))
        for row in json.loads(path.read_text(encoding="utf-8"))
        for value in row.values()
    ]
    fields = {f"custom_data.{number}": value for number, value in enumerate(values)}
    rows = [{"created_time": f"2024-0{month}-03T00:00:00Z"} | fields for month in range(1, 7)]
    tables = []
    for out, cluster in ((tmp_path / "here.parquet", None), (tmp_path / "there", client)):
        async with Sandbox(CONFIG, rows=rows) as sandbox:
            came = await pull_from(sandbox, out, cluster=cluster, fields=list(fields), window="3mo")
        assert came.table is not None
        tables.append(came.table)
    assert tables[0] == tables[1]
    assert tables[0].num_rows == 6
    assert [tables[1][name][0].as_py() or "" for name in fields] == values
