"""Windows of about equal volume, found by recursive bisection with counting requests (probes).

Counts are hints. They determine where windows end, never whether a time span is exported: the windows tile the range,
whatever the counts are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import field, replace
from datetime import UTC, datetime, timedelta

import anyio
from anyio.abc import TaskGroup

from bulkpull.errors import ApiError, BulkpullError, UnavailableError, UsageError
from bulkpull.record import record
from bulkpull.source import ContradictedCountError, Source
from bulkpull.window import Window

MAX_CONCURRENT_PROBES = 32
PROBE_TIMEOUT_S = 120.0  # including retries
MILLISECOND = timedelta(milliseconds=1)
_EXTRA_PROBES = 16  # beyond two per export, to locate sparse activity in a long range
_EXTRA_PROBES_FOR_SPLIT = 96  # likewise, to locate the instants that hold most of a window
_MAX_PROBES_IF_LIMITED = 400  # if counts stop at a limit
_SPLIT_RATIO = 1.5  # a segment with more than this times the target is split
_MERGE_RATIO = 1.25  # neighbours with up to this times the target become one window
_MIN_LENGTH = timedelta(seconds=1)  # of a segment
_UNITS = tuple(timedelta(seconds=seconds) for seconds in (86_400, 3600, 60, 1))
_ROUNDING = 64  # a split may move by 1/64 of the segment to fall on a whole day, hour, minute or second
_MAX_PARTS = 1_000_000  # bounds the arithmetic in `_middle`: a count may be any number
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REFUSED = (400, 422)  # statuses of a request that the API finds wrong
_MIN_LIMIT = 100
_BINARY_LIMITS = frozenset(power - less for power in (2**15, 2**16, 2**20, 2**31) for less in (0, 1))


class CountUnavailable(Exception):  # noqa: N818 - never leaves the pull: windows go by time then
    """The API does not count, for the reason given.

    `probes` is the number of requests it took to learn that, `total` the count of the whole range, if that succeeded
    before. `has_activity` says that the API listed some activity, although it counted none.
    """

    def __init__(self, reason: str, probes: int = 1, total: int | None = None, *, has_activity: bool = False) -> None:
        super().__init__(reason)
        self.probes = probes
        self.total = total
        self.has_activity = has_activity


@record
class Volume:
    """Windows that tile a range, the number of `probes`, and the reason why counts cannot be trusted, if any."""

    windows: tuple[Window, ...]
    probes: int = 0
    doubt: str = ""


@record
class _Segment:
    """A part of the range, the activities counted in it, and the number of windows it should become."""

    start: datetime
    end: datetime
    rows: int
    windows: int


def looks_like_a_limit(rows: int) -> bool:
    """Return whether `rows` is a number at which servers typically stop counting or exporting.

    These are 1, 2 and 5 times a power of ten, and common binary limits (65,536; Excel's 1,048,576 rows with a header;
    2^31), or one less.
    """
    return rows >= _MIN_LIMIT and (str(rows).rstrip("0") in ("1", "2", "5") or rows in _BINARY_LIMITS)


async def by_volume(
    source: Source, first: datetime, last: datetime, filter: str | None, rows_per_export: int, max_windows: int
) -> Volume:
    """Divide `[first, last)` into windows with about `rows_per_export` activities or fewer.

    Each probe splits a segment that is too large in proportion to the number of windows it should become, so evenly
    distributed activity takes as many probes as windows, and an empty span takes few. Spans without activity become
    part of a neighbouring window; an empty range is one window. Raises CountUnavailable; UsageError for more than
    `max_windows` windows; and the source's errors if the token is rejected or the source is unreachable.
    """
    if first == last:
        return Volume(())
    total = await count_window(source, first, last, filter)
    _check_number(total, math.ceil(total / rows_per_export), rows_per_export, max_windows)
    partitioner = _Partitioner(
        source, filter, rows_per_export, max_windows, min_length=_MIN_LENGTH, extra_probes=_EXTRA_PROBES, probes=1
    )
    try:
        windows = await partitioner.windows(first, last, total)
    except CountUnavailable as uncounted:
        uncounted.total = total
        raise
    if partitioner.doubt:
        _check_number(sum(window.rows or 0 for window in windows), len(windows), rows_per_export, max_windows)
    return Volume(windows, partitioner.probes, partitioner.doubt)


async def split_window(
    source: Source, window: Window, filter: str | None, limit: int | None, max_pieces: int
) -> tuple[Window, ...]:
    """Split a window into pieces with half of its activities each, or at most `limit` if that is less.

    The window is split in the middle of its time if its activities cannot be counted, or the count is 0. Returns no
    pieces if the window cannot be split (one millisecond, or all activity at one instant), or would need more than
    `max_pieces`. Indices start at 0. Raises the source's errors if the token is rejected or the source is unreachable.
    """
    if window.end - window.start <= MILLISECOND:
        return ()
    try:
        total = await count_window(source, window.start, window.end, filter)
        if total:
            target = max(1, min(math.ceil(total / 2), int((limit or total) / _SPLIT_RATIO)))
            if math.ceil(total / target) > max_pieces:
                return ()
            partitioner = _Partitioner(
                source, filter, target, max_pieces, min_length=MILLISECOND, extra_probes=_EXTRA_PROBES_FOR_SPLIT
            )
            found = await partitioner.windows(window.start, window.end, total)
            return found if 1 < len(found) <= max_pieces else ()
    except CountUnavailable:
        pass
    middle = midpoint(window)
    return (Window(0, window.start, middle), Window(1, middle, window.end)) if max_pieces > 1 else ()


def midpoint(window: Window) -> datetime:
    """Return the middle of a window's time span, in whole milliseconds."""
    return window.start + (window.end - window.start) // (2 * MILLISECOND) * MILLISECOND


