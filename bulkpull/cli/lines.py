"""Which events have a line on the terminal."""

from __future__ import annotations

from bulkpull import events
from bulkpull.events import Event
from bulkpull.messages import message

_SHOWN = (
    events.ColumnsDiffer,
    events.CountsDoubted,
    events.ExportFailed,
    events.Reconciling,
    events.Refused,
    events.Resumed,
    events.Skipped,
    events.Split,
    events.Throttled,
)
_SILENT = (events.ColumnsEmpty, events.MergeAwaited, events.Published, events.Requested, events.WindowAppended)
_MIN_QUOTA_WAIT_S = 1.0


def line(event: Event, *, verbose: bool) -> str | None:
    """Return the line for an event, None if it has none: trouble always has one, progress if `verbose`."""
    if isinstance(event, _SHOWN) or (isinstance(event, events.Planned) and event.uncounted):
        return message(event)
    if not verbose:
        if isinstance(event, events.PartMerged) and event.outside:
            return f"{event.window}, part {event.part}: {event.outside:,} rows outside the window"
        return None
    if isinstance(event, _SILENT) or (isinstance(event, events.QuotaExhausted) and event.wait < _MIN_QUOTA_WAIT_S):
        return None
    return message(event) or None
