"""Retries with exponential backoff, for API requests and file downloads."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import anyio
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from bulkpull.errors import UsageError
from bulkpull.events import Event, Retried


class TransientError(Exception):
    """A failure that may be temporary.

    `wait` is the minimum number of seconds before the next attempt, as requested by the server. `status` is the HTTP
    status, if any. `undone` says that the request was certainly not processed.
    """

    def __init__(self, reason: str, *, status: int | None = None, wait: float = 0.0, undone: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.wait = wait
        self.undone = undone


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter, limited in attempts and in time.

    The wait before attempt n+1 is drawn from [0, min(cap, base * 2^(n-1))] seconds: "full jitter" in the AWS
    Architecture Blog's "Exponential Backoff And Jitter".

    Args:
        attempts: Maximum number of attempts.
        seconds: Seconds after the first failure beyond which no attempt starts.
        base: Upper bound of the first wait, in seconds.
        cap: Upper bound of every wait, in seconds.

    Raises:
        UsageError: An argument is out of range.
    """

    attempts: int = 1000
    seconds: float = 900.0
    base: float = 1.0
    cap: float = 30.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or min(self.seconds, self.base, self.cap) < 0:
            raise UsageError("a retry policy needs at least one attempt, and times that are not negative")

    def backoff(self, attempt: int) -> float:
        """Draw the wait after a failed attempt.

        Args:
            attempt: The number of the attempt, from 1.

        Returns:
            The wait in seconds.
        """
        return random.uniform(0, min(self.cap, self.base * 2.0 ** (attempt - 1)))

    def too_long_a_wait(self, error: TransientError) -> str:
        """Return the error message for a server that asks to wait longer than the limit.

        Args:
            error: The failure, with its `wait`.

        Returns:
            The message.
        """
        return (
            f"{error}, and it asks to wait {error.wait:,.0f} s, longer than failed requests are retried "
            f"({self.seconds:g} s, --retry-for). Try again later."
        )

    def retrying(self, what: str, on_event: Callable[[Event], None]) -> AsyncRetrying:
        """Return a retry controller for tenacity, which raises the TransientError of the last attempt.

        Args:
            what: The name of the request in events.
            on_event: Called with a `Retried` event before each wait.

        Returns:
            The controller: call it with a coroutine function, or iterate over its attempts.
        """
        first_failure: float | None = None

        def wait(state: RetryCallState) -> float:
            nonlocal first_failure
            if first_failure is None:
                first_failure = anyio.current_time()
            return max(_error(state).wait, self.backoff(state.attempt_number))

        def stop(state: RetryCallState) -> bool:
            elapsed, error = anyio.current_time() - (first_failure or 0.0), _error(state)
            if error.wait > self.seconds - elapsed:
                error.args = (self.too_long_a_wait(error),)
            return state.attempt_number >= self.attempts or elapsed + state.upcoming_sleep > self.seconds

        def announce(state: RetryCallState) -> None:
            on_event(Retried(what, state.attempt_number, state.upcoming_sleep, str(_error(state))))

        return AsyncRetrying(
            retry=retry_if_exception_type(TransientError),
            wait=wait,
            stop=stop,
            before_sleep=announce,
            sleep=anyio.sleep,
            reraise=True,
        )


def _error(state: RetryCallState) -> TransientError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, TransientError)
    return error


def retry_after(value: str | None) -> float | None:
    """Parse a `Retry-After` header, a number of seconds or an HTTP date (RFC 9110, 10.2.3), to seconds."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, (moment - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return None
