"""Collect: from a succeeded export to its files, whole on the disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from bulkpull.disk import disk_errors
from bulkpull.download.fetch import fetch
from bulkpull.events import OnEvent
from bulkpull.journal import Journal, PartRecord
from bulkpull.pacing import Backpressure
from bulkpull.pull.journey import ExportFailure, Journey, Part, cancelled_from_within
from bulkpull.pull.links import Links, link_name, part_records
from bulkpull.pull.poll import known
from bulkpull.pull.slots import Slots
from bulkpull.source import Export, Source
from bulkpull.threads import in_thread
from bulkpull.window import Window


@dataclass(slots=True)
class Collector:
    """Downloads the files of exports, as many at a time as `slots` and `backpressure` allow."""

    source: Source
    journal: Journal
    _: KW_ONLY
    path: Callable[[int, int], Path]
    slots: Slots
    backpressure: Backpressure
    on_event: OnEvent
    _spool_shrank: anyio.Event = field(default_factory=anyio.Event)

    async def collect(self, journey: Journey, export: Export, records: Sequence[PartRecord] = ()) -> None:
        """Downloads the files of the export, behind which the journey's former parts stay. `records` are what an
        earlier run left of them. Raises ExportFailure where one is gone or no CSV."""
        if not records:
            records = part_records(export, 1 + await in_thread(self.journal.last_part, journey.window))
            await in_thread(self.journal.record_success, journey.window, export.id, records)
        self.backpressure.export_succeeded(journey.window, len(records))
        await self._download(journey, Links(self.source, export, records), records)
        # The newest export's first: where it is whole, its rows come as if it were alone.
        journey.parts.sort(key=lambda part: part.record.export_id != export.id)
        journey.export_id = export.id

    async def collect_late(self, journey: Journey) -> bool:
        """Asks the newest export again for its links: whether there are more than before, which are downloaded then.
        Raises ExportFailure."""
        former = [part.record for part in journey.parts if part.record.export_id == journey.export_id]
        export = await known(self.source, journey.export_id)
        names = {record.name for record in former}
        if export is None or len(export.links) <= len(former):
            return False
        # Where links differ in their queries alone, nothing tells which is new.
        late = [link for link in export.links if link_name(link) not in names] or export.links
        late_export = replace(export, links=tuple(late))
        await self.collect(journey, late_export)
        return True

    async def download_again(self, journey: Journey, part: Part) -> None:
        """Downloads a damaged part anew. Raises ExportFailure where it is gone."""
        with disk_errors(f"remove {part.path}"):
            await in_thread(part.path.unlink, True)
        await in_thread(self.journal.damaged, part.window, part.number)
        part.record = PartRecord(part.number, part.record.name, part.record.export_id)
        part.size = None
        of_export = [other.record for other in journey.parts if other.record.export_id == part.record.export_id]
        export = Export(part.record.export_id, "succeeded")
        await self._all([part], Links(self.source, export, sorted(of_export, key=lambda record: record.number)))

    def export_failed(self, window: Window) -> None:
        """The window's parts are of no use."""
        self.backpressure.export_failed(window)
        self._wake()

    def window_left(self, window: Window) -> None:
        """The window was merged or skipped."""
        self.backpressure.window_left(window)
        self._wake()

    def window_split(self, window: Window, pieces: Sequence[Window], *, is_merged: bool) -> None:
        """The pieces are merged in place of the window, or after it where it `is_merged`."""
        self.backpressure.window_split(window, pieces, is_merged=is_merged)
        self._wake()

    def _wake(self) -> None:
        """Lets downloads look again whether they may start."""
        self._spool_shrank.set()
        self._spool_shrank = anyio.Event()

    async def _download(self, journey: Journey, links: Links, records: Sequence[PartRecord]) -> None:
        index = journey.window.index
        parts = [Part(journey.window, record.number, self.path(index, record.number), record) for record in records]
        await self._all(parts, links)
        journey.parts += parts

    async def _all(self, parts: Sequence[Part], links: Links) -> None:
        failures: list[ExportFailure] = []
        async with anyio.create_task_group() as group:
            for part in parts:
                group.start_soon(self._fetch, part, links, failures, group)
        if failures:
            raise failures[0]
        if any(part.size is None for part in parts):
            raise cancelled_from_within()

    async def _fetch(self, part: Part, links: Links, failures: list[ExportFailure], group: TaskGroup) -> None:
        """Streams one part, once there is room for it; what makes the export useless goes to `failures`."""
        streams = self.slots.downloads
        while True:
            while not self.backpressure.may_start(part.window):
                await self._spool_shrank.wait()
            async with streams:
                if not self.backpressure.may_start(part.window):  # any more: no slot is held while that is waited for
                    continue
                try:
                    size = await fetch(
                        self.source,
                        part,
                        links,
                        self.journal,
                        streams=streams,
                        meter=self.slots,
                        on_event=self.on_event,
                    )
                    self.backpressure.part_downloaded(part.window, size)
                except ExportFailure as failure:
                    failures.append(failure)
                    group.cancel_scope.cancel()
                return
