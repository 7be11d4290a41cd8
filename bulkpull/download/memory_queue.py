"""The queue of downloads that wait for memory."""

from __future__ import annotations

import anyio

from bulkpull.rows.held_file import Memory

_WAIT_S = 0.5  # after which a file is written to the disk instead
_INTERVAL_S = 0.005  # in which the merge of a part may have released some


class MemoryQueue:
    """Reserves blocks of a `memory`, first come, first served.

    Downloads start in the order of the merge. If later ones could take what an earlier one waits for, the merge would
    wait for that one while its own memory is full of theirs.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self._turn = anyio.Lock()

    async def reserve(self, blocks: int) -> bool:
        """Reserve so many blocks, once the merge has released them; False if that takes too long."""
        with anyio.move_on_after(_WAIT_S):
            async with self._turn:
                while not self.memory.reserve(blocks):  # noqa: ASYNC110 - released in other threads
                    await anyio.sleep(_INTERVAL_S)
                return True
        return False
