"""Fetch: from a link to a whole part on the disk."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import aiofiles
import anyio
from aiofiles.threadpool.binary import AsyncFileIO
from anyio import from_thread, to_thread
from xxhash import xxh3_128

from bulkpull.clickwrap import Download, Export, LinkExpiredError, RangeRefusedError, TransientError
from bulkpull.errors import MalformedPartError, NotFoundError, PartError
from bulkpull.events import OnEvent, PartFetched, Received, Retried
from bulkpull.pull.api import Api
from bulkpull.pull.journal import Journal, PartRecord
from bulkpull.pull.journey import ExportFailure, Part
from bulkpull.pull.output import disk_errors
from bulkpull.rows.records import MAX_RECORD, CsvError, blocks, read_columns, records
from bulkpull.rows.sink import write_all

MAX_RENEWALS = 5  # fresh links in a row that bring nothing
MAX_MALFORMED = 5  # whole bodies that are no CSV
MAX_UNCONFIRMED = 3  # answers that leave open whether the file ends where the transfer did
PROGRESS = 64 * 1024  # bytes that a broken transfer must have brought for its attempts to start anew
_WRITE = 1024 * 1024  # bytes gathered before they go to the disk: one thread switch for several chunks


class Links:
    """The links of one finished export: asked for when the first is needed, and again, for all, when one expired."""

    def __init__(self, api: Api, export: Export, parts: Sequence[PartRecord]) -> None:
        self._api = api
        self._export = export
        self._names = [part.name for part in parts]
        self._asking = anyio.Lock()

    @property
    def export_id(self) -> str:
        return self._export.id

    async def get(self, part: Part, *, expired: str | None = None) -> str:
        """The part's link, another one than `expired` where that is given. Raises ExportFailure where it has none."""
        async with self._asking:
            if not self._export.links or expired in self._export.links:
                await self._ask()
            return self._export.links[part.number - 1]

    async def _ask(self) -> None:
        try:
            export = await self._api.get_export(self._export.id)
        except NotFoundError as error:
            raise ExportFailure(self._export.id, f"it vanished: {error}", PartError) from error
        if len(export.links) != len(self._names):
            reason = f"it had {len(self._names)} links and now has {len(export.links)}"
            raise ExportFailure(export.id, reason, PartError)
        # The order may change; the file that a link names does not.
        by_name = {_name(link): link for link in export.links}
        if by_name.keys() == set(self._names) and len(by_name) == len(self._names):
            self._export = Export(export.id, export.status, links=tuple(by_name[name] for name in self._names))
        else:
            self._export = export


def part_records(export: Export) -> tuple[PartRecord, ...]:
    """What the journal knows of the files of an export that succeeded."""
    return tuple(PartRecord(number, _name(link)) for number, link in enumerate(export.links, start=1))


def _name(link: str) -> str:
    """What tells a link's file from others: a digest of the link without what changes when it is signed anew, since
    links are secrets."""
    return hashlib.blake2b(link.partition("?")[0].encode(), digest_size=16).hexdigest()


async def fetch(api: Api, part: Part, links: Links, journal: Journal, *, on_event: OnEvent) -> None:
    """Streams the part's link to its path: resumed where the host allows, checked in length and header.

    What an earlier run left of it is used, if it is still what the journal says. Raises PartError where the part
    cannot be had, ExportFailure where it is gone or no CSV with an id column.
    """
    size = part.record.size
    if size is None or not await to_thread.run_sync(_stands, part):
        try:
            size = await _fetched(api, part, links, journal, on_event)
        except TransientError as error:
            raise PartError(f"{part} could not be downloaded: {error}") from error
        except PartError as error:
            raise type(error)(f"{part}: {error}") from error
    part.size = size
    on_event(PartFetched(part.window, part.number, size))


def _stands(part: Part) -> bool:
    """Whether the part is whole, byte for byte, since an earlier run."""
    with disk_errors(f"read {part.path}"):
        try:
            if part.path.stat().st_size == part.record.size:
                return _digest(part.path).hexdigest() == part.record.checksum
        except FileNotFoundError:
            pass
        return False


