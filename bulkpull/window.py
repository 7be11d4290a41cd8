"""Windows: the half-open time spans that exports cover."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from datetime import UTC, datetime

from bulkpull.record import record


def instant(moment: datetime) -> str:
    """Format `moment` as window bounds are written: ISO 8601 in UTC with milliseconds, 24 characters.

    Source: Clickwrap's "Retrieving Activity Data in Bulk" (`2020-10-15T18:42:19.689Z`).
    """
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@record
class Window:
    """The time span `[start, end)` in UTC, in whole milliseconds.

    Args:
        index: Position in the plan, from 0. A window that results from a split gets the next free number.
        start: Start, inclusive.
        end: End, exclusive.
        rows: Number of activities counted in the window; None if it was not counted.
    """

    index: int
    start: datetime
    end: datetime
    rows: int | None = None

    def __str__(self) -> str:
        return f"window {self.index + 1} [{_short(self.start)}, {_short(self.end)})"


def total_count(windows: Sequence[Window]) -> int | None:
    """Return the total count of `windows`; None if any of them was not counted."""
    rows = [window.rows for window in windows if window.rows is not None]
    return sum(rows) if len(rows) == len(windows) else None


def fingerprint(windows: Sequence[Window]) -> str:
    """Return a short text that differs for other bounds."""
    bounds = " ".join(f"{instant(window.start)} {instant(window.end)}" for window in windows)
    return f"{len(windows)} given, with checksum {zlib.crc32(bounds.encode()):08x}"


def _short(moment: datetime) -> str:
    text = instant(moment)
    return text.removesuffix("T00:00:00.000Z").removesuffix(":00.000Z")
