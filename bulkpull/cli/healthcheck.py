"""Pings to a monitor of scheduled jobs, by the conventions of healthchecks.io."""

from __future__ import annotations

import time
from threading import Thread
from urllib.error import HTTPError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import Request, urlopen

from bulkpull.errors import UsageError

ATTEMPTS = 3
TIMEOUT_S = 5.0
RETRY_WAIT_S = 1.0
_MAX_BODY_BYTES = 10_000


class Healthcheck:
    """The monitor of one job: `url`/start as it starts, `url` as it succeeds, `url`/fail as it fails.

    The URL is a secret, since whoever has it can ping. Raises UsageError, which does not contain it.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            is_usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            is_usable = False
        if not is_usable:
            raise UsageError("--healthcheck is not an http or https URL")
        self._parts = parts
        self._start: Thread | None = None

    def start(self) -> None:
        """Ping that the job has started, without waiting for the answer."""
        self._start = Thread(target=self._ping, args=("/start", ""), name="healthcheck", daemon=True)
        self._start.start()

    def end(self, failure: str | None, summary: str = "") -> str:
        """Ping how the job has ended. Return why that failed; empty if it did not.

        Args:
            failure: Why the job has failed; None if it has succeeded.
            summary: What it has done.
        """
        if self._start:
            self._start.join(ATTEMPTS * (TIMEOUT_S + RETRY_WAIT_S))
        return self._ping("", summary) if failure is None else self._ping("/fail", failure)

    def _ping(self, suffix: str, body: str) -> str:
        url = urlunsplit(self._parts._replace(path=self._parts.path.rstrip("/") + suffix, fragment=""))
        request = Request(url, body.encode()[:_MAX_BODY_BYTES], {"User-Agent": "bulkpull"}, method="POST")  # noqa: S310
        reason = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(RETRY_WAIT_S)
            try:
                with urlopen(request, timeout=TIMEOUT_S):  # noqa: S310 - the scheme is checked
                    return ""
            except HTTPError as error:
                reason = f"it answered {error.code}"
                error.close()
                if error.code < 500 and error.code != 429:
                    break
            except (OSError, ValueError) as error:  # their messages may contain the URL
                inner = getattr(error, "reason", error)
                reason = getattr(inner, "strerror", None) or type(inner).__name__
        return reason
