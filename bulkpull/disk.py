"""The local disk: durable writes, and operating-system errors as sentences."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bulkpull.errors import OutputError

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def disk_errors(what: str, *, needed: int | None = None, at: Path | None = None) -> Iterator[None]:
    """Turns what the disk says into an OutputError that names `what` was tried, and how many bytes it `needed` where
    `at` has no room for them."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        room = ""
        if at is not None and _lacks_room(error):
            with suppress(OSError):
                room = f"; {shutil.disk_usage(at.parent).free:,} bytes are free there"
                room += f", and {needed:,} more are needed" if needed else ""
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot {what}: {reason}{room}") from error


def _lacks_room(error: OSError | sqlite3.Error) -> bool:
    """Whether the disk, or a limit on files, may be in the way. SQLite does not tell the limit from other troubles."""
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    return error.sqlite_errorname.startswith(("SQLITE_FULL", "SQLITE_IOERR"))


def sync_directory(path: Path) -> None:
    """Makes the entries of a directory survive a power cut. Raises OSError."""
    directory = os.open(path, os.O_RDONLY)
    try:
        sync_file(directory)
    finally:
        os.close(directory)


def discard(path: Path) -> None:
    """Removes a file, or a directory and all in it, if it is there. Raises OSError."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_file(file: int) -> None:
    """Brings a file's bytes, or a directory's entries, to the disk itself. Raises OSError.

    On macOS fsync(2) stops at the cache of the disk, which a power cut empties; `F_FULLFSYNC` does not. File systems
    that do not know it (network shares, FAT) have fsync.
    """
    if hasattr(fcntl, "F_FULLFSYNC"):
        with suppress(OSError):
            fcntl.fcntl(file, fcntl.F_FULLFSYNC)
            return
    os.fsync(file)
