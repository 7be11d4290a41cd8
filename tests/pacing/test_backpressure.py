"""Downloads wait while too much waits for the merge, and never for what the merge waits for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest

import bulkpull
from bulkpull import Clickwrap, events
from bulkpull.events import Event, Exported, ExportFailed, PartFetched, Skipped, Split, WindowMerged
from bulkpull.pacing import backpressure as spool_module
from bulkpull.pacing.backpressure import Spool
from bulkpull.sandbox import Sandbox, SandboxConfig
from bulkpull.window import Window

WINDOWS = [
    Window(number, datetime(2024, 1, 1 + number, tzinfo=UTC), datetime(2024, 1, 2 + number, tzinfo=UTC))
    for number in range(4)
]


async def test_a_download_waits_until_there_is_room_again() -> None:
    spool = Spool(100)
    spool.expect(WINDOWS)
    for window in WINDOWS:
        spool(Exported(window, "1", 1, 1.0))
    spool(PartFetched(WINDOWS[1], 1, 60))
    assert spool.has_room(WINDOWS[2])
    spool(PartFetched(WINDOWS[2], 1, 40))
    assert not spool.has_room(WINDOWS[1])
    assert spool.has_room(WINDOWS[0])  # the merge awaits it
    waited: list[int] = []

    async def wait(number: int) -> None:
        await spool.room(WINDOWS[number])
        waited.append(number)

    async with anyio.create_task_group() as group:
        group.start_soon(wait, 3)
        await anyio.wait_all_tasks_blocked()
        assert waited == []
        spool(WindowMerged(WINDOWS[0]))
        await anyio.wait_all_tasks_blocked()
        assert waited == []
        assert spool.has_room(WINDOWS[1])
        spool(ExportFailed(WINDOWS[2], "1", 1, "damaged"))
    assert waited == [3]


async def test_a_resumed_merge_awaits_its_first_window() -> None:
    spool = Spool(1)
    spool.expect(WINDOWS[2:])
    spool(Exported(WINDOWS[3], "1", 1, 1.0))
    spool(PartFetched(WINDOWS[3], 1, 60))
    assert spool.has_room(WINDOWS[2])
    assert not spool.has_room(WINDOWS[3])


async def test_a_download_waits_while_enough_can_be_merged_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "BACKLOG", 100)
    spool = Spool(1000)
    spool.expect(WINDOWS)
    spool(Exported(WINDOWS[0], "1", 2, 1.0))
    spool(Exported(WINDOWS[1], "2", 1, 1.0))
    spool(PartFetched(WINDOWS[0], 1, 60))
    spool(PartFetched(WINDOWS[1], 1, 60))
    assert spool.has_room(WINDOWS[2])  # the merge awaits a part of the first window, and can do nothing with the others
    spool(PartFetched(WINDOWS[0], 2, 40))
    assert not spool.has_room(WINDOWS[2])
    spool(WindowMerged(WINDOWS[0]))
    assert spool.has_room(WINDOWS[2])


async def test_halves_take_the_place_of_the_window_and_what_is_left_out_is_not_awaited() -> None:
    spool = Spool(1)
    spool.expect(WINDOWS)
    day = WINDOWS[0]
    noon = day.start + (day.end - day.start) / 2
    halves = Window(4, day.start, noon), Window(5, noon, day.end)
    spool(Split(day, halves, "it failed"))
    spool(Exported(WINDOWS[3], "1", 1, 1.0))
    spool(PartFetched(WINDOWS[3], 1, 60))
    assert spool.has_room(halves[0])
    assert not spool.has_room(halves[1])
    spool(Skipped(halves[0], "it failed"))
    assert spool.has_room(halves[1])
    assert not spool.has_room(WINDOWS[1])


async def test_the_bound_holds_in_a_pull(tmp_path: Path) -> None:
    """Though the first window is exported last, and the merge awaits it."""
    config = SandboxConfig(
        rows=12_000, start=datetime(2024, 1, 1, tzinfo=UTC), end=datetime(2024, 7, 1, tzinfo=UTC), rows_per_file=250
    )
    config = replace(config, export_seconds=0.2, workers=3)
    held = peak = fetched = 0
    sizes: dict[int, int] = {}

    def listen(event: Event) -> None:
        nonlocal held, peak, fetched
        if isinstance(event, events.PartFetched):
            sizes[event.window.index] = sizes.get(event.window.index, 0) + event.size
            held += event.size
            fetched += event.size
        elif isinstance(event, events.WindowMerged):
            held -= sizes[event.window.index]
        peak = max(peak, held)

    async with Sandbox(config) as sandbox, Clickwrap(config.token, base_url=sandbox.url) as clickwrap:
        result = await bulkpull.pull(
            clickwrap,
            start="2024-01-01",
            end="2024-07-01",
            window="1w",
            out=tmp_path / "a.csv",
            downloads=2,
            spool=30_000,
            on_event=listen,
        )
    assert result.rows == 12_000
    assert fetched > 600_000
    # The bound, two parts that were on their way, and the window that the merge awaited.
    assert peak < 30_000 + 2 * max(sizes.values()) + max(sizes.values())
