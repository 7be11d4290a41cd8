"""How many exports are in flight, and how many files are downloaded, by what was seen."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull.pacing import DownloadLimit, ExportLimit
from bulkpull.pacing.limits import (
    INITIAL_DOWNLOADS,
    INITIAL_EXPORTS,
    MEASUREMENT_S,
    PROBE_EVERY,
    PROMPT_S,
    QUEUED_S,
    AdaptiveLimit,
)

IDS = map(str, count())


def launch(limit: ExportLimit, state: str) -> None:
    """An export is launched, and polled early if that is wanted."""
    limit.record_launch()
    if not limit.should_probe:
        return
    if state == "queued":
        limit.record_queued(1.0)
    else:
        limit.record_running(next(IDS), 1.0, now=0.0)


def finish(limit: ExportLimit, *, failed: bool = False) -> None:
    if failed:
        limit.record_failure(next(IDS), now=0.0, is_saturated=True)
    else:
        limit.record_success(next(IDS), 100, 60.0, now=0.0, is_saturated=True)


@pytest.mark.parametrize(
    ("states", "value"),
    [
        ([], INITIAL_EXPORTS),
        (["running"] * 2, INITIAL_EXPORTS),
        (["running"] * 3, 6),  # as many may wait as run
        (["running"] * 20, 40),
        (["running"] * 20 + ["queued"] * 51, 40),
        (["running"] * 4 + ["queued"] + ["running"] * 20, 8),  # that start when others end
        (["running", "queued"], INITIAL_EXPORTS),
        (["queued"] * 20, INITIAL_EXPORTS),  # none ran: it tells nothing of workers
        (["running"] * 200, 128),
    ],
)
def test_it_grows_with_every_export_that_starts_promptly_until_some_wait(states: list[str], value: int) -> None:
    limit = ExportLimit(None, 128, now=0.0)
    for state in states:
        launch(limit, state)
    assert limit.value == value


@pytest.mark.parametrize(
    ("waited", "value"), [(0.4, INITIAL_EXPORTS + 20), (PROMPT_S, INITIAL_EXPORTS + 20), (60.0, INITIAL_EXPORTS)]
)
def test_exports_that_succeed_promptly_reveal_free_workers_too(waited: float, value: int) -> None:
    limit = ExportLimit(None, 128, now=0.0)
    for _ in range(20):
        limit.record_success(next(IDS), 100, waited, now=0.0, is_saturated=False)
    assert limit.value == value


def test_an_export_that_is_seen_running_counts_once() -> None:
    limit = ExportLimit(None, 128, now=0.0)
    for _ in range(3):
        limit.record_running("1", 1.0, now=0.0)
    for number in range(2, 4):
        limit.record_running(str(number), 1.0, now=0.0)
    limit.record_success("1", 100, 1.5, now=0.0, is_saturated=False)
    assert limit.value == 6


def test_short_exports_that_had_to_wait_reveal_no_free_workers() -> None:
    limit = ExportLimit(None, 128, now=0.0)
    for number in range(8):
        limit.record_running(f"running {number}", 0.3, now=0.0)
    for _ in range(50):  # these ended soon, and others run: they may have waited
        limit.record_success(next(IDS), 100, 2.0, now=0.0, is_saturated=False)
    assert limit.value == 16


@pytest.mark.parametrize(
    ("waited", "reports_queueing"), [(0.25, False), (QUEUED_S, True), (PROMPT_S, True), (PROMPT_S + 1, False)]
)
def test_an_export_that_waits_for_a_moment_tells_of_no_queue(waited: float, reports_queueing: bool) -> None:
    limit = ExportLimit(None, 128, now=0.0)
    limit.record_running("1", 0.25, now=0.0)
    limit.record_queued(waited)
    assert limit.reports_queueing == reports_queueing


@pytest.mark.parametrize(("maximum", "value"), [(1, 1), (3, 3), (6, 6), (128, 40)])
def test_the_maximum_is_kept(maximum: int, value: int) -> None:
    limit = ExportLimit(None, maximum, now=0.0)
    for _ in range(20):
        launch(limit, "running")
    assert limit.value == value


def test_a_fixed_number_stays_and_nothing_is_probed() -> None:
    limit = ExportLimit(10, 3, now=0.0)
    for _ in range(20):
        launch(limit, "running")
        finish(limit, failed=True)
    limit.record_throttling(1.0, now=1.0)
    limit.resume(50, now=1.0)
    assert (limit.value, limit.should_probe) == (10, False)
    limit.lower_maximum(4, now=1.0)  # but for a server that refuses more
    assert limit.value == 4


@pytest.mark.parametrize(("in_flight", "value"), [(12, 4), (2, 2), (0, 1)])
def test_what_the_server_refuses_is_not_tried_again(in_flight: int, value: int) -> None:
    limit = ExportLimit(None, 128, now=0.0)
    limit.lower_maximum(in_flight, now=0.0)
    assert limit.value == value
    for _ in range(50):
        launch(limit, "running")
    assert limit.value == max(1, in_flight)


def test_once_some_wait_only_one_launch_in_eight_is_probed() -> None:
    limit = ExportLimit(None, 128, now=0.0)
    launch(limit, "running")
    launch(limit, "queued")
    probed = 0
    for _ in range(10 * PROBE_EVERY):
        limit.record_launch()
        probed += limit.should_probe
    assert probed == 10


@pytest.mark.parametrize(("failing_every", "value"), [(3, 30), (4, 30), (5, 40), (40, 40)])
def test_more_than_a_fifth_of_failures_lowers_it(failing_every: int, value: int) -> None:
    limit = ExportLimit(None, 128, now=0.0)
    for _ in range(36):
        launch(limit, "running")
    launch(limit, "queued")
    assert limit.value == 72
    limit.reset(40, now=0.0)
    for number in range(40):
        finish(limit, failed=number % failing_every == 0)
    assert limit.value == value


@pytest.mark.parametrize(
    ("throttled_at", "value"),
    [
        ([], 40),
        ([None], 40),
        ([5.0], 40),  # before this pull began
        ([10.0], 20),
        ([11.0, 11.0, 30.0, 71.0], 20),  # one minute
        ([11.0, 72.0], 10),
        ([11.0, 72.0, 73.0, 133.0], 5),
    ],
)
def test_it_is_halved_once_a_minute_when_the_api_throttles(throttled_at: list[float | None], value: int) -> None:
    limit = ExportLimit(None, 128, now=10.0)
    limit.reset(40, now=10.0)
    for at in throttled_at:
        limit.record_throttling(at, now=200.0)
    assert limit.value == value


@pytest.mark.parametrize(("in_flight", "value"), [([12], 12), ([12, 3], 12), ([3], INITIAL_EXPORTS), ([50], 20)])
def test_what_an_earlier_run_left_in_flight_counts(in_flight: list[int], value: int) -> None:
    limit = ExportLimit(None, 20, now=0.0)
    for exports in in_flight:
        limit.resume(exports, now=0.0)
    assert limit.value == value


@pytest.mark.parametrize("workers", [1, 3, 12, 50])
def test_the_throughput_finds_the_limit(workers: int) -> None:
    limit = AdaptiveLimit(INITIAL_EXPORTS, 128, now=0.0)
    for measurement in range(1, 61):
        limit.record_throughput(10 * min(limit.value, workers))
        limit.end_measurement(10.0 * measurement)
        assert limit.value <= max(2 * INITIAL_EXPORTS, 3 * workers)
    assert 0.7 * workers <= limit.value <= max(INITIAL_EXPORTS, 1.6 * workers)


@pytest.mark.parametrize(
    ("throughputs", "values"),
    [  # of measurements of a second each, of which the first after a change is discarded
        ([100, 100, 100, 100], [4, 8, 8, 4]),  # nothing gained
        ([100, 100, 100, 149, 100], [4, 8, 8, 6, 6]),  # less than half of what could be gained: what helped stays
        ([100, 100, 100, 150, 100], [4, 8, 8, 16, 16]),
        ([100, 100, 0, 200, 0, 400], [4, 8, 8, 16, 16, 12]),  # at the maximum, fewer are tried
    ],
)
def test_a_higher_limit_is_kept_where_it_brings_half_of_what_it_could(
    throughputs: list[float], values: list[int]
) -> None:
    limit = AdaptiveLimit(4, 16, now=0.0)
    seen = []
    for second, throughput in enumerate(throughputs, 1):
        limit.record_throughput(throughput)
        limit.end_measurement(float(second))
        seen.append(limit.value)
    assert seen[: len(values)] == values


def test_it_is_not_raised_while_nothing_waits_for_it() -> None:
    limit = AdaptiveLimit(4, 16, now=0.0)
    for second in range(1, 20):
        limit.record_throughput(100)
        limit.end_measurement(float(second), may_raise=False)
    assert limit.value == 4


@given(st.lists(st.tuples(st.sampled_from(["measure", "reset"]), st.floats(0, 1e9)), max_size=50), st.integers(1, 130))
def test_it_stays_within_its_bounds(steps: list[tuple[str, float]], maximum: int) -> None:
    limit = AdaptiveLimit(4, maximum, now=0.0)
    for now, (step, amount) in enumerate(steps, 1):
        if step == "reset":
            limit.reset(amount, float(now))
        else:
            limit.record_throughput(amount)
            limit.end_measurement(float(now))
        assert 1 <= limit.value <= maximum


@pytest.mark.parametrize(("is_saturated", "value"), [(True, 2 * INITIAL_DOWNLOADS), (False, INITIAL_DOWNLOADS)])
def test_downloads_grow_while_further_ones_wait_and_more_comes(is_saturated: bool, value: int) -> None:
    limit = DownloadLimit(16, now=0.0)
    for second in (1, 2):
        limit.record_bytes(1000 * limit.value, second * MEASUREMENT_S, is_saturated=is_saturated)
    assert limit.value == value
    limit.record_break(2.5)
    assert limit.value == value * 3 / 4


def test_bytes_within_a_second_are_one_measurement() -> None:
    limit = DownloadLimit(16, now=0.0)
    for tenth in range(19):
        limit.record_bytes(1000, tenth / 10, is_saturated=True)
    assert limit.value == INITIAL_DOWNLOADS
    limit.record_bytes(1000, 2.0, is_saturated=True)
    assert limit.value == 2 * INITIAL_DOWNLOADS


def test_one_outage_lowers_the_downloads_once() -> None:
    limit, now = DownloadLimit(16, now=0.0), 0.0
    limit.reset(16, now)
    for _ in range(2):
        for _ in range(16):  # all transfers break, each a little later than the one before
            limit.record_break(now)
            now += 3 * MEASUREMENT_S
            limit.record_break(now)
        before = limit.value
        limit.record_bytes(1000, now, is_saturated=False)  # the first to come back
        limit.record_break(now)  # another that does not yet
        assert limit.value == before
        for _ in range(2):
            now += MEASUREMENT_S
            limit.record_bytes(1000, now, is_saturated=False)
    assert before == 9  # two outages: 16, 12, 9
