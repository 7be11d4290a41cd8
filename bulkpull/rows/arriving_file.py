"""A file that is read while it is still being downloaded, without waiting for bytes that have not arrived."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class NotArrivedError(Exception):
    """Bytes were read that are not there yet."""


class ArrivingFile(io.RawIOBase):
    """The first `available` bytes of the file at `path`, which is longer unless it `is_whole`.

    Both are set by the reader before it reads on. Raises OSError.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._position = 0
        self.available = 0
        self.is_whole = False

    def can_read(self, size: int) -> bool:
        """Whether so many more bytes can be read, or all that there will be."""
        return self.is_whole or self.available - self._position >= size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = self._file.seek(offset, whence)
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read into a buffer. Raises NotArrivedError where the file goes on, but its bytes are not there yet."""
        left = self.available - self._position
        if left <= 0:
            if self.is_whole:
                return 0
            raise NotArrivedError
        with memoryview(buffer) as view:
            count = self._file.readinto(view.cast("B")[:left])
        self._position += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
