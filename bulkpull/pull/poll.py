"""Poll: from a launched export to its links."""

from __future__ import annotations

import random

import anyio

from bulkpull.clickwrap import Export
from bulkpull.errors import NotFoundError
from bulkpull.events import OnEvent, Polled
from bulkpull.pull.api import Api
from bulkpull.window import Window

FIRST = 0.5  # seconds
SHARE = 0.25  # of the time waited so far: an export is noticed within about an eighth of its duration on average
MOST = 30.0  # seconds
JITTER = 0.2  # share by which an interval varies, so that exports launched together drift apart


class ExportFailure(Exception):  # noqa: N818 - never leaves the pull: the launch turns it into ExportError
    """An export that will not succeed; the message is the API's, or says what was waited for."""


def interval(waited: float) -> float:
    """Seconds to the next poll of an export launched `waited` seconds ago: short at first, then in proportion."""
    return min(MOST, max(FIRST, SHARE * waited)) * random.uniform(1 - JITTER, 1 + JITTER)


async def poll(api: Api, window: Window, export: Export, *, export_timeout: float, on_event: OnEvent) -> Export:
    """Asks for `export` until it has succeeded.

    Raises ExportFailure where it failed, vanished, or is not done after `export_timeout` seconds.
    """
    launched = anyio.current_time()
    with anyio.move_on_after(export_timeout):
        while not export.succeeded:
            if export.failed:
                raise ExportFailure(export.message or "it failed, and the API gave no message")
            await anyio.sleep(interval(anyio.current_time() - launched))
            try:
                export = await api.get_export(export.id)
            except NotFoundError as error:
                raise ExportFailure(f"it vanished: {error}") from error
            on_event(Polled(window, export.id, export.status, anyio.current_time() - launched))
        return export
    raise ExportFailure(f"it was still {export.status} after {export_timeout:g} s")
