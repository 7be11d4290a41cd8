"""Windows by volume: few probes, no oversized window, no gap, for any distribution of activity."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TypeVar

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull import ApiError, AuthenticationError, Plan, UnavailableError, UsageError, Window, plan
from bulkpull.planning.volume import PROBE_TIMEOUT_S, split_window
from tests.simulation.clock import simulated
from tests.simulation.server import END, START, Model, Server, SimulatedClickwrap, evenly, in_bursts

T = TypeVar("T")
MONTHS = [datetime(2015, 6, 1, tzinfo=UTC) + timedelta(days=number / 10) for number in range(900)]


def planned(moments: Sequence[datetime], rows: int, start: datetime = START, end: datetime = END) -> Plan:
    """The plan with `rows` per export."""
    clickwrap = SimulatedClickwrap(Server(Model(), moments))

    async def main() -> Plan:
        return await plan(clickwrap, start=start, end=end, rows_per_export=rows, max_windows=10_000)

    return simulated(0, main)


def counting(count: Callable[[], Awaitable[int]]) -> SimulatedClickwrap:
    """An API whose counts come from `count`."""

    class Counting(SimulatedClickwrap):
        async def count(self, filter: str | None = None) -> int:
            return await count()

    return Counting(Server(Model(), []))


def raises(error: type[Exception], count: Callable[[], Awaitable[int]]) -> str:
    """The message of the error that planning raises with an API whose counts come from `count`."""
    clickwrap = counting(count)

    async def main() -> str:
        with pytest.raises(error) as caught:
            await plan(clickwrap, start=START, end=END)
        return str(caught.value)

    return simulated(0, main)


def assert_tiled(windows: Sequence[Window], start: datetime = START, end: datetime = END) -> None:
    """Every instant of the range lies in exactly one window."""
    assert [window.index for window in windows] == list(range(len(windows)))
    assert (windows[0].start, windows[-1].end) == (start, end)
    assert all(window.start < window.end for window in windows)
    assert all(one.end == following.start for one, following in pairwise(windows))


@given(rows=st.integers(0, 600), per_export=st.sampled_from([1, 7, 100, 5000]), seed=st.integers(0, 99))
def test_windows_tile_the_range_and_hold_their_counts(rows: int, per_export: int, seed: int) -> None:
    moments = in_bursts(rows, START, END, seed)
    found = planned(moments, per_export)
    exports = -(-rows // per_export)
    assert_tiled(found.windows)
    for window in found.windows:
        assert window.rows == sum(window.start <= moment < window.end for moment in moments)
        assert window.rows or not rows
    assert found.rows == rows
    assert found.doubt == ""
    # The second half is counted too if the first one holds everything.
    assert found.probes <= 2 * exports + 16 + 32


@pytest.mark.parametrize("exports", [1, 2, 3, 10, 64, 500])
def test_uniform_activity_takes_one_probe_per_window(exports: int) -> None:
    found = planned(evenly(exports * 1003, START, END), 1003)
    assert 0.98 * exports <= len(found.windows) <= 1.02 * exports
    assert found.probes == pytest.approx(exports, rel=0.02)
    assert all(900 < (window.rows or 0) < 1110 for window in found.windows)


def test_three_active_months_in_ten_years_take_few_probes() -> None:
    found = planned(MONTHS, 45, datetime(2010, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC))
    assert len(found.windows) <= 25
    assert found.probes <= 40
    assert max(window.rows or 0 for window in found.windows) <= 1.5 * 45
    assert sum(window.end - window.start < timedelta(days=10) for window in found.windows) >= 18


def test_windows_have_about_equal_volume_for_uneven_activity() -> None:
    moments = sorted(in_bursts(20_000, START, END, 3))
    found = planned(moments, 500)
    assert max(window.rows or 0 for window in found.windows) <= 1.5 * 500
    assert len(found.windows) <= 1.4 * 40
    assert found.probes <= 2 * len(found.windows)


def test_empty_spans_become_part_of_a_neighbouring_window() -> None:
    first, last = datetime(2010, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)
    found = planned(MONTHS, 450, first, last)
    assert_tiled(found.windows, first, last)
    assert len(found.windows) <= 4
    assert all(window.rows for window in found.windows)
    empty = planned([], 10)
    assert (empty.windows, empty.rows, empty.probes) == ((Window(0, START, END, 0),), 0, 1)


ODD = st.sampled_from(
    ["right", "capped", "zero", "half", "double", "rounded", "growing", "shrinking", "any", "refused"]
)


@given(
    kinds=st.lists(ODD, min_size=1, max_size=3),
    rows=st.integers(0, 300),
    per_export=st.sampled_from([1, 7, 100, 5000]),
    cap=st.sampled_from([1, 10, 137, 200]),
    seed=st.integers(0, 99),
)
def test_windows_tile_the_range_whatever_the_counts(
    kinds: list[str], rows: int, per_export: int, cap: int, seed: int
) -> None:
    luck = random.Random(seed)
    server = Server(Model(), in_bursts(rows, START, END, seed))
    requests = 0

    class Unreliable(SimulatedClickwrap):
        async def count(self, filter: str | None = None) -> int:
            nonlocal requests
            requests += 1
            right = len(server.selected(filter or "")[2])
            match luck.choice(kinds):
                case "capped":
                    return min(cap, right)
                case "zero":
                    return 0
                case "half":
                    return right // 2
                case "double":
                    return right * 2
                case "rounded":
                    return round(right, -2)
                case "growing":
                    return right + requests
                case "shrinking":
                    return max(0, right - requests)
                case "any":
                    return luck.randrange(10_000)
                case "refused" if requests > luck.randrange(9):
                    raise ApiError("no", status=400)
            return right

    async def main() -> Plan:
        return await plan(Unreliable(server), start=START, end=END, rows_per_export=per_export, max_windows=10**6)

    found = simulated(seed, main)
    assert_tiled(found.windows)
    assert found.probes == requests


@given(
    rows=st.integers(0, 2000),
    instants=st.integers(1, 500),
    limit=st.none() | st.integers(1, 300),
    counting=st.booleans(),
    milliseconds=st.integers(1, 10**10),
)
def test_pieces_tile_their_window(
    rows: int, instants: int, limit: int | None, counting: bool, milliseconds: int
) -> None:
    end = START + timedelta(milliseconds=milliseconds)
    luck = random.Random(rows)
    moments = sorted(START + timedelta(milliseconds=luck.randrange(milliseconds)) for _ in range(instants))
    server = Server(Model(counting=counting), sorted(luck.choice(moments) for _ in range(rows)))

    async def main() -> tuple[Window, ...]:
        return await split_window(SimulatedClickwrap(server), Window(3, START, end, rows), "", limit, 50)

    found = simulated(0, main)
    if found:
        assert 2 <= len(found) <= 50
        assert_tiled(found, START, end)
        assert all(window.rows is None or window.rows < rows for window in found)
    elif milliseconds > 1 and (not counting or not rows):
        raise AssertionError("the window could have been split in the middle of its time")


def test_does_not_split_a_single_instant() -> None:
    async def split(window: Window, moments: list[datetime]) -> tuple[Window, ...]:
        return await split_window(SimulatedClickwrap(Server(Model(), moments)), window, "", None, 50)

    instant = START + timedelta(days=100, milliseconds=7)
    assert simulated(0, lambda: split(Window(0, START, END, 1500), [instant] * 1500)) == ()
    found = simulated(0, lambda: split(Window(0, START, END, 1501), [START, *[instant] * 1500]))
    assert [window.rows for window in found] == [1, 1500]
    assert simulated(0, lambda: split(Window(0, START, START + timedelta(milliseconds=1)), [])) == ()


@pytest.mark.parametrize("cap", [1000, 10_000, 12_345])
def test_detects_counts_that_stop_at_a_limit_and_splits_below_it(cap: int) -> None:
    server = Server(Model(), evenly(60_000, START, END))

    class Capped(SimulatedClickwrap):
        async def count(self, filter: str | None = None) -> int:
            return min(cap, await super().count(filter))

    async def main() -> Plan:
        return await plan(Capped(server), start=START, end=END, rows_per_export=5000)

    found = simulated(0, main)
    assert_tiled(found.windows)
    assert "its counts seem to stop at that number" in found.doubt
    assert f"counts {cap:,} activities in a time span" in found.doubt
    assert found.rows == 60_000
    assert max(window.rows or 0 for window in found.windows) <= 7500


def test_windows_end_at_round_times() -> None:
    found = planned(evenly(6000, START, END), 1000)
    assert {(window.start.minute, window.start.second) for window in found.windows} == {(0, 0)}


def test_activity_at_a_single_instant_is_one_window() -> None:
    found = planned([START + timedelta(hours=1)] * 5000, 10)
    [window] = found.windows
    assert window.rows == 5000
    assert (window.start, window.end) == (START, END)


def test_rejects_too_many_windows_after_one_probe() -> None:
    clickwrap = SimulatedClickwrap(Server(Model(), evenly(5000, START, END)))

    async def main() -> None:
        with pytest.raises(UsageError, match=r"5,000 activities at 10 per export make more than 499 exports"):
            await plan(clickwrap, start=START, end=END, rows_per_export=10, max_windows=499)

    simulated(0, main)
    assert clickwrap.server.requests["COUNT"] == 1


@pytest.mark.parametrize("status", [400, 403, 404, 504])
def test_windows_have_equal_length_if_counting_is_refused(status: int) -> None:
    requests = 0

    async def count() -> int:
        nonlocal requests
        requests += 1
        if requests > 2:
            raise UnavailableError("no", status=status) if status == 504 else ApiError("no", status=status)
        return 5000 // requests

    async def main() -> Plan:
        return await plan(counting(count), start=START, end=END, rows_per_export=100)

    found = simulated(0, main)
    assert (len(found.windows), found.rows, found.uncounted) == (24, None, "no")
    assert found.probes == requests


def test_counting_times_out() -> None:
    async def count() -> int:
        await anyio.sleep_forever()
        raise AssertionError

    async def main() -> Plan:
        return await plan(counting(count), start=START, end=END)

    assert simulated(0, main).uncounted == f"counting timed out after {PROBE_TIMEOUT_S:.0f} s"


def test_a_rejected_token_or_an_outage_is_an_error() -> None:
    async def wrong() -> int:
        raise AuthenticationError("wrong", status=401)

    async def out() -> int:
        raise UnavailableError("out")

    assert raises(AuthenticationError, wrong) == "wrong"
    assert raises(UnavailableError, out) == "out"


def test_implausible_counts_do_not_cause_many_probes() -> None:
    answers = iter((20, 19, *[10**15] * 1000))

    async def count() -> int:
        return next(answers)

    async def main() -> Plan:
        return await plan(counting(count), start=START, end=END, rows_per_export=6)

    found = simulated(0, main)
    assert_tiled(found.windows)
    assert found.doubt
    assert found.probes < 10
