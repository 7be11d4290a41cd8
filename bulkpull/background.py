"""A task that holds resources open, so that they may be opened in one task and closed in another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import anyio

from bulkpull.errors import UsageError


class Background:
    """A task of its own around an async context, whose task groups and cancel scopes must not change tasks.

    Args:
        work: A coroutine function that calls its argument when it is ready, and then runs until it is cancelled.
    """

    def __init__(self, work: Callable[[Callable[[], None]], Coroutine[Any, Any, None]]) -> None:
        self._work = work
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the task and wait until it is ready. Raises what it raises before that."""
        require_asyncio()
        ready = asyncio.Event()
        self._task = asyncio.create_task(self._work(ready.set))
        self._task.add_done_callback(lambda _: ready.set())
        try:
            await ready.wait()
        except BaseException:
            await self.stop()
            raise
        if self._task.done():
            await self.stop()

    async def stop(self) -> None:
        """Cancel the task and wait for its end. Raises what it raised."""
        task, self._task = self._task, None
        if task is None:
            return
        await cancelled(task)
        if not task.cancelled():
            task.result()


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end, even where the waiting task is cancelled meanwhile."""
    task.cancel()
    again = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                again = error
    if again:
        raise again


def require_asyncio() -> None:
    """Raise UsageError where another library, such as Trio, runs the event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise UsageError(
            "bulkpull needs asyncio, since it uses aiohttp. Under Trio, run it in a thread with a loop of its own: "
            "await trio.to_thread.run_sync(asyncio.run, main())"
        ) from None
