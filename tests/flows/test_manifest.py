"""The manifest beside an output says what the output and the journal say, whatever happened to the pull."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pyarrow.parquet
import pytest
from anyio import to_thread

import bulkpull
from bulkpull import Clickwrap, OutputError, Result, RetryPolicy, events
from bulkpull.events import Event
from bulkpull.sandbox import Sandbox, SandboxConfig
from bulkpull.store.local import LocalFile
from tests.flows import victim
from tests.late_column import add_a_late_column

CONFIG = SandboxConfig(
    rows=4000,
    start=datetime(2024, 1, 1, tzinfo=UTC),
    end=datetime(2024, 7, 1, tzinfo=UTC),
    export_seconds=0.05,
    rows_per_file=250,
)
OPTIONS: dict[str, Any] = {
    "start": "2024-01-01",
    "end": "2024-07-01",
    "filter": "event_type==agreed",
    "fields": ["custom_data.vip"],
    "rows_per_export": 300,
}
MONTHS: dict[str, Any] = {"format": "parquet", "partition_by": "month"}
OUTPUTS = [("a.csv", {}), ("a.csv.gz", {}), ("a.ndjson", {}), ("a.parquet", {}), ("a", MONTHS)]


async def pull(sandbox: Sandbox, out: Path, **options: Any) -> Result:
    async with Clickwrap(CONFIG.token, base_url=sandbox.url, retry=RetryPolicy(base=0.02)) as clickwrap:
        return await bulkpull.pull(clickwrap, out=out, **OPTIONS | options)


def manifest_of(out: Path) -> dict[str, Any]:
    found = json.loads(out.with_name(f"{out.name}.manifest.json").read_bytes())
    assert isinstance(found, dict)
    return found


def lasting(out: Path) -> dict[str, Any]:
    """What is the same in each manifest of the same data."""
    found = manifest_of(out)
    del found["created"], found["source"], found["timeline"]
    for window in found["windows"]:
        assert window.pop("exports")
    return found


def files_of(out: Path) -> Iterator[Path]:
    yield from sorted(path for path in out.rglob("*") if path.is_file()) if out.is_dir() else [out]


@pytest.mark.parametrize(("name", "options"), OUTPUTS)
async def test_says_where_the_rows_come_from_and_what_the_files_are(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    out = tmp_path / name
    async with Sandbox(CONFIG) as sandbox:
        result = await pull(sandbox, out, **options)
        exports = set(sandbox.exports.tasks)
    assert result.manifest == tmp_path / f"{name}.manifest.json"
    found = manifest_of(out)
    assert (found["format"], found["version"], found["bulkpull"]) == ("bulkpull manifest", 1, bulkpull.__version__)
    assert (found["source"], found["key"]) == (sandbox.url, "id")
    assert (found["start"], found["end"]) == ("2024-01-01T00:00:00.000Z", "2024-07-01T00:00:00.000Z")
    assert (found["filter"], found["fields"]) == ("event_type==agreed", ["custom_data.vip"])
    assert found["columns"] == ["id", "signer_id", "created_time", "custom_data.vip"]
    figures = ("rows", "duplicates", "conflicts", "outside")
    assert [found[name] for name in figures] == [getattr(result, name) for name in figures]
    assert found["completeness"] == {
        "complete": True,
        "known_by": "counts reconciled",
        "doubt": "",
        "skipped": 0,
        "short": [],
        "over": [],
    }
    windows = found["windows"]
    assert len(windows) == result.windows > 3
    assert [window["start"] for window in windows[1:]] == [window["end"] for window in windows[:-1]]
    assert all(window["counted"] == window["delivered"] > 0 for window in windows)
    assert sum(window["rows"] for window in windows) == result.rows
    assert {id for window in windows for id in window["exports"]} == exports
    paths = list(files_of(out))
    assert [file["path"] for file in found["files"]] == [str(path.relative_to(tmp_path)) for path in paths]
    for file, path in zip(found["files"], paths, strict=True):
        assert file["bytes"] == path.stat().st_size
        assert file["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        if path.suffix == ".parquet":
            assert file["rows"] == pyarrow.parquet.read_metadata(path).num_rows
    assert sum(file["rows"] for file in found["files"]) == result.rows


async def test_holds_neither_links_nor_the_token(tmp_path: Path) -> None:
    async with Sandbox(CONFIG) as sandbox:
        await pull(sandbox, tmp_path / "a.csv")
    text = (tmp_path / "a.csv.manifest.json").read_text()
    assert CONFIG.token not in text
    assert "signature" not in text


async def test_names_the_windows_that_are_missing(tmp_path: Path) -> None:
    config = replace(CONFIG, faults="export-always-fails")
    async with Sandbox(config) as sandbox:
        options = {"window": "1mo", "export_timeout": 1.0, "max_extra_exports": 0, "skip_failed": True}
        result = await pull(sandbox, tmp_path / "a.csv", **options)
    found = manifest_of(tmp_path / "a.csv")
    assert result.skipped
    assert found["completeness"]["complete"] is False
    assert found["completeness"]["known_by"] == result.completeness == "short"
    assert found["completeness"]["skipped"] == len(result.skipped)
    skipped = [window for window in found["windows"] if window["skipped"]]
    assert [datetime.fromisoformat(window["start"]) for window in skipped] == [one.start for one in result.skipped]
    assert all(window["delivered"] is None and window["rows"] == 0 for window in skipped)


@pytest.mark.parametrize("name", ["a.csv", "a.ndjson"])
async def test_has_the_checksum_of_an_output_that_a_late_column_made_wider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    add_a_late_column(monkeypatch)
    async with Sandbox(CONFIG) as sandbox:
        await pull(sandbox, tmp_path / name, fields=None, filter=None, window="2w")
    found = manifest_of(tmp_path / name)
    assert found["columns"][-1] == "late"
    assert found["files"][0]["sha256"] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


@pytest.mark.parametrize("seed", range(3))
async def test_a_pull_that_was_killed_has_the_same_manifest(tmp_path: Path, seed: int) -> None:
    (tmp_path / "other").mkdir()
    moments = random.Random(seed)
    out, kills = tmp_path / "a.csv", 0
    async with Sandbox(CONFIG) as sandbox:
        await pull(sandbox, tmp_path / "other" / "a.csv")
    async with Sandbox(CONFIG) as sandbox:
        while True:
            process = victim.PROCESSES.Process(
                target=victim.run, args=(sandbox.url, CONFIG.token, out, OPTIONS, RetryPolicy(base=0.02), {})
            )
            process.start()
            answers = sum(sandbox.stats.requests.values()) + moments.randint(10, 20)
            try:
                with anyio.fail_after(60):
                    while process.is_alive() and (kills == 3 or sum(sandbox.stats.requests.values()) < answers):
                        await to_thread.run_sync(process.join, 0.005)
            finally:
                process.kill()
            await to_thread.run_sync(process.join)
            if process.exitcode == 0:
                break
            kills += 1
    assert kills
    assert lasting(out) == lasting(tmp_path / "other" / "a.csv")


@pytest.mark.parametrize(("name", "options"), [("a.csv", {}), ("a.ndjson.zst", {}), ("a", MONTHS)])
async def test_the_next_run_writes_the_manifest_of_an_output_that_was_published_before_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, Any]
) -> None:
    out = tmp_path / name
    async with Sandbox(CONFIG) as sandbox:
        await pull(sandbox, tmp_path / f"other-{name}", **options)
        with monkeypatch.context() as patch:
            patch.setattr(LocalFile, "write_manifest", _die)
            with pytest.raises(_KilledError):
                await pull(sandbox, out, **options)
        assert out.exists()
        assert not (tmp_path / f"{name}.manifest.json").exists()
        asked = sum(sandbox.stats.requests.values())
        result = await pull(sandbox, out, **options)
        assert sum(sandbox.stats.requests.values()) == asked
    assert result.manifest == tmp_path / f"{name}.manifest.json"
    ours, others = lasting(out), lasting(tmp_path / f"other-{name}")
    for file in others["files"]:
        file["path"] = file["path"].removeprefix("other-")
    assert ours == others
    assert not (tmp_path / f"{name}.bulkpull").exists()


class _KilledError(Exception):
    pass


def _die(*_: object) -> None:
    raise _KilledError


async def test_no_reader_sees_a_new_output_with_an_old_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.csv"
    async with Sandbox(CONFIG) as sandbox:
        await pull(sandbox, out)
        before = manifest_of(out)
        with monkeypatch.context() as patch:
            patch.setattr(LocalFile, "write_manifest", _die)
            with pytest.raises(_KilledError):
                await pull(sandbox, out, overwrite=True, filter="event_type==viewed")
        assert not (tmp_path / "a.csv.manifest.json").exists()
        await pull(sandbox, out, overwrite=True, filter="event_type==viewed")
    assert manifest_of(out)["files"] != before["files"]
    assert (await bulkpull.verify(out)).matches


@pytest.mark.parametrize("options", [{}, MONTHS])
async def test_a_foreign_file_at_the_place_of_the_manifest_is_refused_before_any_request(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    out, foreign = tmp_path / "a", tmp_path / "a.manifest.json"
    foreign.write_text('{"format": "something else"}')
    async with Sandbox(CONFIG) as sandbox:
        with pytest.raises(OutputError, match=r"a\.manifest\.json.* is not a manifest.*--overwrite"):
            await pull(sandbox, out, **options)
        assert not sandbox.stats.exports
        assert foreign.read_text() == '{"format": "something else"}'
        await pull(sandbox, out, overwrite=True, **options)
        assert manifest_of(out)["rows"]


async def test_a_directory_at_the_place_of_the_manifest_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.csv.manifest.json").mkdir()
    async with Sandbox(CONFIG) as sandbox:
        with pytest.raises(OutputError, match="move it away"):
            await pull(sandbox, tmp_path / "a.csv", overwrite=True)
        assert not sandbox.stats.exports


async def test_a_manifest_whose_output_is_gone_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    async with Sandbox(CONFIG) as sandbox:
        await pull(sandbox, out)
        out.unlink()
        await pull(sandbox, out, filter="event_type==viewed")
    assert manifest_of(out)["filter"] == "event_type==viewed"
    assert (await bulkpull.verify(out)).matches


async def test_a_name_with_bytes_that_are_not_text_has_a_manifest(tmp_path: Path) -> None:
    out = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.csv"))
    async with Sandbox(CONFIG) as sandbox:
        result = await pull(sandbox, out)
    assert isinstance(result.manifest, Path)
    assert result.manifest.exists()
    assert (await bulkpull.verify(out)).matches


async def test_progress_says_nothing_of_a_plain_csv_being_rendered(tmp_path: Path) -> None:
    heard: list[Event] = []

    def slowly(event: Event) -> None:
        heard.append(event)

    async with Sandbox(replace(CONFIG, export_seconds=1.0)) as sandbox:
        await pull(sandbox, tmp_path / "a.csv", on_event=slowly)
        assert not any(isinstance(event, events.Rendered) for event in heard)
        await pull(sandbox, tmp_path / "a.ndjson", on_event=slowly)
    assert any(isinstance(event, events.Rendered) for event in heard)


@pytest.mark.parametrize(("name", "options"), OUTPUTS)
async def test_an_empty_range_has_a_manifest(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    async with Sandbox(CONFIG) as sandbox:
        await pull(sandbox, tmp_path / name, end="2024-01-01", **options)
    assert (await bulkpull.verify(tmp_path / name)).matches
    found = manifest_of(tmp_path / name)
    assert (found["rows"], found["windows"]) == (0, [])
