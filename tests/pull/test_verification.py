"""Verification finds what differs between an output and its manifest, and between the manifest and the API."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import orjson
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bulkpull
from bulkpull import ApiError, Clickwrap, Difference, OutputError, UsageError, Verification, verify
from bulkpull.pull import verification
from bulkpull.sandbox import Sandbox, SandboxConfig
from bulkpull.store import check

CONFIG = SandboxConfig(
    rows=2000, start=datetime(2024, 1, 1, tzinfo=UTC), end=datetime(2024, 4, 1, tzinfo=UTC), export_seconds=0.02
)
OPTIONS: dict[str, Any] = {"start": "2024-01-01", "end": "2024-04-01", "window": "1mo"}
MONTHS: dict[str, Any] = {"format": "parquet", "partition_by": "month"}
OUTPUTS = {
    "a.csv": {},
    "a.csv.gz": {},
    "a.csv.zst": {},
    "a.ndjson": {},
    "a.ndjson.gz": {},
    "a.parquet": {},
    "a.arrow": {},
    "a": MONTHS,
}


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with outputs in all formats; to be copied."""
    directory = tmp_path_factory.mktemp("pulled")

    async def work() -> None:
        async with Sandbox(CONFIG) as sandbox, Clickwrap(CONFIG.token, base_url=sandbox.url) as clickwrap:
            for name, options in OUTPUTS.items():
                await bulkpull.pull(clickwrap, out=directory / name, **OPTIONS | options)

    anyio.run(work)
    return directory


@pytest.fixture
def outputs(pulled: Path, tmp_path: Path) -> Path:
    """A copy of the outputs, to be changed."""
    return Path(shutil.copytree(pulled, tmp_path / "outputs"))


def manifest_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.manifest.json")


