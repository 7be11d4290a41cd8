"""The range of a pull: dates, periods and instants as users write them, in UTC."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

from bulkpull.errors import UsageError
from bulkpull.planning.length import Length
from bulkpull.suggestions import did_you_mean
from bulkpull.window import instant

_PERIOD = re.compile(r"(?P<year>\d{4})(?:-(?P<month>\d\d)|-?Q(?P<quarter>[1-4])|-?W(?P<week>\d\d))?", re.IGNORECASE)
_DAYS_AGO = {"today": 0, "yesterday": 1}
_NOW = "now"


def span(start: date | datetime | str, end: date | datetime | str | None) -> tuple[datetime, datetime]:
    """Return the first and last instant of a range; without `end`, it ends now. Raises UsageError."""
    now = datetime.now(UTC)
    first = moment(start, "start", now)
    last = moment(_NOW if end is None else end, "end", now)
    if last < first:
        raise UsageError(f"the end {instant(last)} is before the start {instant(first)}")
    if first == last and isinstance(end, str) and (following := _end_of_period(end)):
        raise UsageError(
            f"the range is empty: its end is exclusive, and {end.strip()} stands for its first instant, "
            f"{instant(last)}. For all of {end.strip()}, use the end {following.date()}"
        )
    return first, last


def is_relative(value: object) -> bool:
    """Return whether `value` depends on the current time: today, yesterday, now, or a length ago such as -7d."""
    if not isinstance(value, str):
        return False
    text = value.strip().lower()
    return text in (*_DAYS_AGO, _NOW) or text.startswith("-")


def is_now(value: object) -> bool:
    """Return whether `value` is the current time, which is when the plan is made."""
    return isinstance(value, str) and value.strip().lower() == _NOW


def moment(value: date | datetime | str, what: str, now: datetime | None = None) -> datetime:
    """Return the instant in UTC that a date, a period or an instant stands for, in whole milliseconds.

    A date, and a period such as `2024`, `2024-01`, `2024-W07` or `2024Q1`, stands for its first instant, midnight UTC;
    so do `today` and `yesterday`. Lengths ago, such as `-7d`, count back from `now`: those in days and longer from the
    midnight before it, those in hours and minutes from its minute. Instants are rounded up to whole milliseconds, since
    rows have no finer times.

    Raises UsageError for anything else, and for an instant without an offset.
    """
    if isinstance(value, str):
        value = _parsed(value, what, datetime.now(UTC) if now is None else now)
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


def _parsed(value: str, what: str, now: datetime) -> date:
    text = value.strip().lower()
    if text == _NOW:
        return now
    if text in _DAYS_AGO:
        return now.date() - timedelta(_DAYS_AGO[text])
    if text.startswith("-"):
        return _ago(text[1:], value, what, now)
    try:
        if period := _PERIOD.fullmatch(text):
            return _first_day(period)
        return datetime.fromisoformat(value.strip()) if len(text) > 10 else date.fromisoformat(value.strip())
    except ValueError as error:
        reason = "" if "isoformat" in str(error) else f": {error}"  # such as a day that the month lacks
        raise UsageError(
            f"the {what} {value!r} is not a date (2024-01-31), a period (2024, 2024-01, 2024-W07, 2024Q1), an instant "
            f"(2024-01-31T06:00Z), or relative (today, yesterday, -7d){reason}."
            f"{did_you_mean(text, (*_DAYS_AGO, _NOW))}"
        ) from None


def _ago(text: str, value: str, what: str, now: datetime) -> datetime:
    try:
        length = Length.parse(text)
    except UsageError as error:
        raise UsageError(f"the {what} {value!r} is not a date, nor a length ago such as -7d: {error}") from None
    origin = now.replace(second=0, microsecond=0)
    if not text.endswith(("h", "min")):
        origin = origin.replace(hour=0, minute=0)
    try:
        return length.advance(origin, -1)
    except OverflowError:
        raise UsageError(f"the {what} {value!r} is beyond the years 1 to 9999") from None


def _first_day(period: re.Match[str]) -> date:
    year = int(period["year"])
    if period["week"]:
        return date.fromisocalendar(year, int(period["week"]), 1)
    if period["quarter"]:
        return date(year, 3 * int(period["quarter"]) - 2, 1)
    return date(year, int(period["month"] or 1), 1)


def _end_of_period(text: str) -> datetime | None:
    """The exclusive end of a period longer than a day; None for anything else, and beyond the year 9999."""
    period = _PERIOD.fullmatch(text.strip().lower())
    if not period:
        return None
    length = "1w" if period["week"] else "1mo" if period["month"] else "3mo" if period["quarter"] else "1y"
    try:
        return Length.parse(length).advance(moment(text, "end"), 1)
    except OverflowError:
        return None


def _whole_milliseconds(moment: datetime) -> datetime:
    return moment + timedelta(microseconds=-moment.microsecond % 1000)
