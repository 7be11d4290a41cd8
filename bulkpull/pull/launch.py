"""Launch: from a window to an export that has succeeded, launched again where one does not."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from bulkpull.clickwrap import Export
from bulkpull.clickwrap.filters import window_filter
from bulkpull.errors import ExportError
from bulkpull.events import Exported, ExportFailed, Launched, OnEvent
from bulkpull.pull.api import Api
from bulkpull.pull.poll import ExportFailure, poll
from bulkpull.window import Window

MAX_LAUNCHES = 3


async def launch(
    api: Api, window: Window, *, filter: str | None, fields: Sequence[str], export_timeout: float, on_event: OnEvent
) -> Export:
    """Launches the window's export and polls it until it has succeeded.

    An export that fails, vanishes or outlives `export_timeout` seconds is launched again, three times in all; then
    ExportError.
    """
    expression = window_filter(window, filter)
    for attempt in range(1, MAX_LAUNCHES + 1):
        if attempt > 1:
            await anyio.sleep(api.retry.backoff(attempt - 1))
        export = await api.start_export(expression, fields)
        launched = anyio.current_time()
        on_event(Launched(window, export.id, attempt))
        try:
            finished = await poll(api, window, export, export_timeout=export_timeout, on_event=on_event)
        except ExportFailure as failure:
            reason = str(failure)
            on_event(ExportFailed(window, export.id, attempt, reason))
        else:
            on_event(Exported(window, export.id, len(finished.links), anyio.current_time() - launched))
            return finished
    raise ExportError(
        f"{window}: none of its {MAX_LAUNCHES} exports succeeded; the last, {export.id}: {reason}. "
        "Try shorter windows, or a longer export timeout"
    )
