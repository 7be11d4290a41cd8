"""Counts at the API, several at a time."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from bulkpull.planning import count_window
from bulkpull.source import Source
from bulkpull.window import Window

_MAX_CONCURRENT_COUNTS = 8


async def count_all(source: Source, windows: Sequence[Window], filter: str | None) -> list[int]:
    """Count the activities in each window, with one request each.

    Raises CountUnavailable, and the source's errors if the token is rejected or the source is unreachable.
    """
    counts = [0] * len(windows)
    failures: list[Exception] = []
    limiter = anyio.CapacityLimiter(_MAX_CONCURRENT_COUNTS)

    async def count(at: int) -> None:
        try:
            async with limiter:
                counts[at] = await count_window(source, windows[at].start, windows[at].end, filter)
        except Exception as failure:  # of a listener, too
            failures.append(failure)
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for at in range(len(windows)):
            group.start_soon(count, at)
    for failure in failures:  # raised here, so that it is not wrapped in an exception group
        raise failure
    return counts
