"""A file that is read while it is still being written."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


_CHECKPOINT_INTERVAL_S = 0.1
_BUFFER_BYTES = 1024 * 1024


class Superseded(Exception):  # noqa: N818 - not an error: the reader starts over with the rewritten file
    """The file will be rewritten, or its writer has stopped: the reader must not go on."""


class GrowingFile(io.RawIOBase):
    """A CSV at `path` with one writer and one reader, as with `tail -f`.

    The writer calls `advance`, `finish` and `abort`. Reads block until bytes are available, return b"" at the end of
    the finished file, and raise Superseded if this file will never be finished. `available` is the number of bytes
    written so far, `position` the number of bytes read, `finished` the path of the finished file, once there is one,
    and `added_columns` are those that have superseded it.

    There may be more bytes in the file, which the writer may remove again: it tells of them by `append` and `remove`,
    and only `sha256` reads them.

    The reader may set `max_lead`, the bytes that the writer should not be ahead of it, and `stop_at`, an available byte
    at which reads end instead of waiting for more.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = threading.Condition()
        self._columns: tuple[str, ...] | None = None
        self._superseded = False
        self.added_columns: tuple[str, ...] = ()
        self.finished: Path | None = None
        self._file: io.FileIO | None = None
        self.available = self.position = 0
        self._appended = self._removals = 0
        self.max_lead: int | None = None
        self.stop_at: int | None = None

    @property
    def path(self) -> Path:
        """Where the file is while it grows."""
        return self._path

    def wait_for_reader(self, written: int, checkpoint: Callable[[], None]) -> None:
        """Wait while byte `written` is more than `max_lead` bytes ahead of the reader. `checkpoint` is called meanwhile
        and may raise to stop."""
        with self._changed:
            while self.max_lead is not None and written - self.position > self.max_lead and not self._superseded:
                self._changed.wait(_CHECKPOINT_INTERVAL_S)
                checkpoint()

    def advance(self, offset: int, columns: Sequence[str], header: Sequence[str] = ()) -> None:
        """Make the first `offset` bytes available. If `columns` are not those of the header, supersede the file.

        The header has the columns of the first call, unless `header` says otherwise.
        """
        with self._changed:
            if offset and self._columns is None:
                self._columns = tuple(header or columns)
            if self._columns and self._columns != tuple(columns):
                self.added_columns = tuple(column for column in columns if column not in self._columns)
                self._superseded = True
            self.available = offset
            self._changed.notify_all()

    def append(self, offset: int) -> None:
        """Tell that the file has `offset` bytes, of which those that are not available may be removed again."""
        with self._changed:
            self._appended = offset
            self._changed.notify_all()

    def remove(self, offset: int) -> None:
        """Tell that all bytes behind `offset` are about to be removed."""
        with self._changed:
            self._appended = offset
            self._removals += 1
            self._changed.notify_all()

    def finish(self, path: Path) -> None:
        """Make all bytes available. If `path`, the finished file, is another one, supersede this file."""
        with self._changed:
            self._superseded |= path != self._path
            self.finished = path
            self.available = path.stat().st_size
            self._changed.notify_all()

    def abort(self) -> None:
        """Supersede the file: the writer stops."""
        with self._changed:
            self._superseded = True
            self._changed.notify_all()

    # The reader's side

    def wait_beyond(self, offset: int, timeout: float | None = None) -> int:
        """Wait for more than `offset` bytes, or the end, or `timeout` seconds; return how many are available. Raises
        Superseded."""
        with self._changed:
            self._changed.wait_for(lambda: self._superseded or self.finished or self.available > offset, timeout)
            if self._superseded:
                raise Superseded
            return self.available

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the rows that are available, as the writer knows them."""
        return self._columns or ()

    def spans(
        self, on_wait: Callable[[], None], interval_s: float, *, enough_bytes: int = 0, max_hold_s: float = 0.0
    ) -> Iterator[Self]:
        """Yield this file whenever there are bytes to read: reads then end where these do, at the end of a record.

        Each span must be read to its end. `on_wait` is called every `interval_s` seconds while there are none, and may
        raise to stop. Spans after the first are held back for up to `max_hold_s` seconds, until they have
        `enough_bytes`. Raises Superseded.
        """
        hold_s = 0.0
        while True:
            end = self.wait_beyond(self.position, interval_s)
            if end > self.position:
                self.stop_at = self._gathered(end, enough_bytes, hold_s)
                yield self
                self.stop_at, hold_s = None, max_hold_s
                continue
            with self._changed:
                if self.finished and self.available == self.position:
                    return
            on_wait()

    def _gathered(self, end: int, enough_bytes: int, hold_s: float) -> int:
        """Wait up to `hold_s` seconds for enough bytes behind the position; return where they end, `end` or later."""
        deadline = time.monotonic() + hold_s
        while end - self.position < enough_bytes and (left := deadline - time.monotonic()) > 0 and not self.finished:
            end = self.wait_beyond(end, left)
        return end

    def sha256(self, checkpoint: Callable[[], None]) -> str:
        """Return the SHA-256 of the whole file in hexadecimal, computed while it grows.

        Reads bytes that may be removed again: then goes back to what was computed of those that were available.
        `checkpoint` is called between reads and may raise to stop. Raises Superseded and OSError.
        """
        digest = available_digest = hashlib.sha256()
        available_position = self.position = 0
        removals = self._removals
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        while True:
            with self._changed:
                if self._superseded:
                    raise Superseded
                if self._removals != removals:
                    removals, self.position = self._removals, available_position
                    digest = available_digest.copy()
                elif self.position <= self.available:
                    available_digest, available_position = digest.copy(), self.position
                left = max(self.available, self._appended) - self.position
                if not left:
                    if self.finished:
                        return digest.hexdigest()
                    self._changed.wait()
                    continue
            checkpoint()
            count = self._read_at(self.position, buffer[:left])
            if not count and self._removals == removals:
                raise OSError(f"it ends at byte {self.position:,}, but more was written")
            digest.update(buffer[:count])
            self._advance_reader(count)

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
        self._advance_reader(count)
        return count

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return self.readall()
        file, limit = self._wait()
        data = file.read(min(size, limit)) or b""  # the inherited method would make a copy
        self._advance_reader(len(data))
        return data

    def _read_at(self, offset: int, buffer: memoryview) -> int:
        if self._file is None:
            self._file = self._path.open("rb", buffering=0)
        self._file.seek(offset)
        return self._file.readinto(buffer)

    def _advance_reader(self, count: int) -> None:
        with self._changed:
            self.position += count
            self._changed.notify_all()

    def _wait(self) -> tuple[io.FileIO, int]:
        """Wait for bytes at the position; return the file, opened there, and how many there are."""
        end = self.wait_beyond(self.position) if self.stop_at is None else self.stop_at
        limit = max(0, end - self.position)
        if self._file is None:
            self._file = self._path.open("rb", buffering=0)
        self._file.seek(self.position)
        return self._file, limit

    def close(self) -> None:
        if self._file:
            self._file.close()
        super().close()
