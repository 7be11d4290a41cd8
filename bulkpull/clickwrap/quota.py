"""The request budget: keeps a client within the API's rate limit.

The server counts requests per minute in fixed periods. A period starts with the first request that uses the quota,
which may come from another program with the same token, so the client cannot know when it starts. Nor can it know
when a request arrives, only that this is between sending it and its response. If the client counted fixed periods of
its own, two bursts could fall into one period of the server. Instead, there are `requests_per_minute` slots, and a
request occupies its slot from before it is sent until a minute after its response. This is safe for every phase and
latency. A request abandoned without a response may still arrive later, and occupies its slot that much longer. Bursts
up to the budget are not delayed.

Source of the quota (2000 requests per minute and token, fixed periods, `Retry-After`): Clickwrap's "Rate Limits".
"""

from __future__ import annotations

import heapq
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from bulkpull.errors import UsageError

QUOTA_PER_MINUTE = 2000
DEFAULT_PER_MINUTE = 1800
QUOTA_PERIOD_S = 60.0
_CLOCK_MARGIN_S = 0.05  # the server's clock may run at another speed
_LATE_ARRIVAL_S = 60.0  # how long an abandoned request may still be on its way
_TIMER_TOLERANCE_S = 1e-6  # timers may fire this much too early


class BudgetExhausted(Exception):  # noqa: N818 - never leaves the package: the retry turns it into ThrottledError
    """The quota stays exhausted for another `seconds`, longer than the request may wait."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class RequestBudget:
    """Slots for requests, granted in order of arrival."""

    def __init__(self, requests_per_minute: int = DEFAULT_PER_MINUTE) -> None:
        if not 1 <= requests_per_minute <= QUOTA_PER_MINUTE:
            raise UsageError(f"requests per minute must be between 1 and {QUOTA_PER_MINUTE}, not {requests_per_minute}")
        self.requests_per_minute = requests_per_minute
        self._turn = anyio.Lock()
        self._in_flight = 0
        self._occupied_until: list[float] = []  # a heap: when the slots of finished requests become free
        self._blocked_until = float("-inf")
        self._consecutive_throttles = 0
        self.throttled_at: float | None = None  # when the last 429 response came
        self._finished = anyio.Event()

    @asynccontextmanager
    async def slot(self, patience: float = math.inf, on_wait: Callable[[float], object] = float) -> AsyncIterator[None]:
        """Wait for a slot and occupy it for one request and its response. `on_wait` is called with the seconds that the
        wait will take, if there is one.

        An exception raised inside means that there was no response. Raises BudgetExhausted if a 429 response blocks all
        requests for more than `patience` seconds.
        """
        async with self._turn:
            await self._wait_for_slot(patience, on_wait)
            self._in_flight += 1
        may_arrive_late_s = _LATE_ARRIVAL_S
        try:
            yield
            may_arrive_late_s = 0.0
        finally:
            self._in_flight -= 1
            heapq.heappush(
                self._occupied_until, anyio.current_time() + may_arrive_late_s + QUOTA_PERIOD_S + _CLOCK_MARGIN_S
            )
            self._finished.set()

    def note_throttled(self, retry_after: float | None) -> float:
        """Block all requests after a 429 response, for `retry_after` seconds or with exponential backoff if it is None.

        Returns the number of seconds for which requests are blocked.
        """
        now = self.throttled_at = anyio.current_time()
        if retry_after is None and now >= self._blocked_until:
            self._consecutive_throttles += 1
            retry_after = min(QUOTA_PERIOD_S, 2.0**self._consecutive_throttles)
        self._blocked_until = max(self._blocked_until, now + (retry_after or 0.0))
        return self._blocked_until - now

    def note_accepted(self) -> None:
        """Reset the backoff after a response other than 429."""
        self._consecutive_throttles = 0

    async def _wait_for_slot(self, patience: float, on_wait: Callable[[float], object]) -> None:
        while True:
            now = anyio.current_time() + _TIMER_TOLERANCE_S
            while self._occupied_until and self._occupied_until[0] <= now:
                heapq.heappop(self._occupied_until)
            if now < self._blocked_until:
                if self._blocked_until - now > patience:
                    raise BudgetExhausted(self._blocked_until - now)
                on_wait(self._blocked_until - now)
                await anyio.sleep_until(self._blocked_until)
            elif self._in_flight + len(self._occupied_until) < self.requests_per_minute:
                return
            elif self._occupied_until:
                on_wait(self._occupied_until[0] - now)
                await anyio.sleep_until(self._occupied_until[0])
            else:  # every slot is occupied by a request in flight
                self._finished = anyio.Event()
                await self._finished.wait()
