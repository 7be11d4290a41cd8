"""Reconcile: what is asked where a window's rows are none, or fewer than its count, until the doubt is resolved."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import KW_ONLY, dataclass

from bulkpull import patience
from bulkpull.events import OnEvent, Reconciling
from bulkpull.journal.journal import ExportRecord
from bulkpull.planning.volume import MILLISECOND, Uncounted, could_be_a_cap, counted, middle_of
from bulkpull.pull.collect import Collector
from bulkpull.pull.doubts import Doubt, is_suspicious
from bulkpull.pull.export import Exporter, NoExtraLeft
from bulkpull.pull.journey import ExportFailure, Journey

MAX_LATE = 3  # times that an export of one window has more links than before
MAX_WAITS = 2  # windows in a row whose export had no more links after some seconds, after which none waits for that
MAX_FRUITLESS = 3  # windows whose second export brought nothing new, after which none is exported a second time
_MUCH = 0.1  # of a window's count, that lacks where its export is likely to have been cut


@dataclass(slots=True)
class Reconciler:
    """Counts again, asks for late links, exports once more."""

    exporter: Exporter
    collector: Collector
    _: KW_ONLY
    on_event: OnEvent
    fruitless: int = 0
    waits: int = 0

    async def should_cut(self, journey: Journey, doubt: Doubt) -> bool:
        """Takes the next steps for a window whose rows are in doubt, after which it is handed over again; true where it
        should be cut instead, since its export seems to have ended early. Nothing else can be asked once the journey
        `is_resolved`.

        Raises ExportFailure for a window that delivers nothing although there is activity.
        """
        if doubt.kind == "empty":
            empty = await self.exporter.is_empty(journey)
            if empty is not False:
                journey.is_empty = True
                return False
        else:
            await self._count_again(journey, doubt)
            if doubt.ids >= (journey.window.rows or 0):
                return False
        self._tell(journey, doubt, "asking for the links of its export again")
        if await self._late_links(journey):
            return False
        if doubt.ids and is_suspicious(doubt.records) and not journey.cannot_be_cut and not journey.is_exported_again:
            return True
        if not journey.is_exported_again and self.fruitless < MAX_FRUITLESS:
            self._tell(journey, doubt, "exporting it once more")
            journey.is_exported_again, journey.ids_before = True, doubt.ids
            if await self.export_again(journey):
                return False
        if doubt.ids == journey.ids_before:
            self.fruitless += 1
        if not doubt.ids:
            raise ExportFailure(
                journey.export_id,
                f"it delivered no rows, though {journey.window.rows or 'some'} activities are counted in its window",
                too_large=True,
                is_size_related=False,
            )
        journey.is_resolved = True
        rows = journey.window.rows or 0
        may_be_cut = doubt.ids == journey.ids_before and not journey.cannot_be_cut
        return may_be_cut and rows - doubt.ids > _MUCH * rows

    async def count_for_limit(self, journey: Journey, doubt: Doubt) -> bool | None:
        """Whether a count says that the window is whole, though it ended at what may be a limit; None where no count
        can tell. A count that may be limited itself is compared with those of the window's halves."""
        self._tell(journey, doubt, "counting it")
        window = journey.window
        try:
            rows = await counted(self.exporter.source, window.start, window.end, self.exporter.filter)
            if rows < doubt.ids:
                return None
            if rows == doubt.ids and could_be_a_cap(rows):
                if window.end - window.start < 2 * MILLISECOND:
                    return None
                middle = middle_of(window)
                for start, end in ((window.start, middle), (middle, window.end)):
                    rows -= await counted(self.exporter.source, start, end, self.exporter.filter)
                rows = doubt.ids - rows if rows < 0 else doubt.ids
        except Uncounted:
            return None
        await self.exporter.recounted(journey, rows)
        return rows == doubt.ids

    async def _count_again(self, journey: Journey, doubt: Doubt) -> None:
        self._tell(journey, doubt, "counting it again")
        with suppress(Uncounted):
            await self.exporter.recounted(journey, await self.exporter.count_again(journey.window, doubt.ids))

    async def _late_links(self, journey: Journey) -> bool:
        """Whether the newest export has more links now; for some seconds, unless that was of no use before."""
        if not journey.export_id or journey.late_links == MAX_LATE:
            return False
        if self.waits >= MAX_WAITS:
            are_late = await self.collector.collect_late(journey)
        else:
            are_late = await patience.until(lambda: self.collector.collect_late(journey), bool)
            self.waits = 0 if are_late else self.waits + 1
        journey.late_links += are_late
        return are_late

    async def export_again(self, journey: Journey, unfinished: ExportRecord | None = None) -> bool:
        """Whether another export of the window, perhaps the `unfinished` one of an earlier run, succeeded; its rows
        come in addition to those of the former."""
        try:
            export = await self.exporter.export(journey, 2, unfinished)
            await self.collector.collect(journey, export)
        except NoExtraLeft:
            return False
        except ExportFailure as failure:
            await self.exporter.failed(journey.window, failure, 2)
            if failure.export_id:
                self.collector.export_failed(journey.window)
            return False
        return True

    def _tell(self, journey: Journey, doubt: Doubt, step: str) -> None:
        self.on_event(Reconciling(journey.window, journey.window.rows, doubt.ids, step))
