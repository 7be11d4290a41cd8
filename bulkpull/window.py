"""A window: the half-open span of time that one export covers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime


def instant(moment: datetime) -> str:
    """`moment` as the API writes `created_time`: ISO 8601 in UTC with milliseconds, 24 characters.

    Source: "Retrieving Activity Data in Bulk" (`2020-10-15T18:42:19.689Z`).
    """
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Window:
    """`[start, end)` in UTC, whole milliseconds; `index`, from 0, is its place in the plan, or, where it came of
    cutting another, the next number that was free. `rows` is how many activities were counted in it."""

    index: int
    start: datetime
    end: datetime
    rows: int | None = None

    def __str__(self) -> str:
        return f"window {self.index + 1} [{_short(self.start)}, {_short(self.end)})"


def counted(windows: Sequence[Window]) -> int | None:
    """The activities in all these windows; None where some were not counted."""
    rows = [window.rows for window in windows if window.rows is not None]
    return sum(rows) if len(rows) == len(windows) else None


def _short(moment: datetime) -> str:
    text = instant(moment)
    return text.removesuffix("T00:00:00.000Z").removesuffix(":00.000Z")
