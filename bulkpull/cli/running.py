"""Running until finished or interrupted."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import anyio

T = TypeVar("T")


EXIT_INTERRUPTED = 130
_START_S = 2.0  # after which nearly all is imported
_SHOW_CURSOR = b"\x1b[?25h\r\n"


class Interrupted(Exception):  # noqa: N818 - not an error but what the user wanted
    """SIGINT or SIGTERM was received."""


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run `work` in an event loop. The first SIGINT or SIGTERM cancels it and raises Interrupted; a second one ends the
    process at once, whatever it does then."""
    import anyio

    interruption = _Interruption()
    former = {number: signal.signal(number, interruption.receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return anyio.run(_until_interrupted, work, interruption)
    finally:
        if not interruption.is_received:  # else a second signal may come while the process ends
            for number, handler in former.items():
                signal.signal(number, handler)


class _Interruption:
    """The handler of SIGINT and SIGTERM."""

    def __init__(self) -> None:
        self.is_received = False
        self._cancel: Callable[[], object] | None = None

    def receive(self, _number: int, _frame: object) -> None:
        """Cancel the work; end the process if it is being cancelled already."""
        if self.is_received:
            if os.isatty(2):  # live progress hides the cursor
                os.write(2, _SHOW_CURSOR)
            os._exit(EXIT_INTERRUPTED)
        self.is_received = True
        if self._cancel:
            self._cancel()

    def will_cancel(self, scope: anyio.CancelScope) -> None:
        """Cancel this scope of the running event loop once a signal comes, or at once if one has come."""
        from asyncio import get_running_loop

        loop = get_running_loop()

        def cancel() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(scope.cancel)

        self._cancel = cancel
        if self.is_received:
            scope.cancel()


async def _until_interrupted(work: Callable[[], Awaitable[T]], interruption: _Interruption) -> T:
    from asyncio import get_running_loop

    import anyio

    get_running_loop().call_later(_START_S, _freeze_imports)
    results: list[T] = []
    errors: list[Exception] = []
    with anyio.CancelScope() as scope:
        interruption.will_cancel(scope)
        try:
            results.append(await work())
        except Exception as error:  # raised below, outside of the scope
            errors.append(error)
    if errors:
        raise errors[0]
    if not results:
        raise Interrupted("interrupted")
    return results[0]


def _freeze_imports() -> None:
    """Exclude the objects of imports from garbage collection, which would block the event loop to scan them."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)