async def count_window(source: Source, start: datetime, end: datetime, filter: str | None) -> int:
    """Count the activities in `[start, end)` with one request.

    Raises CountUnavailable, and the source's errors if the token is rejected or the source is unreachable.
    """
    try:
        with anyio.fail_after(PROBE_TIMEOUT_S):
            return await source.count(source.window_filter(Window(0, start, end), filter))
    except TimeoutError:
        raise CountUnavailable(f"counting timed out after {PROBE_TIMEOUT_S:.0f} s") from None
    except ApiError as error:
        if _is_hopeless(error):
            raise
        raise CountUnavailable(str(error), has_activity=isinstance(error, ContradictedCountError)) from error


async def require_filter(source: Source, start: datetime, end: datetime, filter: str | None) -> None:
    """Check with one request for one activity in `[start, end)`, without counting, that the API accepts the filter.

    Raises ApiError if it does not, and the source's errors if the token is rejected or the source is unreachable.
    Any other failure says nothing about the filter: the exports will tell.
    """
    if not filter:
        return
    try:
        with anyio.move_on_after(PROBE_TIMEOUT_S):
            await source.any_activity(source.window_filter(Window(0, start, end), filter))
    except ApiError as error:
        if error.status in _REFUSED:
            reason = f"the API refuses the filter {filter!r}, so no export was started: {error}"
            raise ApiError(reason, status=error.status, undone=True) from error
        if _is_hopeless(error):
            raise


def _is_hopeless(error: ApiError) -> bool:
    """Return whether exports would fail with the same error."""
    return error.status == 401 or (isinstance(error, UnavailableError) and error.status is None)


