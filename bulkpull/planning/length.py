"""Windows of a fixed length: half-open, in order, covering the range exactly."""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator
from datetime import datetime, timedelta

from bulkpull.errors import UsageError
from bulkpull.record import record
from bulkpull.suggestions import did_you_mean
from bulkpull.window import Window

AUTO = "auto"
_AUTO_LENGTHS = ("1d", "7d", "1mo", "3mo", "6mo", "1y", "2y", "5y", "20y", "500y")
_MAX_AUTO_WINDOWS = 24  # few exports, since each sends an email, but enough to run in parallel
_LENGTH = re.compile(r"([1-9]\d{0,5})(min|h|d|w|mo|y)")
_NEAR = re.compile(r"([1-9]\d{0,5})\s*([a-z]+)")  # a count and a word that is not a unit
_NEAR_UNITS = {
    "minute": "min",
    "min": "min",
    "hour": "h",
    "hr": "h",
    "h": "h",
    "day": "d",
    "d": "d",
    "week": "w",
    "w": "w",
    "month": "mo",
    "mon": "mo",
    "mo": "mo",
    "year": "y",
    "yr": "y",
    "y": "y",
}
_SECONDS = {"min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_MONTHS = {"mo": 1, "y": 12}


@record
class Length:
    """The length of a window, in calendar months or in seconds."""

    months: int = 0
    seconds: int = 0

    @classmethod
    def parse(cls, text: str) -> Length:
        """Parse a length such as `30min`, `6h`, `1d`, `2w`, `1mo` or `1y`. Raises UsageError for anything else."""
        match = _LENGTH.fullmatch(text.strip().lower())
        if not match:
            raise UsageError(f"{text!r} is not a length such as 30min, 6h, 1d, 2w, 1mo or 1y.{_suggestion(text)}")
        count, unit = int(match[1]), match[2]
        if unit in _MONTHS:
            return cls(months=count * _MONTHS[unit])
        return cls(seconds=count * _SECONDS[unit])

    def advance(self, start: datetime, times: int) -> datetime:
        """Return `start` plus `times` lengths.

        A day that the resulting month lacks becomes its last day: 31 January plus one month is 28 or 29 February, plus
        two months is 31 March. Raises OverflowError beyond the years 1 to 9999.
        """
        if self.seconds:
            return start + timedelta(seconds=self.seconds * times)
        year, month = divmod(start.year * 12 + start.month - 1 + self.months * times, 12)
        if not 1 <= year <= 9999:
            raise OverflowError
        last_day = calendar.monthrange(year, month + 1)[1]
        return start.replace(year=year, month=month + 1, day=min(start.day, last_day))


def parse_window(text: str) -> Length | None:
    """Parse the window of a plan: a length, or None for `auto`. Raises UsageError for anything else."""
    if text == AUTO:
        return None
    try:
        return Length.parse(text)
    except UsageError as error:
        raise UsageError(f"the window {error} Or use auto.{did_you_mean(text, [AUTO])}") from None


def _suggestion(text: str) -> str:
    """The lengths that a text may have meant, where its unit is another word for one, or ambiguous."""
    match = _NEAR.fullmatch(text.strip().lower())
    if not match:
        return ""
    if match[2] == "m":
        return f" m is ambiguous: did you mean {match[1]}min or {match[1]}mo?"
    unit = _NEAR_UNITS.get(match[2].removesuffix("s"))
    return f" Did you mean {match[1]}{unit}?" if unit else ""


def by_length(first: datetime, last: datetime, window: str, max_windows: int) -> tuple[Window, ...]:
    """Divide `[first, last)` into windows of the length `window`; the last one may be shorter.

    `auto` chooses the shortest of 1d, 7d, 1mo, 3mo, 6mo, 1y, ... that gives at most 24 windows. An empty range has no
    windows. Raises UsageError for an invalid length, and for more than `max_windows` windows.
    """
    length = parse_window(window) or next(
        length for length in map(Length.parse, _AUTO_LENGTHS) if _fits(first, last, length)
    )
    windows: list[Window] = []
    for cut in _intervals(first, last, length):
        if len(windows) == max_windows:
            raise UsageError(
                f"windows of {window} make more than {max_windows:,} exports, each of which sends an email. Use a "
                "longer --window, or raise --max-windows."
            )
        windows.append(Window(len(windows), *cut))
    return tuple(windows)


def _intervals(first: datetime, last: datetime, length: Length) -> Iterator[tuple[datetime, datetime]]:
    start = first
    times = 1
    while start < last:
        try:
            end = min(last, length.advance(first, times))
        except OverflowError:
            end = last
        yield start, end
        start = end
        times += 1


def _fits(first: datetime, last: datetime, length: Length) -> bool:
    try:
        return length.advance(first, _MAX_AUTO_WINDOWS) >= last
    except OverflowError:
        return True
