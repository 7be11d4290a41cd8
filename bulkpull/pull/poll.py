"""Poll: from a launched export to its links."""

from __future__ import annotations

import anyio

from bulkpull.clickwrap import Export
from bulkpull.errors import NotFoundError
from bulkpull.events import OnEvent, Polled
from bulkpull.pull.api import Api
from bulkpull.pull.durations import Durations
from bulkpull.pull.journey import ExportFailure
from bulkpull.window import Window

QUEUED = frozenset({"pending", "scheduled"})  # the statuses of an export that the server does not work on yet


async def poll(
    api: Api,
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

    Raises ExportFailure where it failed, vanished, or is not done when it is asked for after the server has worked on
    it for `export_timeout` seconds: neither a time in which nothing can be asked counts against it, nor one in which it
    waits for others.
    """
    launched = anyio.current_time() - waited

    async def ask() -> Export:
        asked = anyio.current_time()
        try:
            answer = await api.get_export(export.id)
        except NotFoundError as error:
            raise ExportFailure(export.id, f"it vanished: {error}") from error
        if answer.succeeded:
            durations.learn(wait, by=anyio.current_time())
        elif not answer.failed:
            durations.see(wait, queued=answer.status in QUEUED, at=asked)
        on_event(Polled(window, export.id, answer.status, anyio.current_time() - launched))
        return answer

    with durations.waiting(window.rows, launched) as wait:
        if waited:
            export = await ask()
        while not export.succeeded and not export.failed:
            if anyio.current_time() - durations.running_since(wait) >= export_timeout:
                reason = f"it was still {export.status} after {export_timeout:g} s"
                raise ExportFailure(export.id, reason, too_large=export.status not in QUEUED)
            await durations.next_poll(wait, peek=peek, patience=export_timeout)
            export = await ask()
    if export.failed:
        raise ExportFailure(export.id, export.message or "it failed, and the API gave no message")
    return export
