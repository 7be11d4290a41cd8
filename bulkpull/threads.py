"""Threads of a pull: work that blocks, off the event loop, under a limiter that belongs to the pull alone.

anyio's default limiter is shared by the whole process: a pull whose threads wait for each other could wait for ever
where other pulls, or the caller, hold all of its places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar, TypeVarTuple

import anyio
from anyio import to_thread

FILE_THREADS = 2  # that open and close files
LONG_RUNNING = 4  # threads that may wait for others of the same pull: the merge, its commits, the output's rendering

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

_executor: ContextVar[ThreadPoolExecutor] = ContextVar("threads in which a pull opens and closes files")
_limiter: ContextVar[anyio.CapacityLimiter] = ContextVar("limiter of a pull's threads")


@contextmanager
def own_threads(short: int) -> Iterator[None]:
    """Gives this task, and those that it starts, a limiter of their own: `short` pieces of short work at a time, beside
    those that run for long."""
    limiter = _limiter.set(anyio.CapacityLimiter(short + LONG_RUNNING))
    pool = ThreadPoolExecutor(FILE_THREADS, "files")
    executor = _executor.set(pool)
    try:
        yield
    finally:
        _limiter.reset(limiter)
        _executor.reset(executor)
        pool.shutdown()


def file_threads() -> ThreadPoolExecutor | None:
    """The threads of the pull for aiofiles, which would take the event loop's otherwise; None outside of a pull."""
    return _executor.get(None)


async def in_thread(work: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
    """Runs `work` in a thread of the pull; cancellation waits for its end. Raises what it raises."""
    return await to_thread.run_sync(work, *arguments, limiter=_limiter.get(None))
