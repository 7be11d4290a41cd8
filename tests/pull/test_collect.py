"""Files of an export are downloaded, and the journal knows how far they came."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup
from xxhash import xxh3_128

from bulkpull import (
    Body,
    Clickwrap,
    Export,
    LinkExpiredError,
    MalformedPartError,
    PartError,
    RetryPolicy,
    TransferError,
    Window,
    patience,
)
from bulkpull.events import Event, PartFetched, Received, Retried, ignore
from bulkpull.journal import Journal, JournalReader, PartRecord
from bulkpull.pacing import Backpressure, DownloadLimit, ExportLimit
from bulkpull.pull import collect
from bulkpull.pull.collect import Collector
from bulkpull.pull.doubts import Delivery
from bulkpull.pull.journey import ExportFailure, Journey
from bulkpull.pull.slots import Slots
from bulkpull.rows.held_file import Memory, open_file

WINDOW = Window(0, datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC))
ROWS = b"id,v\n" + b"0123456789,x\n" * 300_000  # several megabytes, so that half of it is worth a record


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "LAG", 0.2)


@dataclass
class Source:
    """A source whose export has one file; each download of it breaks off at the next of `breaks`, if any is left."""

    content: bytes = ROWS
    breaks: list[int] = field(default_factory=list)
    is_expired: bool = False
    attempts: int = 3
    offsets: list[int] = field(default_factory=list)
    columns = Clickwrap.columns

    @property
    def retry(self) -> RetryPolicy:
        return RetryPolicy(attempts=self.attempts, base=0, cap=0)

    async def get_export(self, export_id: str) -> Export:
        return Export(export_id, "succeeded", links=("https://f/a?2",))

    @asynccontextmanager
    async def download(self, link: str, *, offset: int = 0, validator: str | None = None) -> AsyncIterator[Body]:
        if self.is_expired:
            raise LinkExpiredError("the file host answered 403", status=403)
        self.offsets.append(offset)
        yield Body(self._chunks(offset), offset, len(self.content), '"v1"')

    async def _chunks(self, offset: int) -> AsyncIterator[bytes]:
        end = self.breaks.pop(0) if self.breaks else len(self.content)
        for at in range(offset, end, 65536):
            yield self.content[at : min(end, at + 65536)]
        if end < len(self.content):
            raise TransferError("the transfer broke")


async def collected(
    directory: Path, source: Source, records: tuple[PartRecord, ...] = (), on_event: Any = None
) -> tuple[bytes, list[Event]]:
    """The file of a window's export, and what was announced."""
    heard: list[Event] = []
    failure: Exception | None = None
    journal = Journal(directory / "journal.sqlite")
    try:
        if not records:
            journal.begin({}, WINDOW.end, [WINDOW])
            journal.record_export(journal.record_launch(WINDOW), "e")
        async with anyio.create_task_group() as group:
            collector = Collector(
                source,  # type: ignore[arg-type]
                journal,
                group,
                memory=Memory(0),
                path=lambda _window, part: directory / f"part-{part}.csv",
                slots=Slots(ExportLimit(None, 1, 0.0), DownloadLimit(2, 0.0), ignore),
                backpressure=Backpressure(1, [WINDOW]),
                on_event=on_event or heard.append,
            )
            journey = Journey(WINDOW)
            try:
                await collector.collect(journey, Export("e", "succeeded", links=("https://f/a?1",)), records)
            except Exception as error:
                failure = error
        if failure:
            raise failure
    finally:
        journal.close()
    [part] = journey.parts
    body = part.path.read_bytes()
    assert part.size == len(body)
    return body, heard


def recorded(directory: Path) -> PartRecord:
    """What another process finds."""
    journal = JournalReader(directory / "journal.sqlite")
    try:
        return journal.exports()[0][0].parts[0]
    finally:
        journal.close()


async def test_a_complete_file_is_recorded_and_announced(tmp_path: Path) -> None:
    body, heard = await collected(tmp_path, Source(breaks=[2_000_000]))
    assert body == ROWS
    record = recorded(tmp_path)
    assert (record.size, record.checksum) == (len(ROWS), xxh3_128(ROWS).hexdigest())
    assert sum(event.size for event in heard if isinstance(event, Received)) == len(ROWS)
    [retried] = [event for event in heard if isinstance(event, Retried)]
    assert (retried.what, retried.attempt, retried.reason) == (f"{WINDOW}, part 1", 1, "the transfer broke")
    assert heard[-1] == PartFetched(WINDOW, 1, len(ROWS))


async def test_a_complete_file_is_not_downloaded_again_by_the_next_run(tmp_path: Path) -> None:
    await collected(tmp_path, Source())
    source = Source()
    body, heard = await collected(tmp_path, source, (recorded(tmp_path),))
    assert body == ROWS
    assert heard == [PartFetched(WINDOW, 1, len(ROWS))]
    assert not source.offsets


