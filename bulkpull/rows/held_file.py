"""Files that are held in memory: in blocks of equal size, which are used again.

So the memory that downloads take is bounded, and is not allocated and freed with each chunk that arrives.
"""

from __future__ import annotations

import io
import mmap
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bulkpull.rows.records import File

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BLOCK_BYTES = 1024 * 1024


class Memory:
    """The memory in which files are held: `blocks` in all, and one for each file that gets no more.

    A file reserves as many as it takes before it takes the first, so that none ever waits with some in hand.
    `released_files` counts the files that nobody reads any more.
    """

    def __init__(self, limit: int) -> None:
        self.blocks = self._left = self._unused = limit // BLOCK_BYTES
        self._free: list[memoryview] = []
        self.released_files = 0
        # Blocks are released by the threads that have read them, perhaps by a garbage collection in here.
        self._changing = threading.RLock()
        if self.blocks:
            self._mapping = mmap.mmap(-1, self.blocks * BLOCK_BYTES)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                with suppress(OSError):  # a kernel without them
                    self._mapping.madvise(mmap.MADV_HUGEPAGE)  # one page fault for two blocks, not one for 4 KiB
            self._area = memoryview(self._mapping)

    def close(self) -> None:
        """Unmap the memory, unless somebody still holds a block. That takes some milliseconds: not in an event loop."""
        self._free.clear()
        if self.blocks:
            self._area.release()
            with suppress(BufferError):
                self._mapping.close()

    def reserve(self, blocks: int, *, anyway: bool = False) -> bool:
        """Reserve so many blocks, if they are left or `anyway`."""
        with self._changing:
            if blocks > self._left and not anyway:
                return False
            self._left -= blocks
            return True

    def take(self) -> memoryview:
        """Return a block that was reserved."""
        with self._changing:
            if self._free:
                return self._free.pop()
            if not self._unused:
                return memoryview(bytearray(BLOCK_BYTES))
            self._unused -= 1
            return self._area[self._unused * BLOCK_BYTES : (self._unused + 1) * BLOCK_BYTES]

    def release(self, blocks: Sequence[memoryview], reserved: int = 0) -> None:
        """Return blocks that nobody reads any more, and so many that were reserved and not taken."""
        with self._changing:
            self._left += len(blocks) + reserved
            self._free += blocks

    def release_file(self, blocks: Sequence[memoryview]) -> None:
        """Return the blocks of a file."""
        with self._changing:
            self.release(blocks)
            self.released_files += 1


class HeldFile:
    """The first `size` bytes in `blocks`, which return to the `memory` with the last reference to the file."""

    def __init__(self, blocks: list[memoryview], size: int, memory: Memory) -> None:
        self.size = size
        self._blocks = blocks
        self._memory = memory

    def __del__(self) -> None:
        self._memory.release_file(self._blocks)

    @property
    def pieces(self) -> list[memoryview]:
        """The bytes of the file. They are valid as long as the file is referred to."""
        whole, rest = divmod(self.size, BLOCK_BYTES)
        views = self._blocks[:whole]
        return [*views, self._blocks[whole][:rest]] if rest else views


def open_file(source: Path | HeldFile) -> File:
    """Open a file for reading, unbuffered. The caller closes it. Raises OSError."""
    return _Reader(source) if isinstance(source, HeldFile) else source.open("rb", buffering=0)


class _Reader(io.RawIOBase):
    def __init__(self, file: HeldFile) -> None:
        self._file = file
        self._pieces = file.pieces
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("a held file is read from its start")
        self._at = offset
        return offset

    def readinto(self, buffer: WriteableBuffer) -> int:
        number, start = divmod(self._at, BLOCK_BYTES)
        if number >= len(self._pieces):
            return 0
        with memoryview(buffer) as view, view.cast("B") as free:
            piece = self._pieces[number][start : start + len(free)]
            free[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)
