"""A file that is read while it is written: reading waits for what is still to come."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class Superseded(Exception):  # noqa: N818 - not an error: what was read is to be read again, elsewhere
    """What follows will not be what was read so far, or nothing will follow: there is no use in reading on."""


class Followed(io.RawIOBase):
    """The CSV at `path`, for one reader that follows it; `reach`, `end` and `stop` are called by who writes it.

    Reading ends where the file does, once that is known; it raises Superseded where that will never be. `reached` are
    the bytes that stand, `position` those that have been read, `finished` the path of the whole file, once it stands.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = threading.Condition()
        self._columns: tuple[str, ...] | None = None
        self._ended = self._stopped = False
        self._file: io.FileIO | None = None
        self.reached = self.position = 0
        self.finished: Path | None = None

    def reach(self, offset: int, columns: Sequence[str]) -> None:
        """The first `offset` bytes stand, under `columns`; where those change, the file will be written anew."""
        with self._changed:
            self._columns = self._columns or tuple(columns)
            self._stopped |= self._columns != tuple(columns)
            self.reached = offset
            self._changed.notify()

    def end(self, path: Path) -> None:
        """All stands, at `path`, which may be another than what is being read."""
        with self._changed:
            self._stopped |= path != self._path
            self._ended = True
            self.finished = path
            self.reached = path.stat().st_size
            self._changed.notify()

    def stop(self) -> None:
        """No more will come."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    # Reading

    def wait_beyond(self, offset: int) -> int:
        """Waits until more than `offset` bytes stand, or all; returns how many do. Raises Superseded."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._ended or self.reached > offset)
            if self._stopped:
                raise Superseded
            return self.reached

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("the end is not known")
        self.position = offset
        return offset

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: WriteableBuffer) -> int:
        file, most = self._next()
        with memoryview(buffer) as view:
            came = file.readinto(view.cast("B")[:most])
        self.position += came
        return came

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return self.readall()
        file, most = self._next()
        came = file.read(min(size, most)) or b""  # unlike the inherited method, without a copy
        self.position += len(came)
        return came

    def _next(self) -> tuple[io.FileIO, int]:
        """The file, where it is to be read, and how many bytes of it stand, once there are any more."""
        most = max(0, self.wait_beyond(self.position) - self.position)
        if self._file is None:
            self._file = self._path.open("rb", buffering=0)
        self._file.seek(self.position)
        return self._file, most

    def close(self) -> None:
        if self._file:
            self._file.close()
        super().close()
