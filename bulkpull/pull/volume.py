"""Windows by volume: probes that count find how activity is spread over the range, coarse to fine."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import anyio

from bulkpull.clickwrap.filters import window_filter
from bulkpull.errors import ApiError, BulkpullError, UnavailableError, UsageError
from bulkpull.pull.api import Api
from bulkpull.window import Window

ROWS_PER_EXPORT = 100_000
PROBES = 32  # at a time
PATIENCE = 120.0  # seconds for one probe, with all its attempts
_SPARE = 16  # probes beyond two an export, to home in on little activity in a long range
_TOO_LARGE = 1.5  # shares: a segment with more is cut
_TOGETHER = 1.25  # shares up to which neighbours make one window
_SHORTEST = timedelta(seconds=1)  # of a segment
_UNITS = tuple(timedelta(seconds=seconds) for seconds in (86_400, 3600, 60, 1))
_ROUND = 64  # a cut may be moved by one in so many of a segment, to fall on a whole day, hour, minute or second
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Uncounted(Exception):  # noqa: N818 - never leaves the pull: windows go by time then
    """The API does not count, for the reason given, as found out with so many `probes`."""

    def __init__(self, reason: str, probes: int = 1) -> None:
        super().__init__(reason)
        self.probes = probes


@dataclass(frozen=True, slots=True)
class _Segment:
    """A stretch of the range, the activities in it, and how many windows should come of it."""

    start: datetime
    end: datetime
    rows: int
    windows: int


async def by_volume(
    api: Api, first: datetime, last: datetime, filter: str | None, rows_per_export: int, max_windows: int
) -> tuple[tuple[Window, ...], int]:
    """Windows of `[first, last)` with about `rows_per_export` activities or less, and how many probes they took.

    Each probe cuts a segment that holds too much in two, in proportion to the windows that should come of it: evenly
    spread activity takes as many probes as windows, and a stretch without any takes few. Raises Uncounted; UsageError
    for more than `max_windows` windows; the client's errors where the token is refused or nothing answers.
    """
    if first == last:
        return (), 0
    total = await counted(api, first, last, filter)
    exports = math.ceil(total / rows_per_export)
    if exports > max_windows:
        raise UsageError(
            f"{total:,} activities at {rows_per_export:,} an export make more than {max_windows:,} exports, each of "
            "which mails somebody: take more (--rows-per-export), or allow so many on purpose (--max-windows)"
        )
    share = total / max(1, exports)
    segments = [_Segment(first, last, total, exports)]
    probes, most = 1, 2 * exports + _SPARE
    while probes < most:
        by_rows = sorted(segments, key=lambda segment: segment.rows, reverse=True)
        too_large = [segment for segment in by_rows if segment.windows > 1][: most - probes]
        if not too_large:
            break
        probes += len(too_large)
        try:
            halves = await _halves(api, filter, too_large, share)
        except Uncounted as uncounted:
            raise Uncounted(str(uncounted), probes) from uncounted
        segments = [half for segment in segments for half in halves.get(segment.start, (segment,))]
    return _joined(segments, share), probes


async def _halves(
    api: Api, filter: str | None, segments: Iterable[_Segment], share: float
) -> dict[datetime, tuple[_Segment, _Segment]]:
    """The segments cut in two, by where they begin. Raises what `counted` does."""
    halves: dict[datetime, tuple[_Segment, _Segment]] = {}
    failures: list[Exception] = []
    places = anyio.CapacityLimiter(PROBES)

    async def cut(segment: _Segment) -> None:
        middle = _cut(segment)
        try:
            async with places:
                before = min(segment.rows, await counted(api, segment.start, middle, filter))
        except (BulkpullError, Uncounted) as failure:  # comes out below, without the group's wrapping
            failures.append(failure)
            group.cancel_scope.cancel()
            return
        halves[segment.start] = (
            _segment(segment.start, middle, before, share),
            _segment(middle, segment.end, segment.rows - before, share),
        )

    async with anyio.create_task_group() as group:
        for segment in segments:
            group.start_soon(cut, segment)
    for failure in failures:
        raise failure
    return halves


async def counted(api: Api, start: datetime, end: datetime, filter: str | None) -> int:
    """The activities of `[start, end)`, for one request. Raises Uncounted, or the client's errors where the token is
    refused or nothing answers."""
    try:
        with anyio.fail_after(PATIENCE):
            return await api.count(window_filter(Window(0, start, end), filter))
    except TimeoutError:
        raise Uncounted(f"counting took more than {PATIENCE:.0f} s") from None
    except ApiError as error:
        unreachable = isinstance(error, UnavailableError) and error.status is None
        if error.status == 401 or unreachable:
            raise
        raise Uncounted(str(error)) from error


def _segment(start: datetime, end: datetime, rows: int, share: float) -> _Segment:
    small = rows < _TOO_LARGE * share or end - start < 2 * _SHORTEST
    return _Segment(start, end, rows, min(1, rows) if small else max(2, round(rows / share)))


def _cut(segment: _Segment) -> datetime:
    """Where a segment is cut: so that both sides hold whole windows if its activity is evenly spread, at a round time
    if there is one near."""
    length = segment.end - segment.start
    cut = segment.start + length * (segment.windows // 2) / segment.windows
    unit = next((unit for unit in _UNITS if unit * _ROUND <= length), timedelta(milliseconds=1))
    return _EPOCH + round((cut - _EPOCH) / unit) * unit


def _joined(segments: Iterable[_Segment], share: float) -> tuple[Window, ...]:
    """Neighbours that are small make one window; what is empty makes none, and lies within one only between others."""
    joined: list[_Segment] = []
    for segment in segments:
        if not segment.rows:
            continue
        if joined and joined[-1].rows + segment.rows <= _TOGETHER * share:
            joined[-1] = replace(joined[-1], end=segment.end, rows=joined[-1].rows + segment.rows)
        else:
            joined.append(segment)
    return tuple(Window(index, segment.start, segment.end, segment.rows) for index, segment in enumerate(joined))
