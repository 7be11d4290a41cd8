"""Running until finished or interrupted."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import anyio

T = TypeVar("T")


EXIT_INTERRUPTED = 130
_SHOW_CURSOR = "\x1b[?25h"


class Interrupted(Exception):  # noqa: N818 - not an error but what the user wanted
    """SIGINT or SIGTERM was received."""


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run `work` in an event loop. The first SIGINT or SIGTERM cancels it and raises Interrupted; a second one ends the
    process at once."""
    import anyio

    return anyio.run(_until_interrupted, work)


async def _until_interrupted(work: Callable[[], Awaitable[T]]) -> T:
    import anyio

    results: list[T] = []
    errors: list[Exception] = []
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            group.start_soon(_stop_on_signal, scope)
            try:
                results.append(await work())
            except Exception as error:  # raised below, without the group's wrapping
                errors.append(error)
        group.cancel_scope.cancel()
    if errors:
        raise errors[0]
    if not results:
        raise Interrupted("interrupted")
    return results[0]


async def _stop_on_signal(scope: anyio.CancelScope) -> None:
    import anyio

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            if scope.cancel_called:
                if sys.stderr.isatty():  # live progress hides the cursor
                    sys.stderr.write(_SHOW_CURSOR)
                    sys.stderr.flush()
                os._exit(EXIT_INTERRUPTED)
            scope.cancel()
