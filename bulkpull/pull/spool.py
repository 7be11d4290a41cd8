"""Spool: how many bytes of parts wait on the disk for the merge, and when a download has to wait for them."""

from __future__ import annotations

from collections import Counter

import anyio

from bulkpull.events import Event, Exported, ExportFailed, PartFetched, WindowMerged

SPOOL = 4_000_000_000  # bytes
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
        self._awaited = 0  # the window that is merged next
        self._changed = anyio.Event()

    def __call__(self, event: Event) -> None:
        match event:
            case Exported():
                self._lacking[event.window.index] = event.parts
                return
            case PartFetched():
                self._by_window[event.window.index] += event.size
                self._lacking[event.window.index] -= 1
                return
            case WindowMerged():
                self._awaited = event.window.index + 1
            case ExportFailed():
                pass
            case _:
                return
        del self._by_window[event.window.index]
        self._lacking.pop(event.window.index, None)
        self._changed.set()
        self._changed = anyio.Event()

    def begin_at(self, window: int) -> None:
        """The first windows are merged already, up to this one."""
        self._awaited = window

    def has_room(self, window: int) -> bool:
        """Whether a download of this window may start."""
        if window <= self._awaited:
            return True
        return self._by_window.total() < self._limit and self._backlog() < BACKLOG

    async def room(self, window: int) -> None:
        """Waits until a download of this window may start."""
        while not self.has_room(window):
            await self._changed.wait()

    def _backlog(self) -> int:
        """Bytes of windows that are whole, and so are all before them."""
        size, window = 0, self._awaited
        while self._lacking.get(window) == 0 and size < BACKLOG:
            size += self._by_window[window]
            window += 1
        return size
