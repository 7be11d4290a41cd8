"""The limiters follow the limits, and each change is announced once."""

from __future__ import annotations

import anyio

from bulkpull.events import Event, Limited
from bulkpull.pacing import DownloadLimit, ExportLimit
from bulkpull.pacing.limits import MEASUREMENT_S
from bulkpull.pull.slots import Slots
from tests.simulation.clock import simulated


def made(heard: list[Event], exports: int | None = None) -> Slots:
    now = anyio.current_time()
    return Slots(ExportLimit(exports, 128, now), DownloadLimit(16, now), heard.append)


def test_a_change_of_a_limit_resizes_its_limiter_and_is_announced_once() -> None:
    heard: list[Event] = []

    async def main() -> None:
        slots = made(heard)
        slots.adjust()
        assert heard == []
        for number in range(3):
            slots.export_limit.record_running(str(number), 1.0, anyio.current_time())
        slots.adjust()
        slots.adjust()
        assert heard == [Limited(6, 4)]
        assert (slots.exports.total_tokens, slots.downloads.total_tokens) == (6, 4)

    simulated(0, main)


def test_downloads_that_wait_for_a_slot_get_more_of_them_while_more_comes() -> None:
    heard: list[Event] = []

    async def main() -> None:
        slots = made(heard)

        async def download() -> None:
            async with slots.downloads:
                await anyio.sleep(100)

        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(download)
            await anyio.wait_all_tasks_blocked()
            assert slots.downloads.borrowed_tokens == 4
            for _ in range(2):
                await anyio.sleep(MEASUREMENT_S)
                slots.record_bytes(1000)
            await anyio.wait_all_tasks_blocked()
            assert slots.downloads.borrowed_tokens == 6
            slots.record_break()
            slots.record_break()
            group.cancel_scope.cancel()

    simulated(0, main)
    assert heard == [Limited(4, 8), Limited(4, 6)]


def test_an_export_that_waits_for_a_slot_shows_that_they_are_saturated() -> None:
    async def main() -> None:
        slots = made([], exports=1)
        async with slots.exports, anyio.create_task_group() as group:
            assert not slots.are_exports_saturated
            group.start_soon(slots.exports.acquire_on_behalf_of, object())
            await anyio.wait_all_tasks_blocked()
            assert slots.are_exports_saturated
            group.cancel_scope.cancel()

    simulated(0, main)
