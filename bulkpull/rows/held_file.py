"""Files that are held in memory: in blocks of equal size, which are used again.

So the memory that downloads take is bounded, and is not allocated and freed with each chunk that arrives.
"""

from __future__ import annotations

import io
import mmap
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bulkpull.rows.records import File

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BLOCK_BYTES = 1024 * 1024


class Memory:
    """Blocks of memory, of which files together get up to `limit` bytes beyond one for each."""

    def __init__(self, limit: int) -> None:
        self._limit = limit // BLOCK_BYTES
        self._taken = self._mapped = 0
        self._free: list[memoryview] = []
        if self._limit:
            area = mmap.mmap(-1, self._limit * BLOCK_BYTES)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                with suppress(OSError):  # a kernel without them
                    area.madvise(mmap.MADV_HUGEPAGE)  # one page fault for two blocks, instead of one for 4 KiB
            self._area = memoryview(area)

    def take(self, *, is_first: bool) -> memoryview | None:
        """Take a block, if one is left or it is the first of its file."""
        if self._taken >= self._limit and not is_first:
            return None
        self._taken += 1
        if self._free:
            return self._free.pop()
        if self._mapped == self._limit:
            return memoryview(bytearray(BLOCK_BYTES))
        self._mapped += 1
        return self._area[(self._mapped - 1) * BLOCK_BYTES : self._mapped * BLOCK_BYTES]

    def give_back(self, blocks: Sequence[memoryview]) -> None:
        """Return blocks that nobody reads any more."""
        self._taken -= len(blocks)
        self._free += blocks


class HeldFile:
    """The first `size` bytes in `blocks`, which return to the `memory` with the last reference to the file."""

    def __init__(self, blocks: list[memoryview], size: int, memory: Memory) -> None:
        self.size = size
        self._blocks = blocks
        self._memory = memory

    def __del__(self) -> None:
        self._memory.give_back(self._blocks)

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
