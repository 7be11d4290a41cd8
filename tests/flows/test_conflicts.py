"""The report of rows that have the id of another row, but other values."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from bulkpull import UsageError, events
from bulkpull.sandbox import Sandbox
from tests.flows.test_resume import CONFIG, at, interrupted, pull

MANY = replace(CONFIG, rows=40_000, rows_per_file=2000)


async def test_each_conflict_is_reported_with_both_rows(tmp_path: Path) -> None:
    out, report = tmp_path / "out.csv", tmp_path / "conflicts.ndjson"
    async with Sandbox(MANY) as sandbox:
        result = await pull(sandbox, out, conflicts=report)
    lines = [orjson.loads(line) for line in report.read_bytes().splitlines()]
    assert len(lines) == result.conflicts > 0
    with out.open(newline="", encoding="utf-8") as file:
        rows = {row["id"]: {name: value or None for name, value in row.items()} for row in csv.DictReader(file)}
    for line in lines:
        assert {name: value or None for name, value in line["kept"].items()} == rows[line["kept"]["id"]]
        assert line["other"]["id"] == line["kept"]["id"]
        assert line["other"] != line["kept"]
        start, end = line["window"]
        assert start <= line["other"]["created_time"] < end
    windows = [line["window"] for line in lines]
    assert windows == sorted(windows)


async def test_a_resumed_pull_reports_those_of_all_its_runs(tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole.ndjson", tmp_path / "resumed.ndjson"
    async with Sandbox(MANY) as sandbox:
        await pull(sandbox, tmp_path / "whole.csv", conflicts=whole)
        await interrupted(sandbox, tmp_path / "resumed.csv", at(events.WindowMerged, 6), conflicts=resumed)
        assert not resumed.exists()
        await pull(sandbox, tmp_path / "resumed.csv", conflicts=resumed)
    assert resumed.read_bytes() == whole.read_bytes()


async def test_a_pull_that_began_without_the_report_cannot_be_resumed_with_it(tmp_path: Path) -> None:
    async with Sandbox(CONFIG) as sandbox:
        await interrupted(sandbox, tmp_path / "out.csv", at(events.WindowMerged, 2))
        with pytest.raises(UsageError, match=r"conflicts is reported instead of \(none\)"):
            await pull(sandbox, tmp_path / "out.csv", conflicts=tmp_path / "report")
