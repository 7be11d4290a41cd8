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

    Raises ExportFailure where it failed, vanished, or is not done when it is asked for `export_timeout` seconds after
    its launch or later: a time in which nothing can be asked does not count against it.
    """
    launched = anyio.current_time() - waited
    known = 0.0  # seconds after its launch, when it was last seen unfinished

    async def ask() -> Export:
        nonlocal known
        asked = anyio.current_time() - launched
        try:
            answer = await api.get_export(export.id)
        except NotFoundError as error:
            raise ExportFailure(export.id, f"it vanished: {error}") from error
        if answer.succeeded:
            durations.learn(window.rows, known, anyio.current_time() - launched)
        known = asked
        on_event(Polled(window, export.id, answer.status, anyio.current_time() - launched))
        return answer

    with durations.waiting(window.rows, launched):
        if waited:
            export = await ask()
        while not export.succeeded and not export.failed:
            if anyio.current_time() - launched >= export_timeout:
                reason = f"it was still {export.status} after {export_timeout:g} s"
                raise ExportFailure(export.id, reason, too_large=export.status not in QUEUED)
            await durations.next_poll(window.rows, launched, known, peek=peek, at_most=launched + export_timeout)
            export = await ask()
    if export.failed:
        raise ExportFailure(export.id, export.message or "it failed, and the API gave no message")
    return export
