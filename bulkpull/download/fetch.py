"""Fetch: from a link to a whole part on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import anyio
from anyio import from_thread
from anyio.abc import TaskGroup

from bulkpull.disk import disk_errors
from bulkpull.download.transfer import Meter, StretchRefused, Transfer, digest_of, spooled
from bulkpull.errors import PartError
from bulkpull.events import OnEvent, PartFetched
from bulkpull.journal.journal import Journal
from bulkpull.pull.journey import Part, cancelled_from_within
from bulkpull.pull.links import Links
from bulkpull.retry import TransientError
from bulkpull.rows.records import blocks
from bulkpull.source import Source
from bulkpull.threads import in_thread

STRETCH_EVERY = 2.0  # seconds between two looks at how fast a file comes
WORTH = 5.0  # seconds that the rest of a file takes, below which one stream is left alone
_LEAST = 512 * 1024  # bytes of a stretch


async def fetch(
    source: Source,
    part: Part,
    links: Links,
    journal: Journal,
    *,
    streams: anyio.CapacityLimiter,
    meter: Meter,
    on_event: OnEvent,
) -> int:
    """Streams the part's link to its path: resumed where the host allows, checked in length and header. Returns its
    size.

    A file that is long in coming is brought in several stretches side by side, where the host allows that and `streams`
    has places that nobody waits for: hosts often give each connection only so much.

    What an earlier run left of it is used, if it is still what the journal says. Raises PartError where the part
    cannot be had, ExportFailure where it is gone or no CSV with an id column.
    """
    size = part.record.size
    if size is None or not await in_thread(_stands, part):
        try:
            size = await _fetched(source, part, links, journal, streams, meter, on_event)
        except TransientError as error:
            raise PartError(f"{part} could not be downloaded: {error}") from error
        except PartError as error:
            raise type(error)(f"{part}: {error}") from error
    part.size = size
    on_event(PartFetched(part.window, part.number, size))
    return size


def _stands(part: Part) -> bool:
    """Whether the part is whole, byte for byte, since an earlier run."""
    with disk_errors(f"read {part.path}"):
        try:
            if part.path.stat().st_size == part.record.size:
                return digest_of(part.path).hexdigest() == part.record.checksum
        except FileNotFoundError:
            pass
        return False


async def _fetched(
    source: Source,
    part: Part,
    links: Links,
    journal: Journal,
    streams: anyio.CapacityLimiter,
    meter: Meter,
    on_event: OnEvent,
) -> int:
    """The part's size, once it has been transferred."""
    half = part.record.size is None and part.record.validator is not None and part.path.exists()
    async with spooled(part.path, "ab" if half else "wb") as file:
        transfer = Transfer(source, part, links, journal, file, meter, on_event, recorded=part.record.validator)
        stretches = _Stretches(transfer, streams)
        if half:
            await transfer.take_up()
            await in_thread(stretches.take_up)
        else:
            await in_thread(stretches.discard)
        whole = False
        while not whole:
            while not await stretches.to_end():
                await in_thread(stretches.discard)
            await in_thread(stretches.join)
            if transfer.zipped:
                await in_thread(stretches.discard)
                whole = await transfer.unzip()
            else:
                whole = True
    checksum = transfer.digest.hexdigest()
    await in_thread(journal.fetched, part.window, part.number, transfer.offset, checksum)
    return transfer.offset


