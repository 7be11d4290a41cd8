"""The local disk: durable writes, and errors of the operating system as OutputError."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bulkpull.errors import OutputError

_MAX_PIECES = os.sysconf("SC_IOV_MAX")  # per writev call
_NO_SPACE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def disk_errors(what: str, *, needed: int | None = None, at: Path | None = None) -> Iterator[None]:
    """Raise OSError and sqlite3.Error as OutputError.

    Args:
        what: What is tried, for the message: `cannot <what>: <reason>`.
        needed: How many bytes it takes, if known.
        at: The file that is written. If the disk is full, the message says how many bytes are free there.
    """
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        space = ""
        if at is not None and _is_out_of_space(error):
            with suppress(OSError):
                space = f"; {shutil.disk_usage(at.parent).free:,} bytes are free there"
                space += f", and {needed:,} more are needed" if needed else ""
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot {what}: {reason}{space}") from error


def _is_out_of_space(error: OSError | sqlite3.Error) -> bool:
    """Whether a full disk, a quota or a limit on file sizes may be the cause."""
    if isinstance(error, OSError):
        return error.errno in _NO_SPACE_ERRNOS
    # SQLite reports a limit on file sizes as an I/O error.
    return error.sqlite_errorname.startswith(("SQLITE_FULL", "SQLITE_IOERR"))


def sync_directory(path: Path) -> None:
    """Sync the entries of a directory, so that they survive a power cut. Raises OSError."""
    directory = os.open(path, os.O_RDONLY)
    try:
        sync_file(directory)
    finally:
        os.close(directory)


def discard(path: Path) -> None:
    """Remove a file, or a directory with its contents. A no-op if there is none. Raises OSError."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_file(file: int) -> None:
    """Sync the file or directory behind a descriptor, so that it survives a power cut. Raises OSError.

    On macOS fsync(2) stops at the disk's cache, which a power cut empties; `F_FULLFSYNC` does not. File systems without
    it (network shares, FAT) fall back to fsync.
    """
    if hasattr(fcntl, "F_FULLFSYNC"):
        with suppress(OSError):
            fcntl.fcntl(file, fcntl.F_FULLFSYNC)
            return
    os.fsync(file)


def write_all(file: int, pieces: Sequence[bytes | memoryview]) -> int:
    """Write all `pieces` to a file descriptor; return their size in bytes. Raises OSError."""
    size = 0
    for at in range(0, len(pieces), _MAX_PIECES):
        some = pieces[at : at + _MAX_PIECES]
        left = sum(map(len, some))
        size += left
        left -= os.writev(file, some)
        if left:  # a partial write: a signal, or a disk that is almost full
            rest = memoryview(b"".join(some))[-left:]
            while rest:
                rest = rest[os.write(file, rest) :]
    return size


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield where to write a file that replaces `path` at the end of the block, in one step that survives a power cut.

    That is a new file beside `path`, so that nothing is written through a link that another user has planted. After an
    error it is removed, and `path` is what it was. Raises OutputError if it cannot be created or take its place.
    """
    draft = path.with_name(f".{path.name}.partial")
    with disk_errors(f"write {path}", at=path):
        draft.unlink(missing_ok=True)
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    try:
        yield draft
        with disk_errors(f"write {path}", at=path):
            with draft.open("rb") as file:
                sync_file(file.fileno())
            draft.replace(path)
            sync_directory(path.parent)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def replace_file(path: Path, data: bytes, draft: Path) -> None:
    """Write a file in one step that survives a power cut: it has its former contents or `data`.

    `draft` is where the data is until then, on the same file system. Raises OSError.
    """
    with draft.open("wb", buffering=0) as file:
        write_all(file.fileno(), [data])
        sync_file(file.fileno())
    draft.replace(path)
    sync_directory(path.parent)
