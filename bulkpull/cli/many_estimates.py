"""Estimates of several pulls, from earlier ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
from anyio import to_thread

from bulkpull import BulkpullError, PullOptions
from bulkpull.background import Background
from bulkpull.cli.jobs_file import JobSettings
from bulkpull.eta import Prior
from bulkpull.journal import earlier_pull
from bulkpull.progress import Progress
from bulkpull.store import WorkDirectory, byte_stream_at


@asynccontextmanager
async def learning(
    figures: Mapping[str, Progress], settings: Sequence[JobSettings]
) -> AsyncIterator[Callable[[str], None]]:
    """Let the estimates of jobs start from earlier pulls: of jobs that begin, since that may take half a second each.

    Args:
        figures: Those of each job, by name.
        settings: Those of all jobs.

    Yields:
        A function to be called with the name of a job that has begun, as often as one likes.
    """
    left = {one.name: one for one in settings if isinstance(one.options, PullOptions)}
    send, receive = anyio.create_memory_object_stream[JobSettings](len(settings))

    def begin(name: str) -> None:
        if one := left.pop(name, None):
            send.send_nowait(one)

    async def learn(ready: Callable[[], None]) -> None:
        found: dict[tuple[Path, str], Prior | None] = {}
        ready()
        async for one in receive:
            if prior := await to_thread.run_sync(_prior, one, found):
                figures[one.name].assume(prior)

    background = Background(learn)
    await background.start()
    try:
        yield begin
    finally:
        await background.stop()
        send.close()
        receive.close()


def _prior(one: JobSettings, found: dict[tuple[Path, str], Prior | None]) -> Prior | None:
    """Return what an earlier pull has shown; jobs whose outputs are in one directory share it."""
    assert isinstance(one.options, PullOptions)
    with suppress(BulkpullError):  # of an output that cannot be, which its job tells
        if byte_stream_at(one.options.out) is None:
            key = WorkDirectory.of(one.options.out, one.options.state).path.parent, one.base_url
            if key not in found:
                earlier = earlier_pull(one.options.out, one.options.state, one.base_url)
                found[key] = earlier.prior if earlier else None
            return found[key]
    return None