@dataclass(slots=True)
class _Stretches:
    """A transfer of the beginning of a part, and others of the stretches behind it, each in a file of its own beside
    the part's. `begins` are where they begin; the last goes to the end of the part."""

    first: Transfer
    streams: anyio.CapacityLimiter
    begins: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)  # begins of those that nobody brings yet
    refused: bool = False
    errors: list[Exception] = field(default_factory=list)

    # What blocks, in threads

    def take_up(self) -> None:
        """Goes on with the stretches that an earlier run left, if it left more than the first."""
        if self.first.offset:
            self._plan(sorted(int(path.suffix[1:]) for path in self._paths()))
        else:
            self.discard()

    def discard(self) -> None:
        """One stream brings it all."""
        with disk_errors(f"spool {self.first.part}"):
            for path in self._paths():
                path.unlink()
        self.begins, self.waiting, self.errors = [], [], []
        self.first.until = None
        self.first.complete = False

    def join(self) -> None:
        """Brings all stretches into the part's file."""
        first = self.first
        with disk_errors(f"spool {first.part}", at=first.part.path):
            for begin in self.begins:
                with self._path(begin).open("rb") as file:
                    file.seek(first.offset - begin)
                    for block in blocks(file, from_thread.check_cancelled):
                        first.store([block])
                        first.offset += len(block)
                self._path(begin).unlink()

    # The streams

    async def to_end(self) -> bool:
        """Whether all stretches are there; where one is refused they are of no use. Raises what `Transfer.to_end` does
        apart from that."""
        async with anyio.create_task_group() as looking:
            async with anyio.create_task_group() as group:
                group.start_soon(self._bring_first, group)
                self._start(group)
                looking.start_soon(self._look, group)
            looking.cancel_scope.cancel()
        if self.errors:
            self.refused = isinstance(self.errors[0], StretchRefused)
            if not self.refused:
                raise self.errors[0]
            return False
        if not self.first.complete or self.waiting:
            raise cancelled_from_within()
        return True

    async def _look(self, group: TaskGroup) -> None:
        """Divides what is still to come, if one stream would take long."""
        first = self.first
        before, began = first.offset, anyio.current_time()
        while not self.begins and not self.refused:
            await anyio.sleep(STRETCH_EVERY)
            if first.complete or first.validator is None or first.length is None:
                continue
            left, came = first.length - first.offset, first.offset - before
            places = min(int(self.streams.available_tokens), left // _LEAST)
            if places > 0 and came > 0 and left / came * (anyio.current_time() - began) > WORTH:
                self._plan([first.offset + left * number // (places + 1) for number in range(1, places + 1)])
                self._start(group)

    def _plan(self, begins: list[int]) -> None:
        self.begins, self.waiting = begins, begins.copy()
        if begins:
            self.first.until = begins[0]
            self.first.complete = self.first.offset >= begins[0]

    def _start(self, group: TaskGroup) -> None:
        """Takes as many places as there are and stretches that wait."""
        for _ in self.waiting:
            place = object()
            try:
                self.streams.acquire_on_behalf_of_nowait(place)
            except anyio.WouldBlock:
                return
            group.start_soon(self._bring_others, group, place)

    async def _bring_first(self, group: TaskGroup) -> None:
        with self._together(group):
            await self.first.to_end()
            await self._bring_waiting()

    async def _bring_others(self, group: TaskGroup, place: object) -> None:
        try:
            with self._together(group):
                await self._bring_waiting()
        finally:
            self.streams.release_on_behalf_of(place)

    async def _bring_waiting(self) -> None:
        while self.waiting:
            await self._bring(self.waiting.pop(0))

    async def _bring(self, begin: int) -> None:
        first, until = self.first, self._untils()[begin]
        async with spooled(self._path(begin), "ab") as file:
            stretch = Transfer(
                first.source, first.part, first.links, first.journal, file, first.meter, first.on_event, begin=begin
            )
            stretch.until, stretch.length, stretch.validator = until, first.length, first.validator
            stretch.recorded = first.recorded
            stretch.offset = stretch.reached = begin + await file.tell()
            stretch.complete = stretch.offset == until
            await stretch.to_end()

    @contextmanager
    def _together(self, group: TaskGroup) -> Iterator[None]:
        """One stream that fails ends the others."""
        try:
            yield
        except Exception as error:
            self.errors.append(error)
            group.cancel_scope.cancel()

    def _untils(self) -> dict[int, int | None]:
        """Where the stretches end, by where they begin."""
        return dict(zip_longest(self.begins, self.begins[1:]))

    def _path(self, begin: int) -> Path:
        path = self.first.part.path
        return path.with_name(f"{path.name}.{begin}")

    def _paths(self) -> list[Path]:
        path = self.first.part.path
        return [beside for beside in path.parent.glob(f"{path.name}.*") if beside.suffix[1:].isdecimal()]
