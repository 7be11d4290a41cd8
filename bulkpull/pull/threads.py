"""Threads of a pull: work that blocks, off the event loop, under a limiter that belongs to the pull alone.

anyio's default limiter is shared by the whole process: a pull whose threads wait for each other could wait for ever
where other pulls, or the caller, hold all of its places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar, TypeVarTuple

import anyio
from anyio import to_thread

LONG_RUNNING = 4  # threads that may wait for others of the same pull: the merge, its commits, the output's rendering

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

_limiter: ContextVar[anyio.CapacityLimiter] = ContextVar("limiter of a pull's threads")


@contextmanager
def own_threads(short: int) -> Iterator[None]:
    """Gives this task, and those that it starts, a limiter of their own: `short` pieces of short work at a time, beside
    those that run for long."""
    token = _limiter.set(anyio.CapacityLimiter(short + LONG_RUNNING))
    try:
        yield
    finally:
        _limiter.reset(token)


async def in_thread(work: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
    """Runs `work` in a thread of the pull; cancellation waits for its end. Raises what it raises."""
    return await to_thread.run_sync(work, *arguments, limiter=_limiter.get(None))
