"""Waiting for replicas to catch up: several backends may serve one API or one file host, some of them stale."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

LAG = 10.0  # seconds: how long to repeat a request whose response contradicts an earlier one, before accepting it
FIRST, LONGEST = 0.05, 0.3  # the first and the longest interval between two such requests, as fractions of LAG

T = TypeVar("T")


async def until(ask: Callable[[], Awaitable[T]], is_caught_up: Callable[[T], bool]) -> T:
    """Call `ask` until `is_caught_up` accepts its result, for LAG seconds at most; return the last result."""
    interval, deadline = FIRST * LAG, anyio.current_time() + LAG
    answer = await ask()
    while not is_caught_up(answer) and anyio.current_time() < deadline:
        await anyio.sleep(min(interval, max(0.0, deadline - anyio.current_time())))
        interval = min(2 * interval, LONGEST * LAG)
        answer = await ask()
    return answer
