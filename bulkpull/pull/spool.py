"""Spool: how many bytes of parts wait on the disk for the merge, and when a download has to wait for them."""

from __future__ import annotations

from collections import Counter

import anyio

from bulkpull.events import Event, ExportFailed, PartFetched, WindowMerged

SPOOL = 4_000_000_000  # bytes


class Spool:
    """A listener that counts whole parts which are not merged yet.

    While they are `limit` bytes or more, no download starts, save those of the window that the merge awaits: what is on
    its way comes on top.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_window: Counter[int] = Counter()
        self._awaited = 0  # the window that is merged next
        self._changed = anyio.Event()

    def __call__(self, event: Event) -> None:
        match event:
            case PartFetched():
                self._by_window[event.window.index] += event.size
                return
            case WindowMerged():
                self._awaited = event.window.index + 1
            case ExportFailed():
                pass
            case _:
                return
        del self._by_window[event.window.index]
        self._changed.set()
        self._changed = anyio.Event()

    def begin_at(self, window: int) -> None:
        """The first windows are merged already, up to this one."""
        self._awaited = window

    def has_room(self, window: int) -> bool:
        """Whether a download of this window may start."""
        return window <= self._awaited or self._by_window.total() < self._limit

    async def room(self, window: int) -> None:
        """Waits until a download of this window may start."""
        while not self.has_room(window):
            await self._changed.wait()
