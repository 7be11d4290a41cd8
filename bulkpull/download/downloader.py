"""The downloader: one file from its link to the disk, verified."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from pathlib import Path

import anyio
from xxhash import xxh3_128

from bulkpull.disk import disk_errors, write_all
from bulkpull.download.file import PartialFile, Record, digest_of, open_partial
from bulkpull.download.memory_queue import MemoryQueue
from bulkpull.download.protocols import Checkpoints, Downloaded, Link, Opener, Progress, Version
from bulkpull.download.segments import Segments
from bulkpull.download.transfer import Job, Transfer
from bulkpull.download.unzip import is_zip, unzip
from bulkpull.errors import MalformedPartError
from bulkpull.record import record
from bulkpull.retry import RetryPolicy
from bulkpull.rows.held_file import HeldFile, Memory, open_file
from bulkpull.rows.records import File
from bulkpull.threads import in_thread

Verify = Callable[[File], None]  # blocks; raises MalformedPartError and OSError


@record(frozen=False)
class Downloader:
    """Downloads files: retries and resumes transfers, unpacks archives, and verifies what arrived.

    `streams` limits concurrent streams. A download takes free places of it for segments of a slow file; its own place
    is taken by the caller. `verify` checks a complete file. Files that arrive fast are held in `memory`.
    """

    opener: Opener
    retry: RetryPolicy
    streams: anyio.CapacityLimiter
    verify: Verify
    memory: Memory
    _queue: MemoryQueue = field(init=False)

    def __post_init__(self) -> None:
        self._queue = MemoryQueue(self.memory)

    async def download(
        self,
        link: Link,
        path: Path,
        checkpoints: Checkpoints,
        progress: Progress,
        known: Version | Downloaded | None = None,
    ) -> Downloaded | HeldFile:
        """Download a file.

        Args:
            link: The link to the file.
            path: Where the file is written. Segments of it stand beside it until it is complete.
            checkpoints: Where the state of the download is recorded.
            progress: What is told about received bytes and retries.
            known: What an earlier run recorded: the complete file, or the version of the bytes at `path`.

        Returns:
            Size and checksum of the file at `path`; or the file itself, if it arrived so fast that it was not written
            (see `keep`).

        Raises:
            FileMissingError: The host does not have the file.
            MalformedPartError: The file does not pass `verify`, or does not decompress, after several downloads.
            PartError: The file could not be downloaded.
            OutputError: The file could not be written.
        """
        if isinstance(known, Downloaded) and await in_thread(_is_intact, path, known):
            return known
        version = known if isinstance(known, Version) else Version()
        can_resume = version.validator is not None and await in_thread(path.exists)
        job = Job(self.opener, link, progress, self.retry)
        record = Record(checkpoints, version)
        resumed = version if can_resume else None
        async with open_partial(path, record, self._queue, resume=resumed, stored=progress.stored) as file:
            transfer = Transfer(job, file)
            segments = Segments(job, transfer, record, self.streams, self._queue)
            await (segments.resume() if can_resume else segments.discard())
            downloaded = await self._complete(file, transfer, segments, record, progress)
        if isinstance(downloaded, Downloaded):
            await in_thread(checkpoints.save_complete, downloaded)
        return downloaded

    async def _complete(
        self, file: PartialFile, transfer: Transfer, segments: Segments, record: Record, progress: Progress
    ) -> Downloaded | HeldFile:
        """Download the file until it passes the checks."""
        while True:
            await segments.run()
            held = file.take()
            try:
                if not await in_thread(is_zip, held or file.path):
                    await in_thread(_verify, held or file.path, self.verify)
                    return held or file.downloaded
                await record.clear()  # the recorded version is that of the archive
                progress.stored(0)
                if held:
                    await in_thread(_write, held, file.path)
                return await in_thread(_unpack, file.path, self.verify)
            except MalformedPartError as error:
                await segments.discard()
                await transfer.reject(error)


async def keep(held: HeldFile, path: Path, checkpoints: Checkpoints) -> None:
    """Write a file to `path`, and record that it is complete. Raises OutputError."""
    downloaded = await in_thread(_write, held, path)
    await in_thread(checkpoints.save_complete, downloaded)


def _write(held: HeldFile, path: Path) -> Downloaded:
    digest = xxh3_128()
    unfinished = path.with_name(f"{path.name}.held")  # bytes at `path` may pass for those of a version that is recorded
    with disk_errors(f"write {path}", needed=held.size, at=path):
        with unfinished.open("wb", buffering=0) as file:
            write_all(file.fileno(), held.pieces)
        unfinished.replace(path)
    for piece in held.pieces:
        digest.update(piece)
    return Downloaded(held.size, digest.hexdigest())


def _verify(source: Path | HeldFile, verify: Verify) -> None:
    with disk_errors("read a downloaded file"), open_file(source) as file:
        verify(file)


def _unpack(path: Path, verify: Verify) -> Downloaded:
    """Replace an archive by the file in it. Blocks on the disk."""
    unzip(path, verify)
    with disk_errors(f"read {path}"):
        return Downloaded(path.stat().st_size, digest_of(path).hexdigest())


def _is_intact(path: Path, known: Downloaded) -> bool:
    """Return whether a file is still as it was recorded. Blocks on the disk."""
    with disk_errors(f"read {path}"):
        try:
            return path.stat().st_size == known.size and digest_of(path).hexdigest() == known.checksum
        except FileNotFoundError:
            return False
