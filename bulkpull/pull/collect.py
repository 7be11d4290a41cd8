"""Collect: the files of a succeeded export are downloaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, field, replace
from functools import partial
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from bulkpull import patience
from bulkpull.disk import disk_errors
from bulkpull.download import Checkpoints, Downloaded, Downloader, FileMissingError, Version, keep, verify_csv
from bulkpull.errors import MalformedPartError, OutputError, PartError
from bulkpull.events import MergeAwaited, OnEvent, PartFetched, Received, Retried
from bulkpull.journal import Journal, PartRecord
from bulkpull.pacing import Backpressure
from bulkpull.pull.download_queue import DownloadQueue
from bulkpull.pull.journey import ExportFailure, Journey, Part, cancelled_from_within
from bulkpull.pull.poll import known
from bulkpull.pull.slots import Slots
from bulkpull.pull.workers import Workers
from bulkpull.record import record
from bulkpull.rows.held_file import HeldFile, Memory
from bulkpull.source import Export, Source
from bulkpull.threads import in_thread
from bulkpull.window import Window

HOLD_SECONDS = 1.0  # that a part may wait in memory for the merge, since a kill loses it


@record(frozen=False)
class Collector:
    """Downloads the files of exports, as many concurrently as `slots` and `backpressure` allow.

    Those that arrive fast stay in `memory`, for a second: what the merge takes until then is never written. The others
    are written by tasks of the `group`. If there are `workers`, these download, and nothing is written here.
    """

    source: Source
    journal: Journal
    group: TaskGroup
    _: KW_ONLY
    memory: Memory
    path: Callable[[int, int], Path]
    slots: Slots
    backpressure: Backpressure
    on_event: OnEvent
    workers: Workers | None = None
    _spool_shrank: anyio.Event = field(default_factory=anyio.Event)
    _queue: DownloadQueue = field(init=False)
    _downloader: Downloader = field(init=False)

    def __post_init__(self) -> None:
        verify = partial(verify_csv, key=self.source.columns.key)
        self._downloader = Downloader(
            self.source.download, self.source.retry, self.slots.downloads, verify, self.memory
        )
        self._queue = DownloadQueue(
            self.slots.downloads, self.backpressure.may_start, lambda window: self.on_event(MergeAwaited(window))
        )

    async def collect(self, journey: Journey, export: Export, records: Sequence[PartRecord] = ()) -> None:
        """Download the files of the export, and put them before those of the journey's earlier exports.

        `records` are what an earlier run left of them. Raises ExportFailure if a file is missing or malformed.
        """
        if not records:
            records = part_records(export, 1 + await in_thread(self.journal.last_part, journey.window))
            await in_thread(self.journal.record_success, journey.window, export.id, records)
        self.backpressure.export_succeeded(journey.window, len(records))
        await self._download(journey, Links(self.source, export, records), records)
        # The newest export first: if it is complete, the order of the rows is the same as without the others.
        journey.parts.sort(key=lambda part: part.record.export_id != export.id)
        journey.export_id = export.id

    async def collect_late(self, journey: Journey) -> bool:
        """Get the newest export again, and download the files that were added to it. Returns whether there were any.
        Raises ExportFailure."""
        former = [part.record for part in journey.parts if part.record.export_id == journey.export_id]
        export = await known(self.source, journey.export_id)
        names = {record.name for record in former}
        if export is None or len(export.links) <= len(former):
            return False
        # If the links differ in their queries only, it is unknown which are new.
        late = [link for link in export.links if link_name(link) not in names] or export.links
        late_export = replace(export, links=tuple(late))
        await self.collect(journey, late_export)
        return True

    async def download_again(self, journey: Journey, part: Part) -> None:
        """Download a damaged part again. Raises ExportFailure if it is missing or malformed."""
        with disk_errors(f"remove {part.path}"):
            await in_thread(part.path.unlink, True)
        await in_thread(self.journal.reset_part, part.window, part.number)
        part.record = PartRecord(part.number, part.record.name, part.record.export_id)
        part.size = part.held = None
        part.is_done.set()
        part.is_done = anyio.Event()
        of_export = [other.record for other in journey.parts if other.record.export_id == part.record.export_id]
        export = Export(part.record.export_id, "succeeded")
        links = Links(self.source, export, sorted(of_export, key=lambda record: record.number))
        await self._all(journey, [part], links)

    async def wait_for_launch(self) -> None:
        """Wait while so much is waiting for the merge that another export would only wait, too."""
        while not self.backpressure.may_launch():
            self.on_event(MergeAwaited(None))
            await self._spool_shrank.wait()

    def export_failed(self, window: Window) -> None:
        """The window's parts are of no use."""
        self.backpressure.export_failed(window)
        self._wake()

    def window_left(self, window: Window) -> None:
        """The window was merged or skipped."""
        self.backpressure.window_left(window)
        self._wake()

    def window_split(self, window: Window, pieces: Sequence[Window], *, is_merged: bool) -> None:
        """The pieces are merged in place of the window, or after it if it `is_merged`."""
        self.backpressure.window_split(window, pieces, is_merged=is_merged)
        self._wake()

    def _wake(self) -> None:
        """Let downloads and launches look again whether they may start."""
        self._queue.look_again()
        self._spool_shrank.set()
        self._spool_shrank = anyio.Event()

    async def _download(self, journey: Journey, links: Links, records: Sequence[PartRecord]) -> None:
        index = journey.window.index
        parts = [Part(journey.window, record.number, self.path(index, record.number), record) for record in records]
        journey.start_arriving(parts)
        await self._all(journey, parts, links)
        journey.parts += parts

    async def _all(self, journey: Journey, parts: Sequence[Part], links: Links) -> None:
        failures: list[ExportFailure] = []
        async with anyio.create_task_group() as group:
            for part in parts:
                group.start_soon(self._fetch, journey, part, links, failures, group)
        if failures:
            journey.stop_arriving()
            for part in parts:
                part.is_done.set()
            raise failures[0]
        if any(part.size is None for part in parts):
            raise cancelled_from_within()

    async def _fetch(
        self, journey: Journey, part: Part, links: Links, failures: list[ExportFailure], group: TaskGroup
    ) -> None:
        """Download one part once there is room for it. What makes the export useless is added to `failures`."""
        async with self._queue.slot(part.window, part.number):
            try:
                await self._download_part(journey, part, links)
            except ExportFailure as failure:
                failures.append(failure)
                group.cancel_scope.cancel()

    async def _download_part(self, journey: Journey, part: Part, links: Links) -> None:
        """Raises ExportFailure if the file is missing or malformed, PartError if it cannot be downloaded otherwise."""
        checkpoints = _PartCheckpoints(self.journal, part)
        link, progress = PartLink(links, part.number), _PartProgress(journey, part, self.slots, self.on_event)
        try:
            if self.workers:
                downloaded: Downloaded | HeldFile = await self.workers.fetch(part, link, checkpoints, progress)
            else:
                before = _known(part.record)
                downloaded = await self._downloader.download(link, part.path, checkpoints, progress, before)
        except FileMissingError as error:
            raise ExportFailure(links.export_id, f"part {part.number} is missing: {error}", PartError) from error
        except MalformedPartError as error:
            raise ExportFailure(links.export_id, f"part {part.number}: {error}", MalformedPartError) from error
        except PartError as error:
            raise PartError(f"{part}: {error}") from error
        if isinstance(downloaded, HeldFile):
            part.held = downloaded
            self.group.start_soon(self._hold, part, downloaded, checkpoints)
        self.backpressure.part_downloaded(part.window, 0 if self.workers else downloaded.size)
        self.on_event(PartFetched(part.window, part.number, downloaded.size))
        part.size = downloaded.size  # last: a part whose listener raised a cancellation is not complete
        journey.announce_change()

    async def _hold(self, part: Part, held: HeldFile, checkpoints: Checkpoints) -> None:
        """Write a part that is in memory, unless the merge is done with it before."""
        try:
            with anyio.move_on_after(HOLD_SECONDS):
                await part.is_done.wait()
        except anyio.get_cancelled_exc_class():  # the next run need not download it again
            with anyio.CancelScope(shield=True), suppress(OutputError):
                await self._keep(part, held, checkpoints)
            raise
        await self._keep(part, held, checkpoints)
        part.held = None

    async def _keep(self, part: Part, held: HeldFile, checkpoints: Checkpoints) -> None:
        if not part.is_done.is_set():
            await keep(held, part.path, checkpoints)
            if part.is_done.is_set():  # while it was written
                await in_thread(part.path.unlink, True)


