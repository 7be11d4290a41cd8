"""The retry budget of a transfer, and what it learns about its host, on a clock that jumps."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull import (
    FileNotReadyError,
    LinkExpiredError,
    MalformedPartError,
    PartError,
    RetryPolicy,
    TransferError,
    patience,
)
from bulkpull.download import FileMissingError, Version
from bulkpull.download.budget import MAX_MALFORMED, MAX_RENEWALS, PROGRESS_BYTES, RetryBudget
from bulkpull.download.host import MAX_FAILURES, PromisedLengths, RangeSupport
from tests.clock import on_a_jumping_clock

BROKEN = TransferError("broken")


async def failures(budget: RetryBudget, *, progress: int = 0) -> int:
    """How many failures the budget allows, each `progress` bytes after the one before."""
    count = offset = 0
    while count < 1000:
        offset += progress
        budget.record_progress(offset)
        try:
            pause = budget.after_failure(BROKEN)
        except PartError:
            break
        await anyio.sleep(pause.wait)
        count += 1
    return count


@pytest.mark.parametrize(("progress", "allowed"), [(0, 4), (1, 4), (PROGRESS_BYTES // 8, 4), (PROGRESS_BYTES, 1000)])
def test_attempts_are_limited_unless_the_transfer_makes_progress(progress: int, allowed: int) -> None:
    async def main() -> int:
        return await failures(RetryBudget(RetryPolicy(attempts=5, base=0)), progress=progress)

    assert on_a_jumping_clock(main) == allowed


def test_seconds_are_counted_from_the_first_failure() -> None:
    async def main() -> float:
        budget = RetryBudget(RetryPolicy(seconds=60, base=5, cap=5))
        await anyio.sleep(1000)  # of a transfer that works
        started = anyio.current_time()
        await failures(budget)
        return anyio.current_time() - started

    assert 40 < on_a_jumping_clock(main) <= 60


def test_a_host_that_always_breaks_at_the_same_offset_is_not_retried_forever() -> None:
    async def main() -> int:
        budget = RetryBudget(RetryPolicy(attempts=5, base=0))
        count = 0
        with pytest.raises(PartError):
            while count < 100:
                budget.record_restart()
                budget.record_progress(10 * PROGRESS_BYTES)
                budget.after_failure(BROKEN)
                count += 1
        return count

    assert on_a_jumping_clock(main) <= 8


def test_a_wait_that_the_host_asks_for_is_kept_or_refused() -> None:
    async def main() -> None:
        budget = RetryBudget(RetryPolicy(seconds=60, base=0))
        assert budget.after_failure(TransferError("busy", wait=50)).wait == 50
        with pytest.raises(PartError, match=r"busy; the server asks to wait 86,400 s, .* 60 s only \(--retry-for\)"):
            budget.after_failure(TransferError("busy", wait=86_400))

    on_a_jumping_clock(main)


@pytest.mark.parametrize(("status", "kind", "seconds"), [(404, FileMissingError, patience.LAG), (202, PartError, 100)])
def test_a_missing_file_is_waited_for_and_longer_if_it_is_being_prepared(
    status: int, kind: type[PartError], seconds: float
) -> None:
    async def main() -> float:
        budget = RetryBudget(RetryPolicy(seconds=100))
        started = anyio.current_time()
        with pytest.raises(kind, match=r"^nothing yet, after"):
            for _ in range(1000):
                await anyio.sleep(budget.after_missing(FileNotReadyError("nothing yet", status=status)).wait)
        return anyio.current_time() - started

    assert on_a_jumping_clock(main) == pytest.approx(seconds)


def test_fresh_links_are_limited_and_a_404_to_one_is_waited_for() -> None:
    async def main() -> None:
        budget = RetryBudget(RetryPolicy(base=0))
        assert [budget.after_expiry(LinkExpiredError("403", status=403)) for _ in range(MAX_RENEWALS)] == [0.0] * 5
        with pytest.raises(FileMissingError, match=r"^403 to 5 fresh links$"):
            budget.after_expiry(LinkExpiredError("403", status=403))
        budget = RetryBudget(RetryPolicy(base=0))
        budget.after_expiry(LinkExpiredError("404", status=404))
        with pytest.raises(FileNotReadyError):
            budget.after_expiry(LinkExpiredError("404", status=404))

    on_a_jumping_clock(main)


def test_malformed_files_are_limited() -> None:
    async def main() -> None:
        budget = RetryBudget(RetryPolicy())
        for attempt in range(1, MAX_MALFORMED):
            assert budget.after_malformed(MalformedPartError("html")).attempt == attempt
        with pytest.raises(MalformedPartError, match="does not send a valid CSV: html"):
            budget.after_malformed(MalformedPartError("html"))

    on_a_jumping_clock(main)


@given(st.lists(st.sampled_from(["range works", "range fails", "whole works", "whole fails"]), max_size=40))
def test_ranges_are_given_up_only_where_the_whole_file_was_available(answers: list[str]) -> None:
    """And always after at most two more failures of ranges than that takes."""
    ranges = RangeSupport()
    was_available = False
    failed = 0
    for answer in answers:
        if not ranges.works:
            break
        outcome = answer.split()[1] == "works"
        if ranges.should_probe:
            was_available = outcome
            (ranges.record_probe if outcome else ranges.record_success)()
            failed = failed if outcome else 0
        elif outcome:
            was_available, failed = False, 0
            ranges.record_success()
        else:
            failed += 1
            ranges.record_failure()
        assert failed <= MAX_FAILURES + 1
    if not ranges.works:
        assert was_available
        assert failed == MAX_FAILURES + 1


def test_a_promised_length_is_held_against_the_host_once() -> None:
    promised = PromisedLengths()
    promised.record(Version('"a"', 10))
    promised.record(Version('"a"', 7))
    promised.record(Version(None, 99))
    assert promised.contradict(Version('"b"'), 5) == 0
    assert promised.contradict(Version('"a"'), 10) == 0
    assert promised.contradict(Version('"a"'), 5) == 10
    assert promised.contradict(Version('"a"'), 5) == 0
