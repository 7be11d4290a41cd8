"""The plan of a pull: the windows of its time range, in order."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from bulkpull.errors import UsageError
from bulkpull.planning.length import AUTO, by_length
from bulkpull.planning.volume import ROWS_PER_EXPORT, CountUnavailable, by_volume
from bulkpull.source import Source
from bulkpull.window import Window, instant, total_count

MAX_WINDOWS = 1000  # by default: each window is an export, which sends an email


@dataclass(frozen=True, slots=True)
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


async def plan(
    clickwrap: Source,
    *,
    start: date | datetime | str,
    end: date | datetime | str | None = None,
    filter: str | None = None,
    window: str = AUTO,
    rows_per_export: int = ROWS_PER_EXPORT,
    max_windows: int = MAX_WINDOWS,
) -> Plan:
    """Plan a pull without launching an export.

    The windows tile the range. If the API refuses to count, `auto` windows have equal length: the shortest of 1d, 7d,
    1mo, 3mo, 6mo, 1y, ... that gives at most 24 windows.

    Args:
        clickwrap: The source of the rows.
        start: Start of the range: a date or an instant with an offset.
        end: End of the range, exclusive. Defaults to the current time.
        filter: Additional filter expression.
        window: Length of the windows, such as `1d` or `1mo`, or `auto` for windows of about `rows_per_export`
            activities each, according to counts.
        rows_per_export: Target number of activities per `auto` window.
        max_windows: Maximum number of windows.

    Returns:
        The plan that a pull with the same options would use.

    Raises:
        UsageError: A date or option is invalid, the end is before the start, or there are more than `max_windows`
            windows.
        ApiError: The API cannot be reached, or rejects the token.
    """
    filter = clickwrap.check_filter(filter)
    first, last = span(start, end)
    window = window.strip().lower()
    if rows_per_export < 1:
        raise UsageError("rows per export must be at least 1")
    if window != AUTO:
        return Plan(first, last, by_length(first, last, window, max_windows))
    try:
        volume = await by_volume(clickwrap, first, last, filter, rows_per_export, max_windows)
    except CountUnavailable as error:
        windows = by_length(first, last, AUTO, max_windows)
        return Plan(first, last, windows, error.probes, str(error), total=error.total)
    return Plan(first, last, volume.windows, volume.probes, doubt=volume.doubt)


def span(start: date | datetime | str, end: date | datetime | str | None) -> tuple[datetime, datetime]:
    """Return the bounds of a range as instants; `end` defaults to the current time. Raises UsageError."""
    first = moment(start, "start")
    last = moment(end, "end") if end is not None else _whole_milliseconds(datetime.now(UTC))
    if last < first:
        raise UsageError(f"the end {instant(last)} is before the start {instant(first)}")
    return first, last


def moment(value: date | datetime | str, what: str) -> datetime:
    """Return a date or an instant in UTC, rounded up to whole milliseconds, the resolution of rows.

    Raises UsageError if it is neither, or an instant without an offset.
    """
    if isinstance(value, str):
        try:
            value = (
                datetime.fromisoformat(value.strip()) if len(value.strip()) > 10 else date.fromisoformat(value.strip())
            )
        except ValueError as error:
            raise UsageError(
                f"the {what} {value!r} is not a date (2024-01-31) or an instant (2024-01-31T06:00Z): {error}"
            ) from None
    if not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if value.tzinfo is None:
        raise UsageError(
            f"the {what} {value.isoformat()} has no offset from UTC. Append Z or an offset such as +01:00."
        )
    try:
        return _whole_milliseconds(value.astimezone(UTC))
    except OverflowError:
        raise UsageError(f"the {what} {value.isoformat()} is beyond the years 1 to 9999") from None


def _whole_milliseconds(moment: datetime) -> datetime:
    return moment + timedelta(microseconds=-moment.microsecond % 1000)
