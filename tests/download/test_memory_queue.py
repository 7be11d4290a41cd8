"""Downloads get memory in the order in which they ask for it, and do not wait for it forever."""

from __future__ import annotations

import anyio
from anyio.lowlevel import checkpoint

from bulkpull.download.memory_queue import MemoryQueue
from bulkpull.rows.held_file import BLOCK_BYTES, HeldFile, Memory
from tests.clock import on_a_jumping_clock

BLOCKS = 4


async def settle() -> None:
    for _ in range(20):
        await checkpoint()


class Files:
    """Files that are held in memory, each of which takes a number of blocks."""

    def __init__(self) -> None:
        self.memory = Memory(BLOCKS * BLOCK_BYTES)
        self.queue = MemoryQueue(self.memory)
        self.reserved: list[str] = []
        self.refused: list[str] = []

    async def reserve(self, name: str, blocks: int) -> None:
        found = self.reserved if await self.queue.reserve(blocks) else self.refused
        found.append(name)


def test_what_fits_does_not_overtake_what_waits() -> None:
    async def main() -> Files:
        files = Files()
        async with anyio.create_task_group() as group:
            for name, blocks in (("first", 3), ("second", 2), ("third", 1)):
                group.start_soon(files.reserve, name, blocks)
                await settle()
            assert files.reserved == ["first"]
            files.memory.release([], 3)
        return files

    files = on_a_jumping_clock(main)
    assert files.reserved == ["first", "second", "third"]
    assert files.memory.reserve(BLOCKS - 2 - 1)
    assert not files.memory.reserve(1)


def test_memory_that_is_never_released_is_waited_for_once_and_by_all_together() -> None:
    async def main() -> tuple[Files, float]:
        files = Files()
        await files.reserve("first", BLOCKS)
        began = anyio.current_time()
        async with anyio.create_task_group() as group:
            for name in ("second", "third", "fourth"):
                group.start_soon(files.reserve, name, 1)
        waited = anyio.current_time() - began
        files.memory.release([], BLOCKS)
        await files.reserve("fifth", BLOCKS)
        return files, waited

    files, waited = on_a_jumping_clock(main)
    assert sorted(files.refused) == ["fourth", "second", "third"]
    assert files.reserved == ["first", "fifth"]
    assert waited < 1.0


def test_a_merge_that_is_at_work_is_waited_for_but_not_forever() -> None:
    async def main() -> tuple[Files, float]:
        files = Files()
        await files.reserve("first", BLOCKS)
        began = anyio.current_time()
        async with anyio.create_task_group() as group:
            group.start_soon(files.reserve, "second", BLOCKS)
            for _ in range(12):
                await anyio.sleep(0.1)
                HeldFile([], 0, files.memory)  # is released at once
            assert not files.refused
            while not files.refused:
                await anyio.sleep(0.1)
                HeldFile([], 0, files.memory)
        return files, anyio.current_time() - began

    files, waited = on_a_jumping_clock(main)
    assert files.refused == ["second"]
    assert waited < 3.0


def test_a_download_that_is_cancelled_leaves_the_queue() -> None:
    async def main() -> Files:
        files = Files()
        await files.reserve("first", BLOCKS)
        async with anyio.create_task_group() as group:
            scope = anyio.CancelScope()

            async def cancelled() -> None:
                with scope:
                    await files.reserve("second", BLOCKS)

            group.start_soon(cancelled)
            await settle()
            group.start_soon(files.reserve, "third", 1)
            await settle()
            scope.cancel()
            files.memory.release([], BLOCKS)
        return files

    files = on_a_jumping_clock(main)
    assert files.reserved == ["first", "third"]
    assert files.refused == []
