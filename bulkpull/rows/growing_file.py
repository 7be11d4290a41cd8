"""A file that is read while it is still being written."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class Superseded(Exception):  # noqa: N818 - not an error: the reader starts over with the rewritten file
    """The file will be rewritten, or its writer has stopped: the reader must not go on."""


class GrowingFile(io.RawIOBase):
    """A CSV at `path` with one writer and one reader, as with `tail -f`.

    The writer calls `advance`, `finish` and `abort`. Reads block until bytes are available, return b"" at the end of
    the finished file, and raise Superseded if this file will never be finished. `available` is the number of bytes
    written so far, `position` the number of bytes read, `finished` the path of the finished file, once there is one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = threading.Condition()
        self._columns: tuple[str, ...] | None = None
        self._superseded = False
        self.finished: Path | None = None
        self._file: io.FileIO | None = None
        self.available = self.position = 0

    @property
    def path(self) -> Path:
        """Where the file is while it grows."""
        return self._path

    def advance(self, offset: int, columns: Sequence[str]) -> None:
        """Make the first `offset` bytes available. If `columns` differ from the first call's, supersede the file."""
        with self._changed:
            self._columns = self._columns or tuple(columns)
            self._superseded |= self._columns != tuple(columns)
            self.available = offset
            self._changed.notify()

    def finish(self, path: Path) -> None:
        """Make all bytes available. If `path`, the finished file, is another one, supersede this file."""
        with self._changed:
            self._superseded |= path != self._path
            self.finished = path
            self.available = path.stat().st_size
            self._changed.notify()

    def abort(self) -> None:
        """Supersede the file: the writer stops."""
        with self._changed:
            self._superseded = True
            self._changed.notify()

    # The reader's side

    def wait_beyond(self, offset: int) -> int:
        """Wait for more than `offset` bytes, or the end; return how many are available. Raises Superseded."""
        with self._changed:
            self._changed.wait_for(lambda: self._superseded or self.finished or self.available > offset)
            if self._superseded:
                raise Superseded
            return self.available

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("cannot seek relative to the end of a growing file")
        self.position = offset
        return offset

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: WriteableBuffer) -> int:
        file, limit = self._wait()
        with memoryview(buffer) as view:
            count = file.readinto(view.cast("B")[:limit])
        self.position += count
        return count

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return self.readall()
        file, limit = self._wait()
        data = file.read(min(size, limit)) or b""  # the inherited method would make a copy
        self.position += len(data)
        return data

    def _wait(self) -> tuple[io.FileIO, int]:
        """Wait for bytes at the position; return the file, opened there, and how many there are."""
        limit = max(0, self.wait_beyond(self.position) - self.position)
        if self._file is None:
            self._file = self._path.open("rb", buffering=0)
        self._file.seek(self.position)
        return self._file, limit

    def close(self) -> None:
        if self._file:
            self._file.close()
        super().close()
