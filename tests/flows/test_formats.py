"""Pulls to formats other than CSV: exact, resumable, atomic and deterministic."""

from __future__ import annotations

import csv
import gzip
import json
import os
from pathlib import Path
from typing import Any

import anyio
import pyarrow.dataset
import pyarrow.feather
import pyarrow.parquet
import pytest

from bulkpull import FormatError, OutputError, UsageError, events
from bulkpull.download.file import PartialFile
from bulkpull.events import Event
from bulkpull.rows import scan
from bulkpull.sandbox import Sandbox
from bulkpull.store import WorkDirectory
from tests.flows.survival import survive_kills, undisturbed
from tests.flows.test_resume import CONFIG, at, interrupted, pull
from tests.late_column import add_a_late_column

FIELDS = ["event_type", "connection_data.page_title", "custom_data.vip"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """The rows of a pull to CSV."""
    out = tmp_path_factory.mktemp("csv") / "a.csv"

    async def main() -> None:
        async with Sandbox(CONFIG) as sandbox:
            await pull(sandbox, out, fields=FIELDS)

    anyio.run(main)
    with out.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def from_ndjson(line: str) -> dict[str, str]:
    tree = json.loads(line)
    for name in FIELDS:
        first, _, second = name.partition(".")
        if second:
            tree[name] = tree[first].pop(second)
            if not tree[first]:
                del tree[first]
    return {name: value or "" for name, value in tree.items()}


def from_arrow(row: dict[str, Any]) -> dict[str, str]:
    created = row["created_time"].isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {name: value or "" for name, value in (row | {"created_time": created}).items()}


async def test_each_format_holds_the_same_rows(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    names = ["a.arrow", "a.csv.gz", "a.ndjson", "a.ndjson.zst", "a.parquet"]
    async with Sandbox(CONFIG) as sandbox:
        for name in names:
            result = await pull(sandbox, tmp_path / name, fields=FIELDS)
            assert (result.rows, result.output) == (8000, tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {*names, *(f"{name}.manifest.json" for name in names)}
    with gzip.open(tmp_path / "a.csv.gz", "rt", newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == rows
    text = (tmp_path / "a.ndjson").read_text()
    assert [from_ndjson(line) for line in text.split("\n")[:-1]] == rows
    assert list(map(from_arrow, pyarrow.parquet.read_table(tmp_path / "a.parquet").to_pylist())) == rows
    assert pyarrow.feather.read_table(tmp_path / "a.arrow").equals(pyarrow.parquet.read_table(tmp_path / "a.parquet"))
    metadata = pyarrow.parquet.read_metadata(tmp_path / "a.parquet").metadata
    assert {name.decode(): value.decode() for name, value in metadata.items() if name.startswith(b"bulkpull.")} == {
        "bulkpull.start": "2024-01-01T00:00:00.000Z",
        "bulkpull.end": "2024-07-01T00:00:00.000Z",
        "bulkpull.filter": "",
        "bulkpull.fields": "id,signer_id,created_time,event_type,connection_data.page_title,custom_data.vip",
        "bulkpull.rows": "8000",
        "bulkpull.duplicates": str(result.duplicates),
        "bulkpull.conflicts": str(result.conflicts),
        "bulkpull.outside": "0",
    }


async def test_overwrites_a_partitioned_output_only_as_a_whole(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    out = tmp_path / "activity"
    partitioned: dict[str, Any] = {"format": "parquet", "partition_by": "month", "fields": FIELDS}
    async with Sandbox(CONFIG) as sandbox:
        await pull(sandbox, out, **partitioned)
        months = [f"month=2024-{month:02d}" for month in range(1, 7)]
        assert sorted(path.name for path in out.iterdir()) == months
        read = pyarrow.dataset.dataset(out).to_table().to_pylist()
        assert list(map(from_arrow, read)) == rows
        inode = out.stat().st_ino
        with pytest.raises(OutputError, match="exists"):
            await pull(sandbox, out, **partitioned)
        assert out.stat().st_ino == inode
        await pull(sandbox, out, overwrite=True, **partitioned)
        assert out.stat().st_ino != inode
        assert sorted(path.name for path in tmp_path.iterdir()) == ["activity", "activity.manifest.json"]
        (out / "month=2024-01" / "notes.txt").touch()
        with pytest.raises(OutputError, match="no data set"):
            await pull(sandbox, out, overwrite=True, **partitioned)
        with pytest.raises(OutputError, match="directory"):
            await pull(sandbox, out, overwrite=True)


@pytest.mark.parametrize("name", ["a.parquet", "a.ndjson.gz", "a.arrow"])
async def test_an_interrupted_pull_leaves_the_same_bytes(tmp_path: Path, name: str) -> None:
    (tmp_path / "other").mkdir()
    async with Sandbox(CONFIG) as sandbox:
        await pull(sandbox, tmp_path / "other" / name)
        await interrupted(sandbox, tmp_path / name, at(events.WindowMerged, 3), exports=4)
        await interrupted(sandbox, tmp_path / name, at(events.WindowMerged, 5), exports=16)
        exports = sandbox.stats.exports
        await pull(sandbox, tmp_path / name)
        assert sandbox.stats.exports == exports
    assert (tmp_path / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return anyio.run(undisturbed, tmp_path_factory.mktemp("undisturbed") / "a.parquet")


@pytest.mark.parametrize("seed", range(3))
async def test_a_killed_pull_leaves_the_same_bytes(tmp_path: Path, expected: bytes, seed: int) -> None:
    await survive_kills(seed, tmp_path / "a.parquet", expected)


async def test_a_pull_killed_after_publishing_is_not_published_in_another_format(tmp_path: Path) -> None:
    out = tmp_path / "a"

    async with Sandbox(CONFIG) as sandbox:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(WorkDirectory, "release", lambda self, *, remove: _release(self))
            await pull(sandbox, out, format="ndjson")
        with pytest.raises(OutputError, match="exists"):
            await pull(sandbox, out, format="parquet")
        heard: list[Event] = []
        result = await pull(sandbox, out, format="ndjson", on_event=heard.append)
        assert result.rows == 8000
        assert not [event for event in heard if isinstance(event, events.Launched | events.PartMerged)]


def _release(output: Any) -> None:
    """Release the lock like a killed process: without removing any file."""
    if output._lock is not None:
        os.close(output._lock)
        output._lock = None


async def test_an_invalid_time_stops_the_pull_and_loses_no_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.parquet"
    append = PartialFile.append

    async def append_invalid(self: PartialFile, chunk: bytes | memoryview) -> None:
        await append(self, bytes(chunk).replace(b"2024-05-20T", b"2024-05-2OT"))

    async with Sandbox(CONFIG) as sandbox:
        with monkeypatch.context() as patch:
            patch.setattr(PartialFile, "append", append_invalid)
            with pytest.raises(
                FormatError, match=r"row [\d,]+ \(id [0-9a-f]{24}\): created_time '2024-05-2OT"
            ) as caught:
                await pull(sandbox, out)
        assert not out.exists()
        exports = sandbox.stats.exports
        await pull(sandbox, out, all_strings=True)
        assert sandbox.stats.exports == exports
    created = pyarrow.parquet.read_table(out).column("created_time").to_pylist()
    assert created[caught.value.row - 1].startswith("2024-05-2OT")
    assert len(created) == 8000


async def test_columns_that_appear_later_are_in_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rendering so far is discarded and starts over."""

    add_a_late_column(monkeypatch)
    async with Sandbox(CONFIG) as sandbox:
        for name in ("a.parquet", "a.ndjson"):
            await pull(sandbox, tmp_path / name, fields=None)
    late = pyarrow.parquet.read_table(tmp_path / "a.parquet").column("late").to_pylist()
    assert late.count("x") == 300
    assert late.count(None) == 7700
    lines = (tmp_path / "a.ndjson").read_text().splitlines()
    assert [json.loads(line)["late"] for line in lines] == late


async def test_a_pull_with_a_column_that_appeared_later_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_a_late_column(monkeypatch)
    monkeypatch.setattr(scan, "BLOCK_BYTES", 4096)  # so that rows are rendered as soon as they are merged
    async with Sandbox(CONFIG) as sandbox:
        await pull(sandbox, tmp_path / "a.parquet", fields=None)
        await interrupted(sandbox, tmp_path / "b.parquet", at(events.WindowMerged, 10), exports=4, fields=None)
        await pull(sandbox, tmp_path / "b.parquet", fields=None)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


async def test_rejects_contradictory_options_without_a_request(tmp_path: Path) -> None:
    async with Sandbox(CONFIG) as sandbox:
        with pytest.raises(UsageError, match=r"without \.gz"):
            await pull(sandbox, tmp_path / "a.parquet.gz")
        assert not sandbox.stats.requests
    assert not list(tmp_path.iterdir())
