"""Recorder: from the events of a pull to the moments of its timeline."""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from bulkpull.events import (
    Event,
    Exported,
    ExportFailed,
    Launched,
    Limited,
    PartFetched,
    Planned,
    Polled,
    Received,
    Refused,
    Requested,
    Retried,
    Skipped,
    Split,
    TaskEnded,
    Throttled,
    WindowAppended,
)
from bulkpull.journal.timeline import Moment

_MAX_PENDING = 100_000  # moments that wait for the journal; the oldest are dropped
_MAX_REASON_CHARACTERS = 300
_PRIVATE = re.compile(r"(?P<host>https?://[^/\s?#]+)[^\s'\")]*|[^\s<>()'\"=,;:]+@[\w.-]+")  # links, e-mail addresses


class Recorder:
    """A listener, called in the event loop. Its `moments` wait there for the journal, which takes them in any thread.

    Requests and bytes are added up for each second, since there may be thousands.

    Args:
        requests_per_minute: The quota of requests.
        exports: Maximum concurrent exports.
        downloads: Maximum concurrent downloads.
        is_adaptive: Whether the number of exports adapts to the API, up to that maximum.
    """

    def __init__(self, requests_per_minute: int, exports: int, downloads: int, *, is_adaptive: bool) -> None:
        self.moments: deque[Moment] = deque(maxlen=_MAX_PENDING)
        # The loop's clock does not jump. It is asked for each chunk that is received, so not by way of anyio.
        self._clock = asyncio.get_running_loop().time
        self._offset = time.time() - self._clock()
        self._traffic_second = int(self._now())
        self._requests = self._bytes = 0
        self._seen: set[tuple[str, str]] = set()  # states of exports, which are recorded the first time only
        self._downloading: set[int] = set()  # windows of whose newest export bytes have come
        self._last_queued: dict[str, float] = {}  # by export
        self._recorders: dict[type[Event], Callable[[Any], None]] = {
            Received: self._received,
            Requested: self._requested,
            Polled: self._polled,
            Planned: lambda event: self._add("planned", None, len(event.windows), event.probes),
            Launched: lambda event: self._add("launched", event.window.index),
            Exported: self._exported,
            PartFetched: lambda event: self._add("downloaded", event.window.index, event.size),
            WindowAppended: lambda event: self._add("merged", event.window.index, event.seconds),
            ExportFailed: lambda event: self._add("failed", event.window.index, text=event.reason),
            Split: lambda event: self._add("split", event.window.index, text=event.reason),
            Skipped: lambda event: self._add("skipped", event.window.index, text=event.reason),
            Refused: lambda event: self._add("refused", event.window.index, event.exports, text=event.reason),
            Retried: lambda event: self._add("retried", None, event.wait, text=event.reason),
            Throttled: lambda event: self._add("throttled", None, event.wait),
            TaskEnded: lambda event: self._add("task", None, event.seconds, text=f"{event.task} {event.worker}"),
            Limited: lambda event: self._add("limited", None, event.exports, event.downloads),
        }
        self._add("run", None, requests_per_minute)
        self._add("options", None, exports, downloads, "adaptive" if is_adaptive else "")

    def __call__(self, event: Event) -> None:
        """Record an event."""
        if record := self._recorders.get(type(event)):
            record(event)

    def end_run(self, *, is_published: bool) -> None:
        """Record that the run ends."""
        self._add_traffic()
        self._add("ended", None, int(is_published))

    def _now(self) -> float:
        return self._clock() + self._offset

    def _add(
        self,
        kind: str,
        window: int | None,
        number: float | None = None,
        other: float | None = None,
        text: str = "",
    ) -> None:
        self.moments.append(Moment(self._now(), kind, window, number, other, without_private(text)))

    def _polled(self, event: Polled) -> None:
        if event.state == "queued":
            self._last_queued[event.export_id] = self._now()
        key = (event.state, event.export_id)
        if event.state in ("queued", "running") and key not in self._seen:
            self._seen.add(key)
            self._add(event.state, event.window.index)

    def _exported(self, event: Exported) -> None:
        last_queued = self._last_queued.pop(event.export_id, None)
        self._add("ready", event.window.index, event.parts, last_queued)
        self._downloading.discard(event.window.index)

    def _received(self, event: Received) -> None:
        if event.window.index not in self._downloading:
            self._downloading.add(event.window.index)
            self._add("downloading", event.window.index)
        self._count(0, event.size)

    def _requested(self, _event: Requested) -> None:
        self._count(1, 0)

    def _count(self, requests: int, size: int) -> None:
        second = int(self._now())
        if second != self._traffic_second:
            self._add_traffic()
            self._traffic_second = second
        self._requests += requests
        self._bytes += size

    def _add_traffic(self) -> None:
        if self._requests or self._bytes:
            self.moments.append(Moment(self._traffic_second, "traffic", None, self._requests, self._bytes))
        self._requests = self._bytes = 0


def without_private(text: str) -> str:
    """Return a reason without what may identify a person or give access: e-mail addresses, and links but their host."""
    return _PRIVATE.sub(lambda found: found["host"] or "(e-mail address)", text)[:_MAX_REASON_CHARACTERS]
