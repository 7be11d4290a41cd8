"""A virtual clock that jumps to the next timer, and no threads: a run depends on its seed alone."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from datetime import datetime, timedelta, tzinfo
from typing import Any, Self, TypeVar
from unittest.mock import patch

import anyio
from anyio.lowlevel import checkpoint

T = TypeVar("T")

TURNS = 100_000  # event loop iterations without a timer; more count as endless
EPOCH = 1_700_000_000  # the start of simulated time, in seconds since 1970


def simulated(seed: int, main: Callable[[], Awaitable[T]], *, hours: float = 10_000) -> T:
    """Run `main` on a virtual clock, in one thread, with all randomness drawn from the seed.

    Raises TimeoutError if it takes more than `hours` of simulated time, and RuntimeError for a deadlock or a busy loop.
    """

    async def limited() -> T:
        with anyio.fail_after(hours * 3600):
            return await main()

    state = random.getstate()
    random.seed(seed)
    try:
        with _without_threads(), asyncio.Runner(loop_factory=_Loop) as runner:
            return runner.run(limited())
    finally:
        random.setstate(state)


class _Clock(datetime):
    """A wall clock that follows the event loop's clock."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls.fromtimestamp(EPOCH, tz) + timedelta(seconds=asyncio.get_running_loop().time())


class _Jumping(selectors.DefaultSelector):
    """A selector without I/O: waiting for a timer advances the clock."""

    now = 0.0
    turns = 0  # iterations since the clock last advanced

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("deadlock: every task waits, and there is no timer")
        self.turns = self.turns + 1 if timeout <= 0 else 0
        if self.turns > TURNS:
            raise RuntimeError("busy loop: the clock does not advance")
        self.now += max(0.0, timeout)
        return []


class _Loop(asyncio.SelectorEventLoop):
    """An event loop in simulated time, without threads and without I/O."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._jumping.now

    def run_in_executor(self, _executor: object, work: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(work(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


class _Inline(Executor):
    """Runs work when it is submitted."""

    def __init__(self, *_options: object) -> None:
        pass

    def submit(self, work: Callable[..., T], /, *arguments: Any, **options: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(work(*arguments, **options))
        except Exception as error:
            future.set_exception(error)
        return future


def loop_time() -> float:
    """The time of the event loop, also in its callbacks: anyio does not know there which loop runs, if sniffio is
    installed."""
    return asyncio.get_running_loop().time()


@contextmanager
def _without_threads() -> Iterator[None]:
    async def run_sync(work: Callable[..., T], *arguments: object, **_options: object) -> T:
        await checkpoint()
        return work(*arguments)

    with (
        patch("anyio.to_thread.run_sync", run_sync),
        patch("anyio.from_thread.check_cancelled", lambda: None),
        patch("bulkpull.rows.dedup.ThreadPoolExecutor", _Inline),
        patch("bulkpull.rows.scan.ThreadPoolExecutor", _Inline),
        patch("bulkpull.store.local.LocalFile.take", lambda *_: None),  # waits in a thread for rows that are merged
        patch("bulkpull.journal.journal.datetime", _Clock),
        patch("bulkpull.journal.reading.datetime", _Clock),
    ):
        yield
