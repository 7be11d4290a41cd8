"""Downloads wait for the merge, and go on when it has made room."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import Mock

import anyio
import pytest

import bulkpull
from bulkpull import Clickwrap, Export, events
from bulkpull.download import Downloaded, Downloader
from bulkpull.events import Event, ignore
from bulkpull.pacing import Backpressure, DownloadLimit, ExportLimit
from bulkpull.pull.collect import Collector, PartLink, part_records
from bulkpull.pull.journey import Journey
from bulkpull.pull.slots import Slots
from bulkpull.rows.held_file import Memory
from bulkpull.sandbox import Sandbox, SandboxConfig
from bulkpull.window import Window
from tests.simulation.clock import simulated

WINDOWS = [
    Window(number, datetime(2024, 1, 1 + number, tzinfo=UTC), datetime(2024, 1, 2 + number, tzinfo=UTC))
    for number in range(4)
]
SIZE = 60


def test_downloads_wait_for_room_and_go_on_when_the_merge_has_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    downloaded: list[int] = []

    async def download(_self: object, link: PartLink, *_: object) -> Downloaded:
        downloaded.append(int(link.links.export_id.removeprefix("export ")))
        return Downloaded(SIZE, "")

    monkeypatch.setattr(Downloader, "download", download)

    async def main() -> None:
        slots = Slots(ExportLimit(None, 128, 0.0), DownloadLimit(8, 0.0), ignore)
        collector = Collector(
            Mock(),
            Mock(),
            Mock(),
            memory=Memory(0),
            path=lambda *_: Path("part"),
            slots=slots,
            backpressure=Backpressure(2 * SIZE, WINDOWS),
            on_event=ignore,
        )

        async with anyio.create_task_group() as group:

            async def start(number: int) -> None:
                export = Export(f"export {number}", "succeeded", links=(f"https://files/{number}",))
                group.start_soon(collector.collect, Journey(WINDOWS[number]), export, part_records(export))
                await anyio.wait_all_tasks_blocked()

            await start(1)
            await start(2)
            await start(3)
            assert downloaded == [1, 2]  # which is all that there is room for
            assert slots.downloads.borrowed_tokens == 0  # no slot is held meanwhile
            await start(0)
            assert downloaded == [1, 2, 0]  # the merge awaits it
            collector.window_left(WINDOWS[0])
            await anyio.wait_all_tasks_blocked()
            assert downloaded == [1, 2, 0]
            collector.export_failed(WINDOWS[2])
            await anyio.wait_all_tasks_blocked()
            assert downloaded == [1, 2, 0, 3]

    simulated(0, main)


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
