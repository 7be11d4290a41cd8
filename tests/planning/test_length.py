"""Windows of a fixed length cover any range exactly."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bulkpull import UsageError, Window
from bulkpull.planning.length import by_length
from bulkpull.planning.options import PlanOptions
from bulkpull.planning.range import span
from bulkpull.window import instant

MAX_WINDOWS = PlanOptions(start="2024-01-01").max_windows
MOMENTS = st.datetimes(
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45)), timezone(timedelta(hours=-12))])
)
LENGTHS = st.sampled_from(["30min", "6h", "1d", "7d", "2w", "1mo", "5mo", "1y", "auto"])


def plan(
    start: date | datetime | str,
    end: date | datetime | str | None,
    window: str = "auto",
    max_windows: int = MAX_WINDOWS,
) -> tuple[Window, ...]:
    return by_length(*span(start, end), window, max_windows)


def bounds(start: str, end: str, window: str) -> list[str]:
    """All bounds of the plan's windows."""
    windows = plan(start, end, window)
    return [instant(windows[0].start), *(instant(window.end) for window in windows)]


@given(start=MOMENTS, length=st.timedeltas(timedelta(0), timedelta(days=3000)), window=LENGTHS)
def test_windows_cover_the_range_without_gap_or_overlap(start: datetime, length: timedelta, window: str) -> None:
    assume(timedelta(days=2) < start.replace(tzinfo=UTC) - datetime.min.replace(tzinfo=UTC))
    assume(start.replace(tzinfo=UTC) < datetime(9990, 1, 1, tzinfo=UTC))
    length = min(length, timedelta(days=30)) if window == "30min" else length
    windows = plan(start, start + length, window, 20_000)
    for one, following in pairwise(windows):
        assert one.end == following.start
    assert all(one.start < one.end for one in windows)
    assert [one.index for one in windows] == list(range(len(windows)))
    if windows:
        # Rows have whole milliseconds: a row is in [start, end) exactly when it is in [ceil(start), ceil(end)).
        assert timedelta(0) <= windows[0].start - start < timedelta(milliseconds=1)
        assert timedelta(0) <= windows[-1].end - (start + length) < timedelta(milliseconds=1)
    else:
        assert length < timedelta(milliseconds=1)
    if window == "auto":
        assert len(windows) <= 24


def test_the_last_window_of_a_fixed_length_may_be_shorter() -> None:
    assert bounds("2024-01-01", "2024-01-02T03:00Z", "12h") == [
        "2024-01-01T00:00:00.000Z",
        "2024-01-01T12:00:00.000Z",
        "2024-01-02T00:00:00.000Z",
        "2024-01-02T03:00:00.000Z",
    ]


def test_months_are_calendar_months_counted_from_the_start() -> None:
    assert [moment[:10] for moment in bounds("2024-01-31", "2024-06-30", "1mo")] == [
        "2024-01-31",
        "2024-02-29",
        "2024-03-31",
        "2024-04-30",
        "2024-05-31",
        "2024-06-30",
    ]
    assert len(plan("2023-02-28", "2027-02-28", "1y")) == 4


@pytest.mark.parametrize(
    ("start", "end", "windows"),
    [
        ("2024-01-01", "2024-01-01", 0),
        ("2024-01-01", "2024-01-02", 1),
        ("2024-01-01", "2024-01-25", 24),
        ("2024-01-01", "2024-01-26", 4),
        ("2024-01-01", "2026-01-01", 24),
        ("2010-01-01", "2024-01-01", 14),
        ("0001-01-01", "9999-12-31", 20),
    ],
)
def test_auto_chooses_the_shortest_length_with_at_most_24_windows(start: str, end: str, windows: int) -> None:
    assert len(plan(start, end)) == windows


def test_accepts_dates_and_instants_with_any_offset() -> None:
    expected = datetime(2024, 1, 31, 6, tzinfo=UTC)
    for moment in ("2024-01-31T06:00Z", "2024-01-31T06:00:00.000Z", " 2024-01-31T11:45+05:45 ", expected):
        assert plan(moment, "2024-02-01", "1d")[0].start == expected
    for day in ("2024-01-31", "20240131", date(2024, 1, 31)):
        assert plan(day, "2024-02-01", "1d")[0].start == expected.replace(hour=0)


def test_the_end_defaults_to_the_current_time() -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    assert before <= plan("2024-01-01", None)[-1].end <= datetime.now(UTC) + timedelta(milliseconds=1)


def test_the_last_window_may_end_at_the_last_representable_instant() -> None:
    assert instant(plan("9999-12-01", "9999-12-31T23:59:59.999Z", "1mo")[0].end) == "9999-12-31T23:59:59.999Z"


@pytest.mark.parametrize(
    ("start", "end", "window", "message"),
    [
        ("2024-02-31", None, "1d", "2024-02-31.*is not a date"),
        ("soon", None, "1d", "is not a date"),
        ("", None, "1d", "is not a date"),
        ("2024-01-02", "2024-01-01", "1d", "before the start"),
        ("2024-01-01T06:00", None, "1d", "no offset"),
        (datetime(2024, 1, 1), None, "1d", "no offset"),
        ("9999-12-31T23:59:59-05:00", None, "1d", "beyond"),
        ("2024-01-01", None, "0d", "is not a length"),
        ("2024-01-01", None, "1 fortnight", "is not a length"),
        ("2024-01-01", None, "-1d", "is not a length"),
        ("2024-01-01", None, "", "is not a length"),
        ("1900-01-01", "2024-01-01", "1min", "more than 1,000 exports, each of which sends an email"),
    ],
)
def test_rejects_invalid_ranges_and_lengths(start: str | datetime, end: str | None, window: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(start, end, window)


def test_rejects_more_windows_than_the_maximum() -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    assert len(plan(start, start + timedelta(minutes=MAX_WINDOWS), "1min")) == MAX_WINDOWS
    end = start + timedelta(minutes=100_000)
    for allowed in (1, MAX_WINDOWS, 99_999):
        with pytest.raises(UsageError, match=f"more than {allowed:,} exports.*--max-windows"):
            plan(start, end, "1min", allowed)
    assert len(plan(start, end, "1min", 100_000)) == 100_000


def test_a_length_beyond_the_range_gives_one_window() -> None:
    assert bounds("2024-01-01", "2024-01-03", "1y") == ["2024-01-01T00:00:00.000Z", "2024-01-03T00:00:00.000Z"]
