"""Launch queue: which window is exported next."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from bulkpull.window import Window

ENDGAME = 2.0  # largest windows that each place in flight would still have to export


class LaunchQueue:
    """Windows to be exported: in plan order, which is that of the merge, until so few rows are left that a large window
    might end after all others; then the largest first.

    So the merge rarely waits, and no large export is left for the end.
    """

    def __init__(self, windows: Iterable[Window]) -> None:
        self._waiting = {window.index: window for window in windows}
        self._rows = sum(window.rows or 0 for window in self._waiting.values())
        self._largest = [(-(window.rows or 0), index) for index, window in self._waiting.items()]
        heapq.heapify(self._largest)

    def __len__(self) -> int:
        return len(self._waiting)

    def pop(self, exports: int) -> Window:
        """Remove and return the window to be exported next, if so many `exports` may be in flight."""
        while self._largest[0][1] not in self._waiting:
            heapq.heappop(self._largest)
        rows, index = -self._largest[0][0], self._largest[0][1]
        if self._rows / exports >= ENDGAME * rows:
            index = next(iter(self._waiting))
        window = self._waiting.pop(index)
        self._rows -= window.rows or 0
        return window
