"""The file that a transfer writes: buffered, checksummed, and recorded before its bytes reach the disk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiofiles
import anyio
from aiofiles.threadpool.binary import AsyncFileIO
from anyio import from_thread
from xxhash import xxh3_128

from bulkpull.disk import disk_errors
from bulkpull.download.protocols import Checkpoints, Downloaded, Version
from bulkpull.errors import MalformedPartError
from bulkpull.rows.records import MAX_RECORD_BYTES, read_chunks, too_long
from bulkpull.rows.sink import write_all
from bulkpull.threads import file_threads, in_thread

WRITE_BYTES = 1024 * 1024  # buffered before a write: one thread switch for several chunks
WRITE_SECONDS = 1.0  # until fewer bytes are written too, since an interruption loses what is buffered


class Record:
    """What the checkpoints know of a partial file, kept in step with its bytes."""

    def __init__(self, checkpoints: Checkpoints, recorded: Version) -> None:
        self._checkpoints = checkpoints
        self._validator = recorded.validator

    async def update(self, version: Version, *, is_worthwhile: bool) -> None:
        """Record the version unless it is recorded. A wrong record is replaced even if that is not worthwhile."""
        if version.validator != self._validator and (self._validator or is_worthwhile):
            await self._save(version)

    async def clear(self) -> None:
        """Record that the file cannot be resumed."""
        await self._save(Version())

    async def _save(self, version: Version) -> None:
        await in_thread(self._checkpoints.save_partial, version)
        self._validator = version.validator


class PartialFile:
    """A file that grows at its end, or the segment of one that starts at byte `start`.

    Made by `open_partial`. `version` identifies the bytes in it.
    """

    def __init__(self, path: Path, file: AsyncFileIO, record: Record, *, start: int = 0) -> None:
        self.path = path
        self.start = start
        self._file = file
        self._record = record
        self._version = Version()
        self._offset = start
        self._buffer: list[bytes] = []
        self._buffered_bytes = 0
        self._buffered_since = 0.0
        self._digest = xxh3_128()
        self._line_bytes = 0

    @property
    def offset(self) -> int:
        """Where the next byte belongs in the whole file."""
        return self._offset

    @property
    def version(self) -> Version:
        return self._version

    @property
    def ends_mid_line(self) -> bool:
        """Whether there are bytes behind the last newline."""
        return self._line_bytes > 0

    @property
    def downloaded(self) -> Downloaded:
        """Size and checksum of the bytes on the disk."""
        return Downloaded(self._offset - self.start, self._digest.hexdigest())

    async def resume(self, version: Version) -> None:
        """Continue after the bytes on the disk, which belong to `version`, unless they are too many."""
        with disk_errors(f"read {self.path}"):
            self._digest = await in_thread(digest_of, self.path)
            self._offset = self.start + await self._file.seek(0, 2)
        self._version = version
        if version.length is not None and self._offset > version.length:
            await self.restart(Version())

    async def restart(self, version: Version) -> None:
        """Discard all bytes; those that follow belong to `version`."""
        if self._offset > self.start:
            with disk_errors(f"write {self.path}"):
                await self._file.seek(0)
                await self._file.truncate()
        self._offset = self.start
        self._buffer, self._buffered_bytes, self._line_bytes = [], 0, 0
        self._digest = xxh3_128()
        self._version = version

    def expect(self, length: int | None) -> None:
        """Set the length of the whole file, if it is given."""
        self._version = replace(self._version, length=length or self._version.length)

    async def append(self, chunk: bytes) -> None:
        """Buffer bytes, and write them with those before once they are many or old."""
        now = anyio.current_time()
        if not self._buffer:
            self._buffered_since = now
        self._buffer.append(chunk)
        self._buffered_bytes += len(chunk)
        self._offset += len(chunk)
        if self._buffered_bytes >= WRITE_BYTES or now - self._buffered_since >= WRITE_SECONDS:
            await self.flush()

    async def flush(self, *, is_last: bool = False) -> None:
        """Write what is buffered. The last bytes of a file are not worth a record: it is complete right after.

        Raises:
            MalformedPartError: A line is longer than any record may be.
            OutputError: The disk does not take the bytes.
        """
        size, length = self._buffered_bytes, self._version.length
        await self._record.update(self._version, is_worthwhile=bool(size) and not is_last)
        missing = size if length is None else length - self._offset + size
        with disk_errors(f"write {self.path}", needed=missing, at=self.path):
            await in_thread(self._write)
        if self._line_bytes > MAX_RECORD_BYTES:
            raise MalformedPartError(str(too_long(1)))

    def append_file(self, path: Path, start: int) -> None:
        """Append the segment at `path` that starts at byte `start`, except what is there already. Blocks."""
        with disk_errors(f"write {self.path}", at=self.path), path.open("rb") as file:
            file.seek(self._offset - start)
            for block in read_chunks(file, from_thread.check_cancelled):
                self._store([block])
                self._offset += len(block)

    def _write(self) -> None:
        pieces, self._buffer, self._buffered_bytes = self._buffer, [], 0
        self._store(pieces)

    def _store(self, pieces: list[bytes]) -> None:
        """Do all that is done to the bytes in one turn of one thread."""
        write_all(self._file.fileno(), pieces)
        for piece in pieces:
            self._digest.update(piece)
            newline = piece.rfind(b"\n")
            self._line_bytes = self._line_bytes + len(piece) if newline < 0 else len(piece) - newline - 1


@asynccontextmanager
async def open_partial(
    path: Path, record: Record, *, start: int = 0, resume: Version | None = None
) -> AsyncIterator[PartialFile]:
    """Open a file to download to: emptied, or with its bytes, which belong to the version `resume`."""
    # Shielded, since a cancelled open or close would leave the file to the garbage collector.
    with anyio.CancelScope(shield=True), disk_errors(f"write {path}", at=path):
        file = await aiofiles.open(path, "wb" if resume is None else "ab", buffering=0, executor=file_threads())
    try:
        partial = PartialFile(path, file, record, start=start)
        if resume is not None:
            await partial.resume(resume)
        yield partial
    finally:
        with anyio.CancelScope(shield=True), disk_errors(f"write {path}", at=path):
            await file.close()


def digest_of(path: Path) -> xxh3_128:
    """Return the digest of a file. Blocks on the disk."""
    digest = xxh3_128()
    with path.open("rb") as file:
        for block in read_chunks(file, from_thread.check_cancelled):
            digest.update(block)
    return digest


def remove_all(paths: Iterable[Path]) -> None:
    """Remove files. Blocks on the disk."""
    for path in paths:
        with disk_errors(f"remove {path}"):
            path.unlink()
