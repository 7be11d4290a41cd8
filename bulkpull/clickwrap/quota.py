"""The governor: keeps every request of one client under the API's quota.

The server counts in fixed windows of a minute. A window starts with the first request that uses the quota, which
may be another program's if the token is shared, so its phase cannot be known from here; nor can the instant at
which a request arrives, only that it lies between sending and answer. Counting our own fixed windows would
therefore allow two bursts within one window of the server's. What holds for every phase and every latency: a
request occupies its place from before it is sent until a minute after its answer, and there are
`requests_per_minute` places. A request that was given up without an answer may still arrive for a while, and
occupies its place that much longer. Bursts up to the budget pass without a wait.

Source of the quota (2000 a minute and token, fixed window, `Retry-After`): Clickwrap's "Rate Limits".
"""

from __future__ import annotations

import heapq
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from bulkpull.errors import UsageError

QUOTA_PER_MINUTE = 2000
DEFAULT_PER_MINUTE = 1800
WINDOW = 60.0  # seconds
_MARGIN = 0.05  # seconds: the server's clock and ours need not run alike
_LATE = 60.0  # seconds for which a request without an answer may still be on its way
_EARLY = 1e-6  # seconds by which a timer may fire before its time


class Exhausted(Exception):  # noqa: N818 - never leaves the package: the retry turns it into ThrottledError
    """The quota stays exhausted for longer than a request may wait: for so many `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Governor:
    """Hands out places for requests, first come, first served."""

    def __init__(self, requests_per_minute: int = DEFAULT_PER_MINUTE) -> None:
        if not 1 <= requests_per_minute <= QUOTA_PER_MINUTE:
            raise UsageError(f"requests per minute must be between 1 and {QUOTA_PER_MINUTE}, not {requests_per_minute}")
        self.requests_per_minute = requests_per_minute
        self._turn = anyio.Lock()
        self._in_flight = 0
        self._occupied_until: list[float] = []  # a heap, of requests that are over
        self._held_until = float("-inf")
        self._throttled_in_a_row = 0
        self.throttled_at: float | None = None  # when a 429 came last
        self._answered = anyio.Event()

    @asynccontextmanager
    async def place(self, patience: float = math.inf) -> AsyncIterator[None]:
        """Waits for a place in the quota and occupies it; to be held around one request and its answer.

        An exception that passes through says that no answer came. Raises Exhausted where a 429 holds all requests for
        more than `patience` seconds from now.
        """
        async with self._turn:
            await self._wait_for_place(patience)
            self._in_flight += 1
        late = _LATE
        try:
            yield
            late = 0.0
        finally:
            self._in_flight -= 1
            heapq.heappush(self._occupied_until, anyio.current_time() + late + WINDOW + _MARGIN)
            self._answered.set()

    def throttled(self, retry_after: float | None) -> float:
        """A 429 came: no request starts for `retry_after` seconds, or a doubling time where the server names none.

        Returns the seconds that all requests hold from now.
        """
        now = self.throttled_at = anyio.current_time()
        if retry_after is None and now >= self._held_until:
            self._throttled_in_a_row += 1
            retry_after = min(WINDOW, 2.0**self._throttled_in_a_row)
        self._held_until = max(self._held_until, now + (retry_after or 0.0))
        return self._held_until - now

    def accepted(self) -> None:
        """An answer other than 429 came."""
        self._throttled_in_a_row = 0

    async def _wait_for_place(self, patience: float) -> None:
        while True:
            now = anyio.current_time() + _EARLY
            while self._occupied_until and self._occupied_until[0] <= now:
                heapq.heappop(self._occupied_until)
            if now < self._held_until:
                if self._held_until - now > patience:
                    raise Exhausted(self._held_until - now)
                await anyio.sleep_until(self._held_until)
            elif self._in_flight + len(self._occupied_until) < self.requests_per_minute:
                return
            elif self._occupied_until:
                await anyio.sleep_until(self._occupied_until[0])
            else:  # every place is held by a request without an answer yet
                self._answered = anyio.Event()
                await self._answered.wait()
