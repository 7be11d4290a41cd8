"""Reconciliation: resolving a doubt about a window by counting, asking for late links and exporting again."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import KW_ONLY

import anyio

from bulkpull import patience
from bulkpull.events import OnEvent, Reconciling
from bulkpull.journal import ExportRecord
from bulkpull.planning import MILLISECOND, CountUnavailable, count_window, looks_like_a_limit, midpoint
from bulkpull.pull.collect import Collector
from bulkpull.pull.doubts import Doubt, is_suspicious
from bulkpull.pull.export import Exporter, NoExtraLeft
from bulkpull.pull.journey import ExportFailure, Journey
from bulkpull.record import record

_MAX_LATE_LINKS = 3  # times that a window's export is found to have more links than before
_MAX_USELESS_WAITS = 2  # consecutive windows whose wait for late links was useless; then none waits
MAX_USELESS_EXPORTS = 3  # windows whose second export delivered nothing new, after which none is exported a second time
_TRUNCATED_SHARE = 0.1  # of a window's count: if more is missing, its export was probably truncated


@record(frozen=False)
class Reconciler:
    """Resolves doubts about windows, within limits that hold for the whole pull."""

    exporter: Exporter
    collector: Collector
    _: KW_ONLY
    on_event: OnEvent
    _useless_exports: int = 0
    _foreign_windows: int = 0  # that were believed
    _useless_waits: int = 0

    async def should_split(self, journey: Journey, doubt: Doubt) -> bool:
        """Take the next steps for a window that is `empty`, `foreign` or `short`.

        Returns:
            Whether it should be split, as its export seems to be truncated. Otherwise it is to be merged again; if the
            evidence `is_resolved` then, nothing else can be asked.

        Raises:
            ExportFailure: it delivered nothing although there is activity, or only what lies outside of the window.
        """
        delivered, evidence = doubt.delivery, journey.evidence
        if doubt.kind == "foreign":
            await self._replace_foreign(journey, doubt)
            return False
        if doubt.kind == "empty":
            empty = await self.exporter.is_empty(journey)
            if empty is not False:
                evidence.is_empty = True
                return False
        else:
            await self._count_again(journey, doubt)
            if delivered.ids >= (journey.window.rows or 0):
                return False
        self._tell(journey, doubt, "asking for the links of its export again")
        if await self._late_links(journey):
            return False
        may_be_capped = delivered.ids > 0 and (doubt.is_at_cap or is_suspicious(delivered.records))
        if may_be_capped and not evidence.cannot_be_split and not evidence.is_exported_again:
            return True
        has_failed = False
        if not evidence.is_exported_again and self._useless_exports < MAX_USELESS_EXPORTS:
            self._tell(journey, doubt, "exporting it again")
            evidence.ids_before = delivered.ids
            if await self.export_again(journey):
                return False
            has_failed = True  # which says nothing of other windows
        is_useless = delivered.ids == (evidence.ids_before or 0)
        self._useless_exports += is_useless and not has_failed
        if not delivered.ids:
            raise ExportFailure(
                journey.export_id,
                f"it delivered no rows, though {journey.window.rows or 'some'} activities are counted in its window",
                is_final=True,
                is_size_related=False,
            )
        evidence.is_resolved = True
        rows = journey.window.rows or 0
        return is_useless and not evidence.cannot_be_split and rows - delivered.ids > _TRUNCATED_SHARE * rows

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
        await self.exporter.update_count(journey, rows)
        return rows == ids

    async def _replace_foreign(self, journey: Journey, doubt: Doubt) -> None:
        """Export the window again, unless that was useless: then the server means other times than the window says.
        Raises ExportFailure."""
        if journey.evidence.is_exported_again:
            self._foreign_windows += 1
        elif self._foreign_windows < MAX_USELESS_EXPORTS:
            self._tell(journey, doubt, "exporting it again, since none of its rows lies in the window")
            journey.evidence.ids_before = doubt.delivery.ids
            if await self.export_again(journey):
                return
            raise ExportFailure(journey.export_id, "none of its rows lies in its window", is_size_related=False)
        journey.evidence.is_resolved = True

    async def _count_again(self, journey: Journey, doubt: Doubt) -> None:
        self._tell(journey, doubt, "counting it again")
        with suppress(CountUnavailable):
            rows = await self.exporter.count_again(journey.window, doubt.delivery.ids)
            await self.exporter.update_count(journey, rows)

    async def _late_links(self, journey: Journey) -> bool:
        """Whether the newest export has more links now, or gets them within some seconds. Does not wait once waiting
        has been useless several times."""
        if not journey.export_id or journey.evidence.late_links == _MAX_LATE_LINKS:
            return False
        if self._useless_waits >= _MAX_USELESS_WAITS:
            are_late = await self.collector.collect_late(journey)
        else:
            are_late = await patience.until(lambda: self.collector.collect_late(journey), bool)
            self._useless_waits = 0 if are_late else self._useless_waits + 1
        journey.evidence.late_links += are_late
        return are_late

    async def export_again(self, journey: Journey, unfinished: ExportRecord | None = None) -> bool:
        """Export the window again, or wait for the `unfinished` export of an earlier run, and once more if that fails.
        Its parts are merged in addition to those of the first. Returns whether it succeeded."""
        for attempt in (2, 3):
            if attempt > 2:
                await anyio.sleep(self.exporter.source.retry.backoff(attempt - 1))
            try:
                export = await self.exporter.export(journey, attempt, unfinished)
                await self.collector.collect(journey, export)
            except NoExtraLeft:
                return False
            except ExportFailure as failure:
                await self.exporter.record_failure(journey.window, failure, attempt)
                if failure.export_id:
                    self.collector.export_failed(journey.window)
                if failure.is_final:
                    return False
                unfinished = None
            else:
                return True
        return False

    def _tell(self, journey: Journey, doubt: Doubt, step: str) -> None:
        self.on_event(Reconciling(journey.window, journey.window.rows, doubt.delivery.ids, step))