@record(frozen=False)
class _Partitioner:
    """Splits a range into segments until each holds about one window's worth of activity.

    `target` is the number of activities per window. `count_limit` is the number beyond which the API does not count,
    once such a limit has been detected.
    """

    source: Source
    filter: str | None
    rows_per_export: int
    max_windows: int
    min_length: timedelta
    extra_probes: int
    probes: int = 0
    doubt: str = ""
    target: float = 0.0
    count_limit: int | None = None
    _failures: list[Exception] = field(default_factory=list)

    async def windows(self, first: datetime, last: datetime, total: int) -> tuple[Window, ...]:
        """Divide a range with `total` activities into windows."""
        self.target = max(1.0, total / max(1, math.ceil(total / self.rows_per_export)))
        segments = [self._segment(first, last, total)]
        is_doubtful = looks_like_a_limit(total) and last - first >= 2 * self.min_length
        while too_large := segments if is_doubtful else self._segments_to_split(segments):
            halves: dict[datetime, tuple[_Segment, _Segment]] = {}
            limiter = anyio.CapacityLimiter(MAX_CONCURRENT_PROBES)
            async with anyio.create_task_group() as group:
                for segment in too_large:
                    group.start_soon(self._split, segment, is_doubtful, halves, limiter, group)
            is_doubtful = False
            for failure in self._failures:  # raised here, so that it is not wrapped in an exception group
                raise CountUnavailable(str(failure), self.probes) if isinstance(failure, CountUnavailable) else failure
            segments = [half for segment in segments for half in halves.get(segment.start, (segment,))]
        return _merge_small(segments, self.target)

    def _segments_to_split(self, segments: Sequence[_Segment]) -> list[_Segment]:
        """Return the segments to split next, limited by the number of probes left."""
        rows = sum(segment.rows for segment in segments)
        if self.target and rows > self.max_windows * self.target:
            return []  # the counts cannot be true: windows are split later, according to what their exports deliver
        max_probes = 2 * math.ceil(rows / self.target) + self.extra_probes if self.target else 0
        if self.count_limit:
            max_probes = max(
                max_probes, min(_MAX_PROBES_IF_LIMITED, 4 * math.ceil(rows / self.count_limit) + self.extra_probes)
            )
        by_rows = sorted(segments, key=lambda segment: segment.rows, reverse=True)
        return [segment for segment in by_rows if self._should_split(segment)][: max(0, max_probes - self.probes)]

    def _should_split(self, segment: _Segment) -> bool:
        return segment.windows > 1 or (
            self._reaches_limit(segment) and segment.end - segment.start >= 2 * self.min_length
        )

    def _reaches_limit(self, segment: _Segment) -> bool:
        return self.count_limit is not None and segment.rows >= self.count_limit

    async def _split(
        self,
        segment: _Segment,
        is_doubtful: bool,
        halves: dict[datetime, tuple[_Segment, _Segment]],
        limiter: anyio.CapacityLimiter,
        group: TaskGroup,
    ) -> None:
        try:
            async with limiter:
                halves[segment.start] = await self._count_halves(
                    segment, both=is_doubtful or self._reaches_limit(segment)
                )
        except (BulkpullError, CountUnavailable) as failure:
            self._failures.append(failure)
            group.cancel_scope.cancel()

    async def _count_halves(self, segment: _Segment, *, both: bool) -> tuple[_Segment, _Segment]:
        """Split a segment in two and count the halves.

        The count of the second half is the rest, unless `both` must be counted because the segment's count may be
        wrong. Both are counted too if the first half seems to hold everything: its count may have hit a limit.
        """
        middle = _middle(segment)
        self.probes += 1
        before = await count_window(self.source, segment.start, middle, self.filter)
        after = segment.rows - before
        if both or after <= 0:
            self.probes += 1
            after = await count_window(self.source, middle, segment.end, self.filter)
            if before + after > segment.rows:
                self._note_contradiction(segment.rows, before, after)
        return self._segment(segment.start, middle, before), self._segment(middle, segment.end, after)

    def _note_contradiction(self, rows: int, before: int, after: int) -> None:
        if max(before, after) == rows and min(before, after):
            self.count_limit = max(rows, self.count_limit or 0)
        self.target = self.rows_per_export
        self.doubt = self.doubt or (
            f"the API counts {rows:,} activities in a time span, but {before:,} and {after:,} in its halves"
            + (": its counts seem to stop at that number" if self.count_limit else "")
        )

    def _segment(self, start: datetime, end: datetime, rows: int) -> _Segment:
        small = rows < _SPLIT_RATIO * self.target or end - start < 2 * self.min_length
        return _Segment(start, end, rows, min(1, rows) if small else max(2, round(rows / self.target)))


def _middle(segment: _Segment) -> datetime:
    """Return where to split a segment: at a round time near the point that leaves whole windows on both sides."""
    length = segment.end - segment.start
    parts = min(max(2, segment.windows), _MAX_PARTS)
    cut = segment.start + length * (parts // 2) / parts
    unit = next((unit for unit in _UNITS if unit * _ROUNDING <= length), MILLISECOND)
    return _EPOCH + round((cut - _EPOCH) / unit) * unit


def _merge_small(segments: Iterable[_Segment], target: float) -> tuple[Window, ...]:
    """Merge small neighbours into one window; an empty segment joins the previous window, or else the next one."""
    joined: list[_Segment] = []
    for segment in segments:
        last = joined[-1] if joined else None
        if last and (not segment.rows or not last.rows or last.rows + segment.rows <= _MERGE_RATIO * target):
            joined[-1] = replace(last, end=segment.end, rows=last.rows + segment.rows)
        else:
            joined.append(segment)
    return tuple(Window(index, segment.start, segment.end, segment.rows) for index, segment in enumerate(joined))


def _check_number(rows: int, windows: int, rows_per_export: int, max_windows: int) -> None:
    if windows > max_windows:
        raise UsageError(
            f"{rows:,} activities at {rows_per_export:,} per export make more than {max_windows:,} exports, each of "
            "which sends an email. Raise --rows-per-export or --max-windows."
        )
