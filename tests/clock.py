"""A clock that jumps to the next timer: hours pass in milliseconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import looptime

T = TypeVar("T")


def on_a_jumping_clock(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs `main` in an event loop whose time costs nothing."""
    with asyncio.Runner(loop_factory=looptime.new_event_loop) as runner:
        return runner.run(main())
