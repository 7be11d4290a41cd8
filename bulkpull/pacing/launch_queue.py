"""Order: which window is launched next."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from bulkpull.pacing.durations import Durations
from bulkpull.pacing.limits import Flight
from bulkpull.pull.journey import Journey

ENDGAME = 2.0  # durations of the largest window, that the rest should take: below, it is its turn


class Order:
    """The windows that are to be launched: in the order of the plan, which is that of the merge, until so little is
    left that a large one might end after all others; from then on the largest first.

    So the merge has what it awaits for most of a pull, and no large window is left for its end.
    """

    def __init__(self, journeys: Iterable[Journey], flight: Flight, durations: Durations) -> None:
        self._waiting = {journey.window.index: journey for journey in journeys}
        self._flight = flight
        self._durations = durations
        self._rows = sum(_rows(journey) for journey in self._waiting.values())
        self._largest = [(-_rows(journey), index) for index, journey in self._waiting.items()]
        heapq.heapify(self._largest)

    def __len__(self) -> int:
        return len(self._waiting)

    def next(self) -> Journey:
        """The journey whose turn it is."""
        while self._largest[0][1] not in self._waiting:
            heapq.heappop(self._largest)
        rows, index = -self._largest[0][0], self._largest[0][1]
        base, per_row = 0.0, 1.0
        if (law := self._durations.law) and law.by == "rows":
            base, per_row = law.base, law.slope
        left = base * len(self._waiting) + per_row * self._rows
        if left / self._flight.limit >= ENDGAME * (base + per_row * rows):
            index = next(iter(self._waiting))
        journey = self._waiting.pop(index)
        self._rows -= _rows(journey)
        return journey


def _rows(journey: Journey) -> int:
    return journey.window.rows or 0
