"""Transfer: one stream of bytes from a host to a file, resumed where the host allows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import aiofiles
import anyio
from aiofiles.threadpool.binary import AsyncFileIO
from anyio import from_thread
from xxhash import xxh3_128

from bulkpull import patience
from bulkpull.disk import disk_errors
from bulkpull.download.encoding import ZIPS, DamagedBodyError
from bulkpull.download.link import LinkExpiredError, NotReadyError, RangeRefusedError
from bulkpull.download.unzip import unzip
from bulkpull.errors import MalformedPartError, PartError
from bulkpull.events import OnEvent, Received, Retried
from bulkpull.journal.journal import Journal
from bulkpull.pull.journey import ExportFailure, Part
from bulkpull.pull.links import Links
from bulkpull.retry import TransientError
from bulkpull.rows.records import MAX_RECORD, CsvError, blocks, read_columns, records, too_long
from bulkpull.rows.sink import write_all
from bulkpull.source import Body, Source
from bulkpull.threads import file_threads, in_thread

MAX_RENEWALS = 5  # fresh links in a row that bring nothing
MAX_MALFORMED = 3  # whole bodies that are no CSV
REFUSALS = 2  # requests for the rest of a file that bring nothing, after which the whole file is asked for
PROGRESS = 64 * 1024  # bytes that a broken transfer must have brought for its attempts to start anew
SLOW_SECONDS = 60.0  # in which PROGRESS bytes must come, or in those of the retry policy where they are more
MAX_ASKED = 4  # times that a host is asked for more of a file that may have been cut
_WRITE = 1024 * 1024  # bytes gathered before they go to the disk: one thread switch for several chunks
_WRITE_SECONDS = 1.0  # after which fewer go there too: they are lost where the pull is interrupted
_AGAIN = (0.2, 0.8)  # of patience.LAG, before a file that was no CSV is fetched again
_SOON, _LATER = 0.05, 0.3  # of patience.LAG, between two questions for a file that is not there yet: at first, at most


class StretchRefused(Exception):  # noqa: N818 - never leaves the pull: the file is brought in one stream then
    """The host does not give the file in stretches, or gives another file meanwhile."""


class Meter(Protocol):
    """Measures transfers, to limit their number."""

    def record_bytes(self, size: int) -> None:
        """Bytes came over the wire."""

    def record_break(self) -> None:
        """A transfer broke, and is tried again."""


@dataclass(slots=True)
class Transfer:
    """How far the download of one part has come, or of the stretch of it that begins at byte `begin`.

    Where there is an `until`, other transfers bring what comes from there on.
    """

    source: Source
    part: Part
    links: Links
    journal: Journal
    file: AsyncFileIO
    meter: Meter
    on_event: OnEvent
    begin: int = 0
    until: int | None = None
    offset: int = 0  # where the next byte belongs
    digest: xxh3_128 = field(default_factory=xxh3_128)  # of the bytes that stand in the file
    length: int | None = None
    validator: str | None = None  # names the bytes in the file to the host
    recorded: str | None = None  # the validator that the journal knows
    line: int = 0  # bytes since the last newline
    complete: bool = False
    zipped: bool = False  # it is a zip, to be unpacked once it is complete
    link: str = ""
    # What limits the attempts.
    attempt: int = 0  # failed, since the transfer last came on
    failing_since: float | None = None
    reached: int = 0  # the offset at which the attempts last started anew
    restarts: int = 0
    renewals: int = 0
    malformed: int = 0
    waits: int = 0  # for a file that is not there yet
    missing_since: float | None = None
    # What is known of the host.
    ranges: bool = True  # it may be asked for the rest of the file
    refusals: int = 0  # in a row; beyond REFUSALS, the whole file was to be had meanwhile
    confirmed: bool = False  # it was asked whether the file ends where the body did
    promised: dict[str, int] = field(default_factory=dict)  # the greatest length told, by validator
    doubted: bool = False  # that a body came whole, since it was shorter than promised

    async def to_end(self) -> None:
        """Raises PartError or TransientError where the part cannot be had, ExportFailure where it is gone or no CSV,
        StretchRefused."""
        while not self.complete:
            try:
                await self._advance()
            except NotReadyError as error:
                await self._await_file(error)
            except TransientError as error:
                await self._pause(error)

    async def take_up(self) -> None:
        """Goes on with what an earlier run left."""
        with disk_errors(f"read {self.part.path}"):
            self.digest = await in_thread(digest_of, self.part.path)
            self.offset = self.reached = await self.file.seek(0, 2)
        self.validator, self.length = self.part.record.validator, self.part.record.length
        if self.length is not None and self.offset > self.length:
            await self._restart()

    # One answer after another

    async def _advance(self) -> None:
        """Asks the host once. Raises TransientError where that is to be repeated later."""
        self.link = self.link or await self.links.get(self.part)
        resumes = bool(self.offset and self.validator and self.ranges)
        # Where requests for the rest fail again and again, is it the host, or is it the range?
        probes = resumes and self.refusals == REFUSALS
        ranged = resumes and not probes
        before = self.offset
        try:
            if self.offset and self.offset == self.length:
                await self._finish()
                return
            async with self.source.download(
                self.link, offset=self.offset if ranged else 0, validator=self.validator if ranged else None
            ) as download:
                if probes and not download.is_empty:
                    self.refusals += 1  # it may be the range: the rest is asked for once more
                    return
                is_doubtful = await self._receive(download, ranged=ranged)
            rounds = 0
            while is_doubtful and rounds < MAX_ASKED:
                is_doubtful = await self._ask_for_more()
                rounds += 1
            await self._finish()
        except (DamagedBodyError, CsvError) as error:
            await self._refuse(error)
        except LinkExpiredError as expired:
            self._suspect(ranged)
            await self._renew(expired)
        except RangeRefusedError as error:
            if not ranged:
                raise
            self._give_up_ranges()
            self._announce_retry(self.attempt + 1, 0.0, error)
        except TransientError as error:
            if self.offset > before:
                self.refusals = 0
            elif probes:
                self.refusals = 0  # it is the host
            else:
                self._suspect(ranged)
            if not ranged or error.wait <= self.source.retry.seconds:
                raise
            self.refusals = max(self.refusals, REFUSALS)  # a wait for ranges alone, perhaps
            self._announce_retry(self.attempt + 1, 0.0, error)

    def _suspect(self, ranged: bool) -> None:
        """A request brought nothing; `ranged` says that it was one for the rest of the file."""
        if not ranged:
            return
        self.refusals += 1
        if self.refusals > REFUSALS + 1 or (self.refusals == REFUSALS and self._is_stretch):
            self._give_up_ranges()

    def _give_up_ranges(self) -> None:
        """The file comes from its start, and what came of it is thrown away once that begins."""
        if self._is_stretch:
            raise StretchRefused
        self.ranges = False

    @property
    def _is_stretch(self) -> bool:
        return bool(self.begin) or self.until is not None

    async def _receive(self, download: Body, *, ranged: bool) -> bool:
        """Takes in the body; whether it is doubtful that it was all. Raises TransientError where it was not."""
        if download.offset:
            # Some hosts grant a range of another file than If-Range names, or tell the end of another.
            same = download.validator == self.validator or (download.is_empty and download.validator is None)
            if not same or download.offset != self.offset or self.length not in (None, download.length or self.length):
                raise RangeRefusedError("the host granted a range of another file, or another range")
            self.length = download.length or self.length
            if download.is_empty:  # nothing is behind the last byte
                return False
        elif self.offset and download.is_empty:
            reason = f"an empty body came, after {self.offset} bytes of the file"
            raise RangeRefusedError(reason) if ranged else TransientError(reason)
        else:
            await self._restart()
            self.validator, self.length = download.validator, download.length
        await self._write(download.chunks)
        if self.until is not None and self.offset >= self.until:
            return False
        if self.length is not None and self.offset != self.length:
            reason = f"{self.offset} of {self.length} bytes came"
            if self.offset > self.length:
                raise RangeRefusedError(reason)
            raise TransientError(reason)
        if download.offset:
            return False
        self._compare_length()
        # A body may have been cut by something in between. Where its length was told, and records end where it does,
        # that is not to be seen, and the host is not asked again.
        return not self.confirmed and not download.is_checked and bool(self.line or not download.is_framed)

    def _compare_length(self) -> None:
        """Raises TransientError, once, where more was promised earlier of the same file than came now."""
        promised = self.promised.get(self.validator or "", 0)
        if promised > self.offset and not self.doubted:
            self.doubted, self.length = True, promised
            raise TransientError(f"{self.offset} of {promised} bytes came, though the host called them all")

    async def _ask_for_more(self) -> bool:
        """Takes in what more there is of the file, which ended without a line end, or with its connection; whether it
        is doubtful again that it was all. No answer to this question does any harm, but for one that breaks off: raises
        TransientError."""
        offset = (
            self.offset if self.validator and self.ranges else 0
        )  # behind what came; else the whole's length is told
        for attempt in range(1, MAX_ASKED + 1):
            receiving = False
            try:
                async with self.source.download(self.link, offset=offset, validator=self.validator) as download:
                    # What begins anew may be longer under another ETag, too: some hosts have a new one for each answer.
                    fits = download.offset == 0 or (
                        download.offset == self.offset and download.validator == self.validator
                    )
                    if fits and not download.is_empty and (download.length or 0) > self.offset:
                        receiving, self.length = True, download.length
                        return await self._receive(download, ranged=bool(offset))
                break
            except RangeRefusedError:
                if receiving:
                    raise
                offset = 0
            except (LinkExpiredError, PartError, TransientError) as error:
                if receiving:
                    raise
                if isinstance(error, PartError):
                    break
                if isinstance(error, LinkExpiredError):
                    self.link = await self.links.get(self.part, expired=self.link)
                await anyio.sleep(self.source.retry.backoff(attempt))
        self.confirmed = True
        return False

    async def _write(self, chunks: AsyncIterator[bytes]) -> None:
        gathered: list[bytes] = []
        size = brought = 0
        written = watched = anyio.current_time()
        slow = max(self.source.retry.seconds, SLOW_SECONDS)
        try:
            async for came in chunks:
                now = anyio.current_time()
                brought += len(came)
                if brought >= PROGRESS:
                    brought, watched = 0, now
                elif now - watched > slow:
                    raise TransientError(f"the transfer is too slow: {brought} bytes came in {now - watched:.0f} s")
                if not came:
                    continue
                self.meter.record_bytes(len(came))
                self.on_event(Received(self.part.window, self.part.number, len(came)))
                # Until may be set at any time.
                chunk = came if self.until is None else came[: max(0, self.until - self.offset - size)]
                gathered.append(chunk)
                size += len(chunk)
                if len(chunk) < len(came):
                    break
                if size >= _WRITE or now - written >= _WRITE_SECONDS:
                    await self._append(gathered)
                    size, written = 0, now
        except TransientError:  # what came before the break counts
            await self._append(gathered)
            raise
        await self._append(gathered, last=True)

    async def _append(self, gathered: list[bytes], *, last: bool = False) -> None:
        pieces = gathered.copy()
        gathered.clear()
        size = sum(map(len, pieces))
        # The last bytes of a file are not worth a record, unless they contradict the one that there is.
        if self.validator != self.recorded and (self.recorded or (size and not last)):
            await in_thread(self.journal.transferring, self.part.window, self.part.number, self.validator, self.length)
            self.recorded = self.validator
        needed = size if self.length is None else self.length - self.offset
        with disk_errors(f"spool {self.part}", needed=needed, at=self.part.path):
            await in_thread(self.store, pieces)
        self.offset += size
        if self.line > MAX_RECORD:
            raise too_long(1)

    def store(self, pieces: list[bytes]) -> None:
        """All that is done to the bytes, in one turn of one thread."""
        write_all(self.file.fileno(), pieces)
        for piece in pieces:
            self.digest.update(piece)
            newline = piece.rfind(b"\n")
            self.line = self.line + len(piece) if newline < 0 else len(piece) - newline - 1

    async def _restart(self) -> None:
        if self._is_stretch:
            raise StretchRefused
        if self.offset:
            with disk_errors(f"spool {self.part}"):
                await self.file.seek(0)
                await self.file.truncate()
            self.restarts += 1
            if self.restarts == 1:  # further ones must come farther than those before, for the attempts to start anew
                self.reached = 0
        if self.validator and self.length:
            self.promised[self.validator] = max(self.length, self.promised.get(self.validator, 0))
        self.offset = self.line = 0
        self.digest = xxh3_128()
        self.length = self.validator = None

    async def _finish(self) -> None:
        """All bytes are there. Raises CsvError for an error page that came with status 200."""
        if not self.begin:
            self.zipped = await in_thread(_check_head, self.part.path, self.source.columns.key)
        self.complete = True

    async def unzip(self) -> bool:
        """Puts the file in the zip in its place; whether that was possible. Raises PartError for a zip of another
        kind."""
        # What the journal knows is the zip.
        await in_thread(self.journal.transferring, self.part.window, self.part.number, None, None)
        self.recorded = None
        try:
            self.offset = await in_thread(unzip, self.part.path)
            self.zipped = await in_thread(_check_head, self.part.path, self.source.columns.key)
            if self.zipped:
                raise PartError("the file host gave a zip in a zip, where a CSV was expected")
        except CsvError as error:
            await self._refuse(error)
            return False
        self.digest = await in_thread(digest_of, self.part.path)
        return True

    def _announce_retry(self, attempt: int, wait: float, error: Exception) -> None:
        self.meter.record_break()
        self.on_event(Retried(str(self.part), attempt, wait, str(error)))

    # What limits the attempts

    async def _pause(self, error: TransientError) -> None:
        """Waits for the next attempt. Raises PartError or `error` where none is left."""
        retry, now = self.source.retry, anyio.current_time()
        if self.offset >= self.reached + PROGRESS:
            self.reached = self.offset
            self.attempt, self.failing_since, self.missing_since = 0, None, None
            self.renewals = self.waits = 0
        self.attempt += 1
        self.failing_since = now if self.failing_since is None else self.failing_since
        left = self.failing_since + retry.seconds - now
        if error.wait > left:
            raise PartError(retry.too_long_a_wait(error))
        wait = max(error.wait, retry.backoff(self.attempt))
        if self.attempt >= retry.attempts or wait > left:
            raise error
        self._announce_retry(self.attempt, wait, error)
        await anyio.sleep(wait)

    async def _await_file(self, error: NotReadyError) -> None:
        """Waits for a file that is not there yet. Raises ExportFailure where that takes too long, or PartError where
        the host still says that it will come."""
        now = anyio.current_time()
        self.missing_since = now if self.missing_since is None else self.missing_since
        promised = error.status == 202
        limit = max(self.source.retry.seconds, patience.LAG) if promised else patience.LAG
        left = self.missing_since + limit - now
        if left <= 0 or error.wait > left:
            if promised:
                waited = now - self.missing_since
                raise PartError(f"{error}, after {waited:,.0f} s (--retry-for). Pull again later to go on from here")
            reason = f"part {self.part.number} is not there: {error}"
            raise ExportFailure(self.links.export_id, reason, PartError) from error
        most = (
            _LATER * patience.LAG if left > limit - patience.LAG else max(_LATER * patience.LAG, self.source.retry.cap)
        )
        wait = min(max(error.wait, min(_SOON * patience.LAG * 2.0**self.waits, most)), left)
        self.waits += 1
        self._announce_retry(self.waits, wait, error)
        await anyio.sleep(wait)

    async def _refuse(self, error: CsvError | DamagedBodyError) -> None:
        """What came is no CSV: it is thrown away, to be fetched anew after a while. Raises ExportFailure if that was so
        too often."""
        self.malformed += 1
        if self.malformed == MAX_MALFORMED:
            reason = f"part {self.part.number}: the file host gave something else than a CSV: {error}"
            raise ExportFailure(self.links.export_id, reason, MalformedPartError) from error
        await self._restart()
        self.complete = False
        self.promised.clear()
        self.link = await self.links.get(self.part, expired=self.link)
        wait = _AGAIN[self.malformed - 1] * patience.LAG
        self._announce_retry(self.malformed, wait, error)
        await anyio.sleep(wait)

    async def _renew(self, expired: LinkExpiredError) -> None:
        if expired.status == 404 and self.renewals:  # to a fresh link too: it may not have come to all backends yet
            raise NotReadyError(f"{expired} to a fresh link too", status=404)
        self.renewals += 1
        if self.renewals > MAX_RENEWALS:
            reason = f"part {self.part.number} is gone: {expired} to {MAX_RENEWALS} fresh links too"
            raise ExportFailure(self.links.export_id, reason, PartError) from expired
        if self.renewals > 1:  # the first link may just have grown old
            await anyio.sleep(self.source.retry.backoff(self.renewals))
        self.link = await self.links.get(self.part, expired=self.link)


def digest_of(path: Path) -> xxh3_128:
    digest = xxh3_128()
    with path.open("rb") as file:
        for block in blocks(file, from_thread.check_cancelled):
            digest.update(block)
    return digest


def _check_head(path: Path, key: str) -> bool:
    """Whether the file is a zip. Raises CsvError where it is neither that, nor a CSV, nor empty."""
    with disk_errors(f"read {path.name}"), path.open("rb") as file:
        if file.read(4).startswith(ZIPS):
            return True
        file.seek(0)
        read_columns(records(blocks(file, from_thread.check_cancelled)), key)
        return False


@asynccontextmanager
async def spooled(path: Path, mode: Literal["ab", "wb"]) -> AsyncIterator[AsyncFileIO]:
    """A file to write, closed whatever happens: a cancelled open or close would leave it to the garbage collector."""
    with anyio.CancelScope(shield=True), disk_errors(f"spool to {path.name}", at=path):
        file = await aiofiles.open(path, mode, buffering=0, executor=file_threads())
    try:
        yield file
    finally:
        with anyio.CancelScope(shield=True), disk_errors(f"spool to {path.name}", at=path):
            await file.close()
