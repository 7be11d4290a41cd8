"""The threads of a pull: blocking work off the event loop, under a limiter of the pull's own.

anyio's default limiter is shared by the whole process. A pull's threads wait for each other, so it would deadlock if
other pulls, or the caller, held all tokens of that limiter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar, TypeVarTuple

import anyio
from anyio import to_thread

_FILE_THREADS = 2  # open and close files
_LONG_RUNNING_THREADS = 4  # may wait for others of the same pull: the merge, its commits, the destination

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

_executor: ContextVar[ThreadPoolExecutor] = ContextVar("threads in which a pull opens and closes files")
_limiter: ContextVar[anyio.CapacityLimiter] = ContextVar("limiter of a pull's threads")


@contextmanager
def own_threads(short: int) -> Iterator[None]:
    """Give this task, and those that it starts, threads of their own.

    Args:
        short: How many threads may do short work at a time, in addition to the long-running ones.
    """
    limiter = _limiter.set(anyio.CapacityLimiter(short + _LONG_RUNNING_THREADS))
    pool = ThreadPoolExecutor(_FILE_THREADS, "files")
    executor = _executor.set(pool)
    try:
        yield
    finally:
        _limiter.reset(limiter)
        _executor.reset(executor)
        pool.shutdown()


def file_threads() -> ThreadPoolExecutor | None:
    """The pull's executor for aiofiles, whose default is that of the event loop; None outside a pull."""
    return _executor.get(None)


async def in_thread(work: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
    """Run `work` in a thread of the pull. Cancellation waits for its end. Raises what it raises."""
    return await to_thread.run_sync(work, *arguments, limiter=_limiter.get(None))
