"""The log of a pull: one record of the standard `logging` library per event, under the logger `bulkpull`.

Records hold no token, no link of a file and no row, and not the filter, unless a message of the API quotes it.
"""

from __future__ import annotations

import logging
import re
from contextvars import ContextVar
from dataclasses import fields
from logging import DEBUG, INFO, WARNING
from typing import Any

from bulkpull import events
from bulkpull.events import Event, Received, Rendered
from bulkpull.messages import message
from bulkpull.window import Window, instant

LOGGER = "bulkpull"
FIELDS_KEY = "bulkpull_fields"  # the attribute of a record that has all its fields

# The name of the job, where one call runs several pulls: each in a task of its own.
job_name: ContextVar[str] = ContextVar("name of the job whose events are logged")

_API, _PULL, _EXPORT, _DOWNLOAD, _MERGE, _CLUSTER = (
    logging.getLogger(f"{LOGGER}.{name}") for name in ("api", "pull", "export", "download", "merge", "cluster")
)

# The logger and the level of each event. Received and Rendered, which only count bytes, have none.
RECORDS: dict[type[Event], tuple[logging.Logger, int]] = {
    events.Requested: (_API, DEBUG),
    events.Retried: (_API, WARNING),
    events.Recovered: (_API, INFO),
    events.QuotaExhausted: (_API, INFO),
    events.Throttled: (_API, WARNING),
    events.Planned: (_PULL, INFO),
    events.CountsDoubted: (_PULL, WARNING),
    events.Resumed: (_PULL, INFO),
    events.Limited: (_PULL, DEBUG),
    events.Published: (_PULL, INFO),
    events.Launched: (_EXPORT, INFO),
    events.Polled: (_EXPORT, DEBUG),
    events.Exported: (_EXPORT, INFO),
    events.ExportFailed: (_EXPORT, WARNING),
    events.Split: (_EXPORT, WARNING),
    events.Refused: (_EXPORT, WARNING),
    events.Reconciling: (_EXPORT, WARNING),
    events.Skipped: (_EXPORT, WARNING),
    events.PartFetched: (_DOWNLOAD, INFO),
    events.MergeAwaited: (_DOWNLOAD, DEBUG),
    events.ColumnsDiffer: (_MERGE, WARNING),
    events.ColumnsEmpty: (_MERGE, WARNING),
    events.PartMerged: (_MERGE, INFO),
    events.WindowAppended: (_MERGE, DEBUG),
    events.WindowMerged: (_MERGE, INFO),
    events.WorkersChanged: (_CLUSTER, INFO),
    events.TaskEnded: (_CLUSTER, DEBUG),
    events.BucketMerged: (_CLUSTER, INFO),
    events.Deduplicated: (_CLUSTER, INFO),
}

_RENAMED = {"size": "bytes", "waited": "seconds", "wait": "wait_seconds", "left": "left_seconds"}
_OF_WINDOW = ("window", "window_start", "window_end")

# A library logs nothing unless its user wants it to; without a handler, Python would print warnings.
logging.getLogger(LOGGER).addHandler(logging.NullHandler())


def log(event: Event) -> None:
    """Log an event, if its logger is enabled for its level."""
    kind = type(event)
    if kind is Received or kind is Rendered:  # by far the most
        return
    found = RECORDS.get(kind)
    if found and found[0].isEnabledFor(found[1]):
        values, text = event_fields(event), message(event)
        if job := job_name.get(None):
            values, text = {"job": job} | values, f"{job}: {text}"
        found[0].log(found[1], "%s", text, extra=values | {FIELDS_KEY: values})


def event_name(kind: type[Event]) -> str:
    """Return the name of an event in records, such as `export_failed`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


def field_names(kind: type[Event]) -> list[str]:
    """Return the names of the fields of an event's record."""
    names = ["event"]
    for field in fields(kind):
        names += _OF_WINDOW if field.name == "window" else (_RENAMED.get(field.name, field.name),)
    return names


def event_fields(event: Event) -> dict[str, Any]:
    """Return the fields of an event's record: text, numbers and lists of text. A window is its number, from 1, and its
    bounds; several windows are how many they are."""
    kind = type(event)
    values: dict[str, Any] = {"event": _EVENT_NAMES[kind]}
    for name in _ATTRIBUTES[kind]:
        value = getattr(event, name)
        if name == "window":
            values |= _window(value)
        elif isinstance(value, tuple):
            values[name] = len(value) if name in ("windows", "pieces") else list(value)
        else:
            values[_RENAMED.get(name, name)] = value
    return values


_EVENT_NAMES = {kind: event_name(kind) for kind in RECORDS}
_ATTRIBUTES = {kind: tuple(field.name for field in fields(kind)) for kind in RECORDS}


def _window(window: Window | None) -> dict[str, Any]:
    if window is None:
        return dict.fromkeys(_OF_WINDOW)
    return {"window": window.index + 1, "window_start": instant(window.start), "window_end": instant(window.end)}
