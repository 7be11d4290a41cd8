"""A pipe: standard output, a FIFO, a process substitution or a device gets the rows while the pull goes on.

What is written cannot be taken back, so nothing is published at the end, and a pull to a pipe cannot be resumed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import select
import stat
import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from anyio import from_thread

from bulkpull.disk import disk_errors
from bulkpull.errors import OutputError, ReaderGoneError
from bulkpull.record import record
from bulkpull.rows.format import Format
from bulkpull.rows.growing_file import GrowingFile, Superseded
from bulkpull.rows.records import read_chunks, read_header
from bulkpull.source import Columns

OPEN_TIMEOUT_S = 60.0  # for another program to open a FIFO for reading
_INTERVAL_S = 0.1  # between checks for a cancellation, and for a reader that has exited
_STANDARD_OUTPUT = 1
_DESCRIPTORS = {"-": _STANDARD_OUTPUT, "/dev/stdout": _STANDARD_OUTPUT, "/dev/stderr": 2}
_DESCRIPTOR_PATH = re.compile(r"/(?:dev|proc/self)/fd/(\d{1,9})")
_FILE_PIECE_BYTES = 1024 * 1024
_GONE_ERRNOS = frozenset({errno.EPIPE, errno.ECONNRESET})


@record
class ByteStream:
    """An output that takes bytes one after the other: an open descriptor, or a FIFO or device at `path`."""

    name: str
    path: Path | None = None
    descriptor: int | None = None

    @property
    def is_standard_output(self) -> bool:
        """Whether it is the standard output of this process."""
        return self.descriptor == _STANDARD_OUTPUT


def byte_stream_at(output: str | os.PathLike[str]) -> ByteStream | None:
    """Return the stream that an output names: `-`, a descriptor's path, a FIFO or a device. None for a file."""
    path = os.fspath(output)
    if (descriptor := _DESCRIPTORS.get(path)) is None and (match := _DESCRIPTOR_PATH.fullmatch(path)):
        descriptor = int(match[1])
    if descriptor is not None:
        return ByteStream("standard output" if descriptor == _STANDARD_OUTPUT else path, descriptor=descriptor)
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):  # it does not exist, or the name cannot be a path
        return None
    return ByteStream(path, path=Path(path)) if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) else None


class Pipe:
    """Writes rows to a stream as soon as their windows are merged. See Destination.

    The descriptor may be shared with other processes, so its flags stay as
    they are: it is polled instead, and given at most PIPE_BUF bytes at a time, which a pipe that is ready takes without
    blocking. So a reader that stops reading blocks the thread only until the pull is cancelled.
    """

    def __init__(self, stream: ByteStream, format: Format, columns: Columns) -> None:
        self._stream = stream
        self._format = format
        self._columns = columns
        self._descriptor = -1
        self._piece_bytes = select.PIPE_BUF
        self._ready = select.poll()

    def check(self) -> None:
        """Open the stream. Raises OutputError if that fails, or if nobody opens a FIFO for reading."""
        with disk_errors(f"write to {self._stream.name}"):
            self._descriptor = self._open()
            if fcntl.fcntl(self._descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                raise OutputError(f"{self._stream.name} is open for reading only")
            if stat.S_ISREG(os.fstat(self._descriptor).st_mode):  # standard output that was redirected
                self._piece_bytes = _FILE_PIECE_BYTES
        self._ready.register(self._descriptor, select.POLLOUT)

    def holds(self, _receipt: str) -> bool:
        """Whether an earlier run has written it: never."""
        return False

    def take(self, merged: GrowingFile) -> None:
        """Write the rows of each window once it is merged."""
        for piece in self._rendered(self._spans(merged)):
            self._write(piece)

    def finish(self, _merged: Path) -> str:
        """Return the receipt of nobody."""
        return ""

    def publish(self) -> None:
        """A no-op: the rows are written."""

    def discard(self) -> None:
        """A no-op: earlier runs have left nothing."""

    def close(self) -> None:
        """Close the descriptor; a shared one stays open elsewhere."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> int:
        if self._stream.path is None:
            assert self._stream.descriptor is not None
            # Python has no standard output if the descriptor was closed at the start; another file may have it now.
            if self._stream.is_standard_output and sys.__stdout__ is None:
                raise OutputError("standard output is closed")
            return os.dup(self._stream.descriptor)
        deadline = time.monotonic() + OPEN_TIMEOUT_S
        while True:
            try:
                return os.open(self._stream.path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
            from_thread.check_cancelled()
            if time.monotonic() > deadline:
                raise OutputError(
                    f"no program has opened {self._stream.name} for reading within {OPEN_TIMEOUT_S:.0f} seconds. "
                    "Start the reader first"
                )
            time.sleep(_INTERVAL_S)

    def _rendered(self, spans: Iterator[GrowingFile]) -> Iterator[bytes]:
        """Yield the rows in all spans in the format; those of each span before the next one is awaited."""
        if self._format.name == "csv":
            return chain.from_iterable(read_chunks(span, from_thread.check_cancelled) for span in spans)
        if self._format.name == "arrow":
            from bulkpull.rows.arrow import arrow_stream  # pyarrow is optional

            return arrow_stream(spans, columns=self._columns, all_strings=self._format.all_strings)
        from bulkpull.rows.ndjson import ndjson  # imports NumPy: not in the event loop's thread

        return ndjson(spans, key=self._columns.key, flat=self._format.flat)

    def _spans(self, merged: GrowingFile) -> Iterator[GrowingFile]:
        """Yield `merged` whenever there are rows to read. Raises OutputError for a column that the header lacks."""
        header: tuple[str, ...] = ()
        try:
            for span in merged.spans(self._confirm_reader, _INTERVAL_S):
                if not header:
                    header, _ = read_header(span, from_thread.check_cancelled, self._columns.key)
                    span.seek(0)
                self._confirm_columns(header, merged.columns)
                yield span
        except Superseded:
            self._confirm_columns(header, merged.added_columns)
            raise

    def _confirm_columns(self, header: tuple[str, ...], columns: tuple[str, ...]) -> None:
        if added := [name for name in columns if header and name not in header]:
            raise OutputError(
                f"a file of a later export has the column {added[0]}, but the header is written to {self._stream.name} "
                "already. Name all columns with --fields"
            )

    def _confirm_reader(self) -> None:
        """Raise ReaderGoneError if there is no reader any more."""
        from_thread.check_cancelled()
        for _, events in self._ready.poll(0):
            if events & (select.POLLERR | select.POLLHUP):
                raise self._gone()

    def _write(self, data: bytes) -> None:
        """Write all of `data`. Raises OutputError, and what a cancelled thread raises."""
        rest = memoryview(data)
        with disk_errors(f"write to {self._stream.name}"):
            while rest:
                from_thread.check_cancelled()
                if not self._ready.poll(1000 * _INTERVAL_S):
                    continue
                try:
                    rest = rest[os.write(self._descriptor, rest[: self._piece_bytes]) :]
                except BlockingIOError:  # it is not blocking, and has less room than a piece takes
                    time.sleep(_INTERVAL_S / 100)
                except OSError as error:
                    if error.errno in _GONE_ERRNOS:
                        raise self._gone() from None
                    raise

    def _gone(self) -> ReaderGoneError:
        return ReaderGoneError(f"the reader of {self._stream.name} has exited before the end")
