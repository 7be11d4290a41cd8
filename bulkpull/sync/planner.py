"""The planner of a sync: counts settled time, and says what is exported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from datetime import datetime
from itertools import pairwise

from bulkpull.errors import UsageError
from bulkpull.planning import CountUnavailable, looks_like_a_limit, midpoint, plan
from bulkpull.record import record
from bulkpull.source import Source
from bulkpull.sync.counting import count_all
from bulkpull.sync.options import SyncOptions
from bulkpull.sync.order import Kind, Order
from bulkpull.sync.recheck import Item, choose, judge
from bulkpull.sync.result import Recheck
from bulkpull.sync.state import Mismatch, SyncState, span
from bulkpull.sync.stretches import before, cut_out, joined, overlaps, stretches, without
from bulkpull.tables import Table
from bulkpull.threads import in_thread
from bulkpull.window import Window

_CAPACITY = 10  # times rows_per_export: that is small so that exports run side by side, which one a night need not
_MAX_BISECTIONS = 6  # requests
_MAX_SUSPECTS = 8  # that are counted on their own
_MAX_LIES = 8  # windows with a wrong count, after which no count is trusted
_DISTRUST = 30  # runs


@record(frozen=False)
class Planner:
    """Plans one sync of a table. What it learns about counts is in `recheck`."""

    source: Source
    options: SyncOptions
    table: Table
    recheck: Recheck = field(default_factory=Recheck)

    async def whole(self, kind: Kind, state: SyncState, end: datetime, expected: str | None) -> Order:
        """Return the order to export everything from the start, as a pull would."""
        windows = await self._planned(state, state.start, end, window=self.options.window)
        if state.distrusts_counts or state.unreliable:
            windows = tuple(replace(one, rows=None) for one in windows)
        new = replace(state, frontier=end, revision=state.revision + 1, missing=(), suspects=())
        return Order(kind=kind, windows=windows, expected=expected, state=new)

    async def increment(self, state: SyncState, end: datetime, expected: str | None) -> Order:
        """Return the order to export what is new, what the last run has missed, and what is counted differently."""
        start = max(state.start, before(state.frontier, self.options.lookback_s))
        is_new = end > state.frontier
        must = [one.window for one in state.missing]
        must += [span(start, end)] if is_new else []
        uncounted = [one.window for one in state.missing if one.reason == "short"]
        settled = await self._counted(state, span(self._first_settled(state, end), start if is_new else end), must)
        if self.recheck.unavailable:
            uncounted.append(span(state.start, end))
        verdicts = judge(settled, state.suspects, state.unreliable)
        lies = state.lies + verdicts.new_lies
        self.recheck.differing = len(verdicts.differing)
        self.recheck.unreliable = tuple(one.window for one in verdicts.unreliable)
        suspected = [one.window for one in state.suspects]
        uncounted += [one.window for one in verdicts.differing if one.window in suspected]
        uncounted += [one.window for one in verdicts.unreliable]
        windows, differing = await self._choose(state, joined(must), verdicts.differing, uncounted)
        new = replace(
            state,
            frontier=end,
            revision=state.revision + 1,
            missing=(),
            suspects=(*differing, *await self._carried(state, settled, self._first_settled(state, end))),
            unreliable=verdicts.unreliable,
            lies=lies,
        )
        if self.recheck.unavailable:
            new = replace(new, unreliable=state.unreliable)
        if lies > _MAX_LIES:
            new = replace(new, suspects=(), unreliable=(), lies=0, distrusted_until=new.revision + _DISTRUST)
        return Order(
            kind="increment",
            windows=windows,
            expected=expected,
            state=new,
            believed=tuple(one.window for one in state.missing if one.reason == "empty"),
        )

    def _first_settled(self, state: SyncState, end: datetime) -> datetime:
        recheck_s = self.options.recheck_s
        return state.start if recheck_s is None else max(state.start, before(end, recheck_s))

    async def _counted(self, state: SyncState, settled: Window, must: Sequence[Window]) -> list[Mismatch]:
        """Count settled time in stretches, apart from what is exported anyway, and compare it with the table."""
        if settled.start >= settled.end:
            return []
        if state.distrusts_counts:
            self.recheck.unavailable = f"counts were wrong more than {_MAX_LIES} times"
            return []
        open_suspects = await self._held([one.window for one in state.suspects])
        own = [one.window for one, held in zip(state.suspects, open_suspects, strict=True) if held.held != one.counted]
        own = [*own[:_MAX_SUSPECTS], *(one.window for one in state.unreliable)]
        parts = without(cut_out(stretches(settled.start, settled.end, state.revision), own), must)
        held = await self._held(parts)
        try:
            counts = await count_all(self.source, parts, state.filter or None)
            counted = [Mismatch(one.window, rows, one.held) for one, rows in zip(held, counts, strict=True)]
            limits = await self._limits(state, counted)
        except CountUnavailable as reason:
            self.recheck.unavailable = str(reason)
            return []
        self.recheck.stretches = len(parts)
        if limits:
            self.recheck.unavailable = f"counts stop at {max(limits):,}"
        return [one for one in counted if one.counted not in limits]

    async def _limits(self, state: SyncState, counted: Sequence[Mismatch]) -> set[int]:
        """Return the numbers at which counts stop: a stretch has that many, and its halves have more."""
        limits: set[int] = set()
        for one in counted:
            if one.excess < 0 and looks_like_a_limit(one.counted) and one.counted not in limits:
                middle = midpoint(one.window)
                halves = [span(one.window.start, middle), span(middle, one.window.end)]
                if sum(await count_all(self.source, halves, state.filter or None)) > one.counted:
                    limits.add(one.counted)
        return limits

    async def _choose(
        self, state: SyncState, must: Sequence[Window], differing: Sequence[Mismatch], uncounted: Sequence[Window]
    ) -> tuple[tuple[Window, ...], list[Mismatch]]:
        """Return the windows to export, and what differs in them, narrowed down where that pays."""
        narrowed = {one.window.start: one for one in differing}
        capacity = _CAPACITY * self.options.rows_per_export
        bisections = _MAX_BISECTIONS
        estimates = await self._estimates(state, must, uncounted)
        while True:
            items = sorted(
                [
                    *(Item(one.start, one.end, rows) for one, rows in zip(must, estimates, strict=True)),
                    *(
                        Item(one.window.start, one.window.end, max(one.counted, one.held), may_shrink=True)
                        for one in narrowed.values()
                    ),
                ],
                key=lambda item: item.start,
            )
            between = [span(one.end, max(one.end, other.start)) for one, other in pairwise(items)]
            gaps = [one.held for one in await self._held(between)]
            choices = choose(items, gaps, capacity)
            gains = [gain for choice in choices if (gain := choice.narrowest_gain(self.options.rows_per_export))]
            if not gains or not bisections:
                break
            bisections -= 1
            if not await self._bisect(state, narrowed, gains[0]):
                break
        windows: list[Window] = []
        for choice in choices:
            known = choice.rows if len(choice.items) == 1 and choice.window in must else None
            windows += await self._sized(state, choice.window, known, choice.rows, uncounted)
        if len(windows) > self.options.max_windows:
            raise UsageError(
                f"{len(windows):,} windows are to be exported, each of which sends an email: more than "
                f"{self.options.max_windows:,}. Raise --max-windows"
            )
        return tuple(replace(window, index=index) for index, window in enumerate(windows)), list(narrowed.values())

    async def _bisect(self, state: SyncState, narrowed: dict[datetime, Mismatch], item: Item) -> bool:
        """Replace what differs in an item by the halves in which it does. Returns whether that was possible."""
        whole = narrowed[item.start]
        middle = midpoint(whole.window)
        if middle <= item.start:
            return False
        before_middle, after_middle = span(item.start, middle), span(middle, item.end)
        try:
            [counted] = await count_all(self.source, [before_middle], state.filter or None)
        except CountUnavailable:
            return False
        [held] = await self._held([before_middle])
        halves = [
            Mismatch(before_middle, counted, held.held),
            Mismatch(after_middle, whole.counted - counted, whole.held - held.held),
        ]
        if halves[1].counted < 0:  # the counts contradict each other
            return False
        del narrowed[item.start]
        narrowed |= {half.window.start: half for half in halves if half.excess}
        return True

    async def _estimates(self, state: SyncState, must: Sequence[Window], uncounted: Sequence[Window]) -> list[int]:
        """Return about how many rows there are in windows: counted, or as many as the table has there and before."""
        try:
            if self.recheck.unavailable:
                raise CountUnavailable(self.recheck.unavailable)
            return await count_all(self.source, must, state.filter or None)
        except CountUnavailable as reason:
            self.recheck.unavailable = self.recheck.unavailable or str(reason)
            earlier = [span(one.start - (one.end - one.start), one.start) for one in must]
            held, before_it = await self._held(must), await self._held(earlier)
            return [max(one.held, other.held) for one, other in zip(held, before_it, strict=True)]

    async def _sized(
        self, state: SyncState, window: Window, counted: int | None, estimate: int, uncounted: Sequence[Window]
    ) -> Sequence[Window]:
        """Return the window with its count, or several if one export may not hold its rows."""
        rows: int | None = counted
        if self.recheck.unavailable:
            rows = None
        elif counted is None:
            try:
                [rows] = await count_all(self.source, [window], state.filter or None)
            except CountUnavailable:
                rows = None
        if (estimate if rows is None else rows) > _CAPACITY * self.options.rows_per_export:
            return await self._planned(state, window.start, window.end)
        is_comparable = not any(overlaps(window, one) for one in uncounted)
        return [replace(window, rows=rows if is_comparable else None)]

    async def _planned(
        self, state: SyncState, start: datetime, end: datetime, window: str = "auto"
    ) -> tuple[Window, ...]:
        options = self.options.of_run(start=start, end=end, filter=state.filter or None, window=window)
        return (await plan(self.source, options)).windows

    async def _carried(self, state: SyncState, settled: Sequence[Mismatch], first: datetime) -> list[Mismatch]:
        """Return the suspects from `first` on that were not counted, with what the table has now."""
        counted = {one.window for one in settled}
        left = [one for one in state.suspects if one.window not in counted and one.window.start >= first]
        held = await self._held([one.window for one in left])
        return [replace(one, held=now.held) for one, now in zip(left, held, strict=True) if now.held != one.counted][
            :_MAX_SUSPECTS
        ]

    async def _held(self, windows: Sequence[Window]) -> list[Mismatch]:
        """Return how many rows the table has in each window, without a count."""
        held = await in_thread(self.table.count, windows) if windows else []
        return [Mismatch(window, 0, rows) for window, rows in zip(windows, held, strict=True)]
