"""What a pull waits for, and the troubles it waits out: learned from its events."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import field
from typing import Literal

from bulkpull.events import (
    Event,
    Exported,
    Launched,
    PartFetched,
    Planned,
    Polled,
    QuotaExhausted,
    Received,
    Recovered,
    Retried,
    Throttled,
)
from bulkpull.record import record

MIN_SHOWN_WAIT_S = 1.0  # a shorter wait for the quota is not worth telling
EXPIRY_S = 120.0  # after the time of the next attempt, when a trouble that is not heard of is over
_STATUS = re.compile(r"\d{3}\b")

Kind = Literal[
    "start",
    "count",
    "launch",
    "exports",
    "downloads",
    "merge",
    "backlog",
    "buckets",
    "render",
    "publish",
    "quota",
    "outage",
    "end",
]


@record
class Wait:
    """What a pull waits for at one moment.

    Args:
        kind: `start`: for the plan. `count`: for counts. `launch`: for launches. `exports`: for exports in flight.
            `downloads`: for files. `merge`: for the merge of the last windows. `backlog`: for the merge, which is
            slower than the downloads. `buckets`: for workers that merge them. `render`: for the conversion. `publish`:
            for the output to be published. `quota`: for the request budget. `outage`: for the host to answer. `end`:
            for nothing.
        number: Of exports, of files, of windows that wait for the merge, or of buckets.
        oldest: Seconds since the oldest export in flight was launched.
        oldest_window: The index of its window.
        usual: Seconds that exports usually take; None while none has finished.
        left: Seconds until the next request, or for which a failing one will still be retried; None if unknown.
        since: Seconds since the outage began.
        host: Which host fails: the API or the file host.
        reason: How it fails.
    """

    kind: Kind
    number: int = 0
    oldest: float = 0.0
    oldest_window: int | None = None
    usual: float | None = None
    left: float | None = None
    since: float = 0.0
    host: str = ""
    reason: str = ""

    def __str__(self) -> str:
        """Return one sentence without a full stop, such as "waiting for 6 exports (oldest 4:12, usually 3:30)"."""
        match self.kind:
            case "exports":
                usual = "" if self.usual is None else f", usually {clock(self.usual)}"
                return f"waiting for {plural(self.number, 'export')} (oldest {clock(self.oldest)}{usual})"
            case "downloads":
                return f"downloading {plural(self.number, 'file')}"
            case "backlog":
                return f"merge is the bottleneck: {plural(self.number, 'window')} behind"
            case "buckets":
                return f"workers merge {plural(self.number, 'bucket')}"
            case "quota":
                return f"quota: next request in {short(self.left or 0.0)}"
            case "outage":
                left = "" if self.left is None else f" for {short(self.left)} more"
                since = f" for {clock(self.since)}" if self.since >= 1 else ""
                what, _, reason = self.reason.partition(": ")
                return f"{self.host} {what}{since}, retrying{left}" + (f": {reason}" if reason else "")
        return _SENTENCES[self.kind]

    @property
    def brief(self) -> str:
        """The sentence for a narrow terminal."""
        match self.kind:
            case "exports":
                usual = "" if self.usual is None else f", usually {clock(self.usual)}"
                return f"{plural(self.number, 'export')}, oldest {clock(self.oldest)}{usual}"
            case "backlog":
                return f"merge is behind: {plural(self.number, 'window')}"
            case "outage":
                left = "" if self.left is None else f", {short(self.left)} more"
                return f"{self.host} {self.reason.partition(': ')[0]} for {clock(self.since)}{left}"
        return str(self)


_SENTENCES: dict[str, str] = {
    "start": "starting",
    "count": "counting the activity",
    "launch": "launching exports",
    "merge": "merging",
    "render": "converting to the output format",
    "publish": "publishing the output",
    "end": "complete",
}


@record(frozen=False)
class _Trouble:
    """Something that fails and is retried."""

    since: float
    order: int  # of its last failure among the events
    next_at: float
    ends_at: float | None
    host: str
    reason: str


@record(frozen=False)
class Troubles:
    """The requests that fail, and the pauses for the quota. Times are seconds on any monotonic clock."""

    quota_until: float = 0.0
    quota_waits: int = 0
    _failing: dict[str, _Trouble] = field(default_factory=dict)
    _order: int = 0  # of the last event
    _succeeded: int = 0  # the order of the last success

    def __call__(self, event: Event, now: float) -> None:
        """Take account of an event."""
        if not self._failing and isinstance(event, Received):  # of which there are very many
            return
        self._order += 1
        match event:
            case Retried() if event.wait > 0:
                before = self._failing.get(event.what)
                self._failing[event.what] = _Trouble(
                    since=before.since if before else now,
                    order=self._order,
                    next_at=now + event.wait,
                    ends_at=None if event.left is None else now + event.left,
                    host=_host(event),
                    reason=_reason(event),
                )
            case Recovered():
                self._failing.pop(event.what, None)
                self._succeeded = self._order
            case Throttled() | QuotaExhausted():
                if event.wait >= MIN_SHOWN_WAIT_S:
                    self.quota_waits += 1
                self.quota_until = max(self.quota_until, now + event.wait)
            case Received() | PartFetched():
                if self._failing:
                    self._failing.pop(f"{event.window}, part {event.part}", None)
                self._succeeded = self._order
            case Planned() | Launched() | Polled() | Exported():
                self._succeeded = self._order

    def wait(self, now: float) -> Wait | None:
        """Return the wait that the troubles cause; None if the pull makes progress all the same."""
        current = [one for one in self._current(now) if one.order > self._succeeded]
        if current:
            longest = min(current, key=lambda one: one.since)
            latest = max(current, key=lambda one: one.order)
            left = None if longest.ends_at is None else max(0.0, longest.ends_at - now)
            return Wait("outage", left=left, since=now - longest.since, host=latest.host, reason=latest.reason)
        if self.quota_until - now >= MIN_SHOWN_WAIT_S:
            return Wait("quota", left=self.quota_until - now)
        return None

    def _current(self, now: float) -> Iterator[_Trouble]:
        for what, trouble in list(self._failing.items()):
            if now > trouble.next_at + EXPIRY_S:
                del self._failing[what]
            else:
                yield trouble


def _host(event: Retried) -> str:
    return "file host" if ", part " in event.what else "API"


def _reason(event: Retried) -> str:
    return f"answers {event.reason[:3]}" if _STATUS.match(event.reason) else f"fails: {event.reason}"


def clock(seconds: float) -> str:
    """Return a duration such as 0:07, 4:12 or 1:02:03."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def short(seconds: float) -> str:
    """Return a duration in one unit, such as 12 s, 14 min or 3 h."""
    if seconds < 90:
        return f"{max(0, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def plural(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
