"""Patience with backends that have not caught up: several may stand behind one API, or one file host."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

LAG = 10.0  # seconds for which an answer that contradicts an earlier one is asked for again before it is believed
FIRST, LONGEST = 0.05, 0.3  # of LAG, between two such questions: at first, and at most

T = TypeVar("T")


async def until(ask: Callable[[], Awaitable[T]], is_caught_up: Callable[[T], bool]) -> T:
    """Asks, again and again for LAG seconds, until an answer has caught up; returns the last answer."""
    interval, deadline = FIRST * LAG, anyio.current_time() + LAG
    answer = await ask()
    while not is_caught_up(answer) and anyio.current_time() < deadline:
        await anyio.sleep(min(interval, max(0.0, deadline - anyio.current_time())))
        interval = min(2 * interval, LONGEST * LAG)
        answer = await ask()
    return answer
