"""Standard output and error whose readers may exit: that must not end a pull."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from bulkpull.errors import OutputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class ReaderGone(Exception):  # noqa: N818 - not an error: the reader has read enough
    """The reader of standard output has exited. Raised by the first write that fails; later ones are dropped."""


class _Data(io.FileIO):
    """Standard output. Raises ReaderGone, and OutputError if the disk fails."""

    failed = False

    def write(self, data: ReadableBuffer, /) -> int:
        if self.failed:  # the interpreter flushes once more when it exits
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except OSError as error:
            self.failed = True
            if error.errno in (errno.EPIPE, errno.EBADF):
                raise ReaderGone from None
            raise OutputError(f"cannot write to standard output: {error.strerror}") from error


class _Messages(io.FileIO):
    """Standard error. Writes that fail are dropped."""

    def write(self, data: ReadableBuffer, /) -> int:
        written: int | None = None
        with suppress(OSError):
            written = super().write(data)  # None where it would block
        return memoryview(data).nbytes if written is None else written


@contextmanager
def forgiving_streams() -> Iterator[None]:
    """Replace `sys.stdout` and `sys.stderr`, whether or not they are open."""
    _occupy_closed()
    usual = sys.stdout, sys.stderr
    sys.stdout = _text(_Data(1, "w", closefd=False), usual[0])
    sys.stderr = _text(_Messages(2, "w", closefd=False), usual[1])
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(ReaderGone, OutputError):  # already raised by the write
                stream.flush()
        sys.stdout, sys.stderr = usual


def _occupy_closed() -> None:
    """Open closed descriptors on the null device, so that no file takes their number and receives our messages."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


def _text(raw: io.FileIO, usual: TextIO | None) -> TextIO:
    """A text stream like the usual one, which is None if its descriptor was closed at the start."""
    encoding, errors = (usual.encoding, usual.errors) if usual else ("utf-8", "backslashreplace")
    buffered = io.BufferedWriter(raw)
    return io.TextIOWrapper(buffered, encoding, errors, line_buffering=raw.fileno() == 2 or raw.isatty())