def change_manifest(out: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = manifest_path(out)
    found = json.loads(path.read_bytes())
    change(found)
    path.write_bytes(orjson.dumps(found))


def fix_up(out: Path, *, rows: int = 0) -> None:
    """Let the manifest say what the bytes are, and that there are some more rows."""

    def change(found: dict[str, Any]) -> None:
        for file in found["files"]:
            data = (out.parent / file["path"]).read_bytes()
            file |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        found["files"][-1]["rows"] += rows
        found["rows"] += rows

    change_manifest(out, change)


def problems(found: Verification) -> list[str]:
    return [f"{one.path}: {one.problem}" for one in found.differences]


def first_file(out: Path) -> Path:
    return min(out.rglob("*.parquet")) if out.is_dir() else out


@pytest.mark.parametrize("name", OUTPUTS)
async def test_an_unchanged_output_matches(outputs: Path, name: str) -> None:
    found = await verify(outputs / name)
    assert found.matches
    assert found.differences == ()
    assert found.recounts is None
    assert (found.output, found.manifest) == (outputs / name, manifest_path(outputs / name))
    assert (found.rows, found.files) == (2000, 3 if name == "a" else 1)


@pytest.mark.parametrize("name", OUTPUTS)
async def test_an_output_that_was_renamed_with_its_manifest_matches(outputs: Path, name: str) -> None:
    manifest_path(outputs / name).rename(outputs / "b.manifest.json")
    (outputs / name).rename(outputs / "b")
    assert (await verify(outputs / "b")).matches


async def test_a_link_to_an_output_is_followed(outputs: Path) -> None:
    (outputs / "latest").symlink_to(outputs / "a.csv")
    assert (await verify(outputs / "latest")).matches


@pytest.mark.parametrize("name", OUTPUTS)
async def test_a_flipped_byte_is_found(outputs: Path, name: str) -> None:
    path = first_file(outputs / name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found = await verify(outputs / name)
    assert not found.matches
    actual = hashlib.sha256(data).hexdigest()
    assert problems(found)[0].startswith(f"{path.relative_to(outputs)}: has the SHA-256 {actual} instead of ")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_change_of_bytes_goes_unnoticed(outputs: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(OUTPUTS)))
    path = first_file(outputs / name)
    original = path.read_bytes()
    at = data.draw(st.integers(0, len(original)))
    gone = data.draw(st.integers(0, 10))
    new = original[:at] + data.draw(st.binary(max_size=10)) + original[at + gone :]
    path.write_bytes(new)
    try:
        found = anyio.run(verify, outputs / name)
    finally:
        path.write_bytes(original)
    assert found.matches == (new == original)


async def test_offsets_that_lead_out_of_an_arrow_file_are_found(outputs: Path) -> None:
    path = outputs / "a.arrow"
    data = path.read_bytes()
    offsets = struct.pack("<4i", 0, 24, 48, 72)  # of the first ids, which have 24 characters
    assert offsets in data
    path.write_bytes(data.replace(offsets, struct.pack("<4i", 0, 24, 2**31 - 1, 72), 1))
    found = problems(await verify(path))
    assert len(found) == 2
    assert found[1].startswith("a.arrow: cannot be read as arrow: ")


@pytest.mark.parametrize("name", OUTPUTS)
async def test_a_truncated_file_is_found(outputs: Path, name: str) -> None:
    path = first_file(outputs / name)
    size = path.stat().st_size
    os.truncate(path, size - 1000)
    found = problems(await verify(outputs / name))
    of_file = str(path.relative_to(outputs))
    assert found[0] == f"{of_file}: has {size - 1000:,} bytes instead of {size:,}"
    assert len(found) == 2  # the rows are fewer, or cannot be read
    assert found[1].startswith((f"{of_file}: has 1,9", f"{of_file}: cannot be read as "))


@pytest.mark.parametrize("name", OUTPUTS)
async def test_a_missing_file_is_found(outputs: Path, name: str) -> None:
    path = first_file(outputs / name)
    path.unlink()
    assert problems(await verify(outputs / name)) == [f"{path.relative_to(outputs)}: is missing"]


async def test_a_missing_data_set_is_found(outputs: Path) -> None:
    shutil.rmtree(outputs / "a")
    assert [problem.rpartition(": ")[2] for problem in problems(await verify(outputs / "a"))] == ["is missing"] * 3


@pytest.mark.parametrize("extra", ["month=2024-01/more.parquet", "month=2025-01/activity.parquet", "notes.txt"])
async def test_a_file_that_the_manifest_does_not_name_is_found(outputs: Path, extra: str) -> None:
    (outputs / "a" / extra).parent.mkdir(exist_ok=True)
    shutil.copy(first_file(outputs / "a"), outputs / "a" / extra)
    found = await verify(outputs / "a")
    assert found.differences == (Difference(f"a/{extra}", "is not in the manifest"),)


def repeat_first_row(path: Path) -> str:
    """Repeat the first row at the end; return its id."""
    if path.suffix == ".parquet":
        table = pyarrow.parquet.read_table(path)
        id = table.column("id")[0].as_py()
        pyarrow.parquet.write_table(pyarrow.concat_tables([table, table.slice(0, 1)]), path)
        return str(id)
    if path.suffix == ".arrow":
        table = pyarrow.ipc.open_file(path.read_bytes()).read_all()
        with pyarrow.ipc.new_file(path, table.schema) as writer:
            writer.write_table(pyarrow.concat_tables([table, table.slice(0, 1)]))
        return str(table.column("id")[0].as_py())
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    lines = text.splitlines(keepends=True)
    again = lines[0 if ".ndjson" in path.name else 1]
    path.write_bytes(data + (gzip.compress(again) if path.suffix == ".gz" else again))
    return str(json.loads(again)["id"] if ".ndjson" in path.name else again.split(b",")[0].decode())


@pytest.mark.parametrize("name", [name for name in OUTPUTS if not name.endswith(".zst")])
async def test_a_repeated_id_is_found_although_the_checksum_was_adapted(outputs: Path, name: str) -> None:
    path = max((outputs / name).rglob("*.parquet")) if name == "a" else outputs / name
    id = repeat_first_row(path)
    fix_up(outputs / name)
    of_file = path.relative_to(outputs)
    rows = json.loads(manifest_path(outputs / name).read_bytes())["files"][-1]["rows"]
    assert problems(await verify(outputs / name)) == [
        f"{of_file}: has {rows + 1:,} rows instead of {rows:,}",
        f"{of_file}: the id {id} occurs 2 times",
    ]
    fix_up(outputs / name, rows=1)
    assert problems(await verify(outputs / name)) == [f"{of_file}: the id {id} occurs 2 times"]


async def test_an_id_in_two_files_of_a_data_set_is_found(outputs: Path) -> None:
    january, _, march = sorted((outputs / "a").rglob("*.parquet"))
    tables = [pyarrow.parquet.read_table(path) for path in (january, march)]
    pyarrow.parquet.write_table(pyarrow.concat_tables([tables[1], tables[0].slice(5, 1)]), march)
    fix_up(outputs / "a", rows=1)
    id = tables[0].column("id")[5].as_py()
    assert problems(await verify(outputs / "a")) == [f"a/month=2024-03/activity.parquet: the id {id} occurs 2 times"]


@pytest.mark.parametrize("memory", [48, check._ID_MEMORY_BYTES])
async def test_many_repeated_ids_are_counted(outputs: Path, monkeypatch: pytest.MonkeyPatch, memory: int) -> None:
    monkeypatch.setattr(check, "_ID_MEMORY_BYTES", memory)  # with little, the index of ids is on the disk
    path = outputs / "a.csv"
    header, *rows = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join((header, *rows, *rows[:25], *rows[:1])))
    fix_up(path, rows=26)
    found = problems(await verify(path))
    ids = [row.split(b",")[0].decode() for row in rows]
    assert found == [
        f"a.csv: the id {ids[0]} occurs 3 times",
        *(f"a.csv: the id {id} occurs 2 times" for id in ids[1:10]),
        "a.csv: at least 15 more ids occur more than once",
    ]