@record
class _PartProgress:
    """Reports the download of a part, lets the limit of downloads adapt to it, and the merge follow it."""

    journey: Journey
    part: Part
    slots: Slots
    on_event: OnEvent

    def received(self, size: int) -> None:
        self.slots.record_bytes(size)
        self.on_event(Received(self.part.window, self.part.number, size))

    def stored(self, size: int) -> None:
        self.journey.record_stored(self.part, size)

    def retried(self, attempt: int, wait: float, reason: str) -> None:
        self.slots.record_break()
        self.on_event(Retried(str(self.part), attempt, wait, reason))


@record
class _PartCheckpoints:
    """Records the download of a part in the journal."""

    journal: Journal
    part: Part

    def save_partial(self, version: Version) -> None:
        self.journal.record_partial_part(self.part.window, self.part.number, version.validator, version.length)

    def save_complete(self, downloaded: Downloaded) -> None:
        self.journal.record_complete_part(self.part.window, self.part.number, downloaded.size, downloaded.checksum)


def _known(record: PartRecord) -> Version | Downloaded:
    """Return what an earlier run recorded of a part."""
    if record.size is not None and record.checksum is not None:
        return Downloaded(record.size, record.checksum)
    return Version(record.validator, record.length)


class Links:
    """The links of one finished export.

    They are requested when the first is needed, and again, all together, when one has expired. `parts` are the files
    of the export, numbered in order.
    """

    def __init__(self, source: Source, export: Export, parts: Sequence[PartRecord]) -> None:
        self._source = source
        self._export = export
        self._names = [part.name for part in parts]
        self._first = parts[0].number if parts else 1
        self._requesting = anyio.Lock()

    @property
    def export_id(self) -> str:
        return self._export.id

    async def get(self, number: int, expired: str | None = None) -> str:
        """Return the current link of part `number`, after renewing all links if it is `expired`.

        Raises:
            ExportFailure: The export no longer has a link to the part.
        """
        async with self._requesting:
            if not self._export.links or expired in self._export.links:
                await self._request()
            return self._export.links[number - self._first]

    async def _request(self) -> None:
        # A backend that lags behind may not know the export, its success, or all of its files.
        export = await patience.until(
            lambda: known(self._source, self._export.id),
            lambda found: found is not None and len(found.links) >= len(self._names),
        )
        if export is None:
            raise ExportFailure(self._export.id, "it vanished: the API does not know it (404)", PartError)
        # Links may be reordered or added, but the file that a link names does not change.
        by_name = {link_name(link): link for link in export.links}
        if set(self._names) <= by_name.keys() and len(set(self._names)) == len(self._names):
            self._export = replace(export, links=tuple(by_name[name] for name in self._names))
        elif len(export.links) == len(self._names):
            self._export = export
        else:
            reason = f"it had {len(self._names)} links and now has {len(export.links)}"
            raise ExportFailure(export.id, reason, PartError)


@record
class PartLink:
    """The link of one part, as `bulkpull.download.Link`."""

    links: Links
    number: int

    async def get(self, expired: str | None = None) -> str:
        """Return the current link, after renewing it if it is `expired`. Raises ExportFailure."""
        return await self.links.get(self.number, expired)


def part_records(export: Export, first: int = 1) -> tuple[PartRecord, ...]:
    """Return what the journal records of the files of an export that succeeded, numbered from `first`."""
    return tuple(
        PartRecord(number, link_name(link), export.id) for number, link in enumerate(export.links, start=first)
    )


def link_name(link: str) -> str:
    """Return what identifies the file of a link: a digest, since links are secrets, without the query, which changes
    with every signature."""
    return hashlib.blake2b(link.partition("?")[0].encode(), digest_size=16).hexdigest()
