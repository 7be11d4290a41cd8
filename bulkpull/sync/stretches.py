"""Stretches: how settled time is divided to be counted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from bulkpull.planning import MILLISECOND
from bulkpull.sync.state import span
from bulkpull.window import Window

STRETCHES = 24  # so that a night stays within forty requests
_GROWTH = 3.0  # the oldest stretch is about e^3 times as long as the youngest: late rows mostly come soon
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


def stretches(first: datetime, last: datetime, revision: int, number: int = STRETCHES) -> list[Window]:
    """Divide `[first, last)` into up to `number` stretches, the younger the shorter.

    The boundaries are shifted by a share of a stretch that depends on the revision. A late row and a deletion that
    cancel out in one stretch are in two different ones soon.
    """
    length = (last - first) // MILLISECOND
    shift = revision * _GOLDEN_RATIO % 1
    cuts = {0, length}
    for at in range(1, number):
        share = (at - 1 + shift) / (number - 1)
        cuts.add(round(length * math.expm1(_GROWTH * share) / math.expm1(_GROWTH)))
    ages = sorted(age for age in cuts if 0 <= age <= length)
    bounds = [last - age * MILLISECOND for age in reversed(ages)]
    return [span(start, end) for start, end in pairwise(bounds)]


def cut_out(windows: Sequence[Window], cuts: Iterable[Window]) -> list[Window]:
    """Return the windows, in order, with each of `cuts` that lies within their range as a window of its own."""
    if not windows:
        return []
    first, last = windows[0].start, windows[-1].end
    own = [cut for cut in cuts if first <= cut.start and cut.end <= last]
    return sorted([*without(windows, own), *own], key=lambda window: window.start)


def before(moment: datetime, seconds: float) -> datetime:
    """Return the instant that is so many seconds earlier, or the earliest one there is."""
    try:
        return moment - timedelta(milliseconds=round(1000 * seconds))
    except OverflowError:  # before the year 1
        return datetime.min.replace(tzinfo=UTC)


def without(windows: Sequence[Window], removed: Iterable[Window]) -> list[Window]:
    """Return what is left of the windows where none of `removed` is, in order."""
    left = list(windows)
    for gone in removed:
        left = [
            span(start, end)
            for window in left
            for start, end in (
                (window.start, min(window.end, gone.start)),
                (max(window.start, gone.end), window.end),
            )
            if start < end
        ]
    return left


def joined(windows: Iterable[Window]) -> list[Window]:
    """Return the union of windows: in order, without overlaps; those that touch become one."""
    union: list[Window] = []
    for window in sorted(windows, key=lambda window: window.start):
        if union and window.start <= union[-1].end:
            union[-1] = span(union[-1].start, max(union[-1].end, window.end))
        else:
            union.append(span(window.start, window.end))
    return union


def overlaps(one: Window, other: Window) -> bool:
    """Return whether two windows have an instant in common."""
    return one.start < other.end and other.start < one.end
