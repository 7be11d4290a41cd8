"""Split: where a window whose exports fail is cut in two."""

from __future__ import annotations

from datetime import datetime, timedelta

from bulkpull.pull.api import Api
from bulkpull.pull.volume import Uncounted, counted
from bulkpull.window import Window

LEAST_ROWS = 1000  # of a window that is cut: with fewer, its size is not what is wrong
LEAST_LENGTH = timedelta(minutes=1)
_PROBES = 20  # that look for the middle
_FAIR = 1 / 3  # of the rows, on either side of the cut


async def middle(api: Api, window: Window, filter: str | None) -> tuple[datetime, int | None, int | None] | None:
    """Where to cut a window so that about as many activities lie before as after, and how many do; in the middle of its
    time where they cannot be counted. None where it is small enough not to be cut.

    Raises the client's errors where the token is refused or nothing answers.
    """
    first, last = window.start, window.end
    if last - first <= LEAST_LENGTH:
        return None
    cut = _between(first, last)
    try:
        rows = await counted(api, first, last, filter) if window.rows is None else window.rows
        if rows <= LEAST_ROWS:
            return None
        for _ in range(_PROBES):
            cut = _between(first, last)
            before = min(rows, await counted(api, window.start, cut, filter))
            if before < _FAIR * rows:
                first = cut
            elif before > (1 - _FAIR) * rows:
                last = cut
            else:
                break
    except Uncounted:
        return cut, None, None
    return cut, before, rows - before


def _between(first: datetime, last: datetime) -> datetime:
    return first + (last - first) // timedelta(milliseconds=2) * timedelta(milliseconds=1)