async def test_different_ids_with_the_same_key_are_no_repeat(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bulkpull.rows.output import RepeatedIds

    add = RepeatedIds.add

    def add_and_collide(self: RepeatedIds, blocks: Any) -> int:
        def colliding() -> Iterator[Any]:
            for block in blocks:
                self.keys.update(block.keys[:100].tolist())  # as if they had occurred before
                yield block

        return add(self, colliding())

    monkeypatch.setattr(RepeatedIds, "add", add_and_collide)
    assert (await verify(outputs / "a.csv")).matches


@pytest.mark.parametrize("name", ["a.csv", "a.ndjson", "a.parquet"])
async def test_another_number_of_rows_is_found(outputs: Path, name: str) -> None:
    fix_up(outputs / name, rows=5)
    assert problems(await verify(outputs / name)) == [f"{name}: has 2,000 rows instead of 2,005"]


@pytest.mark.parametrize("id", ["a,b", 'a"b', "a\nb", "ü", "x" * 5000])
@pytest.mark.parametrize("again", [False, True])
async def test_ids_may_be_any_text(outputs: Path, id: str, again: bool) -> None:
    for name, row in (
        ("a.csv", '"{}",s,t\n'.format(id.replace('"', '""')).encode()),
        ("a.ndjson", orjson.dumps({"id": id}) + b"\n"),
    ):
        with (outputs / name).open("ab") as file:
            file.write(row * (1 + again))
        fix_up(outputs / name, rows=1 + again)
        expected = [f"{name}: the id {id[:100]} occurs 2 times"] if again else []
        assert problems(await verify(outputs / name)) == expected


@pytest.mark.parametrize("line", [b"[]\n", b"{}\n", b'{"id":null}\n', b'{"id":""}\n', b'{"id":7}\n', b"\n", b"{\n"])
async def test_a_line_without_an_id_is_found(outputs: Path, line: bytes) -> None:
    with (outputs / "a.ndjson").open("ab") as file:
        file.write(line)
    fix_up(outputs / "a.ndjson", rows=1)
    assert "a.ndjson: cannot be read as ndjson: " in problems(await verify(outputs / "a.ndjson"))[0]


# Manifests


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.update(version=2), r"has version 2, and this version of bulkpull reads 1"),
        (lambda found: found.pop("version"), "has version None"),
        (lambda found: found.pop("rows"), "must have exactly the members"),
        (lambda found: found.update(more=1), "must have exactly the members"),
        (lambda found: found.update(rows="2000"), "rows is '2000'"),
        (lambda found: found.update(rows=-1), "rows is -1"),
        (lambda found: found.update(rows=True), "rows is True"),
        (lambda found: found.update(rows=1999), "do not add up"),
        (lambda found: found.update(files=[]), "0 files"),
        (lambda found: found.update(files={}), "files is not a list"),
        (lambda found: found.update(files=found["files"] * 2), "twice"),
        (lambda found: found.update(start="yesterday"), "yesterday"),
        (lambda found: found.update(end="2024-01-01"), "no offset"),
        (lambda found: found["windows"][0].update(start="2024-13-01T00:00Z"), "damaged"),
        (lambda found: found["files"][0].update(path="../a.csv"), "not the path of a file in the output"),
        (lambda found: found["files"][0].update(path="/a.csv"), "not the path of a file in the output"),
        (lambda found: found["files"][0].update(sha256="x"), "not a SHA-256"),
        (lambda found: found["written_as"].update(name="xml"), "not a format"),
    ],
)
async def test_a_damaged_manifest_is_an_error(
    outputs: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    change_manifest(outputs / "a.csv", change)
    with pytest.raises(OutputError, match=message):
        await verify(outputs / "a.csv")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_manifest_with_damaged_bytes_is_read_or_refused(outputs: Path, data: st.DataObject) -> None:
    path = manifest_path(outputs / "a.parquet")
    original = path.read_bytes()
    at, gone = data.draw(st.integers(0, len(original))), data.draw(st.integers(0, 300))
    path.write_bytes(original[:at] + data.draw(st.binary(max_size=4)) + original[at + gone :])
    try:
        anyio.run(verify, outputs / "a.parquet")
    except OutputError:
        pass
    finally:
        path.write_bytes(original)


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"format":"something else","version":1}', b"\x00" * 100])
async def test_a_foreign_file_is_no_manifest(outputs: Path, text: bytes) -> None:
    manifest_path(outputs / "a.csv").write_bytes(text)
    with pytest.raises(OutputError, match="is not a manifest of bulkpull"):
        await verify(outputs / "a.csv")


