"""When exports are polled, by what was seen of them: tables of seconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull.pacing import PendingExport, PollSchedule
from bulkpull.pacing.poll_schedule import FIRST_PROBE_S, MIN_INTERVAL_S, SECOND_PROBE_S

TIMEOUT = 3600.0


def started(exports: list[PendingExport]) -> list[int]:
    return [number for number, export in enumerate(exports) if export.started_at is not None]


def finish(schedule: PollSchedule, seconds: float, *, at: float = 0.0) -> None:
    """An export runs for so many seconds, and is seen to finish right away."""
    export = schedule.add(at, at)
    schedule.record_unfinished(export, is_queued=False, seen_at=at + 0.99 * seconds, now=at + 0.99 * seconds)
    schedule.record_success(export, at + 1.01 * seconds)
    schedule.remove(export, at + 1.01 * seconds)


@pytest.mark.parametrize(
    ("elapsed", "pending", "due"),
    [
        (0.0, 1, MIN_INTERVAL_S),
        (0.2, 1, 0.4),
        (0.2, 2, 0.4),
        (0.2, 5, 0.5),
        (0.2, 50, 0.7),  # several run: no sooner, for the sake of the quota
        (1.4, 1, 1.6),  # alone, it is polled often at first
        (1.0, 2, 1.25),
        (10.0, 1, 12.5),  # a quarter of the time that it has run
        (10.0, 4, 14.0),  # a tenth for each export that runs: any teaches about all
        (10.0, 15, 25.0),
        (10.0, 50, 30.0),  # but no more than twice
        (3000.0, 50, 3600.0),  # nor after the timeout
    ],
)
def test_before_any_export_has_finished_intervals_are_a_share_of_the_time_waited(
    elapsed: float, pending: int, due: float
) -> None:
    schedule = PollSchedule(1800)
    exports = [schedule.add(0.0, 0.0) for _ in range(pending)]
    if elapsed:
        for export in exports:
            schedule.record_unfinished(export, is_queued=False, seen_at=elapsed, now=elapsed)
    assert schedule.next_poll_at(exports[0], export_timeout=TIMEOUT) == pytest.approx(due)


@pytest.mark.parametrize(
    ("finished", "earliest", "latest"),
    [
        ([60.0], 20, 60),  # one leaves much open
        ([60.0] * 40, 58, 62),
        ([600.0] * 40, 580, 620),
        ([30.0, 120.0] * 20, 15, 60),
    ],
)
def test_what_has_finished_teaches_when_others_will(finished: list[float], earliest: float, latest: float) -> None:
    schedule = PollSchedule(1800)
    for seconds in finished:
        finish(schedule, seconds)
    export = schedule.add(1000.0, 1000.0)
    assert earliest < schedule.next_poll_at(export, export_timeout=TIMEOUT) - 1000 < latest


@pytest.mark.parametrize(
    ("requests_per_minute", "running", "interval"),
    [(1800, 1, MIN_INTERVAL_S), (1800, 60, 4.0), (60, 10, 20.0), (60, 1, 2.0)],
)
def test_polls_take_half_of_the_quota_at_most(requests_per_minute: int, running: int, interval: float) -> None:
    schedule = PollSchedule(requests_per_minute)
    exports = [schedule.add(0.0, 0.0) for _ in range(running)]
    for _ in range(requests_per_minute):
        schedule.record_unfinished(exports[0], is_queued=False, seen_at=0.0, now=0.0)
    for export in exports:
        assert schedule.next_poll_at(export, export_timeout=TIMEOUT) == pytest.approx(interval)


@pytest.mark.parametrize(
    ("polls", "pause", "interval"), [(0, 0, 0.5), (225, 0, 2.0), (450, 0, 4.0), (450, 15, 2.0), (450, 100, 0.5)]
)
def test_polls_are_spread_as_the_burst_is_used_up(polls: int, pause: float, interval: float) -> None:
    schedule = PollSchedule(1800)
    exports = [schedule.add(0.0, 0.0) for _ in range(60)]
    for _ in range(polls):
        schedule.record_unfinished(exports[0], is_queued=False, seen_at=0.0, now=0.0)
    schedule.record_unfinished(exports[0], is_queued=False, seen_at=0.0, now=pause)
    assert schedule.next_poll_at(exports[1], export_timeout=TIMEOUT) == pytest.approx(interval, abs=0.02)


@pytest.mark.parametrize(
    ("should_probe", "seen", "due"),
    [
        (False, None, 60),
        (True, None, FIRST_PROBE_S),
        (True, "running", 60),
        (True, "queued", SECOND_PROBE_S),
        (False, "queued", 600),
    ],
)
def test_a_probe_comes_early_and_once_more_if_the_export_is_queued(
    should_probe: bool, seen: str | None, due: float
) -> None:
    schedule = PollSchedule(1800)
    for _ in range(40):
        finish(schedule, 60.0)
    running, export = schedule.add(1000.0, 1000.0), schedule.add(1000.0, 1000.0)
    if seen:
        for other in (running, export):
            schedule.record_unfinished(
                other, is_queued=other is export and seen == "queued", seen_at=1000.3, now=1000.3
            )
    at = schedule.next_poll_at(export, export_timeout=TIMEOUT, should_probe=should_probe)
    assert at == pytest.approx(1000 + due, abs=0.5)


def test_exports_start_as_workers_become_free_and_what_is_seen_corrects_that() -> None:
    schedule = PollSchedule(1800)
    exports = [schedule.add(0.0, 0.0) for _ in range(6)]
    for export in exports[:3]:
        schedule.record_unfinished(export, is_queued=False, seen_at=1.0, now=1.0)
    schedule.record_unfinished(exports[4], is_queued=True, seen_at=1.0, now=1.0)  # three workers, then
    assert started(exports) == [0, 1, 2]
    another = schedule.add(60.0, 60.0)
    assert another.started_at is None
    schedule.remove(another, 60.0)
    assert started(exports) == [0, 1, 2]
    schedule.record_unfinished(exports[5], is_queued=False, seen_at=61.0, now=61.0)  # more than that, after all
    assert started(exports) == [0, 1, 2, 3, 4, 5]
    schedule.record_unfinished(exports[2], is_queued=True, seen_at=62.0, now=62.0)  # or fewer
    assert started(exports) == [0, 1]


def test_the_next_in_the_queue_starts_when_the_one_before_it_finished() -> None:
    schedule = PollSchedule(1800)
    running, queued, last = (schedule.add(0.0, 0.0) for _ in range(3))
    schedule.record_unfinished(running, is_queued=False, seen_at=90.0, now=90.0)
    schedule.record_unfinished(queued, is_queued=True, seen_at=90.0, now=90.0)
    schedule.take_rescheduled()
    schedule.record_success(running, 110.0)
    schedule.remove(running, 110.0)
    assert queued.started_at == 100  # in the middle between the last look and this one
    assert queued.taken_at == 110
    assert last.started_at is None
    assert queued in schedule.take_rescheduled()
    assert schedule.take_rescheduled() == []


def test_an_export_that_should_be_queued_is_left_alone() -> None:
    schedule = PollSchedule(1800)
    running, queued = schedule.add(0.0, 0.0), schedule.add(0.0, 0.0)
    schedule.record_unfinished(running, is_queued=False, seen_at=1.0, now=1.0)
    schedule.record_unfinished(queued, is_queued=True, seen_at=1.0, now=1.0)
    assert schedule.next_poll_at(queued, export_timeout=TIMEOUT) == 601


def test_waiting_for_a_worker_is_not_running() -> None:
    schedule = PollSchedule(1800)
    running, queued = schedule.add(0.0, 0.0), schedule.add(0.0, 0.0)
    schedule.record_unfinished(running, is_queued=False, seen_at=1.0, now=1.0)
    schedule.record_unfinished(queued, is_queued=True, seen_at=1.0, now=1.0)
    assert (schedule.running_since(running), schedule.running_since(queued)) == (0, 1)
    behind = schedule.add(500.0, 500.0)
    schedule.record_unfinished(behind, is_queued=False, seen_at=500.0, now=500.0)
    schedule.remove(behind, 500.0)
    assert schedule.running_since(queued) == 1  # what comes after it says nothing of it
    schedule.record_success(running, 500.0)
    assert schedule.running_since(queued) == 500
    schedule.record_unfinished(queued, is_queued=False, seen_at=600.0, now=600.0)
    schedule.record_unfinished(queued, is_queued=True, seen_at=700.0, now=700.0)
    assert schedule.running_since(queued) <= 600  # whatever it is called then


@pytest.mark.parametrize(("ends", "moved_at"), [("failed", 300), ("succeeded", 300), ("removed", 0)])
def test_the_queue_moves_when_an_export_before_it_ends(ends: str, moved_at: float) -> None:
    schedule = PollSchedule(1800)
    first, second = schedule.add(0.0, 0.0), schedule.add(0.0, 0.0)
    match ends:
        case "failed":
            schedule.record_failure(first, 300.0)
        case "succeeded":
            schedule.record_success(first, 300.0)
    schedule.remove(first, 300.0)
    assert schedule.running_since(second) == moved_at


@pytest.mark.parametrize("others", [0, 1])
def test_an_export_that_stays_queued_is_polled_ever_less_often(others: int) -> None:
    schedule, polls, now = PollSchedule(1800), 0, 0.0
    stuck = schedule.add(0.0, 0.0)
    for _ in range(others):  # launched later, and done
        other = schedule.add(0.0, 0.0)
        schedule.record_unfinished(other, is_queued=False, seen_at=0.5, now=1.0)
        schedule.record_success(other, 1.0)
        schedule.remove(other, 1.0)
        now = 1.0
    while now < 3600:
        schedule.record_unfinished(stuck, is_queued=True, seen_at=now, now=now)
        now = schedule.next_poll_at(stuck, export_timeout=TIMEOUT)
        polls += 1
    assert polls < 120


def test_the_end_of_the_pull_hurries_the_last_exports() -> None:
    schedule = PollSchedule(1800)
    for seconds in (40.0, 60.0, 90.0) * 10:
        finish(schedule, seconds)
    exports = [schedule.add(1000.0, 1000.0) for _ in range(9)]
    for export in exports:
        schedule.record_unfinished(export, is_queued=False, seen_at=1060.0, now=1060.0)
    relaxed = schedule.next_poll_at(exports[0], export_timeout=TIMEOUT)
    schedule.finish_launching()
    assert schedule.next_poll_at(exports[0], export_timeout=TIMEOUT) == relaxed  # these are too many
    assert set(schedule.take_rescheduled()) >= set(exports)
    schedule.remove(exports[8], 1060.0)
    assert set(schedule.take_rescheduled()) == set(exports[:8])
    assert schedule.next_poll_at(exports[0], export_timeout=TIMEOUT) < relaxed


def test_others_are_rescheduled_when_the_model_changes_and_only_then() -> None:
    schedule = PollSchedule(1800)
    waiting = schedule.add(0.0, 0.0)
    finish(schedule, 60.0)
    assert waiting in schedule.take_rescheduled()
    finish(schedule, 60.0)
    assert schedule.take_rescheduled() == []
    finish(schedule, 600.0)
    assert waiting in schedule.take_rescheduled()


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "queued", "running", "success", "failure", "end"]), st.integers(0, 5)),
    max_size=40,
)


@given(STEPS, st.floats(0.01, 1e4), st.floats(0.7, 1.3), st.booleans())
def test_every_poll_comes_after_the_last_and_before_the_timeout(
    steps: list[tuple[str, int]], pause: float, jitter: float, should_probe: bool
) -> None:
    schedule, pending, now = PollSchedule(1800), list[PendingExport](), 0.0
    for step, index in steps:
        now += pause
        if step == "end":
            schedule.finish_launching()
        elif step == "add" or not pending:
            pending.append(schedule.add(now, now))
        else:
            export = pending[index % len(pending)]
            match step:
                case "success" | "failure":
                    if step == "success":
                        schedule.record_success(export, now)
                    else:
                        schedule.record_failure(export, now)
                    schedule.remove(export, now)
                    pending.remove(export)
                case _:
                    schedule.record_unfinished(export, is_queued=step == "queued", seen_at=now, now=now)
        for export in pending:
            due = schedule.next_poll_at(export, export_timeout=TIMEOUT, jitter=jitter, should_probe=should_probe)
            timeout = schedule.running_since(export) + TIMEOUT
            assert export.launched_at <= schedule.running_since(export) <= now
            assert due <= timeout
            assert due > export.unfinished_at or due == timeout
