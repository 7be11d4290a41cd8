"""The choice of what is exported again: which windows cover all differences with the fewest exports. Pure.

An export costs an email and minutes; rows cost little. So windows are extended over time that agrees as long as one
export may hold them, and differences are narrowed down only where that saves an export, or most of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from bulkpull.record import record
from bulkpull.sync.state import Mismatch, span
from bulkpull.window import Window


@record
class Item:
    """Time that must be exported, with about so many `rows`. If it `may_shrink`, only some of it differs, and counting
    may tell which part."""

    start: datetime
    end: datetime
    rows: int
    may_shrink: bool = False


@record
class Choice:
    """A window to export, the `items` in it, and about how many rows it has."""

    window: Window
    items: tuple[Item, ...]
    rows: int

    def narrowest_gain(self, least_rows: int) -> Item | None:
        """Return the item at an end of the window that has most of its rows, and at least `least_rows`; None if there
        is none that may shrink. To bisect it is worth a request."""
        ends = [item for item in (self.items[0], self.items[-1]) if item.may_shrink and item.rows >= least_rows]
        largest = max(ends, key=lambda item: item.rows, default=None)
        return largest if largest and 2 * largest.rows > self.rows else None


def choose(items: Sequence[Item], gaps: Sequence[int], capacity: int) -> list[Choice]:
    """Return the fewest windows that cover all items, with the fewest rows among those.

    Args:
        items: What must be exported, in order of time, without overlaps.
        gaps: How many rows there are between each item and the next.
        capacity: The most rows in a window of several items.
    """
    # The best choice for the first n items: exports, rows, and where the last window starts.
    best: list[tuple[int, int, int]] = [(0, 0, 0)]
    for last in range(len(items)):
        candidates = []
        rows = 0
        for first in range(last, -1, -1):
            rows += items[first].rows + (gaps[first] if first < last else 0)
            if first < last and rows > capacity:
                break
            exports, total, _ = best[first]
            candidates.append((exports + 1, total + rows, first))
        best.append(min(candidates))
    chosen: list[Choice] = []
    end = len(items)
    while end:
        first = best[end][2]
        rows = best[end][1] - best[first][1]
        chosen.append(Choice(span(items[first].start, items[end - 1].end), tuple(items[first:end]), rows))
        end = first
    return chosen[::-1]


@record
class Verdicts:
    """What the counts of settled time say.

    Args:
        differing: The windows to be exported again.
        unreliable: The windows whose counts are wrong, by how much, and which are left as they are.
        new_lies: How many of these are new.
    """

    differing: tuple[Mismatch, ...]
    unreliable: tuple[Mismatch, ...]
    new_lies: int


def judge(counted: Sequence[Mismatch], suspects: Sequence[Mismatch], unreliable: Sequence[Mismatch]) -> Verdicts:
    """Tell differences that an export may mend from counts that are wrong.

    A count is wrong if an export that was made since it differed delivered exactly what the table had held before, and
    the difference stayed the same. From then on the window is left alone, as long as the difference stays the same.
    """
    suspected = {suspect.window: suspect for suspect in suspects}
    known = {lie.window: lie for lie in unreliable}
    differing: list[Mismatch] = []
    lies: list[Mismatch] = []
    new_lies = 0
    for one in counted:
        if not one.excess:
            continue
        suspect, lie = suspected.get(one.window), known.get(one.window)
        if lie and lie.excess == one.excess:
            lies.append(one)
        elif suspect and (suspect.counted, suspect.held) == (one.counted, one.held):
            lies.append(one)
            new_lies += 1
        else:
            differing.append(one)
    return Verdicts(tuple(differing), tuple(lies), new_lies)
