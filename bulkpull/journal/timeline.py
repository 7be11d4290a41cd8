"""The timeline of a pull: when what happened to its windows, requests and limits, in all its runs.

It says what the journal's other tables do not: how long each stage took. A pull neither reads nor needs it.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import astuple
from typing import NamedTuple

import orjson

from bulkpull.journal.records import Figures
from bulkpull.record import record

_ROUNDING_DIGITS = 3  # of a second


class Moment(NamedTuple):
    """Something that happened at `at`, in seconds since 1970.

    | kind | window | number | other | text |
    |---|---|---|---|---|
    | run (a run starts) | | maximum requests a minute | | |
    | options (of the run) | | maximum exports | maximum downloads | `adaptive`, if the number of exports is |
    | planned | | windows | requests that counted | |
    | launched, queued, running (first seen so) | yes | | | |
    | ready (the export succeeded) | yes | files | when it was last seen queued, like `at` | |
    | downloading (the first byte of a file) | yes | | | |
    | downloaded (a file is complete) | yes | bytes | | |
    | merged | yes | seconds it took | | |
    | failed, split, skipped | yes | | | the reason |
    | retried | | seconds until the next attempt | | the reason |
    | refused (a launch) | yes | exports in flight | | the reason |
    | throttled | | seconds | | |
    | task (a worker has ended it) | | seconds it took | | the task and the worker |
    | limited | | maximum exports | maximum downloads | |
    | traffic (in the second from `at`) | | requests | bytes received | |
    | ended (a run ends) | | 1 if the output is published | | |
    """

    at: float
    kind: str
    window: int | None = None
    number: float | None = None
    other: float | None = None
    text: str = ""


class TimelineWindow(NamedTuple):
    """A window: its number, the instants between which it lies, and its outcome. `counted`, `delivered` and `rows` are
    None while they are unknown. One that `is_split` has pieces in its place."""

    number: int
    start: str
    end: str
    counted: int | None
    delivered: int | None
    rows: int | None
    is_split: bool
    is_skipped: bool


@record
class Timeline:
    """The timeline of a pull. `start` and `end` are those of the range, `figures` those of the merged windows.
    `windows` are in order of time, `moments` in the order in which they were recorded."""

    start: str
    end: str
    is_filtered: bool
    format: str
    figures: Figures
    windows: tuple[TimelineWindow, ...]
    moments: tuple[Moment, ...]


def encoded(timeline: Timeline) -> str:
    """Return a timeline as text: JSON, column by column, compressed with zlib, in base64."""
    moments = [(round(at, _ROUNDING_DIGITS), *rest) for at, *rest in timeline.moments]
    document = {
        "pull": [timeline.start, timeline.end, timeline.is_filtered, timeline.format, astuple(timeline.figures)],
        "windows": list(zip(*timeline.windows, strict=True)),
        "moments": list(zip(*moments, strict=True)),
    }
    return base64.b64encode(zlib.compress(orjson.dumps(document))).decode()


def decoded(text: str) -> Timeline:
    """Return the timeline that `encoded` has turned into text. Raises ValueError if it is damaged."""
    try:
        document = orjson.loads(zlib.decompress(base64.b64decode(text, validate=True)))
        start, end, is_filtered, format, figures = document["pull"]
        return Timeline(
            start,
            end,
            is_filtered,
            format,
            Figures(*figures),
            tuple(TimelineWindow(*values) for values in zip(*document["windows"], strict=True)),
            tuple(Moment(*values) for values in zip(*document["moments"], strict=True)),
        )
    except (KeyError, TypeError, zlib.error) as error:
        raise ValueError(f"the timeline cannot be read: {error}") from error
