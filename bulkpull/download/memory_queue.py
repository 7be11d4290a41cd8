"""The queue of downloads that wait for memory."""

from __future__ import annotations

from collections import deque

import anyio

from bulkpull.rows.held_file import Memory

_WAIT_S = 0.2  # without a file that was released: then the merge is not busy, and a file is written to the disk instead
_MAX_WAIT_S = 2.0
_INTERVAL_S = 0.01


class MemoryQueue:
    """Reserves blocks of a `memory`, first come, first served.

    Downloads start in the order of the merge. If later ones could take what an earlier one waits for, the merge would
    wait for that one while its own memory is full of theirs.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self._waiting: deque[object] = deque()

    async def reserve(self, blocks: int) -> bool:
        """Reserve so many blocks, once the merge has released them; False if it seems not to be at work."""
        place = object()
        self._waiting.append(place)
        try:
            with anyio.move_on_after(_MAX_WAIT_S):
                released, waited = self.memory.released_files, 0.0
                while not (self._waiting[0] is place and self.memory.reserve(blocks)):
                    if waited >= _WAIT_S:
                        return False
                    await anyio.sleep(_INTERVAL_S)
                    waited += _INTERVAL_S
                    if self.memory.released_files > released:
                        released, waited = self.memory.released_files, 0.0
                return True
            return False
        finally:
            self._waiting.remove(place)
