"""What a table remembers, and what a sync makes of it."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull.errors import UsageError
from bulkpull.sync import SyncOptions
from bulkpull.sync.request import frontier
from bulkpull.sync.state import Mismatch, Missing, SyncState, span
from bulkpull.sync.stretches import before
from tests.sync.memory_table import MemoryTable

START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
STATE = SyncState(
    source="https://api.example.com",
    filter="event_type==agreed",
    fields=("id", "event_type"),
    start=START,
    frontier=START + 3 * DAY,
    revision=7,
    at="2024-01-05T00:00:00.000Z",
    missing=(Missing(span(START, START + DAY), "short"),),
    suspects=(Mismatch(span(START, START + DAY), 5, 4),),
    unreliable=(Mismatch(span(START + DAY, START + 2 * DAY), 9, 8),),
    lies=2,
)


def test_a_state_is_read_as_it_was_written() -> None:
    assert SyncState.parse(STATE.text()) == STATE
    assert SyncState.parse(STATE.text()).text() == STATE.text()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 1}', '{"version": 1, "missing": 3}'])
def test_a_damaged_state_is_named(text: str) -> None:
    with pytest.raises(UsageError, match=r"damaged.*--rebuild"):
        SyncState.parse(text)


def test_a_state_of_a_newer_version_is_named() -> None:
    newer = orjson.dumps(orjson.loads(STATE.text()) | {"version": 2}).decode()
    with pytest.raises(UsageError, match=r"version 2, and this bulkpull reads version 1"):
        SyncState.parse(newer)


@given(st.timedeltas(timedelta(-400), timedelta(400)), st.integers(0, 10**6), st.none() | st.integers(0, 30))
def test_the_frontier_never_moves_back(shift: timedelta, settle: int, end: int | None) -> None:
    options = SyncOptions(to=MemoryTable(), settle=settle, end=None if end is None else START + end * DAY)
    now, last = START + 20 * DAY + shift, START + 10 * DAY
    found = frontier(options, now, last)
    assert found >= last
    assert found == last or (
        now - timedelta(seconds=settle, milliseconds=1) <= found <= now - timedelta(seconds=settle)
        or (options.end is not None and found == options.end)
    )
    assert found.microsecond % 1000 == 0
    assert end is None or found <= max(last, START + end * DAY)


@pytest.mark.parametrize(
    ("duration", "earlier"),
    [("15m", timedelta(minutes=15)), ("1d", DAY), (90, timedelta(seconds=90)), ("0", timedelta()), ("1h30m", DAY / 16)],
)
def test_durations_are_texts_or_seconds(duration: float | str, earlier: timedelta) -> None:
    assert START - before(START, SyncOptions(to=MemoryTable(), settle=duration).settle_s) == earlier


@pytest.mark.parametrize("duration", ["", "1x", "-1", "nan", "inf", "1 day", "1y", -5, math.inf, math.nan])
def test_other_durations_are_refused(duration: float | str) -> None:
    with pytest.raises(UsageError, match=r"the option settle is|is not a duration"):
        SyncOptions(to=MemoryTable(), settle=duration)
    with pytest.raises(UsageError, match=r"the option recheck is|is not a duration"):
        SyncOptions(to=MemoryTable(), recheck=duration)


def test_a_duration_beyond_all_time_reaches_back_to_the_first_instant() -> None:
    assert before(START, 1e14) == datetime.min.replace(tzinfo=UTC)
    assert before(START, 1e18) == datetime.min.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "2024-02-01", "end": "2024-01-01"}, "is before the start"),
        ({"settle": "soon"}, "the option settle"),
        ({"recheck": "everything"}, "is not a duration"),
        ({"max_shrink": -0.1}, "max_shrink"),
        ({"deleted": "hide"}, "deleted"),
        ({"fields": ["all"]}, "needs --site"),
        ({"rebuild": True, "add_field": ["event_type"]}, "--add-field exports everything again"),
        ({"exports": 0}, "exports"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SyncOptions(to=MemoryTable(), **options)  # type: ignore[arg-type]
