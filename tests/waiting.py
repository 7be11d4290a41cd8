"""Waiting for what nothing announces."""

from __future__ import annotations

from collections.abc import Callable

import anyio


async def until(holds: Callable[[], object], seconds: float = 20.0) -> None:
    """Returns as soon as `holds()` is true. Raises TimeoutError after so many seconds."""
    with anyio.fail_after(seconds):
        while not holds():  # noqa: ASYNC110
            await anyio.sleep(0.01)
