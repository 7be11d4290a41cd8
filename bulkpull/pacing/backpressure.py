"""Spool: how many bytes of parts wait on the disk for the merge, and when a download has to wait for them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from datetime import datetime

import anyio

from bulkpull.events import Event, Exported, ExportFailed, PartFetched, Skipped, Split, WindowMerged
from bulkpull.window import Window

BACKLOG = 128_000_000  # bytes


class Spool:
    """A listener that counts whole parts which are not merged yet.

    No download starts while they are `limit` bytes or more, save those of the window that the merge awaits; nor while
    `BACKLOG` bytes or more could be merged at once, since what runs ahead of a busy merge only fills the page cache.
    What is on its way comes on top.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_window: Counter[int] = Counter()
        self._lacking: dict[int, int] = {}  # parts, of each exported window
        self._order: list[Window] = []  # what is merged, in turn
        self._changed = anyio.Event()

    def __call__(self, event: Event) -> None:
        match event:
            case Exported():
                self._lacking[event.window.index] = event.parts
                return
            case PartFetched():
                self._by_window[event.window.index] += event.size
                self._lacking[event.window.index] = max(0, self._lacking.get(event.window.index, 0) - 1)
                return
            case WindowMerged() | Skipped():
                self._remove(event.window)
            case Split():
                if not event.is_merged:  # else it may not have been told yet that it is
                    self._remove(event.window)
                at = self._place(event.window)
                self._order[at:at] = event.pieces
            case ExportFailed():
                pass
            case _:
                return
        del self._by_window[event.window.index]
        self._lacking.pop(event.window.index, None)
        self._changed.set()
        self._changed = anyio.Event()

    def expect(self, windows: Iterable[Window]) -> None:
        """These are merged, in this order."""
        self._order = list(windows)

    def has_room(self, window: Window) -> bool:
        """Whether a download of this window may start."""
        if self._order and window.start <= self._order[0].start:
            return True
        return self._by_window.total() < self._limit and self._backlog() < BACKLOG

    async def room(self, window: Window) -> None:
        """Waits until a download of this window may start."""
        while not self.has_room(window):
            await self._changed.wait()

    def _backlog(self) -> int:
        """Bytes of windows that are whole, and so are all before them."""
        size = 0
        for window in self._order:
            if self._lacking.get(window.index) != 0 or size >= BACKLOG:
                break
            size += self._by_window[window.index]
        return size

    def _remove(self, window: Window) -> None:
        self._order = [other for other in self._order if other.index != window.index]

    def _place(self, window: Window) -> int:
        return bisect_left(self._order, window.start, key=_start)


def _start(window: Window) -> datetime:
    return window.start
