"""A pull on a cluster that is interrupted does nothing twice, and never takes damaged objects for its rows."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from distributed import Client

from bulkpull import OutputError, UsageError, events
from bulkpull.cluster.workers import ClusterWorkers
from bulkpull.events import BucketMerged, Event, TaskEnded
from bulkpull.journal import JournalReader
from bulkpull.sandbox import Sandbox
from tests.cluster.both import CONFIG, pull_from, pulled
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


async def test_damaged_objects_are_told(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(path: Path) -> None:
        path.unlink()

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:100])

    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[60] ^= 1
        path.write_bytes(data)

    origin = tmp_path / "origin"
    origin.mkdir()
    merge_buckets = ClusterWorkers._merge_buckets

    async def never(self: ClusterWorkers, columns: tuple[str, ...]) -> Any:
        raise OutputError("not yet")

    async with Sandbox(SMALL) as sandbox:
        monkeypatch.setattr(ClusterWorkers, "_merge_buckets", never)
        await pull_from(sandbox, origin / "a", cluster=client, buckets=1)
        monkeypatch.setattr(ClusterWorkers, "_merge_buckets", merge_buckets)
        for number, damage in enumerate((lose, cut, change)):
            here = tmp_path / str(number)
            shutil.copytree(origin, here)
            damage(sorted((here / "a.bulkpull" / "parts").glob("window-000002-part-0001-*"))[0])
            came = await pull_from(sandbox, here / "a", cluster=client, buckets=1)
            assert isinstance(came.error, OutputError)
            assert "changed since it was written" in str(came.error)
            assert "--fresh" in str(came.error)
            assert not (here / "a").exists()
        came = await pull_from(sandbox, origin / "a", cluster=client, buckets=1)
    assert came.result
    assert came.result.rows == SMALL.rows


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
