"""Fetch: from a link to a whole part on the disk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiofiles
import anyio
from aiofiles.threadpool.binary import AsyncBufferedIOBase
from anyio import from_thread, to_thread

from bulkpull.clickwrap import Export, LinkExpiredError, RangeRefusedError, TransientError
from bulkpull.errors import MalformedPartError, PartError
from bulkpull.events import OnEvent, PartFetched, Received, Retried
from bulkpull.pull.api import Api
from bulkpull.pull.output import disk_errors
from bulkpull.rows.records import CsvError, blocks, read_columns, records
from bulkpull.window import Window

MAX_RENEWALS = 5  # fresh links in a row that bring nothing
MAX_MALFORMED = 3  # whole bodies that are no CSV
PROGRESS = 64 * 1024  # bytes that a broken transfer must have brought for its attempts to start anew
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


class Links:
    """The links of one finished export, renewed together when one has expired."""

    def __init__(self, api: Api, export: Export) -> None:
        self._api = api
        self._export = export
        self._renewing = anyio.Lock()

    def __getitem__(self, part: Part) -> str:
        return self._export.links[part.number - 1]

    async def renew(self, expired: str) -> None:
        """Asks for fresh links, unless that was done since `expired` was got."""
        async with self._renewing:
            old = self._export.links
            if expired not in old:
                return
            fresh = (await self._api.get_export(self._export.id)).links
            if len(fresh) != len(old):
                raise PartError(f"export {self._export.id} had {len(old)} links and now has {len(fresh)}; pull again")
            # The order may change; the file that a link names does not.
            by_file = {_file(link): link for link in fresh}
            if by_file.keys() == {_file(link) for link in old} and len(by_file) == len(old):
                fresh = tuple(by_file[_file(link)] for link in old)
            self._export = replace(self._export, links=fresh)


def _file(link: str) -> str:
    """A link without what changes when it is signed anew."""
    return link.partition("?")[0]


async def fetch(api: Api, part: Part, links: Links, *, on_event: OnEvent) -> None:
    """Streams the part's link to its path: resumed where the host allows, checked in length and header.

    Raises PartError where it cannot be had, MalformedPartError where it is no CSV with an id column.
    """
    async with _spool(part.path) as file:
        transfer = _Transfer(api, part, links, file, on_event)
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
    links: Links
    file: AsyncBufferedIOBase
    on_event: OnEvent
    offset: int = 0  # bytes that stand in the file
    reached: int = 0  # the offset at which the attempts last started anew
    length: int | None = None
    validator: str | None = None  # names the bytes in the file to the host
    renewals: int = 0
    malformed: int = 0
    complete: bool = False

    async def advance(self) -> None:
        """Brings the transfer on. Raises TransientError where it did not come far enough to start anew."""
        link = self.links[self.part]
        try:
            await self._receive(link)
        except LinkExpiredError as expired:
            await self._renew(link, expired)
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

    async def _receive(self, link: str) -> None:
        async with self.api.download(link, offset=self.offset, validator=self.validator) as download:
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
        await self._check_header(link)
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
        if self.offset:
            with disk_errors(f"spool {self.part}"):
                await self.file.seek(0)
                await self.file.truncate()
        self.offset = 0
        self.length = self.validator = None

    async def _check_header(self, link: str) -> None:
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
            await self.links.renew(link)
            raise TransientError(str(error)) from error

    async def _renew(self, link: str, expired: LinkExpiredError) -> None:
        self.renewals += 1
        if self.renewals > MAX_RENEWALS:
            raise PartError(f"{expired} to {MAX_RENEWALS} fresh links too; pull again to export anew") from expired
        if self.renewals > 1:  # the first link may just have grown old
            await anyio.sleep(self.api.retry.backoff(self.renewals))
        await self.links.renew(link)


def _read_header(path: Path) -> None:
    with disk_errors(f"read {path.name}"), path.open("rb") as file:
        read_columns(records(blocks(file, from_thread.check_cancelled)))


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
