"""Windows by volume: probes that count find how activity is spread over the range, coarse to fine.

A count is a hint. It decides where cuts are, never whether a stretch of time is exported: the windows tile the range
whatever was counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import anyio
from anyio.abc import TaskGroup

from bulkpull.errors import ApiError, BulkpullError, UnavailableError, UsageError
from bulkpull.source import ContradictedCountError, Source
from bulkpull.window import Window

PROBES = 32  # at a time
PATIENCE = 120.0  # seconds for one probe, with all its attempts
MILLISECOND = timedelta(milliseconds=1)
_SPARE = 16  # probes beyond two an export, to home in on little activity in a long range
_SPARE_OF_CUT = 96  # probes likewise, to find the instants that hold most of one window
_MOST_CAPPED = 400  # probes at most because counts are capped
_TOO_LARGE = 1.5  # shares: a segment with more is cut
_TOGETHER = 1.25  # shares up to which neighbours make one window
_SHORTEST = timedelta(seconds=1)  # of a segment
_UNITS = tuple(timedelta(seconds=seconds) for seconds in (86_400, 3600, 60, 1))
_ROUND = 64  # a cut may be moved by one in so many of a segment, to fall on a whole day, hour, minute or second
_MOST_PARTS = 1_000_000  # that a cut tells apart: a count may be any number
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LEAST_CAP = 100
_BINARY_CAPS = frozenset(power - less for power in (2**15, 2**16, 2**20, 2**31) for less in (0, 1))


class Uncounted(Exception):  # noqa: N818 - never leaves the pull: windows go by time then
    """The API does not count, for the reason given, as found out with so many `probes`. `total` is what it counted in
    the whole range before; `has_activity` says that it listed some all the same."""

    def __init__(self, reason: str, probes: int = 1, total: int | None = None, *, has_activity: bool = False) -> None:
        super().__init__(reason)
        self.probes = probes
        self.total = total
        self.has_activity = has_activity


@dataclass(frozen=True, slots=True)
class Volume:
    """Windows that tile a range, how many `probes` they took, and in words why the counts cannot be trusted, if so."""

    windows: tuple[Window, ...]
    probes: int = 0
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class _Segment:
    """A stretch of the range, the activities counted in it, and how many windows should come of it."""

    start: datetime
    end: datetime
    rows: int
    windows: int


def could_be_a_cap(rows: int) -> bool:
    """Whether servers are likely to stop at so many rows: 1, 2 or 5 times a power of ten, or one less than, or, a power
    of two that limits spreadsheets and integers (65,536; Excel's 1,048,576 with its header)."""
    return rows >= _LEAST_CAP and (str(rows).rstrip("0") in ("1", "2", "5") or rows in _BINARY_CAPS)


async def by_volume(
    source: Source, first: datetime, last: datetime, filter: str | None, rows_per_export: int, max_windows: int
) -> Volume:
    """Windows that tile `[first, last)`, with about `rows_per_export` activities or less.

    Each probe cuts a segment that holds too much in two, in proportion to the windows that should come of it: evenly
    spread activity takes as many probes as windows, and a stretch without any takes few. A stretch that counts nothing
    goes into a neighbouring window; where everything does, one window asks for real. Raises Uncounted; UsageError for
    more than `max_windows` windows; the client's errors where the token is refused or nothing answers.
    """
    if first == last:
        return Volume(())
    total = await counted(source, first, last, filter)
    _check_number(total, math.ceil(total / rows_per_export), rows_per_export, max_windows)
    survey = _Survey(source, filter, rows_per_export, max_windows, shortest=_SHORTEST, spare=_SPARE, probes=1)
    try:
        windows = await survey.windows(first, last, total)
    except Uncounted as uncounted:
        uncounted.total = total
        raise
    if survey.doubt:
        _check_number(sum(window.rows or 0 for window in windows), len(windows), rows_per_export, max_windows)
    return Volume(windows, survey.probes, survey.doubt)


async def pieces(
    source: Source, window: Window, filter: str | None, limit: int | None, most: int
) -> tuple[Window, ...]:
    """Cuts a window into pieces of half of its activities, or of `limit` at most where that is less; in the middle of
    its time where they cannot be counted, or count nothing. Empty where it cannot be made smaller (one millisecond, or
    one instant that holds all), or only in more than `most` pieces.

    The pieces' indices are those of their places. Raises the client's errors where the token is refused or nothing
    answers.
    """
    if window.end - window.start <= MILLISECOND:
        return ()
    try:
        total = await counted(source, window.start, window.end, filter)
        if total:
            share = max(1, min(math.ceil(total / 2), int((limit or total) / _TOO_LARGE)))
            if math.ceil(total / share) > most:
                return ()
            survey = _Survey(source, filter, share, most, shortest=MILLISECOND, spare=_SPARE_OF_CUT)
            found = await survey.windows(window.start, window.end, total)
            return found if 1 < len(found) <= most else ()
    except Uncounted:
        pass
    middle = middle_of(window)
    return (Window(0, window.start, middle), Window(1, middle, window.end)) if most > 1 else ()


def middle_of(window: Window) -> datetime:
    """The middle of a window's time, at a whole millisecond."""
    return window.start + (window.end - window.start) // (2 * MILLISECOND) * MILLISECOND


async def counted(source: Source, start: datetime, end: datetime, filter: str | None) -> int:
    """The activities of `[start, end)`, for one request. Raises Uncounted, or the client's errors where the token is
    refused or nothing answers."""
    try:
        with anyio.fail_after(PATIENCE):
            return await source.count(source.window_filter(Window(0, start, end), filter))
    except TimeoutError:
        raise Uncounted(f"counting took more than {PATIENCE:.0f} s") from None
    except ApiError as error:
        unreachable = isinstance(error, UnavailableError) and error.status is None
        if error.status == 401 or unreachable:
            raise
        raise Uncounted(str(error), has_activity=isinstance(error, ContradictedCountError)) from error


@dataclass(slots=True)
class _Survey:
    """Counts segments of a range until each holds one window's worth. `cap` is a number that the API never counts
    beyond, once that has shown."""

    source: Source
    filter: str | None
    rows_per_export: int
    max_windows: int
    shortest: timedelta
    spare: int
    probes: int = 0
    doubt: str = ""
    share: float = 0.0
    cap: int | None = None
    _failures: list[Exception] = field(default_factory=list)

    async def windows(self, first: datetime, last: datetime, total: int) -> tuple[Window, ...]:
        """Windows that tile the range, in which `total` activities were counted."""
        self.share = max(1.0, total / max(1, math.ceil(total / self.rows_per_export)))
        segments = [self._segment(first, last, total)]
        is_doubtful = could_be_a_cap(total) and last - first >= 2 * self.shortest
        while too_large := segments if is_doubtful else self._too_large(segments):
            halves: dict[datetime, tuple[_Segment, _Segment]] = {}
            places = anyio.CapacityLimiter(PROBES)
            async with anyio.create_task_group() as group:
                for segment in too_large:
                    group.start_soon(self._cut, segment, is_doubtful, halves, places, group)
            is_doubtful = False
            for failure in self._failures:  # comes out here, without the group's wrapping
                raise Uncounted(str(failure), self.probes) if isinstance(failure, Uncounted) else failure
            segments = [half for segment in segments for half in halves.get(segment.start, (segment,))]
        return _joined(segments, self.share)

    def _too_large(self, segments: Sequence[_Segment]) -> list[_Segment]:
        """The segments to cut next, as far as there are probes for them."""
        rows = sum(segment.rows for segment in segments)
        if self.share and rows > self.max_windows * self.share:
            return []  # there cannot be so many: what the exports deliver decides on further cuts
        most = 2 * math.ceil(rows / self.share) + self.spare if self.share else 0
        if self.cap:
            most = max(most, min(_MOST_CAPPED, 4 * math.ceil(rows / self.cap) + self.spare))
        by_rows = sorted(segments, key=lambda segment: segment.rows, reverse=True)
        return [segment for segment in by_rows if self._should_cut(segment)][: max(0, most - self.probes)]

    def _should_cut(self, segment: _Segment) -> bool:
        return segment.windows > 1 or (self._is_saturated(segment) and segment.end - segment.start >= 2 * self.shortest)

    def _is_saturated(self, segment: _Segment) -> bool:
        return self.cap is not None and segment.rows >= self.cap

    async def _cut(
        self,
        segment: _Segment,
        is_doubtful: bool,
        halves: dict[datetime, tuple[_Segment, _Segment]],
        places: anyio.CapacityLimiter,
        group: TaskGroup,
    ) -> None:
        try:
            async with places:
                halves[segment.start] = await self._halves(segment, both=is_doubtful or self._is_saturated(segment))
        except (BulkpullError, Uncounted) as failure:
            self._failures.append(failure)
            group.cancel_scope.cancel()

    async def _halves(self, segment: _Segment, *, both: bool) -> tuple[_Segment, _Segment]:
        """A segment cut in two. The second half has what the first leaves of it; `both` are counted where that may be
        wrong: a first half that holds all of a segment may have come to what the API counts at most."""
        middle = _middle(segment)
        self.probes += 1
        before = await counted(self.source, segment.start, middle, self.filter)
        after = segment.rows - before
        if both or after <= 0:
            self.probes += 1
            after = await counted(self.source, middle, segment.end, self.filter)
            if before + after > segment.rows:
                self._contradicted(segment.rows, before, after)
        return self._segment(segment.start, middle, before), self._segment(middle, segment.end, after)

    def _contradicted(self, rows: int, before: int, after: int) -> None:
        if max(before, after) == rows and min(before, after):
            self.cap = max(rows, self.cap or 0)
        self.share = self.rows_per_export
        self.doubt = self.doubt or (
            f"the API counts {rows:,} activities in a stretch of time, and {before:,} and {after:,} in its halves"
            + (": it seems to count no further than that" if self.cap else "")
        )

    def _segment(self, start: datetime, end: datetime, rows: int) -> _Segment:
        small = rows < _TOO_LARGE * self.share or end - start < 2 * self.shortest
        return _Segment(start, end, rows, min(1, rows) if small else max(2, round(rows / self.share)))


def _middle(segment: _Segment) -> datetime:
    """Where a segment is cut: so that both sides hold whole windows if its activity is evenly spread, at a round time
    if there is one near."""
    length = segment.end - segment.start
    parts = min(max(2, segment.windows), _MOST_PARTS)
    cut = segment.start + length * (parts // 2) / parts
    unit = next((unit for unit in _UNITS if unit * _ROUND <= length), MILLISECOND)
    return _EPOCH + round((cut - _EPOCH) / unit) * unit


def _joined(segments: Iterable[_Segment], share: float) -> tuple[Window, ...]:
    """Neighbours that are small make one window; what is empty goes to the window before it, or else behind it."""
    joined: list[_Segment] = []
    for segment in segments:
        last = joined[-1] if joined else None
        if last and (not segment.rows or not last.rows or last.rows + segment.rows <= _TOGETHER * share):
            joined[-1] = replace(last, end=segment.end, rows=last.rows + segment.rows)
        else:
            joined.append(segment)
    return tuple(Window(index, segment.start, segment.end, segment.rows) for index, segment in enumerate(joined))


def _check_number(rows: int, windows: int, rows_per_export: int, max_windows: int) -> None:
    if windows > max_windows:
        raise UsageError(
            f"{rows:,} activities at {rows_per_export:,} an export make more than {max_windows:,} exports, each of "
            "which mails somebody: take more (--rows-per-export), or allow so many on purpose (--max-windows)"
        )
