"""The file that a transfer writes: buffered, checksummed, and recorded before its bytes reach the disk.

A file that arrives as a whole before its first write is due is not written: it is held in memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import aiofiles
import anyio
from aiofiles.threadpool.binary import AsyncFileIO
from anyio import from_thread
from xxhash import xxh3_128

from bulkpull.disk import disk_errors, write_all
from bulkpull.download.memory_queue import MemoryQueue
from bulkpull.download.protocols import Checkpoints, Downloaded, Version
from bulkpull.errors import MalformedPartError, OutputError
from bulkpull.rows.held_file import BLOCK_BYTES, HeldFile
from bulkpull.rows.records import MAX_RECORD_BYTES, read_chunks, too_long
from bulkpull.threads import file_threads, in_thread

WRITE_SECONDS = 1.0  # until all is written, since a kill loses what is in memory

_LINE_BYTES = 16 * 1024  # read at once where a newline is looked for
_LF = ord("\n")


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

    Made by `open_partial`. `version` identifies the bytes in it. `stored` is told how many bytes are on the disk.
    """

    def __init__(
        self,
        path: Path,
        record: Record,
        queue: MemoryQueue,
        *,
        start: int = 0,
        stored: Callable[[int], None] | None = None,
    ) -> None:
        self.path = path
        self.start = start
        self._file: AsyncFileIO | None = None
        self._record = record
        self._queue = queue
        self._memory = queue.memory
        self._stored = stored or _ignore
        self._version = Version()
        self._offset = start
        self._blocks: list[memoryview] = []  # what is not written
        self._reserved = 0  # further blocks
        self._room: memoryview | None = None  # what is left of the last block, while a chunk is received into it
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
        if not self._buffered_bytes:
            return self._line_bytes > 0
        last = self._buffered_bytes - 1
        return self._blocks[last // BLOCK_BYTES][last % BLOCK_BYTES] != _LF

    def take(self) -> HeldFile | None:
        """Return the file if nothing of it was written, and forget it."""
        if self._file or not self._buffered_bytes:
            return None
        held = HeldFile(self._blocks, self._buffered_bytes, self._memory)
        self._blocks, self._buffered_bytes = [], 0
        self._release()
        return held

    @property
    def downloaded(self) -> Downloaded:
        """Size and checksum of the bytes on the disk."""
        return Downloaded(self._offset - self.start, self._digest.hexdigest())

    async def resume(self, version: Version) -> None:
        """Continue after the bytes on the disk, which belong to `version`, unless they are too many."""
        file = await self._open("ab")
        with disk_errors(f"read {self.path}"):
            self._digest = await in_thread(digest_of, self.path)
            self._offset = self.start + await file.seek(0, 2)
        self._version = version
        if version.length is not None and self._offset > version.length:
            await self.restart(Version())
        else:
            self._stored(self._offset)

    async def restart(self, version: Version) -> None:
        """Discard all bytes; those that follow belong to `version`."""
        self._stored(0)
        if self._file and self._offset > self.start:
            with disk_errors(f"write {self.path}"):
                await self._file.seek(0)
                await self._file.truncate()
        self._offset = self.start
        self._buffered_bytes = self._line_bytes = 0
        self._release()
        self._digest = xxh3_128()
        self._version = version

    def expect(self, length: int | None) -> None:
        """Set the length of the whole file, if it is given."""
        self._version = replace(self._version, length=length or self._version.length)

    async def room(self) -> memoryview:
        """Return memory into which the next chunk may be received, before it is appended."""
        number, start = divmod(self._buffered_bytes, BLOCK_BYTES)
        if number == len(self._blocks) and not await self._extend():
            await self.flush()
            number = start = 0
        self._room = self._blocks[number][start:]
        return self._room

    async def append(self, chunk: bytes | memoryview) -> None:
        """Buffer bytes, and write them with those before once they are old, or there is no memory for more."""
        now = anyio.current_time()
        if not self._buffered_bytes:
            self._buffered_since = now
        if isinstance(chunk, memoryview) and self._room and chunk.obj is self._room.obj:  # it is where it belongs
            self._add(len(chunk))
        else:
            with memoryview(chunk) as left:
                at = 0
                while at < len(left):
                    room = await self.room()
                    piece = left[at : at + len(room)]
                    room[: len(piece)] = piece
                    self._add(len(piece))
                    at += len(piece)
        if now - self._buffered_since >= WRITE_SECONDS:
            await self.flush()

    def _add(self, size: int) -> None:
        """Count the bytes that the room has now."""
        self._buffered_bytes += size
        self._offset += size
        self._room = None

    async def _extend(self) -> bool:
        """Take another block of memory. If there is none, the file has to be written: then one is enough."""
        if not self._blocks:
            self._reserved = await self._reserve()
        elif not self._reserved:
            if self._file or not self._memory.reserve(1):
                return False
            self._reserved = 1
        self._reserved -= 1
        self._blocks.append(self._memory.take())
        return True

    async def _reserve(self) -> int:
        """Reserve as many blocks as the whole file takes, if so many are left; else one.

        Waits a moment, since a merge that is busy will soon release some: that is faster than writing the file.
        """
        blocks = -(-(self._version.length or 0) // BLOCK_BYTES)
        if self._file is None and 1 < blocks <= self._memory.blocks and await self._queue.reserve(blocks):
            return blocks
        self._memory.reserve(1, anyway=True)
        return 1

    async def flush(self, *, is_last: bool = False) -> None:
        """Write what is buffered. The last bytes of a file are not worth a record: it is complete right after. If they
        are all of it, they are held.

        Raises:
            MalformedPartError: A line is longer than any record may be.
            OutputError: The disk does not take the bytes.
        """
        if is_last and self._file is None and self._buffered_bytes:
            return
        size, length = self._buffered_bytes, self._version.length
        if self._file is None:
            await self._open("wb")  # which removes bytes of another version, before this one is recorded
        await self._record.update(self._version, is_worthwhile=bool(size) and not is_last)
        missing = size if length is None else length - self._offset + size
        with disk_errors(f"write {self.path}", needed=missing, at=self.path):
            await in_thread(self._write)
        self._stored(self._offset)
        self._release(keep=1)
        if self._line_bytes > MAX_RECORD_BYTES:
            raise MalformedPartError(str(too_long(1)))

    async def append_file(self, path: Path, start: int) -> None:
        """Append the segment at `path` that starts at byte `start`, except what is there already."""
        await in_thread(self._append_file, path, start)
        self._stored(self._offset)

    def _append_file(self, path: Path, start: int) -> None:
        with disk_errors(f"write {self.path}", at=self.path), path.open("rb") as file:
            file.seek(self._offset - start)
            for block in read_chunks(file, from_thread.check_cancelled):
                self._store([block])
                self._offset += len(block)

    async def close(self) -> None:
        """Close the file, and return the memory."""
        self._release()
        if self._file:
            with anyio.CancelScope(shield=True), disk_errors(f"write {self.path}", at=self.path):
                await self._file.close()

    async def _open(self, mode: Literal["wb", "ab"]) -> AsyncFileIO:
        # Shielded, since a cancelled open would leave the file to the garbage collector.
        with anyio.CancelScope(shield=True), disk_errors(f"write {self.path}", at=self.path):
            file = await aiofiles.open(self.path, mode, buffering=0, executor=file_threads())
        self._file = file
        return file

    def _release(self, keep: int = 0) -> None:
        self._memory.release(self._blocks[keep:], self._reserved)
        self._reserved = 0
        del self._blocks[keep:]

    def _write(self) -> None:
        size, self._buffered_bytes = self._buffered_bytes, 0
        starts = range(0, size, BLOCK_BYTES)
        self._store([self._blocks[start // BLOCK_BYTES][: size - start] for start in starts])

    def _store(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Do all that is done to the bytes in one turn of one thread."""
        assert self._file
        write_all(self._file.fileno(), pieces)
        for piece in pieces:
            self._digest.update(piece)
            self._line_bytes = _bytes_after_newline(piece, self._line_bytes)


@asynccontextmanager
async def open_partial(
    path: Path,
    record: Record,
    queue: MemoryQueue,
    *,
    start: int = 0,
    resume: Version | None = None,
    stored: Callable[[int], None] | None = None,
) -> AsyncIterator[PartialFile]:
    """Open a file to download to: emptied, or with its bytes, which belong to the version `resume`.

    Bytes in memory are written if the download fails or is cancelled, so that the next run can resume it.
    """
    partial = PartialFile(path, record, queue, start=start, stored=stored)
    try:
        if resume is not None:
            await partial.resume(resume)
        yield partial
    except BaseException:
        if partial.version.validator:  # else it cannot be resumed
            with anyio.CancelScope(shield=True), suppress(OutputError, MalformedPartError):
                await partial.flush()
        raise
    finally:
        await partial.close()


def _ignore(_size: int) -> None:
    pass


def _bytes_after_newline(piece: bytes | memoryview, before: int) -> int:
    """Return how many bytes stand behind the last newline, if there were so many `before` the piece."""
    for end in range(len(piece), 0, -_LINE_BYTES):  # a line is short, and the piece is not copied
        tail = bytes(piece[max(0, end - _LINE_BYTES) : end])
        newline = tail.rfind(b"\n")
        if newline >= 0:
            return len(piece) - max(0, end - _LINE_BYTES) - newline - 1
    return before + len(piece)


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
