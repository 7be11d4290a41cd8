"""Plan: from a range of time to windows, in order."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from bulkpull.errors import UsageError
from bulkpull.planning.length import AUTO, by_length
from bulkpull.planning.volume import ROWS_PER_EXPORT, Uncounted, by_volume
from bulkpull.source import Source
from bulkpull.window import Window, counted, instant

MAX_WINDOWS = 1000  # unless more are asked for: as many exports, and as many mails


@dataclass(frozen=True, slots=True)
class Plan:
    """The windows of a pull of `[start, end)`, one export each, and how many `probes` (requests that count) they took.

    `uncounted` is why they are of equal length where they should be of equal volume, and `doubt` why their counts
    cannot be trusted; empty otherwise. `total` is what was counted in the whole range, where its windows were not.
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
        """The activities that were counted; None where they were not."""
        return counted(self.windows)


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
    """The windows that a pull with the same options would take; makes no export.

    The windows tile the range. `auto` windows hold about `rows_per_export` activities each, as counted by requests to
    the API; stretches that count none go into a neighbouring window. Where counting is refused, the windows are of
    equal length, the shortest of 1d, 7d, 1mo, 3mo, 6mo, 1y, ... that makes at most 24. Any other `window` is a length,
    and takes no request.

    Raises UsageError for what is no date, an end before the start, and more than `max_windows` windows, and whatever
    the client raises where the API cannot be reached or does not accept the token.
    """
    filter = clickwrap.check_filter(filter)
    first, last = span(start, end)
    window = window.strip().lower()
    if rows_per_export < 1:
        raise UsageError("an export must have a row at least")
    if window != AUTO:
        return Plan(first, last, by_length(first, last, window, max_windows))
    try:
        volume = await by_volume(clickwrap, first, last, filter, rows_per_export, max_windows)
    except Uncounted as uncounted:
        windows = by_length(first, last, AUTO, max_windows)
        return Plan(first, last, windows, uncounted.probes, str(uncounted), total=uncounted.total)
    return Plan(first, last, volume.windows, volume.probes, doubt=volume.doubt)


def span(start: date | datetime | str, end: date | datetime | str | None) -> tuple[datetime, datetime]:
    """The first and last instant of a range; without `end`, until now. Raises UsageError."""
    first = moment(start, "start")
    last = moment(end, "end") if end is not None else _whole_milliseconds(datetime.now(UTC))
    if last < first:
        raise UsageError(f"the end {instant(last)} is before the start {instant(first)}")
    return first, last


def moment(value: date | datetime | str, what: str) -> datetime:
    """A date or an instant in UTC; a fraction of a millisecond counts as the next whole one, as rows have no finer
    times. Raises UsageError for what is neither, and for an instant without an offset."""
    if isinstance(value, str):
        try:
            value = (
                datetime.fromisoformat(value.strip()) if len(value.strip()) > 10 else date.fromisoformat(value.strip())
            )
        except ValueError as error:
            raise UsageError(
                f"the {what} {value!r} is no date (2024-01-31) or instant (2024-01-31T06:00Z): {error}"
            ) from None
    if not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if value.tzinfo is None:
        raise UsageError(f"the {what} {value.isoformat()} has no offset from UTC: write {value.isoformat()}Z or +01:00")
    try:
        return _whole_milliseconds(value.astimezone(UTC))
    except OverflowError:
        raise UsageError(f"the {what} {value.isoformat()} is beyond the years 1 to 9999") from None


def _whole_milliseconds(moment: datetime) -> datetime:
    return moment + timedelta(microseconds=-moment.microsecond % 1000)
