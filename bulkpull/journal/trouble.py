"""What a pull waits out, as its journal holds it for other processes."""

from __future__ import annotations

from typing import Literal, Self

import orjson

from bulkpull.journal.recorder import without_private
from bulkpull.record import record
from bulkpull.waits import MIN_SHOWN_WAIT_S, Wait


@record
class Trouble:
    """An outage, or a wait for the request budget. Times are seconds since 1970.

    Args:
        kind: As of `Wait`.
        since: When the outage began.
        until: When the next request is sent, or until when a failing one is retried; None if unknown.
        host: Which host fails.
        reason: How it fails.
    """

    kind: Literal["outage", "quota"]
    since: float
    until: float | None
    host: str = ""
    reason: str = ""

    @classmethod
    def of(cls, wait: Wait, now: float) -> Self | None:
        """Return the trouble that a pull waits out; None if it waits for something else."""
        if wait.kind != "outage" and wait.kind != "quota":
            return None
        until = None if wait.left is None else now + wait.left
        return cls(wait.kind, now - wait.since, until, wait.host, without_private(wait.reason))

    def wait(self, now: float) -> Wait | None:
        """Return what the pull waits for at this time; None if that is over."""
        left = None if self.until is None else self.until - now
        if self.kind == "quota":
            return None if left is None or left < MIN_SHOWN_WAIT_S else Wait("quota", left=left)
        left = None if left is None else max(0.0, left)
        return Wait("outage", left=left, since=max(0.0, now - self.since), host=self.host, reason=self.reason)

    def encoded(self) -> str:
        """Return it as text."""
        return orjson.dumps(self).decode()

    @classmethod
    def decoded(cls, text: str) -> Self:
        """Return what `encoded` has turned into text."""
        return cls(**orjson.loads(text))
