"""The queue of downloads: they start in the order in which the merge takes their parts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import field
from datetime import datetime
from heapq import heappop, heappush

import anyio

from bulkpull.record import record
from bulkpull.window import Window

_Place = tuple[datetime, int]  # of a part in the merge: the start of its window, and its number


@record(frozen=False)
class DownloadQueue:
    """Gives the free `slots` to parts in the order of the merge, each once it `may_start`.

    If the first in the queue may not start, no other one may. `on_held_back` is then called with its window.
    """

    slots: anyio.CapacityLimiter
    may_start: Callable[[Window], bool]
    on_held_back: Callable[[Window], None]
    _waiting: list[_Waiter] = field(default_factory=list)  # a heap

    @asynccontextmanager
    async def slot(self, window: Window, part: int) -> AsyncIterator[None]:
        """Hold a slot for a part of a window, once it has its turn."""
        await self._acquire(window, _Waiter((window.start, part)))
        try:
            yield
        finally:
            self.slots.release()

    def look_again(self) -> None:
        """Let the first in the queue look again whether it may start."""
        if self._waiting:
            self._waiting[0].is_called.set()

    async def _acquire(self, window: Window, waiter: _Waiter) -> None:
        heappush(self._waiting, waiter)
        try:
            while True:
                while not self._has_turn(window, waiter):
                    waiter.is_called = anyio.Event()
                    await waiter.is_called.wait()
                # Only the first waits for a slot: another one may have come before it meanwhile.
                await self.slots.acquire()
                if self._has_turn(window, waiter):
                    return
                self.slots.release()
        finally:
            self._leave(waiter)

    def _has_turn(self, window: Window, waiter: _Waiter) -> bool:
        if self._waiting[0] is not waiter:
            return False
        if not self.may_start(window):
            self.on_held_back(window)
            return False
        return True

    def _leave(self, waiter: _Waiter) -> None:
        waiter.has_left = True
        while self._waiting and self._waiting[0].has_left:  # also those that were cancelled in the middle
            heappop(self._waiting)
        self.look_again()


class _Waiter:
    def __init__(self, place: _Place) -> None:
        self.place = place
        self.is_called = anyio.Event()
        self.has_left = False

    def __lt__(self, other: _Waiter) -> bool:
        return self.place < other.place
