"""An interrupted pull resumes where it stopped, and gives the same bytes as an undisturbed one."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

import bulkpull
from bulkpull import BulkpullError, Clickwrap, PartError, Result, RetryPolicy, UnavailableError, UsageError, events
from bulkpull.events import Event
from bulkpull.sandbox import Sandbox, SandboxConfig
from bulkpull.store import WorkDirectory

CONFIG = SandboxConfig(
    rows=8000,
    start=datetime(2024, 1, 1, tzinfo=UTC),
    end=datetime(2024, 7, 1, tzinfo=UTC),
    export_seconds=0.05,
    rows_per_file=300,
)
WINDOWS = 13
PATIENT = RetryPolicy(base=0.05, cap=0.2)


async def pull(sandbox: Sandbox, out: Path, retry: RetryPolicy = PATIENT, **options: Any) -> Result:
    defaults: dict[str, Any] = {
        "start": "2024-01-01",
        "end": "2024-07-01",
        "window": "2w",
        "fields": ["custom_data.vip"],
    }
    async with Clickwrap(sandbox.config.token, base_url=sandbox.url, retry=retry) as clickwrap:
        return await bulkpull.pull(clickwrap, out=out, **(defaults | options))


async def interrupted(sandbox: Sandbox, out: Path, when: Callable[[Event], bool], **options: Any) -> list[Event]:
    """Cancel a pull at the first event for which `when` is true; return the events so far."""
    heard: list[Event] = []
    with anyio.CancelScope() as scope:

        def listen(event: Event) -> None:
            heard.append(event)
            if when(event):
                scope.cancel()

        await pull(sandbox, out, on_event=listen, **options)
    assert scope.cancelled_caught
    assert not out.exists()
    return heard


def at(kind: type[Event], times: int) -> Callable[[Event], bool]:
    """Return a condition that is true for the n-th event of this kind, where n is `times`."""
    seen = 0

    def holds(event: Event) -> bool:
        nonlocal seen
        seen += isinstance(event, kind)
        return seen == times

    return holds


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("undisturbed") / "a.csv"

    async def main() -> None:
        async with Sandbox(CONFIG) as sandbox:
            await pull(sandbox, out)

    anyio.run(main)
    return out.read_bytes()


async def test_resumes_a_cancelled_pull_without_repeating_work(tmp_path: Path, undisturbed: bytes) -> None:
    out, heard = tmp_path / "a.csv", list[Event]()
    async with Sandbox(CONFIG) as sandbox:
        await interrupted(sandbox, out, at(events.WindowMerged, 3), exports=4)
        again = await interrupted(sandbox, out, at(events.Resumed, 1))
        result = await pull(sandbox, out, on_event=heard.append)
        assert sandbox.stats.exports == WINDOWS
        whole = [key for key, count in sandbox.files.deliveries.items() if count]
        assert len(whole) == result.parts
    assert out.read_bytes() == undisturbed
    [resumed] = [event for event in again if isinstance(event, events.Resumed)]
    assert (resumed.run, resumed.merged >= 3, resumed.rows > 0) == (2, True, True)
    assert (result.runs, result.rows, result.windows, result.exports) == (3, 8000, WINDOWS, WINDOWS)
    merged = [event.window.index for event in heard if isinstance(event, events.WindowMerged)]
    assert merged == list(range(resumed.merged, WINDOWS))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.csv.manifest.json"]


async def test_resumes_a_partial_download_from_its_last_byte(tmp_path: Path) -> None:
    out, other, received = tmp_path / "a.csv", tmp_path / "b.csv", 0

    def past_three_mebibytes(event: Event) -> bool:
        nonlocal received
        received += event.size if isinstance(event, events.Received) else 0
        return received > 3 * 2**20

    async with Sandbox(replace(CONFIG, rows=80_000, rows_per_file=10**6)) as sandbox:
        await interrupted(sandbox, out, past_three_mebibytes, window="1y")
        result = await pull(sandbox, out, window="1y")
        undisturbed = await pull(sandbox, other, window="1y")
    assert out.read_bytes() == other.read_bytes()
    assert undisturbed.bytes > 4 * 2**20
    assert result.bytes < undisturbed.bytes - 2 * 2**20


async def test_relaunches_lost_exports_and_keeps_downloaded_parts(tmp_path: Path, undisturbed: bytes) -> None:
    out = tmp_path / "a.csv"
    async with Sandbox(CONFIG) as sandbox:
        await interrupted(sandbox, out, at(events.WindowMerged, 4), exports=6)
        port = int(sandbox.url.split(":")[2].partition("/")[0])
        states = [window.state for window in bulkpull.status(out).windows]
        kept = sum(state in ("merged", "fetched") for state in states)
        unsure = states.count("exported")  # the last file may be on the disk, and not yet recorded
    # A new sandbox without the exports of the first one, whose ids it does not use again.
    async with Sandbox(replace(CONFIG, port=port, faults="odd-ids")) as sandbox:
        result = await pull(sandbox, out)
        assert WINDOWS - kept - unsure <= sandbox.stats.exports <= WINDOWS - kept
    assert out.read_bytes() == undisturbed
    assert result.exports > WINDOWS


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"start": "2024-01-02"}, "start is 2024-01-02T00:00:00.000Z instead of 2024-01-01T00:00:00.000Z"),
        ({"end": "2024-06-30"}, "end is 2024-06-30T00:00:00.000Z instead of 2024-07-01T00:00:00.000Z"),
        ({"end": None}, "end is now instead of 2024-07-01T00:00:00.000Z"),
        ({"filter": "event_type==sent"}, "filter is event_type==sent instead of (none)"),
        ({"fields": None}, "fields is (none) instead of id,signer_id,created_time,custom_data.vip"),
        ({"window": "1w"}, "window is 1w instead of 2w"),
    ],
)
async def test_rejects_other_options_and_keeps_the_progress(
    tmp_path: Path, undisturbed: bytes, options: dict[str, Any], named: str
) -> None:
    out = tmp_path / "a.csv"
    async with Sandbox(CONFIG) as sandbox:
        await interrupted(sandbox, out, at(events.WindowMerged, 2))
        with pytest.raises(UsageError) as caught:
            await pull(sandbox, out, **options)
        assert named in str(caught.value)
        # Options that do not affect the output may change.
        await pull(sandbox, out, exports=2, downloads=1, export_timeout=60, window=" 2W ")
        assert sandbox.stats.exports == WINDOWS
    assert out.read_bytes() == undisturbed


async def test_rejects_another_base_url_on_resume(tmp_path: Path) -> None:
    async with Sandbox(CONFIG) as sandbox, Sandbox(CONFIG) as other:
        await interrupted(sandbox, tmp_path / "a.csv", at(events.Exported, 1))
        with pytest.raises(UsageError, match="base url"):
            await pull(other, tmp_path / "a.csv")
        assert not other.stats.requests


async def test_fresh_discards_the_progress(tmp_path: Path, undisturbed: bytes) -> None:
    out = tmp_path / "a.csv"
    async with Sandbox(CONFIG) as sandbox:
        await interrupted(sandbox, out, at(events.WindowMerged, 2), window="1mo")
        before = sandbox.stats.exports
        result = await pull(sandbox, out, resume=False)
        assert sandbox.stats.exports == before + WINDOWS
    assert (result.runs, result.exports) == (1, WINDOWS)
    assert out.read_bytes() == undisturbed


async def test_resumes_a_pull_killed_just_after_publishing(
    tmp_path: Path, undisturbed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.csv"

    def die(output: WorkDirectory, *, remove: bool) -> None:
        assert remove
        assert output._lock is not None
        os.close(output._lock)

    async with Sandbox(CONFIG) as sandbox:
        with monkeypatch.context() as patch:
            patch.setattr(WorkDirectory, "release", die)
            await pull(sandbox, out)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.csv.bulkpull", "a.csv.manifest.json"]
        asked = sum(sandbox.stats.requests.values())
        result = await pull(sandbox, out)
        assert sum(sandbox.stats.requests.values()) == asked
    assert (result.rows, result.exports, result.runs, result.requests) == (8000, WINDOWS, 2, 0)
    assert out.read_bytes() == undisturbed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.csv.manifest.json"]


async def test_does_not_mistake_another_file_for_the_output(tmp_path: Path, undisturbed: bytes) -> None:
    out = tmp_path / "a.csv"
    async with Sandbox(CONFIG) as sandbox:
        await interrupted(sandbox, out, at(events.WindowMerged, 12))
        out.write_bytes(b"precious")
        with pytest.raises(BulkpullError, match="exists"):
            await pull(sandbox, out)
        assert out.read_bytes() == b"precious"
        await pull(sandbox, out, overwrite=True)
    assert out.read_bytes() == undisturbed


async def test_stores_neither_links_nor_the_token(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    async with Sandbox(CONFIG) as sandbox:
        heard = await interrupted(sandbox, out, at(events.PartFetched, 5))
        written = b"".join(path.read_bytes() for path in (tmp_path / "a.csv.bulkpull").iterdir())
        assert b"signature" not in written + repr(heard).encode()
        assert CONFIG.token.encode() not in written + repr(heard).encode()
        assert b"custom_data.vip" in written
        assert (tmp_path / "a.csv.bulkpull").stat().st_mode & 0o777 == 0o700


async def test_survives_an_outage(tmp_path: Path, undisturbed: bytes) -> None:
    out = tmp_path / "a.csv"
    async with Sandbox(replace(CONFIG, faults="outage:2", fault_seconds=0.7, workers=2)) as sandbox:
        result = await pull(sandbox, out, exports=2)
        assert sandbox.stats.faults["outage"] > 5
        assert sandbox.stats.exports == WINDOWS
    assert result.retries
    assert out.read_bytes() == undisturbed


async def test_resumes_after_an_outage_that_was_too_long(tmp_path: Path, undisturbed: bytes) -> None:
    out = tmp_path / "a.csv"
    async with Sandbox(replace(CONFIG, faults="outage:2", fault_seconds=1.5, workers=2)) as sandbox:
        with pytest.raises((UnavailableError, PartError)):
            await pull(sandbox, out, RetryPolicy(base=0.05, cap=0.2, seconds=0.5), exports=2)
        assert not out.exists()
        launched = bulkpull.status(out).launches
        assert 0 < launched < WINDOWS
        await pull(sandbox, out)
        assert sandbox.stats.exports <= WINDOWS
    assert out.read_bytes() == undisturbed


async def test_does_not_touch_a_journal_of_another_version(tmp_path: Path) -> None:

    (tmp_path / "a.csv.bulkpull").mkdir()
    path = tmp_path / "a.csv.bulkpull" / "journal.sqlite"
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 99")
    other.close()
    async with Sandbox(CONFIG) as sandbox:
        with pytest.raises(BulkpullError, match="another version"):
            await pull(sandbox, tmp_path / "a.csv")
        assert path.exists()
        await pull(sandbox, tmp_path / "a.csv", resume=False)


@pytest.mark.parametrize("damage", [b"", b"no journal at all, but longer than a page of a data base " * 100])
async def test_does_not_touch_a_corrupt_journal_without_fresh(tmp_path: Path, damage: bytes) -> None:
    out = tmp_path / "a.csv"
    async with Sandbox(CONFIG) as sandbox:
        await interrupted(sandbox, out, at(events.WindowMerged, 2))
        (tmp_path / "a.csv.bulkpull" / "journal.sqlite").write_bytes(damage)
        if damage:
            with pytest.raises(BulkpullError, match="journal"):
                await pull(sandbox, out)
            assert (tmp_path / "a.csv.bulkpull" / "output").stat().st_size
        result = await pull(sandbox, out, resume=not damage)
    assert (result.rows, result.runs) == (8000, 1)
