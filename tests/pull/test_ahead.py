"""The next window is merged while its files arrive, and removed again if they turn out to be of no use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest

from bulkpull import Clickwrap, Window
from bulkpull.journal import PartRecord
from bulkpull.pull import ahead as ahead_module
from bulkpull.pull.ahead import Ahead, settled_or_arriving
from bulkpull.pull.journey import Journey, Part
from bulkpull.rows import scan
from bulkpull.rows.dedup import Deduplicator
from bulkpull.rows.sink import CsvSink

WINDOW = Window(0, datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC))
LINES = [b"id,v\n", *(b"%024x,value\n" % number for number in range(400))]
WHOLE = b"".join(LINES)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead_module, "STEP_BYTES", 1000)
    monkeypatch.setattr(scan, "BLOCK_BYTES", 1000)


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[CsvSink]:
    with closing(CsvSink(tmp_path / "merged", ("id",), fixed=False)) as opened:
        yield opened


@pytest.fixture
def journey(tmp_path: Path) -> Journey:
    found = Journey(WINDOW)
    found.start_arriving(
        [Part(WINDOW, number, tmp_path / str(number), PartRecord(number, "", "1")) for number in (1, 2)]
    )
    return found


@asynccontextmanager
async def merging(sink: CsvSink, journey: Journey) -> AsyncIterator[list[bool]]:
    """Merge a window ahead; yield what that returned, once it has."""
    ended: list[bool] = []
    with closing(Deduplicator(sink, 1_000_000, Clickwrap.columns)) as deduplicator:
        ahead = Ahead(deduplicator, WINDOW, sink.path)

        async def merge() -> None:
            await settled_or_arriving(journey)
            ended.append(await ahead.merge(journey))

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(merge)
                yield ended


def store(journey: Journey, number: int, data: bytes) -> None:
    """Let the bytes of a part arrive on the disk."""
    part = journey.arriving[number]
    with part.path.open("ab") as file:
        file.write(data)
    journey.record_stored(part, part.path.stat().st_size)


def complete(journey: Journey, number: int) -> None:
    part = journey.arriving[number]
    part.size = part.path.stat().st_size
    journey.announce_change()


async def merged_beyond(sink: CsvSink, offset: int) -> None:
    while sink.offset <= offset:  # noqa: ASYNC110 - a thread writes
        await anyio.sleep(0.01)


async def test_merges_what_has_arrived_in_order(sink: CsvSink, journey: Journey) -> None:
    async with merging(sink, journey) as ended:
        store(journey, 1, WHOLE + LINES[1].replace(b"0", b"f"))
        complete(journey, 1)
        store(journey, 0, WHOLE[:8000])
        await merged_beyond(sink, 3000)
        store(journey, 0, WHOLE[8000:])
        await merged_beyond(sink, 9000)
        assert not ended
        complete(journey, 0)
    assert ended == [True]
    assert sink.path.read_bytes() == WHOLE + LINES[1].replace(b"0", b"f")


@pytest.mark.parametrize("reason", ["discarded", "lost", "malformed"])
async def test_gives_up_on_files_that_are_of_no_use(sink: CsvSink, journey: Journey, reason: str) -> None:
    async with merging(sink, journey) as ended:
        store(journey, 0, WHOLE[:8000])
        await merged_beyond(sink, 3000)
        if reason == "discarded":
            journey.record_stored(journey.arriving[0], 0)
        elif reason == "lost":
            journey.stop_arriving()
        else:
            store(journey, 0, b"1,2,3\n" + WHOLE)
    assert ended == [False]


async def test_merges_only_the_parts_that_the_window_has_in_the_end(sink: CsvSink, journey: Journey) -> None:
    ahead = Ahead.__new__(Ahead)
    ahead.parts = journey.arriving
    journey.parts = list(journey.arriving)
    assert ahead.is_all_of(journey)
    journey.parts.reverse()
    assert not ahead.is_all_of(journey)
    journey.parts.pop()
    assert not ahead.is_all_of(journey)
