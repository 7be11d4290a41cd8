"""A pull on a cluster that is interrupted does nothing twice, and never takes damaged objects for its rows."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from distributed import Client

from bulkpull import OutputError, UsageError, events
from bulkpull.cluster import merging
from bulkpull.cluster.bucket import Bucket
from bulkpull.cluster.facts import bucket_from
from bulkpull.cluster.plan import write_plan
from bulkpull.cluster.storage import Storage
from bulkpull.events import BucketMerged, Event, TaskEnded
from bulkpull.journal import JournalReader
from bulkpull.sandbox import Sandbox
from tests.cluster.both import CONFIG, odd_files, pull_from, pulled
from tests.flows.test_resume import at

SMALL = replace(CONFIG, rows=400, rows_per_file=40)
BUCKETS = 4


async def interrupted(sandbox: Sandbox, out: Path, when: Callable[[Event], bool], **options: Any) -> None:
    """Cancel a pull at the first event for which `when` is true."""
    with anyio.CancelScope() as scope:

        def listen(event: Event) -> None:
            if when(event):
                scope.cancel()

        await pull_from(sandbox, out, buckets=BUCKETS, on_event=listen, **options)
    assert scope.cancelled_caught
    assert not out.exists()


def journal_of(out: Path) -> JournalReader:
    return JournalReader(out.with_name(f"{out.name}.bulkpull") / "journal.sqlite")


async def test_what_stands_is_not_done_again(client: Client, tmp_path: Path) -> None:
    expected = await pulled(tmp_path / "here.parquet", SMALL)
    assert expected.result
    out = tmp_path / "there"
    heard: list[Event] = []
    async with Sandbox(SMALL) as sandbox:
        for when in (at(events.Launched, 2), at(TaskEnded, 3), at(TaskEnded, 4), at(BucketMerged, 2)):
            before, standing = Counter(sandbox.files.deliveries), set(parts_that_stand(out))
            await interrupted(sandbox, out, when, cluster=client)
            assert {part: sandbox.files.deliveries[part] for part in standing} == {
                part: before[part] for part in standing
            }
        downloads = sandbox.stats.downloads
        journal = journal_of(out)
        merged = len(journal.bucket_facts())
        journal.close()
        came = await pull_from(sandbox, out, cluster=client, buckets=BUCKETS, on_event=heard.append)
    assert came.table == expected.table
    assert came.result
    assert (came.stats.downloads, came.stats.exports) == (downloads, expected.stats.exports)
    assert sum(isinstance(event, BucketMerged) for event in heard) == BUCKETS - merged
    assert merged
    assert (came.result.rows, came.result.duplicates) == (expected.result.rows, expected.result.duplicates)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"here.parquet", "here.parquet.manifest.json", "there", "there.manifest.json"}


def parts_that_stand(out: Path) -> list[tuple[str, int]]:
    """The export and the number, from 0, of the parts that the journal records as complete."""
    if not out.with_name(f"{out.name}.bulkpull").exists():
        return []
    journal = journal_of(out)
    try:
        return [
            (export.id, number)
            for exports in journal.exports().values()
            for export in exports
            for number, part in enumerate(export.parts)
            if part.size is not None
        ]
    finally:
        journal.close()


async def test_a_pull_that_starts_over_leaves_nothing_of_the_one_before(client: Client, tmp_path: Path) -> None:
    out = tmp_path / "there"
    async with Sandbox(SMALL) as sandbox:
        await interrupted(sandbox, out, at(BucketMerged, 1), cluster=client)
        exports = sandbox.stats.exports
        came = await pull_from(sandbox, out, cluster=client, buckets=2, resume=False)
    assert came.result
    assert came.stats.exports == 2 * exports
    assert {path.name for path in tmp_path.iterdir()} == {"there", "there.manifest.json"}
    assert len(list(out.rglob("*.parquet"))) == 2


def lose(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def flip(path: Path, at: int = 60) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def swap(path: Path) -> None:
    other = next(
        one for one in path.parent.glob("window-*") if one != path and one.stat().st_size >= path.stat().st_size
    )
    shutil.copyfile(other, path)


DAMAGES = (lose, cut, flip, swap)


async def test_parts_and_plans_that_are_damaged_are_written_again(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damages = [(glob, damage) for glob in ("window-000002-part-0001-*", "*.json", "*.cells") for damage in DAMAGES]
    damages = [(glob, damage) for glob, damage in damages if damage is not swap or glob.startswith("window")]
    left, heard = iter(damages), list[Event]()
    write = write_plan

    def write_and_damage(storage: Storage, *arguments: Any) -> Any:
        plans = write(storage, *arguments)
        if damage := next(left, None):
            glob, change = damage
            change(max(Path(str(storage)).glob(glob), key=lambda path: path.stat().st_mtime_ns))
        return plans

    monkeypatch.setattr(merging, "write_plan", write_and_damage)
    monkeypatch.setattr(merging, "_MAX_ROUNDS", len(damages) + 1)
    expected = await pulled(tmp_path / "here.parquet", SMALL)
    async with Sandbox(SMALL) as sandbox:
        came = await pull_from(sandbox, tmp_path / "a", cluster=client, buckets=2, on_event=heard.append)
    assert came.table == expected.table
    assert came.result and expected.result
    assert came.result.retries == len(DAMAGES)
    assert came.stats.exports == expected.stats.exports
    again = [event.reason for event in heard if isinstance(event, events.Retried)]
    assert all("changed since it was written" in reason for reason in again)


async def test_keys_that_are_damaged_are_written_again(client: Client, tmp_path: Path) -> None:
    expected = await pulled(tmp_path / "here.parquet", SMALL)
    damages: dict[int, Callable[[Path], None]] = dict(enumerate((lose, cut, partial(flip, at=-5), swap), 1))
    heard = list[Event]()

    def listen(event: Event) -> None:
        heard.append(event)
        task = re.match(r"scatter-(window-00000(\d)-part-0002)", event.task) if isinstance(event, TaskEnded) else None
        if task and (damage := damages.pop(int(task[2]), None)):  # only the first time
            [path] = (tmp_path / "a.bulkpull" / "parts").glob(f"{task[1]}-*")
            damage(path)

    async with Sandbox(SMALL) as sandbox:
        came = await pull_from(sandbox, tmp_path / "a", cluster=client, buckets=2, on_event=listen)
    assert not damages
    again = [str(event.reason) for event in heard if isinstance(event, events.Retried)]
    assert len([reason for reason in again if "changed since it was written" in reason]) == len(DAMAGES)
    assert came.table == expected.table
    assert came.result and expected.result
    assert came.result.rows == expected.result.rows
    assert came.stats.exports == expected.stats.exports


async def test_buckets_and_conflicts_of_earlier_runs_are_taken_unless_they_are_damaged(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, out = tmp_path / "here.ndjson", tmp_path / "there.ndjson", tmp_path / "there"
    record, damaged, heard = merging.BucketMerge._record, list[str](), list[Event]()

    def damage_and_record(self: merging.BucketMerge, found: Bucket) -> None:
        if found.conflicts and not damaged:
            damaged.append(found.conflicts.name)
            flip(Path(str(self.destination.parts)) / found.conflicts.name, -10)
        record(self, found)

    monkeypatch.setattr(merging.BucketMerge, "_record", damage_and_record)
    with odd_files(1):
        expected = await pulled(tmp_path / "here.parquet", SMALL, conflicts=here)
        async with Sandbox(SMALL) as sandbox:
            await interrupted(sandbox, out, at(BucketMerged, 2), cluster=client, conflicts=there)
            journal = journal_of(out)
            merged = [bucket_from(facts).files for facts in journal.bucket_facts().values()]
            journal.close()
            flip(tmp_path / "there.bulkpull" / "files" / merged[0][0].path, 100)
            came = await pull_from(
                sandbox, out, cluster=client, buckets=BUCKETS, conflicts=there, on_event=heard.append
            )
    assert damaged
    again = [str(event.reason) for event in heard if isinstance(event, events.Retried)]
    assert "a file was changed since it was written" in again
    assert came.table == expected.table
    assert here.read_bytes() == there.read_bytes() != b""


async def test_a_part_that_is_damaged_after_its_export_is_gone_is_told(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge = merging.BucketMerge.merge
    out = tmp_path / "a"
    async with Sandbox(SMALL) as sandbox:

        async def damage(self: merging.BucketMerge, columns: tuple[str, ...]) -> Any:
            flip(sorted((tmp_path / "a.bulkpull" / "parts").glob("window-000002-part-0001-*"))[0])
            sandbox.exports.tasks.clear()
            return await merge(self, columns)

        monkeypatch.setattr(merging.BucketMerge, "merge", damage)
        came = await pull_from(sandbox, out, cluster=client, buckets=1)
    assert isinstance(came.error, OutputError)
    assert "was changed since it was written, and cannot be written again" in str(came.error)
    assert "--fresh" in str(came.error)
    assert not out.exists()


async def test_a_pull_without_a_cluster_is_not_continued_on_one(client: Client, tmp_path: Path) -> None:
    out = tmp_path / "there"
    options: dict[str, Any] = {"partition_by": "month", "window": "2mo"}
    async with Sandbox(SMALL) as sandbox:
        with anyio.CancelScope() as scope:
            await pull_from(sandbox, out, on_event=lambda event: cancel_at_merge(scope, event), **options)
        refused = await pull_from(sandbox, out, cluster=client, **options)
        with sqlite3.connect(out.with_name("there.bulkpull") / "journal.sqlite") as journal:
            # As an older version has recorded it, which did not know of clusters.
            journal.execute("DELETE FROM option WHERE name = 'cluster'")
        journal.close()
        refused_too = await pull_from(sandbox, out, cluster=client, **options)
        came = await pull_from(sandbox, out, **options)
    for error in (refused.error, refused_too.error):
        assert isinstance(error, UsageError)
    assert "was started without --cluster" in str(refused_too.error)
    assert came.result
    assert came.result.rows == SMALL.rows


def cancel_at_merge(scope: anyio.CancelScope, event: Event) -> None:
    if isinstance(event, events.WindowMerged):
        scope.cancel()