async def test_without_a_manifest_nothing_is_verified(outputs: Path) -> None:
    with pytest.raises(OutputError, match=r"there is no manifest .*missing\.csv\.manifest\.json"):
        await verify(outputs / "missing.csv")


# The API


@dataclass
class Counting:
    """A sandbox in which activities are counted, with some more or fewer in some windows."""

    changes: dict[str, int]
    most: int = 0
    now: int = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        count = Clickwrap.count

        async def changed(clickwrap: Clickwrap, filter: str | None = None) -> int:
            self.now += 1
            self.most = max(self.most, self.now)
            await anyio.sleep(0.01)
            self.now -= 1
            found = await count(clickwrap, filter)
            return found + sum(more for start, more in self.changes.items() if start in (filter or ""))

        monkeypatch.setattr(Clickwrap, "count", changed)


@pytest.mark.parametrize("window", ["auto", "2d"])
async def test_windows_are_counted_again_with_the_filter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: str
) -> None:
    out = tmp_path / "a.csv"
    async with Sandbox(CONFIG) as sandbox, Clickwrap(CONFIG.token, base_url=sandbox.url) as clickwrap:
        options = OPTIONS | {"window": window, "rows_per_export": 40, "filter": "event_type==agreed"}
        result = await bulkpull.pull(clickwrap, out=out, **options)
        found = await verify(out, clickwrap)
        assert found.matches
        assert found.recounts is not None
        assert len(found.recounts) == result.windows
        assert sum(recount.counted_now for recount in found.recounts) == result.rows
        counting = Counting({"created_time>=2024-01-01": 3})
        counting.install(monkeypatch)
        found = await verify(out, clickwrap)
        assert found.recounts is not None
        assert not found.matches
        assert found.differences == ()
        first, *others = found.recounts
        assert first.counted_now == first.delivered + 3
        assert first.window.rows == (first.delivered if window == "auto" else None)
        assert not any(recount.differs for recount in others)
        assert 1 < counting.most <= 16


async def test_an_output_from_another_api_is_not_counted_again(outputs: Path) -> None:
    async with Clickwrap("token", base_url="https://other.example/v1") as clickwrap:
        with pytest.raises(UsageError, match=r"was pulled from http.*, not from https://other\.example/v1"):
            await verify(outputs / "a.csv", clickwrap)


async def test_an_api_that_does_not_count_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> int:
        raise ApiError("no counts today", status=400)

    out = tmp_path / "a.csv"
    async with (
        Sandbox(replace(CONFIG, rows=100)) as sandbox,
        Clickwrap(CONFIG.token, base_url=sandbox.url) as clickwrap,
    ):
        await bulkpull.pull(clickwrap, out=out, **OPTIONS)
        monkeypatch.setattr(Clickwrap, "count", fail)
        with pytest.raises(ApiError, match=r"window \d .* could not be counted: no counts today"):
            await verify(out, clickwrap)


async def test_a_verification_can_be_cancelled(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare = check.compare
    with anyio.CancelScope() as scope:

        def cancel_first(*arguments: Any) -> Iterator[Difference]:
            anyio.from_thread.run_sync(scope.cancel)
            yield from compare(*arguments)

        monkeypatch.setattr(verification, "compare", cancel_first)
        await verify(outputs / "a.csv")
    assert scope.cancelled_caught
