"""Windows of a fixed length: half-open, in order, covering the range exactly."""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from bulkpull.errors import UsageError
from bulkpull.window import Window

AUTO = "auto"
_AUTO_LENGTHS = ("1d", "7d", "1mo", "3mo", "6mo", "1y", "2y", "5y", "20y", "500y")
_MAX_AUTO_WINDOWS = 24  # few exports, since each sends an email, but enough to run in parallel
_LENGTH = re.compile(r"([1-9]\d{0,5})(min|h|d|w|mo|y)")
_SECONDS = {"min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_MONTHS = {"mo": 1, "y": 12}


@dataclass(frozen=True, slots=True)
class Length:
    """The length of a window, in calendar months or in seconds."""

    months: int = 0
    seconds: int = 0

    @classmethod
    def parse(cls, text: str) -> Length:
        """Parse a length such as `30min`, `6h`, `1d`, `2w`, `1mo` or `1y`. Raises UsageError for anything else."""
        match = _LENGTH.fullmatch(text.strip().lower())
        if not match:
            raise UsageError(
                f"the window {text!r} is not a length. Use one such as 30min, 6h, 1d, 2w, 1mo, 1y, or auto."
            )
        count, unit = int(match[1]), match[2]
        if unit in _MONTHS:
            return cls(months=count * _MONTHS[unit])
        return cls(seconds=count * _SECONDS[unit])

    def advance(self, start: datetime, times: int) -> datetime:
        """Return `start` plus `times` lengths.

        A day that the resulting month lacks becomes its last day: 31 January plus one month is 28 or 29 February, plus
        two months is 31 March. Raises OverflowError beyond the year 9999.
        """
        if self.seconds:
            return start + timedelta(seconds=self.seconds * times)
        year, month = divmod(start.year * 12 + start.month - 1 + self.months * times, 12)
        if year > 9999:
            raise OverflowError
        last_day = calendar.monthrange(year, month + 1)[1]
        return start.replace(year=year, month=month + 1, day=min(start.day, last_day))


def by_length(first: datetime, last: datetime, window: str, max_windows: int) -> tuple[Window, ...]:
    """Divide `[first, last)` into windows of the length `window`; the last one may be shorter.

    `auto` chooses the shortest of 1d, 7d, 1mo, 3mo, 6mo, 1y, ... that gives at most 24 windows. An empty range has no
    windows. Raises UsageError for an invalid length, and for more than `max_windows` windows.
    """
    if window == AUTO:
        lengths = map(Length.parse, _AUTO_LENGTHS)
        length = next(length for length in lengths if _fits(first, last, length))
    else:
        length = Length.parse(window)
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
