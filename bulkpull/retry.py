"""The retry policy: what is retried, after how long, and when to give up. Used by the API's routes and downloads."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

from bulkpull.errors import UsageError
from bulkpull.record import record

if TYPE_CHECKING:  # the command line shows the policy's defaults, and must not wait for these
    from tenacity import AsyncRetrying, RetryCallState

    from bulkpull.events import Event

T = TypeVar("T")


class TransientError(Exception):
    """A request to the API failed, and may succeed when retried. Never leaves the client.

    `wait` is the minimum number of seconds until the next attempt that the server asked for, `status` the HTTP status
    if there was one. `undone` says that the request certainly had no effect.
    """

    def __init__(self, reason: str, *, status: int | None = None, wait: float = 0.0, undone: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.wait = wait
        self.undone = undone


@record
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
        """Return the seconds to wait after `attempt` (from 1) failed."""
        return random.uniform(0, min(self.cap, self.base * 2.0 ** (attempt - 1)))

    def describe_long_wait(self, reason: str, wait: float) -> str:
        """Return the message for a server that asks to wait longer than failures are retried."""
        return (
            f"{reason}; the server asks to wait {wait:,.0f} s, but failed requests are retried for {self.seconds:g} s "
            "only (--retry-for). Try again later"
        )

    async def retried(
        self, what: str, attempt: Callable[[], Awaitable[T]], on_event: Callable[[Event], None]
    ) -> tuple[T, int]:
        """Call `attempt` until it succeeds at `what`; return its result, and how many attempts that took. The last one
        raises its TransientError."""
        failed: list[TransientError] = []
        try:
            return await attempt(), 1
        except TransientError as error:
            failed.append(error)

        async def attempt_after_first() -> T:
            if failed:
                raise failed.pop()
            return await attempt()

        from bulkpull.threads import in_thread  # imports the event loop; the command line needs only the policy

        await in_thread(import_module, "tenacity")  # not before the first request of a process, which mostly succeeds
        attempts = self._attempts(what, on_event)
        return await attempts(attempt_after_first), int(attempts.statistics["attempt_number"])

    def _attempts(self, what: str, on_event: Callable[[Event], None]) -> AsyncRetrying:
        import anyio
        from tenacity import AsyncRetrying, retry_if_exception_type

        from bulkpull.events import Retried

        first_failure: float | None = None

        def wait(state: RetryCallState) -> float:
            nonlocal first_failure
            if first_failure is None:
                first_failure = anyio.current_time()
            return max(_error(state).wait, self.backoff(state.attempt_number))

        def stop(state: RetryCallState) -> bool:
            elapsed, error = anyio.current_time() - (first_failure or 0.0), _error(state)
            if error.wait > max(0.0, self.seconds - elapsed):
                error.args = (self.describe_long_wait(str(error), error.wait),)
            return state.attempt_number >= self.attempts or elapsed + state.upcoming_sleep > self.seconds

        def announce(state: RetryCallState) -> None:
            left = max(0.0, self.seconds - (anyio.current_time() - (first_failure or 0.0)))
            on_event(Retried(what, state.attempt_number, state.upcoming_sleep, str(_error(state)), left))

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
    from email.utils import parsedate_to_datetime

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
