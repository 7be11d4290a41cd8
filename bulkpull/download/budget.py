"""The retry budget of a transfer: how often, and for how long, it is retried without progress."""

from __future__ import annotations

import anyio

from bulkpull import patience
from bulkpull.download.protocols import FileMissingError
from bulkpull.errors import FileNotReadyError, LinkExpiredError, MalformedPartError, PartError, TransferError
from bulkpull.record import record
from bulkpull.retry import RetryPolicy

MAX_RENEWALS = 5  # fresh links in a row without progress
MAX_MALFORMED = 3  # complete files that are not a CSV
PROGRESS_BYTES = 64 * 1024  # that a transfer must bring to reset its budget
# Fractions of patience.LAG: before a malformed file is downloaded again; between two requests for a missing file.
_MALFORMED_WAITS = (0.2, 0.8)
_FIRST_MISSING_WAIT, _MAX_MISSING_WAIT = 0.05, 0.3


@record
class Pause:
    """The wait in seconds after attempt number `attempt` failed."""

    attempt: int
    wait: float


class RetryBudget:
    """Decides after each failure how long to wait, or that it was the last.

    `offset` is where the transfer starts: bytes behind it are progress, which resets the budget.
    """

    def __init__(self, retry: RetryPolicy, offset: int = 0) -> None:
        self._retry = retry
        self._reached = offset
        self._has_restarted = False
        self._failures = _Streak()
        self._misses = _Streak()
        self._renewals = 0
        self._malformed = 0

    @property
    def next_attempt(self) -> int:
        """The number of the attempt that is being made."""
        return self._failures.count + 1

    def record_progress(self, offset: int) -> None:
        """Reset the budget if the transfer came far enough."""
        if offset >= self._reached + PROGRESS_BYTES:
            self._reached = offset
            self._failures, self._misses, self._renewals = _Streak(), _Streak(), 0

    def record_restart(self) -> None:
        """The file starts over. After the first time, only bytes beyond the furthest offset are progress: a host that
        always breaks at the same offset must not be retried forever."""
        if not self._has_restarted:
            self._reached = 0
        self._has_restarted = True

    def after_failure(self, error: TransferError) -> Pause:
        """Return the pause before the next attempt. Raises PartError if there is none."""
        self._failures.add()
        left = self._retry.seconds - self._failures.seconds
        if error.wait > max(0.0, left):
            raise PartError(self._retry.describe_long_wait(str(error), error.wait)) from error
        wait = max(error.wait, self._retry.backoff(self._failures.count))
        if self._failures.count >= self._retry.attempts or wait > left:
            raise PartError(f"download failed after {self._failures.count} attempts: {error}") from error
        return Pause(self._failures.count, wait)

    def after_missing(self, error: FileNotReadyError) -> Pause:
        """Return the pause before the host is asked again for a file that it does not have yet.

        Raises:
            FileMissingError: The file did not appear in time.
            PartError: The host still answers that it is being prepared.
        """
        self._misses.add()
        is_being_prepared = error.status == 202
        limit = max(self._retry.seconds, patience.LAG) if is_being_prepared else patience.LAG
        left = limit - self._misses.seconds
        if left <= 0 or error.wait > left:
            waited = f"{self._misses.seconds:,.0f} s"
            if is_being_prepared:
                raise PartError(f"{error}, after {waited} (--retry-for). Rerun later to resume") from error
            raise FileMissingError(f"{error}, after {waited}") from error
        longest = _MAX_MISSING_WAIT * patience.LAG
        if left <= limit - patience.LAG:
            longest = max(longest, self._retry.cap)
        wait = min(longest, _FIRST_MISSING_WAIT * patience.LAG * 2.0 ** (self._misses.count - 1))
        return Pause(self._misses.count, min(max(error.wait, wait), left))

    def after_expiry(self, error: LinkExpiredError) -> float:
        """Return the seconds until the link is renewed.

        Raises:
            FileNotReadyError: The host answered 404 to a fresh link: perhaps not all of its backends have the file yet.
            FileMissingError: Too many fresh links were rejected.
        """
        if error.status == 404 and self._renewals:
            raise FileNotReadyError(f"{error} to a fresh link", status=404) from error
        self._renewals += 1
        if self._renewals > MAX_RENEWALS:
            raise FileMissingError(f"{error} to {MAX_RENEWALS} fresh links") from error
        # The first link may simply have been old.
        return self._retry.backoff(self._renewals) if self._renewals > 1 else 0.0

    def after_malformed(self, error: MalformedPartError) -> Pause:
        """Return the pause before the file is downloaded again. Raises MalformedPartError after the last time."""
        self._malformed += 1
        if self._malformed == MAX_MALFORMED:
            raise MalformedPartError(f"the file host does not send a valid CSV: {error}") from error
        return Pause(self._malformed, _MALFORMED_WAITS[self._malformed - 1] * patience.LAG)


class _Streak:
    """Failures in a row."""

    def __init__(self) -> None:
        self.count = 0
        self._started = 0.0

    def add(self) -> None:
        if not self.count:
            self._started = anyio.current_time()
        self.count += 1

    @property
    def seconds(self) -> float:
        """Since the first of them."""
        return anyio.current_time() - self._started
