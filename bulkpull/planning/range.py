"""The range of a pull: dates and instants as users write them, in UTC."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from bulkpull.errors import UsageError
from bulkpull.window import instant


def span(start: date | datetime | str, end: date | datetime | str | None) -> tuple[datetime, datetime]:
    """Return the first and last instant of a range; without `end`, it ends now. Raises UsageError."""
    first = moment(start, "start")
    last = moment(end, "end") if end is not None else _whole_milliseconds(datetime.now(UTC))
    if last < first:
        raise UsageError(f"the end {instant(last)} is before the start {instant(first)}")
    return first, last


def moment(value: date | datetime | str, what: str) -> datetime:
    """Return a date (midnight) or an instant in UTC, rounded up to whole milliseconds, since rows have no finer times.

    Raises UsageError for anything else, and for an instant without an offset.
    """
    if isinstance(value, str):
        text = value.strip()
        try:
            value = datetime.fromisoformat(text) if len(text) > 10 else date.fromisoformat(text)
        except ValueError as error:
            raise UsageError(
                f"the {what} {value!r} is not a date (2024-01-31) or an instant (2024-01-31T06:00Z): {error}"
            ) from None
    if not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if value.tzinfo is None:
        text = value.isoformat()
        raise UsageError(f"the {what} {text} has no offset from UTC: write {text}Z or {text}+01:00")
    try:
        utc = value.astimezone(UTC)
        # A plain datetime: the arithmetic of subclasses differs, such as pendulum's, which drops the offset.
        return _whole_milliseconds(datetime.combine(utc.date(), utc.time(), UTC))
    except OverflowError:
        raise UsageError(f"the {what} {value.isoformat()} is beyond the years 1 to 9999") from None


def _whole_milliseconds(moment: datetime) -> datetime:
    return moment + timedelta(microseconds=-moment.microsecond % 1000)
