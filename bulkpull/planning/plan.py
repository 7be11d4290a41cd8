"""The plan of a pull: the windows of its time range, in order."""

from __future__ import annotations

from datetime import datetime

from bulkpull.planning.length import AUTO, by_length
from bulkpull.planning.options import PlanOptions
from bulkpull.planning.range import span
from bulkpull.record import record
from bulkpull.source import Source
from bulkpull.window import Window, total_count


@record
class Plan:
    """The windows of a pull of `[start, end)`, one export each.

    `probes` is the number of counting requests that planning took. `uncounted` is the reason why the windows have equal
    length instead of equal volume, `doubt` the reason why their counts cannot be trusted; both are empty otherwise.
    `total` is the count of the whole range if its windows could not be counted.
    """

    start: datetime
    end: datetime
    windows: tuple[Window, ...]
    probes: int = 0
    uncounted: str = ""
    doubt: str = ""
    total: int | None = None

    @property
    def rows(self) -> int | None:
        """The total count of the windows; None if any of them was not counted."""
        return total_count(self.windows)


async def plan(source: Source, options: PlanOptions) -> Plan:
    """Return the windows that a pull with the same options would take; makes no export.

    The windows tile the range. `auto` windows hold about `rows_per_export` activities each, as counted by requests to
    the API; a stretch without activity joins a neighboring window. If the API refuses to count, the windows are of
    equal length: the shortest of 1d, 7d, 1mo, 3mo, 6mo, 1y, ... that makes at most 24. Any other `window` is a length
    and makes no request.

    Args:
        source: The API to count with.
        options: The options, by name.

    Raises:
        UsageError: An option makes no sense, or there would be more than `max_windows` windows.
        ApiError: The API cannot be reached, or does not accept the token or the filter.
    """
    from bulkpull.planning.volume import CountUnavailable, by_volume, require_filter  # imports the event loop

    first, last = span(options.start, options.end)
    filter = source.check_filter(options.filter)
    if options.length != AUTO:
        return Plan(first, last, by_length(first, last, options.length, options.max_windows))
    try:
        volume = await by_volume(source, first, last, filter, options.rows_per_export, options.max_windows)
    except CountUnavailable as uncounted:
        await require_filter(source, first, last, filter)  # the reason may be the filter
        windows = by_length(first, last, AUTO, options.max_windows)
        return Plan(first, last, windows, uncounted.probes, str(uncounted), total=uncounted.total)
    return Plan(first, last, volume.windows, volume.probes, doubt=volume.doubt)
