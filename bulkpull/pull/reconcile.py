"""Reconciliation: resolving a doubt about a window by counting, asking for late links and exporting again."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import KW_ONLY, dataclass

from bulkpull import patience
from bulkpull.events import OnEvent, Reconciling
from bulkpull.journal import ExportRecord
from bulkpull.planning.volume import MILLISECOND, CountUnavailable, count_window, looks_like_a_limit, midpoint
from bulkpull.pull.collect import Collector
from bulkpull.pull.doubts import Doubt, is_suspicious
from bulkpull.pull.export import Exporter, NoExtraLeft
from bulkpull.pull.journey import ExportFailure, Journey

_MAX_LATE_LINKS = 3  # times that a window's export is found to have more links than before
_MAX_VAIN_WAITS = 2  # consecutive windows that waited for late links in vain, after which no window waits for them
MAX_VAIN_EXPORTS = 3  # windows whose second export delivered nothing new, after which none is exported a second time
_TRUNCATED_SHARE = 0.1  # of a window's count: if more is missing, its export was probably truncated


@dataclass(slots=True)
class Reconciler:
    """Resolves doubts about windows, within limits that hold for the whole pull."""

    exporter: Exporter
    collector: Collector
    _: KW_ONLY
    on_event: OnEvent
    _vain_exports: int = 0
    _vain_waits: int = 0

    async def should_cut(self, journey: Journey, doubt: Doubt) -> bool:
        """Take the next steps for a window that is `empty` or `short`.

        Returns:
            Whether it should be cut, as its export seems to be truncated. Otherwise it is to be merged again; if the
            journey `is_resolved` then, nothing else can be asked.

        Raises:
            ExportFailure: it delivered nothing although there is activity.
        """
        delivered = doubt.delivery
        if doubt.kind == "empty":
            empty = await self.exporter.is_empty(journey)
            if empty is not False:
                journey.is_empty = True
                return False
        else:
            await self._count_again(journey, doubt)
            if delivered.ids >= (journey.window.rows or 0):
                return False
        self._tell(journey, doubt, "asking for the links of its export again")
        if await self._late_links(journey):
            return False
        may_be_capped = delivered.ids > 0 and is_suspicious(delivered.records)
        if may_be_capped and not journey.cannot_be_cut and not journey.is_exported_again:
            return True
        if not journey.is_exported_again and self._vain_exports < MAX_VAIN_EXPORTS:
            self._tell(journey, doubt, "exporting it again")
            journey.is_exported_again, journey.ids_before = True, delivered.ids
            if await self.export_again(journey):
                return False
        if delivered.ids == journey.ids_before:
            self._vain_exports += 1
        if not delivered.ids:
            raise ExportFailure(
                journey.export_id,
                f"it delivered no rows, though {journey.window.rows or 'some'} activities are counted in its window",
                too_large=True,
                is_size_related=False,
            )
        journey.is_resolved = True
        rows = journey.window.rows or 0
        may_be_cut = delivered.ids == journey.ids_before and not journey.cannot_be_cut
        return may_be_cut and rows - delivered.ids > _TRUNCATED_SHARE * rows

    async def count_for_limit(self, journey: Journey, doubt: Doubt) -> bool | None:
        """Whether a count says that a window is complete whose export ended at what may be a cap; None if no count can
        tell. A count that may be capped itself is compared with those of the window's halves."""
        ids = doubt.delivery.ids
        self._tell(journey, doubt, "counting it")
        window = journey.window
        try:
            rows = await count_window(self.exporter.source, window.start, window.end, self.exporter.filter)
            if rows < ids:
                return None
            if rows == ids and looks_like_a_limit(rows):
                if window.end - window.start < 2 * MILLISECOND:
                    return None
                middle = midpoint(window)
                for start, end in ((window.start, middle), (middle, window.end)):
                    rows -= await count_window(self.exporter.source, start, end, self.exporter.filter)
                rows = ids - rows if rows < 0 else ids
        except CountUnavailable:
            return None
        await self.exporter.recounted(journey, rows)
        return rows == ids

    async def _count_again(self, journey: Journey, doubt: Doubt) -> None:
        self._tell(journey, doubt, "counting it again")
        with suppress(CountUnavailable):
            await self.exporter.recounted(journey, await self.exporter.count_again(journey.window, doubt.delivery.ids))

    async def _late_links(self, journey: Journey) -> bool:
        """Whether the newest export has more links now, or gets them within some seconds. Does not wait once waiting
        has been in vain several times."""
        if not journey.export_id or journey.late_links == _MAX_LATE_LINKS:
            return False
        if self._vain_waits >= _MAX_VAIN_WAITS:
            are_late = await self.collector.collect_late(journey)
        else:
            are_late = await patience.until(lambda: self.collector.collect_late(journey), bool)
            self._vain_waits = 0 if are_late else self._vain_waits + 1
        journey.late_links += are_late
        return are_late

    async def export_again(self, journey: Journey, unfinished: ExportRecord | None = None) -> bool:
        """Export the window again, or wait for the `unfinished` export of an earlier run. Its parts are merged in
        addition to those of the first. Returns whether it succeeded."""
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
        self.on_event(Reconciling(journey.window, journey.window.rows, doubt.delivery.ids, step))
