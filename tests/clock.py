"""A clock that jumps to the next timer: hours pass in milliseconds."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tests.simulation.clock import simulated

T = TypeVar("T")


def on_a_jumping_clock(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs `main` in an event loop whose time costs nothing."""
    return simulated(random.getrandbits(32), main)
