"""Windows by length: half-open, in order, and covering the range exactly."""

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
_AUTO_MOST = 24  # windows: few exports, since each mails somebody, yet enough to work side by side
_LENGTH = re.compile(r"([1-9]\d{0,5})(min|h|d|w|mo|y)")
_SECONDS = {"min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_MONTHS = {"mo": 1, "y": 12}


@dataclass(frozen=True, slots=True)
class Length:
    """A window's length: calendar months, or seconds of UTC."""

    months: int = 0
    seconds: int = 0

    @classmethod
    def parse(cls, text: str) -> Length:
        """Reads `30min`, `6h`, `1d`, `2w`, `1mo` or `1y`; raises UsageError for anything else."""
        match = _LENGTH.fullmatch(text.strip().lower())
        if not match:
            raise UsageError(f"the window {text!r} is no length such as 30min, 6h, 1d, 2w, 1mo, 1y, or auto")
        count, unit = int(match[1]), match[2]
        if unit in _MONTHS:
            return cls(months=count * _MONTHS[unit])
        return cls(seconds=count * _SECONDS[unit])

    def after(self, start: datetime, times: int) -> datetime:
        """`start` moved on `times` lengths; a day that a month lacks becomes that month's last (31 January plus one
        month is 28 or 29 February, plus two is 31 March). Raises OverflowError beyond the year 9999."""
        if self.seconds:
            return start + timedelta(seconds=self.seconds * times)
        year, month = divmod(start.year * 12 + start.month - 1 + self.months * times, 12)
        if year > 9999:
            raise OverflowError
        last_day = calendar.monthrange(year, month + 1)[1]
        return start.replace(year=year, month=month + 1, day=min(start.day, last_day))


def by_length(first: datetime, last: datetime, window: str, max_windows: int) -> tuple[Window, ...]:
    """Cuts `[first, last)` into windows of the length `window`, the last one possibly shorter.

    `auto` takes the shortest of 1d, 7d, 1mo, 3mo, 6mo, 1y, ... that makes at most 24 windows. An empty range has no
    window. Raises UsageError for what is no length, and for more than `max_windows` windows.
    """
    if window == AUTO:
        lengths = map(Length.parse, _AUTO_LENGTHS)
        length = next(length for length in lengths if _fits(first, last, length))
    else:
        length = Length.parse(window)
    windows: list[Window] = []
    for cut in _cuts(first, last, length):
        if len(windows) == max_windows:
            raise UsageError(
                f"windows of {window} make more than {max_windows:,} exports, each of which mails somebody: take a "
                "longer window, or allow so many on purpose (--max-windows)"
            )
        windows.append(Window(len(windows), *cut))
    return tuple(windows)


def _cuts(first: datetime, last: datetime, length: Length) -> Iterator[tuple[datetime, datetime]]:
    start = first
    times = 1
    while start < last:
        try:
            end = min(last, length.after(first, times))
        except OverflowError:
            end = last
        yield start, end
        start = end
        times += 1


def _fits(first: datetime, last: datetime, length: Length) -> bool:
    try:
        return length.after(first, _AUTO_MOST) >= last
    except OverflowError:
        return True
