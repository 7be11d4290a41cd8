"""Poll: from a launched export to its links."""

from __future__ import annotations

import anyio

from bulkpull import patience
from bulkpull.errors import NotFoundError
from bulkpull.events import OnEvent, Polled
from bulkpull.pacing.durations import Durations
from bulkpull.planning.size import suggests_smaller_export
from bulkpull.pull.journey import ExportFailure
from bulkpull.source import Export, Source
from bulkpull.window import Window


async def poll(
    source: Source,
    window: Window,
    export: Export,
    *,
    durations: Durations,
    peek: bool,
    export_timeout: float,
    on_event: OnEvent,
    waited: float = 0.0,
) -> Export:
    """Asks for `export`, launched `waited` seconds ago, until it has succeeded, whenever `durations` make that likely;
    at once where it was launched by an earlier run, and with `peek` soon for the first time, to see its status.

    Raises ExportFailure where it failed, stays unknown to the API, or is not done when it is asked for after the server
    has worked on it for `export_timeout` seconds, or kept it that long although nothing that was launched before it
    left the queue. Time in which nothing can be asked does not count.
    """
    launched = anyio.current_time() - waited

    async def ask() -> Export:
        asked = anyio.current_time()
        answer = await patience.until(lambda: known(source, export.id), lambda found: found is not None)
        if answer is None:
            raise ExportFailure(export.id, "it vanished: the API does not know it (404)")
        if answer.succeeded:
            durations.learn(wait, by=anyio.current_time())
        elif answer.failed:
            durations.leave_queue(wait, at=asked)
        else:
            durations.see(wait, queued=answer.state == "queued", at=asked)
        on_event(Polled(window, export.id, answer.status, answer.state, anyio.current_time() - launched))
        return answer

    with durations.waiting(window.rows, launched) as wait:
        if waited:
            export = await ask()
        while not export.succeeded and not export.failed:
            if anyio.current_time() - durations.running_since(wait) >= export_timeout:
                reason = f"it was still {export.status} after {export_timeout:g} s"
                raise ExportFailure(export.id, reason, too_large=export.state == "running")
            await durations.next_poll(wait, peek=peek, patience=export_timeout)
            export = await ask()
    if export.failed:
        reason = export.message or "it failed, and the API gave no message"
        explained = suggests_smaller_export(reason)
        raise ExportFailure(export.id, reason, too_large=explained, is_explained=explained)
    return export


async def known(source: Source, export_id: str) -> Export | None:
    """The export; None where the API does not know it, or not yet (404)."""
    try:
        return await source.get_export(export_id)
    except NotFoundError:
        return None
