"""The state of a pull, counted from its events."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field

from bulkpull import events
from bulkpull.events import Event

_RATE_SPAN_S = 5.0


@dataclass(slots=True)
class State:
    """Progress of a pull: a listener that counts."""

    began: float = field(default_factory=time.monotonic)
    probes: int = 0
    windows: int = 0
    merged_before: int = 0  # windows merged by earlier runs
    launched: set[int] = field(default_factory=set)  # indices of windows launched by this run
    exported: dict[int, int] = field(default_factory=dict)  # number of parts, by index of the window
    downloaded: Counter[int] = field(default_factory=Counter)  # number of parts, by index of the window
    merged: int = 0  # windows merged or skipped
    limit: int = 0  # maximum exports in flight
    rows: int = 0
    rendered: tuple[int, int] | None = None  # bytes of merged CSV: rendered, and in all so far
    bytes: int = 0
    arrivals: deque[tuple[float, int]] = field(default_factory=deque)

    def __call__(self, event: Event) -> None:
        match event:
            case events.Requested() if not self.windows:
                self.probes += 1
            case events.Planned():
                self.windows = len(event.windows)
            case events.Resumed():
                self.merged = self.merged_before = event.merged + event.skipped
                self.rows = event.rows
            case events.Launched() | events.Polled():
                self.launched.add(event.window.index)
            case events.Exported():
                self.launched.add(event.window.index)
                self.exported[event.window.index] = event.parts
            case events.ExportFailed():
                self.exported.pop(event.window.index, None)
                self.downloaded.pop(event.window.index, None)
            case events.Split():
                self.windows += len(event.pieces)
                if not event.is_merged:  # its export is of no use
                    self.windows -= 1
                    self.launched.discard(event.window.index)
                    self.exported.pop(event.window.index, None)
                    self.downloaded.pop(event.window.index, None)
            case events.Skipped():
                self.merged += 1
                self.exported[event.window.index] = 0
            case events.Limited():
                self.limit = event.exports
            case events.Received():
                self.bytes += event.size
                self.arrivals.append((time.monotonic(), self.bytes))
                self.forget_old_arrivals()
            case events.PartFetched():
                self.downloaded[event.window.index] += 1
            case events.PartMerged():
                self.rows += event.rows
            case events.WindowMerged():
                self.merged += 1
            case events.Rendered():
                self.rendered = (event.size, event.merged)

    @property
    def in_flight(self) -> int:
        """Exports in flight."""
        return len(self.launched) - len(self.exported)

    @property
    def exports_launched(self) -> int:
        """Windows whose export was launched, those merged by earlier runs included."""
        return self.merged_before + len(self.launched)

    @property
    def exports_done(self) -> int:
        """Windows whose export succeeded, those merged by earlier runs included."""
        return self.merged_before + len(self.exported)

    @property
    def parts(self) -> int:
        """Parts of the exports that succeeded."""
        return sum(self.exported.values())

    @property
    def rate(self) -> float:
        """Recent bytes per second."""
        self.forget_old_arrivals()
        if not self.arrivals:
            return 0.0
        since, before = self.arrivals[0]
        return (self.bytes - before) / max(1.0, time.monotonic() - since)

    def forget_old_arrivals(self) -> None:
        """Drop arrivals that are too old for the rate."""
        now = time.monotonic()
        while self.arrivals and now - self.arrivals[0][0] > _RATE_SPAN_S:
            self.arrivals.popleft()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    @property
    def remaining(self) -> float | None:
        """Estimated seconds until the end, at the average speed so far; None before the first window is merged."""
        merged = self.merged - self.merged_before
        return self.elapsed / merged * (self.windows - self.merged) if merged else None
