"""Fetch: from a link to a whole part on the disk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiofiles
import anyio
from aiofiles.threadpool.binary import AsyncBufferedIOBase
from anyio import to_thread

from bulkpull.clickwrap import Export, LinkExpiredError, TransientError
from bulkpull.errors import MalformedPartError, PartError
from bulkpull.events import OnEvent, PartFetched, Received
from bulkpull.pull.api import Api
from bulkpull.pull.output import disk_errors
from bulkpull.rows.records import CsvError, blocks, read_columns, records
from bulkpull.window import Window

MAX_RENEWALS = 5  # fresh links in a row that bring nothing
MAX_MALFORMED = 3  # whole bodies that are no CSV
_WRITE = 1024 * 1024  # bytes gathered before they go to the disk: one thread switch for several chunks


@dataclass(slots=True)
class Part:
    """One file of a window's export; `number` counts from 1. `fetched` is set once it stands whole at `path`."""

    window: Window
    number: int
    path: Path
    fetched: anyio.Event = field(default_factory=anyio.Event)

    def __str__(self) -> str:
        return f"{self.window}, part {self.number}"


async def fetch(api: Api, part: Part, export: Export, *, on_event: OnEvent) -> None:
    """Streams the part's link to its path: resumed where the host allows, checked in length and header.

    Raises PartError where it cannot be had, MalformedPartError where it is no CSV with an id column.
    """
    async with _spool(part.path) as file:
        transfer = _Transfer(api, part, export, file, on_event)
        try:
            while not transfer.complete:  # each turn brought the transfer on, so each has all attempts anew
                await api.retry.retrying(str(part), on_event)(transfer.advance)
        except TransientError as error:
            raise PartError(f"{part} could not be downloaded: {error}") from error
        except PartError as error:
            raise type(error)(f"{part}: {error}") from error
    on_event(PartFetched(part.window, part.number, transfer.offset))
    part.fetched.set()


@dataclass(slots=True)
class _Transfer:
    """How far the download of one part has come."""

    api: Api
    part: Part
    export: Export
    file: AsyncBufferedIOBase
    on_event: OnEvent
    offset: int = 0  # bytes that stand in the file
    furthest: int = 0
    validator: str | None = None  # names the bytes in the file to the host
    renewals: int = 0
    malformed: int = 0
    complete: bool = False

    async def advance(self) -> None:
        """Brings the transfer on. Raises TransientError where it brought no new byte."""
        try:
            await self._receive()
        except LinkExpiredError as expired:
            await self._renew(expired)
        except TransientError:
            if self.offset <= self.furthest:
                raise
        finally:
            self.furthest = max(self.furthest, self.offset)

    async def _receive(self) -> None:
        link = self.export.links[self.part.number - 1]
        async with self.api.download(link, offset=self.offset, validator=self.validator) as download:
            if download.offset != self.offset:
                if download.offset:
                    raise TransientError("the host granted another range than was asked for")
                await self._restart()
            self.validator = download.validator
            self.renewals = 0
            await self._write(download.chunks())
        if download.length is not None and self.offset != download.length:
            reason = f"{self.offset} of {download.length} bytes came"
            if self.offset > download.length:
                await self._restart()
            raise TransientError(reason)
        await self._check_header()
        self.complete = True

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
        data = b"".join(gathered)
        gathered.clear()
        with disk_errors(f"spool {self.part}"):
            await self.file.write(data)
        self.offset += len(data)

    async def _restart(self) -> None:
        with disk_errors(f"spool {self.part}"):
            await self.file.seek(0)
            await self.file.truncate()
        self.offset = 0
        self.validator = None

    async def _check_header(self) -> None:
        """Refuses an error page that came with status 200; a fresh link may bring the file after all."""
        with disk_errors(f"spool {self.part}"):
            await self.file.flush()
        try:
            await to_thread.run_sync(_read_header, self.part.path)
        except CsvError as error:
            self.malformed += 1
            if self.malformed == MAX_MALFORMED:
                raise MalformedPartError(f"the file host gave something else than a CSV: {error}") from error
            await self._restart()
            await self._renew_link()
            raise TransientError(str(error)) from error

    async def _renew(self, expired: LinkExpiredError) -> None:
        self.renewals += 1
        if self.renewals > MAX_RENEWALS:
            raise PartError(f"{expired} to {MAX_RENEWALS} fresh links too; pull again to export anew") from expired
        await self._renew_link()

    async def _renew_link(self) -> None:
        fresh = await self.api.get_export(self.export.id)
        if len(fresh.links) != len(self.export.links):
            raise PartError(
                f"export {self.export.id} had {len(self.export.links)} links and now has {len(fresh.links)}; pull again"
            )
        self.export = fresh


def _read_header(path: Path) -> None:
    with path.open("rb") as file:
        read_columns(records(blocks(file, 64 * 1024)))


@asynccontextmanager
async def _spool(path: Path) -> AsyncIterator[AsyncBufferedIOBase]:
    """A file to write, closed whatever happens: a cancelled open or close would leave it to the garbage collector."""
    with anyio.CancelScope(shield=True), disk_errors(f"spool to {path.name}"):
        file = await aiofiles.open(path, "wb")
    try:
        yield file
    finally:
        with anyio.CancelScope(shield=True), disk_errors(f"spool to {path.name}"):
            await file.close()
