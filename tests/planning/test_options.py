"""The options of a plan: what they check, and how the journal records them."""

from __future__ import annotations

import inspect
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bulkpull
from bulkpull import PlanOptions, UsageError
from bulkpull.options import declared
from bulkpull.planning.range import span

DAY = timedelta(days=1)

SOURCE = bulkpull.Clickwrap("t")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"start": "2024-02-31"}, "2024-02-31.*not a date"),
        ({"start": "2024-01-02", "end": "2024-01-01"}, "before the start"),
        ({"start": datetime.now(UTC) + DAY}, "before the start"),
        ({"start": datetime(2024, 1, 1)}, r"no offset from UTC: write 2024-01-01T00:00:00Z or"),
        ({"filter": "event_type"}, "comparisons"),
        ({"filter": "a==1 or b==2"}, "'or'"),
        ({"window": "0d"}, "not a length"),
        ({"rows_per_export": 0}, "rows_per_export is 0: it must be at least 1"),
        ({"max_windows": -1}, "max_windows is -1: it must be at least 1"),
    ],
)
def test_a_value_that_makes_no_sense_is_a_sentence(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PlanOptions(**({"start": "2024-01-01"} | values)).identity(SOURCE)  # the source knows the filter's grammar


def test_options_are_frozen_and_are_given_by_name() -> None:
    options = PlanOptions(start="2024-01-01")
    with pytest.raises(AttributeError):
        options.window = "1d"  # type: ignore[misc]
    with pytest.raises(TypeError):
        PlanOptions("2024-01-01")  # type: ignore[call-arg]


MOMENTS = st.datetimes(
    datetime(1970, 1, 1),
    datetime(2020, 1, 1),
    timezones=st.builds(timezone, st.timedeltas(-DAY + timedelta(minutes=1), DAY - timedelta(minutes=1))),
)


# Python reads an offset of less than a second as UTC.
OFFSETS = st.integers(-86_340, 86_340).map(lambda seconds: timedelta(seconds=seconds))


@given(MOMENTS, OFFSETS)
def test_the_same_instant_in_another_zone_identifies_the_same_pull(start: datetime, offset: timedelta) -> None:
    elsewhere = start.astimezone(timezone(offset))
    assert PlanOptions(start=start).identity(SOURCE) == PlanOptions(start=elsewhere.isoformat()).identity(SOURCE)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"start": "2024-01-01"}, {"start": date(2024, 1, 1)}),
        ({"window": "2w"}, {"window": " 2W "}),
        ({"filter": None}, {"filter": " "}),
        ({"window": "1d", "rows_per_export": 5}, {"window": "1d"}),
        ({"max_windows": 5}, {}),
    ],
)
def test_equal_ranges_filters_and_lengths_identify_the_same_pull(one: dict[str, Any], other: dict[str, Any]) -> None:
    start = {"start": "2024-01-01"}
    assert PlanOptions(**start | one).identity(SOURCE) == PlanOptions(**start | other).identity(SOURCE)


def test_the_journal_records_what_it_always_did() -> None:
    assert PlanOptions(start="2024-01-01T01:00+01:00").identity(SOURCE) == {
        "start": "2024-01-01T00:00:00.000Z",
        "end": "now",
        "filter": "",
        "window": "auto",
        "rows_per_export": "100000",
        "base_url": "https://api.pactsafe.com/v1.1",
    }
    options = PlanOptions(start="2024-01-01", end="2024-02-01", filter=" a==1 ", window="1D", rows_per_export=9)
    assert options.identity(SOURCE) == {
        "start": "2024-01-01T00:00:00.000Z",
        "end": "2024-02-01T00:00:00.000Z",
        "filter": "a==1",
        "window": "1d",
        "rows_per_export": "",
        "base_url": "https://api.pactsafe.com/v1.1",
    }


def test_the_function_shows_the_options_as_its_keywords() -> None:
    source, *keywords = inspect.signature(bulkpull.plan).parameters.values()
    assert source.kind is inspect.Parameter.POSITIONAL_ONLY
    assert keywords == list(inspect.signature(PlanOptions).parameters.values())
    for field, _ in declared(PlanOptions):
        assert f"\n    {field.name}: " in (bulkpull.plan.__doc__ or "")
    assert "options:" not in (bulkpull.plan.__doc__ or "")


async def test_a_keyword_that_no_option_has_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="strat"):
        await bulkpull.plan(None, strat="2024-01-01")  # type: ignore[arg-type, call-arg]


def test_a_subclass_of_datetime_is_an_instant_like_any_other() -> None:
    class Naive(datetime):
        """Loses its offset in additions, like that of pendulum."""

        def __add__(self, other: timedelta) -> Naive:
            return Naive.combine(datetime.__add__(self, other).date(), self.time())

    found = span(Naive(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), "2024-02-01")
    assert found == (datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC))
