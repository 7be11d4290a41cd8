"""Dates as people write them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull import Clickwrap, PlanOptions, UsageError
from bulkpull.planning import range as range_of_dates
from bulkpull.planning.range import moment, span
from bulkpull.window import instant

NOW = datetime(2024, 3, 31, 14, 25, 37, 250_000, tzinfo=UTC)
SOURCE = Clickwrap("t")


@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)))
def test_an_instant_is_read_as_it_is_written(written: datetime) -> None:
    whole = written.replace(microsecond=written.microsecond // 1000 * 1000)
    assert moment(instant(whole), "start") == whole


@given(st.dates())
def test_periods_stand_for_their_first_instant(day: date) -> None:
    year, week, weekday = day.isocalendar()
    quarter = (day.month + 2) // 3
    monday = date.fromordinal(max(1, day.toordinal() - weekday + 1))
    for text, first in (
        (day.isoformat(), day),
        (f"{day:%Y}".zfill(4), date(day.year, 1, 1)),
        (f"{day.year:04d}-{day.month:02d}", date(day.year, day.month, 1)),
        (f"{day.year:04d}Q{quarter}", date(day.year, 3 * quarter - 2, 1)),
        (f"{day.year:04d}-q{quarter}", date(day.year, 3 * quarter - 2, 1)),
        *([(f"{year:04d}-W{week:02d}", monday)] if 1 < year < 9999 else []),
    ):
        assert moment(text, "start") == datetime(first.year, first.month, first.day, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("today", "2024-03-31T00:00:00.000Z"),
        ("Yesterday", "2024-03-30T00:00:00.000Z"),
        ("now", "2024-03-31T14:25:37.250Z"),
        ("-7d", "2024-03-24T00:00:00.000Z"),
        (" -2w ", "2024-03-17T00:00:00.000Z"),
        ("-1mo", "2024-02-29T00:00:00.000Z"),
        ("-1y", "2023-03-31T00:00:00.000Z"),
        ("-6h", "2024-03-31T08:25:00.000Z"),
        ("-48h", "2024-03-29T14:25:00.000Z"),
        ("-30min", "2024-03-31T13:55:00.000Z"),
    ],
)
def test_relative_dates_count_back_from_now(text: str, expected: str) -> None:
    assert instant(moment(text, "start", NOW)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("yesteday", "is not a date .*[)]. Did you mean yesterday[?]"),
        ("-7days", "nor a length ago such as -7d: .*Did you mean 7d"),
        ("-5m", "m is ambiguous: did you mean 5min or 5mo"),
        ("-", "is not a date"),
        ("2024-W54", "is not a date"),
        ("2024Q5", "is not a date"),
        ("0000", "is not a date"),
        ("-9999y", "beyond the years 1 to 9999"),
        ("-999999w", "beyond the years 1 to 9999"),
    ],
)
def test_what_is_no_date_is_refused_with_a_suggestion(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        moment(text, "start", NOW)


@pytest.mark.parametrize(
    ("period", "end"),
    [("2024", "2025-01-01"), ("2024-12", "2025-01-01"), ("2024Q2", "2024-07-01"), ("2024-W01", "2024-01-08")],
)
def test_a_period_as_both_ends_is_an_empty_range(period: str, end: str) -> None:
    with pytest.raises(UsageError, match=f"For all of {period}, use the end {end}"):
        span(period, period)
    assert span(period, end)[1] == moment(end, "end")


def test_relative_dates_are_resolved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        at = NOW

        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return cls.at

    monkeypatch.setattr(range_of_dates, "datetime", Clock)
    options = PlanOptions(start="-7d", end="today")
    Clock.at = NOW + timedelta(days=1)
    assert options.identity(SOURCE)["start"] == "2024-03-24T00:00:00.000Z"
    assert options.identity(SOURCE)["end"] == "2024-03-31T00:00:00.000Z"
    assert PlanOptions(**options.asdict()) == options
    assert PlanOptions(start="-7d").identity(SOURCE)["start"] == "2024-03-25T00:00:00.000Z"


def test_the_end_now_is_the_time_of_the_plan() -> None:
    assert PlanOptions(start="2024-01-01", end="now") == PlanOptions(start="2024-01-01")
