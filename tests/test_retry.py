"""Backoff, limits and Retry-After."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from bulkpull.errors import UsageError
from bulkpull.events import Event, Retried, ignore
from bulkpull.retry import RetryPolicy, TransientError, retry_after
from tests.clock import on_a_jumping_clock


def failing(times: int, *, wait: float = 0.0, policy: RetryPolicy) -> tuple[list[Retried], bool]:
    """What is announced while something fails `times` times, and whether it succeeded in the end."""
    heard: list[Event] = []
    left = times

    async def attempt() -> bool:
        nonlocal left
        left -= 1
        if left >= 0:
            raise TransientError("no luck", wait=wait)
        return True

    async def main() -> bool:
        try:
            result, attempts = await policy.retried("GET /x", attempt, heard.append)
        except TransientError:
            return False
        assert attempts == times + 1
        return result

    succeeded = on_a_jumping_clock(main)
    return [event for event in heard if isinstance(event, Retried)], succeeded


def test_backoff_is_full_jitter_under_a_doubling_bound() -> None:
    waits = [
        [event.wait for event in failing(7, policy=RetryPolicy(attempts=8, base=1, cap=30, seconds=1000))[0]]
        for _ in range(200)
    ]
    for number, bound in enumerate([1, 2, 4, 8, 16, 30, 30]):
        drawn = [run[number] for run in waits]
        assert max(drawn) <= bound
        assert max(drawn) > 0.8 * bound  # the whole span is used
        assert min(drawn) < 0.2 * bound


def test_attempts_are_limited() -> None:
    announced, succeeded = failing(100, policy=RetryPolicy(attempts=4))
    assert [event.attempt for event in announced] == [1, 2, 3]
    assert not succeeded


def test_time_is_limited() -> None:
    announced, succeeded = failing(100, wait=20, policy=RetryPolicy(attempts=50, seconds=50))
    assert len(announced) == 2
    assert not succeeded


def test_the_server_may_ask_for_a_longer_wait() -> None:
    announced, succeeded = failing(1, wait=42, policy=RetryPolicy())
    assert [event.wait for event in announced] == [42]
    assert succeeded


def test_other_errors_are_not_tried_again() -> None:
    calls = 0

    async def attempt() -> None:
        nonlocal calls
        calls += 1
        raise ZeroDivisionError

    async def main() -> None:
        await RetryPolicy().retried("x", attempt, ignore)

    with pytest.raises(ZeroDivisionError):
        on_a_jumping_clock(main)
    assert calls == 1


def test_impossible_policies_are_refused() -> None:
    with pytest.raises(UsageError):
        RetryPolicy(attempts=0)
    with pytest.raises(UsageError):
        RetryPolicy(seconds=-1)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7),
        (" 7 ", 7),
        ("soon", None),
        ("-3", None),
        ("", None),
        ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", None),
    ],
)
def test_retry_after_in_seconds(value: str | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds


def test_retry_after_as_a_date() -> None:
    moment = datetime.now(UTC) + timedelta(seconds=30)
    assert retry_after(format_datetime(moment, usegmt=True)) == pytest.approx(30, abs=2)
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
