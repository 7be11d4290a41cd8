"""ISO 8601 instants as nanoseconds."""

from __future__ import annotations

import re
from datetime import date, timedelta

_ISO = re.compile(
    rb"(?P<year>\d{4})(?:-?(?P<month>\d\d)-?(?P<day>\d\d)|-?W(?P<week>\d\d)-?(?P<weekday>\d)|-?(?P<ordinal>\d{3}))"
    rb"(?:[Tt ](?P<hour>\d\d)(?::?(?P<minute>\d\d)(?::?(?P<second>\d\d))?)?(?:[.,](?P<fraction>\d{1,9})0*)?"
    rb"(?P<zone>[Zz]|[+-]\d\d(?::?\d\d)?)?)?"
)
_SECOND = 1_000_000_000
_UNITS = {"second": _SECOND, "minute": 60 * _SECOND, "hour": 3600 * _SECOND}
_DAY = 24 * _UNITS["hour"]
_EPOCH = date(1970, 1, 1)


def nanoseconds(text: bytes, *, zone: bytes | None = None) -> int | None:
    """Return the nanoseconds from 1970 to the instant in `text`, or None if it is not a valid instant.

    Accepts a date and a time with up to nine fractional digits, after a period or a comma, in the extended or the basic
    format. An offset from UTC is required, unless a default `zone` such as `b"Z"` is given; then a date alone stands
    for its midnight.
    """
    found = _ISO.fullmatch(text)
    if found is None or (offset := found["zone"] or zone) is None:
        return None
    day = _day(found)
    if day is None:
        return None
    hour, minute, second = (int(found[name] or 0) for name in ("hour", "minute", "second"))
    if hour > 24 or minute > 59 or second > 59:
        return None
    since = day * _DAY
    since += hour * _UNITS["hour"] + minute * _UNITS["minute"] + second * _SECOND
    if digits := found["fraction"]:
        lowest = next(name for name in _UNITS if found[name])
        since += int(digits) * _UNITS[lowest] // 10 ** len(digits)
    if since > (day + 1) * _DAY or (hour == 24 and since != (day + 1) * _DAY):
        return None
    shift = _shift(offset)
    return None if shift is None else since - shift


def _day(found: re.Match[bytes]) -> int | None:
    """Return the days from 1970 to the date; None if there is no such date."""
    year = int(found["year"])
    try:
        if found["week"]:
            day = date.fromisocalendar(year, int(found["week"]), int(found["weekday"]))
        elif found["ordinal"]:
            day = date(year, 1, 1) + timedelta(days=int(found["ordinal"]) - 1)
            if day.year != year:
                return None
        else:
            day = date(year, int(found["month"]), int(found["day"]))
    except (ValueError, OverflowError):
        return None
    return (day - _EPOCH).days


def _shift(offset: bytes) -> int | None:
    """Return the nanoseconds by which a local time is ahead of UTC; None if the offset is not valid."""
    if offset in b"Zz":
        return 0
    hours, minutes = int(offset[1:3]), int(offset[3:].removeprefix(b":") or 0)
    if hours > 23 or minutes > 59:
        return None
    shift = hours * _UNITS["hour"] + minutes * _UNITS["minute"]
    return -shift if offset.startswith(b"-") else shift