async def test_the_journal_knows_the_version_of_a_file_that_is_being_downloaded(tmp_path: Path) -> None:
    seen: list[PartRecord] = []

    def watch(event: Event) -> None:
        if isinstance(event, Received):
            seen.append(recorded(tmp_path))

    await collected(tmp_path, Source(), on_event=watch)
    assert (seen[0].validator, seen[0].length) == (None, None)
    assert (seen[-1].validator, seen[-1].length, seen[-1].size) == ('"v1"', len(ROWS), None)


async def test_the_next_run_resumes_a_file_from_its_last_byte(tmp_path: Path) -> None:
    source = Source(breaks=[100_000] * 9)
    reason = r"^window 1 .*, part 1: download failed after 3 attempts: the transfer broke"
    with pytest.RaisesGroup(pytest.RaisesExc(PartError, match=reason)):
        await collected(tmp_path, source)
    record = recorded(tmp_path)
    assert (record.validator, record.length, record.size) == ('"v1"', len(ROWS), None)
    source = Source()
    body, heard = await collected(tmp_path, source, (record,))
    assert body == ROWS
    assert source.offsets == [100_000]
    assert sum(event.size for event in heard if isinstance(event, Received)) == len(ROWS) - 100_000


async def test_a_file_of_which_no_version_is_recorded_is_downloaded_from_its_start(tmp_path: Path) -> None:
    with pytest.RaisesGroup(PartError):
        await collected(tmp_path, Source(breaks=[100_000] * 9))
    source = Source()
    body, _ = await collected(tmp_path, source, (replace(recorded(tmp_path), validator=None, length=None),))
    assert body == ROWS
    assert source.offsets == [0]


@pytest.mark.parametrize(
    ("source", "kind", "reason"),
    [
        (Source(is_expired=True), PartError, "part 1 is missing: the file host answered 403 to 5 fresh links"),
        (Source(content=b"<html>"), MalformedPartError, "part 1: the file host does not send a valid CSV: row 1: "),
        (Source(content=b"name\nx\n"), MalformedPartError, "not a CSV file with the column id"),
    ],
    ids=["missing", "malformed", "without key"],
)
async def test_a_file_that_is_missing_or_malformed_fails_the_export(
    tmp_path: Path, source: Source, kind: type[PartError], reason: str
) -> None:
    with anyio.fail_after(20), pytest.raises(ExportFailure, match=reason) as failure:
        await collected(tmp_path, source)
    assert failure.value.kind is kind


@asynccontextmanager
async def holding(directory: Path, source: Source) -> AsyncIterator[tuple[Journey, TaskGroup, list[Event]]]:
    """A journey whose file was held in memory, while the pull goes on."""
    heard: list[Event] = []
    journal = Journal(directory / "journal.sqlite")
    journal.begin({}, WINDOW.end, [WINDOW])
    journal.record_export(journal.record_launch(WINDOW), "e")
    try:
        async with anyio.create_task_group() as group:
            collector = Collector(
                source,  # type: ignore[arg-type]
                journal,
                group,
                memory=Memory(10 * len(ROWS)),
                path=lambda _window, part: directory / f"part-{part}.csv",
                slots=Slots(ExportLimit(None, 1, 0.0), DownloadLimit(2, 0.0), ignore),
                backpressure=Backpressure(1, [WINDOW]),
                on_event=heard.append,
            )
            journey = Journey(WINDOW)
            await collector.collect(journey, Export("e", "succeeded", links=("https://f/a?1",)))
            yield journey, group, heard
    finally:
        journal.close()


async def test_a_file_that_the_merge_takes_at_once_is_never_written(tmp_path: Path) -> None:
    async with holding(tmp_path, Source()) as (journey, _, heard):
        [part] = journey.parts
        assert part.held
        with open_file(part.held) as file:
            assert file.read() == ROWS
        assert heard[-1] == PartFetched(WINDOW, 1, len(ROWS))
        journey.accept(Delivery(1, 1, 1))
    assert [path.name for path in tmp_path.glob("part-*")] == []
    assert recorded(tmp_path).size is None
    assert not part.held


async def test_a_file_that_waits_for_the_merge_is_written_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "HOLD_SECONDS", 0.05)
    async with holding(tmp_path, Source()) as (journey, _, _):
        [part] = journey.parts
    assert part.path.read_bytes() == ROWS
    assert not part.held
    record = recorded(tmp_path)
    assert (record.size, record.checksum) == (len(ROWS), xxh3_128(ROWS).hexdigest())


async def test_a_file_in_memory_is_written_if_the_pull_is_cancelled(tmp_path: Path) -> None:
    async with holding(tmp_path, Source()) as (journey, group, _):
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    [part] = journey.parts
    assert part.path.read_bytes() == ROWS
    assert recorded(tmp_path).size == len(ROWS)


async def test_a_file_of_no_more_use_is_not_written(tmp_path: Path) -> None:
    async with holding(tmp_path, Source()) as (journey, _, _):
        journey.drop_parts("e")
    assert not list(tmp_path.glob("part-*"))
