"""Poll: from a launched export to its links."""

from __future__ import annotations

import random

import anyio

from bulkpull.clickwrap import Export
from bulkpull.errors import NotFoundError
from bulkpull.events import OnEvent, Polled
from bulkpull.pull.api import Api
from bulkpull.pull.journey import ExportFailure
from bulkpull.window import Window

FIRST = 0.5  # seconds
SHARE = 0.25  # of the time waited so far: an export is noticed within about an eighth of its duration on average
MOST = 30.0  # seconds
JITTER = 0.2  # share by which an interval varies, so that exports launched together drift apart


def interval(waited: float) -> float:
    """Seconds to the next poll of an export launched `waited` seconds ago: short at first, then in proportion."""
    return min(MOST, max(FIRST, SHARE * waited)) * random.uniform(1 - JITTER, 1 + JITTER)


async def poll(
    api: Api, window: Window, export: Export, *, export_timeout: float, on_event: OnEvent, waited: float = 0.0
) -> Export:
    """Asks for `export`, launched `waited` seconds ago, until it has succeeded; at once where it was launched by an
    earlier run.

    Raises ExportFailure where it failed, vanished, or is not done when it is asked for `export_timeout` seconds after
    its launch or later: a time in which nothing can be asked does not count against it.
    """
    launched = anyio.current_time() - waited

    async def ask() -> Export:
        try:
            answer = await api.get_export(export.id)
        except NotFoundError as error:
            raise ExportFailure(export.id, f"it vanished: {error}") from error
        on_event(Polled(window, export.id, answer.status, anyio.current_time() - launched))
        return answer

    if waited:
        export = await ask()
    while not export.succeeded and not export.failed:
        waited = anyio.current_time() - launched
        if waited >= export_timeout:
            raise ExportFailure(export.id, f"it was still {export.status} after {export_timeout:g} s")
        await anyio.sleep(min(interval(waited), export_timeout - waited))
        export = await ask()
    if export.failed:
        raise ExportFailure(export.id, export.message or "it failed, and the API gave no message")
    return export
