"""Launch: from a window to an export that runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio
from anyio.lowlevel import checkpoint

from bulkpull.errors import ApiError
from bulkpull.journal import Journal
from bulkpull.pull.journey import cancelled_from_within
from bulkpull.source import Export, Source
from bulkpull.threads import in_thread
from bulkpull.window import Window

GRACE = 3.0  # seconds that a cancelled launch waits for its answer

T = TypeVar("T")


async def launch(
    source: Source, window: Window, journal: Journal, *, filter: str | None, fields: Sequence[str]
) -> Export:
    """Launches the window's export; the journal knows of it before and after, and that it was perhaps made where no
    answer came.

    An export whose id is lost is lost itself, since the API lists none. So a launch that is cancelled still waits for
    its answer, for a moment.
    """
    number = await in_thread(journal.record_launch, window)

    async def start() -> Export:
        try:
            export = await source.start_export(source.window_filter(window, filter), fields)
        except ApiError as error:
            await in_thread(journal.forget_launch if error.undone else journal.record_lost_answer, number)
            raise
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await in_thread(journal.record_lost_answer, number)
            raise
        await in_thread(journal.record_export, number, export.id)
        return export

    return await _settled(start)


async def _settled(work: Callable[[], Awaitable[T]]) -> T:
    """What `work` returns; a cancellation leaves it GRACE seconds."""
    results: list[T] = []
    errors: list[Exception] = []
    async with anyio.create_task_group() as group:
        with anyio.CancelScope(shield=True) as scope:

            async def limit_once_cancelled() -> None:
                try:
                    await anyio.sleep_forever()
                finally:
                    scope.deadline = anyio.current_time() + GRACE

            group.start_soon(limit_once_cancelled)
            try:
                results.append(await work())
            except Exception as error:  # comes out below, without the group's wrapping
                errors.append(error)
        group.cancel_scope.cancel()
    if errors:
        raise errors[0]
    if not results:
        await checkpoint()  # the answer did not come within the grace: the cancellation goes on
        raise cancelled_from_within()
    return results[0]
