"""Transfer: one stream of bytes from a host to a file, resumed where the host allows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Literal

import anyio
from anyio import from_thread
from xxhash import xxh3_128

from bulkpull.clickwrap import Download, LinkExpiredError, RangeRefusedError, TransientError
from bulkpull.errors import MalformedPartError, PartError
from bulkpull.events import OnEvent, Received, Retried
from bulkpull.pull.api import Api
from bulkpull.pull.journal import Journal
from bulkpull.pull.journey import ExportFailure, Part
from bulkpull.pull.links import Links
from bulkpull.pull.output import disk_errors
from bulkpull.pull.threads import in_thread
from bulkpull.rows.records import MAX_RECORD, CsvError, blocks, read_columns, records
from bulkpull.rows.sink import write_all

MAX_RENEWALS = 5  # fresh links in a row that bring nothing
MAX_MALFORMED = 5  # whole bodies that are no CSV
MAX_UNCONFIRMED = 3  # answers that leave open whether the file ends where the transfer did
PROGRESS = 64 * 1024  # bytes that a broken transfer must have brought for its attempts to start anew
_WRITE = 1024 * 1024  # bytes gathered before they go to the disk: one thread switch for several chunks


class StretchRefused(Exception):  # noqa: N818 - never leaves the pull: the file is brought in one stream then
    """The host does not give the file in stretches, or gives another file meanwhile."""


@dataclass(slots=True)
class Transfer:
    """How far the download of one part has come, or of the stretch of it that begins at byte `begin`.

    Where there is an `until`, other transfers bring what comes from there on.
    """

    api: Api
    part: Part
    links: Links
    journal: Journal
    file: FileIO
    on_event: OnEvent
    begin: int = 0
    until: int | None = None
    offset: int = 0  # where the next byte belongs
    digest: xxh3_128 = field(default_factory=xxh3_128)  # of the bytes that stand in the file
    reached: int = 0  # the offset at which the attempts last started anew
    length: int | None = None
    validator: str | None = None  # names the bytes in the file to the host
    recorded: str | None = None  # the validator that the journal knows
    line: int = 0  # bytes since the last newline
    ended: bool = False  # the body came to its end; whether the file did, is to be confirmed
    complete: bool = False
    link: str = ""
    renewals: int = 0
    malformed: int = 0
    unconfirmed: int = 0

    async def to_end(self) -> None:
        """Raises PartError or TransientError where the part cannot be had, ExportFailure where it is gone or no CSV,
        StretchRefused."""
        while not self.complete:  # each turn brought the transfer on, so each has all attempts anew
            await self.api.retry.retrying(str(self.part), self.on_event)(self.advance)

    async def take_up(self) -> None:
        """Goes on with what an earlier run left."""
        with disk_errors(f"read {self.part.path}"):
            self.digest = await in_thread(digest_of, self.part.path)
            self.offset = self.reached = await in_thread(self.file.seek, 0, 2)
        self.validator, self.length = self.part.record.validator, self.part.record.length
        if self.length is not None and self.offset > self.length:
            await self._restart()
        self.ended = self.offset == self.length

    async def advance(self) -> None:
        """Brings the transfer on. Raises TransientError where it did not come far enough to start anew."""
        self.link = self.link or await self.links.get(self.part)
        try:
            async with self.api.download(self.link, offset=self.offset, validator=self.validator) as download:
                at_end = bool(self.offset) and self.offset == download.offset == download.length
                if self.ended or at_end:
                    await self._confirm(download)
                else:
                    await self._receive(download)
        except LinkExpiredError as expired:
            await self._renew(expired)
        except RangeRefusedError:
            await self._restart()
            raise
        except TransientError as error:
            if self.offset < self.reached + PROGRESS:
                raise
            self.reached = self.offset
            self.renewals = 0
            wait = max(error.wait, self.api.retry.backoff(1))
            self.on_event(Retried(str(self.part), 1, wait, str(error)))
            await anyio.sleep(wait)

    async def _receive(self, download: Download) -> None:
        if download.offset:
            # Some hosts grant a range of another file than If-Range names.
            same = download.validator == self.validator and download.length in (None, self.length)
            if not same or download.offset != self.offset:
                raise RangeRefusedError("the host granted a range of another file, or another range")
        else:
            await self._restart()
            self.validator, self.length = download.validator, download.length
        await self._write(download.chunks())
        if self.until is not None and self.offset >= self.until:
            await self._finish()
            return
        if self.length is not None and self.offset != self.length:
            reason = f"{self.offset} of {self.length} bytes came"
            if self.offset > self.length:
                raise RangeRefusedError(reason)
            raise TransientError(reason)
        self.ended = True
        if self.validator is None:  # there is nothing to ask for; what came encoded has a checksum of its own
            await self._finish()

    async def _confirm(self, download: Download) -> None:
        """Compares what the host says of the file when it is asked for the bytes behind the last: a body may have been
        cut by something in between that wrote a length to match."""
        if download.offset or download.validator == self.validator:
            if download.length == self.offset or (download.length is None and not download.offset):
                await self._finish()
                return
            self.ended = False
            self.length = download.length
            if self.length is not None and self.length < self.offset:
                raise RangeRefusedError(f"{self.offset} bytes came of a file of {self.length}")
            raise TransientError(f"{self.offset} of {self.length or 'more'} bytes came, though it called them all")
        if download.validator:
            raise RangeRefusedError("the file was replaced by another")
        self.unconfirmed += 1
        if self.unconfirmed < MAX_UNCONFIRMED:
            raise TransientError("the host did not confirm the file's length")
        await self._finish()

    async def _write(self, chunks: AsyncIterator[bytes]) -> None:
        gathered: list[bytes] = []
        size = 0
        try:
            async for came in chunks:
                self.on_event(Received(self.part.window, self.part.number, len(came)))
                # Until may be set at any time.
                chunk = came if self.until is None else came[: max(0, self.until - self.offset - size)]
                gathered.append(chunk)
                size += len(chunk)
                if len(chunk) < len(came):
                    break
                if size >= _WRITE:
                    await self._append(gathered)
                    size = 0
        except TransientError:  # what came before the break counts
            await self._append(gathered)
            raise
        await self._append(gathered)

    async def _append(self, gathered: list[bytes]) -> None:
        pieces = gathered.copy()
        gathered.clear()
        size = sum(map(len, pieces))
        # Less is not worth a record, unless it contradicts the one that there is.
        if not self.offset and self.validator != self.recorded and (self.recorded or size >= _WRITE):
            await in_thread(self.journal.transferring, self.part.window, self.part.number, self.validator, self.length)
            self.recorded = self.validator
        needed = size if self.length is None else self.length - self.offset
        with disk_errors(f"spool {self.part}", needed=needed, at=self.part.path):
            await in_thread(self.store, pieces)
        self.offset += size
        if self.line > MAX_RECORD:
            await self._refuse(CsvError(1, f"a line is longer than {MAX_RECORD} bytes"))

    def store(self, pieces: list[bytes]) -> None:
        """All that is done to the bytes, in one turn of one thread."""
        write_all(self.file.fileno(), pieces)
        for piece in pieces:
            self.digest.update(piece)
            newline = piece.rfind(b"\n")
            self.line = self.line + len(piece) if newline < 0 else len(piece) - newline - 1

    async def _restart(self) -> None:
        if self.begin or self.until is not None:
            raise StretchRefused
        if self.offset:
            with disk_errors(f"spool {self.part}"):
                await in_thread(self.file.seek, 0)
                await in_thread(self.file.truncate)
        self.offset = self.line = 0
        self.digest = xxh3_128()
        self.length = self.validator = None
        self.ended = False

    async def _finish(self) -> None:
        """All bytes are there. Refuses an error page that came with status 200; a fresh link may bring the file."""
        if not self.begin:
            try:
                await in_thread(_read_header, self.part.path)
            except CsvError as error:
                await self._refuse(error)
        self.complete = True

    async def _refuse(self, error: CsvError) -> None:
        """What came is no CSV. Raises TransientError, or ExportFailure if that was so too often."""
        self.malformed += 1
        if self.malformed == MAX_MALFORMED:
            reason = f"part {self.part.number}: the file host gave something else than a CSV: {error}"
            raise ExportFailure(self.links.export_id, reason, MalformedPartError) from error
        await self._restart()
        self.link = await self.links.get(self.part, expired=self.link)
        raise TransientError(str(error)) from error

    async def _renew(self, expired: LinkExpiredError) -> None:
        self.renewals += 1
        if self.renewals > MAX_RENEWALS:
            reason = f"part {self.part.number} is gone: {expired} to {MAX_RENEWALS} fresh links too"
            raise ExportFailure(self.links.export_id, reason, PartError) from expired
        if self.renewals > 1:  # the first link may just have grown old
            await anyio.sleep(self.api.retry.backoff(self.renewals))
        self.link = await self.links.get(self.part, expired=self.link)


def digest_of(path: Path) -> xxh3_128:
    digest = xxh3_128()
    with path.open("rb") as file:
        for block in blocks(file, from_thread.check_cancelled):
            digest.update(block)
    return digest


def _read_header(path: Path) -> None:
    with disk_errors(f"read {path.name}"), path.open("rb") as file:
        read_columns(records(blocks(file, from_thread.check_cancelled)))


@asynccontextmanager
async def spooled(path: Path, mode: Literal["ab", "wb"]) -> AsyncIterator[FileIO]:
    """A file to write, closed whatever happens: a cancelled open or close would leave it to the garbage collector."""
    with anyio.CancelScope(shield=True), disk_errors(f"spool to {path.name}", at=path):
        file = await in_thread(FileIO, path, mode)
    try:
        yield file
    finally:
        with anyio.CancelScope(shield=True), disk_errors(f"spool to {path.name}", at=path):
            await in_thread(file.close)
