"""Record what a pull waits out, so that other processes see it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio

from bulkpull.errors import OutputError
from bulkpull.events import Event, QuotaExhausted, Retried, Throttled
from bulkpull.journal import Journal, Trouble
from bulkpull.threads import in_thread
from bulkpull.waits import Troubles

INTERVAL_S = 2.0  # between two records; what is over sooner is not recorded


class TroubleRecorder:
    """A listener that learns what its pull waits out."""

    def __init__(self) -> None:
        self._troubles = Troubles()
        self._changed = anyio.Event()
        self._is_recorded = False
        self._clock = asyncio.get_running_loop().time

    def __call__(self, event: Event) -> None:
        """Take account of an event."""
        self._troubles(event, self._clock())
        if self._is_recorded or isinstance(event, Retried | QuotaExhausted | Throttled):
            self._changed.set()

    @asynccontextmanager
    async def recorded(self, journal: Journal) -> AsyncIterator[None]:
        """Record troubles in the journal while the context is open."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._record, journal)
            yield
            group.cancel_scope.cancel()

    async def _record(self, journal: Journal) -> None:
        while True:
            await self._changed.wait()
            await anyio.sleep(INTERVAL_S)
            self._changed = anyio.Event()
            wait = self._troubles.wait(self._clock())
            trouble = Trouble.of(wait, time.time()) if wait else None
            if trouble or self._is_recorded:
                self._is_recorded = trouble is not None
                with suppress(OutputError):  # whoever needs the journal will notice
                    await in_thread(journal.record_trouble, trouble)