async def _fetched(api: Api, part: Part, links: Links, journal: Journal, on_event: OnEvent) -> int:
    """The part's size, once it has been transferred."""
    half = part.record.size is None and part.record.validator is not None and part.path.exists()
    async with _spool(part.path, "ab" if half else "wb") as file:
        transfer = _Transfer(api, part, links, journal, file, on_event, recorded=part.record.validator)
        if half:
            await transfer.take_up()
        while not transfer.complete:  # each turn brought the transfer on, so each has all attempts anew
            await api.retry.retrying(str(part), on_event)(transfer.advance)
    checksum = transfer.digest.hexdigest()
    await to_thread.run_sync(journal.fetched, part.window, part.number, transfer.offset, checksum)
    return transfer.offset


def _digest(path: Path) -> xxh3_128:
    digest = xxh3_128()
    with path.open("rb") as file:
        for block in blocks(file, from_thread.check_cancelled):
            digest.update(block)
    return digest


@dataclass(slots=True)
class _Transfer:
    """How far the download of one part has come."""

    api: Api
    part: Part
    links: Links
    journal: Journal
    file: AsyncFileIO
    on_event: OnEvent
    offset: int = 0  # bytes that stand in the file
    digest: xxh3_128 = field(default_factory=xxh3_128)  # of those
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

    async def take_up(self) -> None:
        """Goes on with what an earlier run left."""
        with disk_errors(f"read {self.part.path}"):
            self.digest = await to_thread.run_sync(_digest, self.part.path)
            self.offset = self.reached = await self.file.seek(0, 2)
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
            async for chunk in chunks:
                self.on_event(Received(self.part.window, self.part.number, len(chunk)))
                gathered.append(chunk)
                size += len(chunk)
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
            await to_thread.run_sync(
                self.journal.transferring, self.part.window, self.part.number, self.validator, self.length
            )
            self.recorded = self.validator
        needed = size if self.length is None else self.length - self.offset
        with disk_errors(f"spool {self.part}", needed=needed, at=self.part.path):
            await to_thread.run_sync(self._store, pieces)
        self.offset += size
        if self.line > MAX_RECORD:
            await self._refuse(CsvError(1, f"a line is longer than {MAX_RECORD} bytes"))

    def _store(self, pieces: list[bytes]) -> None:
        """All that is done to the bytes, in one turn of one thread."""
        write_all(self.file.fileno(), pieces)
        for piece in pieces:
            self.digest.update(piece)
            newline = piece.rfind(b"\n")
            self.line = self.line + len(piece) if newline < 0 else len(piece) - newline - 1

    async def _restart(self) -> None:
        if self.offset:
            with disk_errors(f"spool {self.part}"):
                await self.file.seek(0)
                await self.file.truncate()
        self.offset = self.line = 0
        self.digest = xxh3_128()
        self.length = self.validator = None
        self.ended = False

    async def _finish(self) -> None:
        """All bytes are there. Refuses an error page that came with status 200; a fresh link may bring the file."""
        try:
            await to_thread.run_sync(_read_header, self.part.path)
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


def _read_header(path: Path) -> None:
    with disk_errors(f"read {path.name}"), path.open("rb") as file:
        read_columns(records(blocks(file, from_thread.check_cancelled)))


@asynccontextmanager
async def _spool(path: Path, mode: Literal["ab", "wb"]) -> AsyncIterator[AsyncFileIO]:
    """A file to write, closed whatever happens: a cancelled open or close would leave it to the garbage collector."""
    with anyio.CancelScope(shield=True), disk_errors(f"spool to {path.name}", at=path):
        file = await aiofiles.open(path, mode, buffering=0)
    try:
        yield file
    finally:
        with anyio.CancelScope(shield=True), disk_errors(f"spool to {path.name}", at=path):
            await file.close()
