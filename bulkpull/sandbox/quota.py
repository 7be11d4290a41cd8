"""The rate limit: requests per fixed period, which starts with the first request."""

from __future__ import annotations

import math
from dataclasses import field

from bulkpull.record import record


@record(frozen=False)
class _Count:
    since: float
    requests: int = 0


@record(frozen=False)
class RateLimit:
    """At most `requests` per `seconds` for each key (a token or an address)."""

    requests: int
    seconds: float = 60.0
    _counts: dict[str, _Count] = field(default_factory=dict)

    def retry_after(self, key: str, now: float) -> int | None:
        """Count a request at `now`; return None if it is allowed, else the whole seconds until the period ends."""
        count = self._counts.get(key)
        if count is None or now - count.since >= self.seconds:
            count = self._counts[key] = _Count(now)
        if count.requests >= self.requests:
            return max(1, math.ceil(count.since + self.seconds - now))
        count.requests += 1
        return None
