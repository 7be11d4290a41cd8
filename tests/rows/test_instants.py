"""ISO 8601 instants; Python's datetime is the oracle for the forms it supports."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bulkpull.rows.instants import nanoseconds

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOON = 1_706_788_800_000_000_000  # 2024-02-01T12:00:00Z


@given(
    moment=st.datetimes(),
    offset=st.integers(-23 * 60 - 59, 23 * 60 + 59),
    timespec=st.sampled_from(["seconds", "milliseconds", "microseconds"]),
    basic=st.booleans(),
    comma=st.booleans(),
)
def test_parses_what_isoformat_writes(moment: datetime, offset: int, timespec: str, basic: bool, comma: bool) -> None:
    moment = moment.replace(tzinfo=timezone(timedelta(minutes=offset)))
    step = {"seconds": 1_000_000, "milliseconds": 1000, "microseconds": 1}[timespec]
    moment = moment.replace(microsecond=moment.microsecond // step * step)
    text = moment.isoformat(timespec=timespec)
    if basic:
        text = text[:10].replace("-", "") + text[10:].replace(":", "")
    if comma:
        text = text.replace(".", ",")
    assert nanoseconds(text.encode()) == (moment - EPOCH) // timedelta(microseconds=1) * 1000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-02-01T12:00:00Z", NOON),
        ("2024-02-01t12:00:00z", NOON),
        ("2024-02-01 12:00Z", NOON),
        ("2024-02-01T12Z", NOON),
        ("2024-02-01T14:00:00.000000000+02", NOON),
        ("2024-02-01T12:00:00.000000001Z", NOON + 1),
        ("2024-02-01T12:00:00,1230000000000Z", NOON + 123_000_000),
        ("2024-02-01T12.5Z", NOON + 1_800_000_000_000),
        ("2024-02-01T11:59,5Z", NOON - 30_000_000_000),
        ("2024-W05-4T12:00:00Z", NOON),
        ("2024-032T12:00:00Z", NOON),
        ("20240201T120000Z", NOON),
        ("2024-01-31T24:00:00Z", NOON - 43_200_000_000_000),
        ("2024-02-01T12:00:00.1234567891Z", None),
        ("2024-01-31T24:00:00.001Z", None),
        ("2024-02-01T12:00:00", None),
        ("2024-02-01", None),
        ("2024-02-30T12:00:00Z", None),
        ("2023-366T12:00:00Z", None),
        ("2024-000T12:00:00Z", None),
        ("2024-02-01T12:60:00Z", None),
        ("2024-02-01T25:00:00Z", None),
        ("2024-02-01T12:00:00+24:00", None),
        ("0000-01-01T00:00:00Z", None),
        ("2024-W60-1T00:00:00Z", None),
        ("٢٠٢٤-02-01T12:00:00Z", None),
        (" 2024-02-01T12:00:00Z", None),
        ("", None),
    ],
)
def test_parses_every_form_of_iso_8601(text: str, expected: int | None) -> None:
    assert nanoseconds(text.encode()) == expected


def test_applies_a_default_zone() -> None:
    assert nanoseconds(b"2024-02-01T12:00:00", zone=b"Z") == NOON
    assert nanoseconds(b"2024-02-01", zone=b"Z") == NOON - 43_200_000_000_000
    assert nanoseconds(b"2024-02-01T14:00:00+02:00", zone=b"Z") == NOON


@given(st.one_of(st.binary(max_size=40), st.from_regex(rb"[0-9]{4}-?[0-9W]{3,6}T[0-9:.,]{0,12}[Z+-][0-9:]{0,5}")))
@example(b"9999-366T99Z")
@example(b"9999-W53-7T00:00Z")
@example(b"0001-W01-1T00:00+23:59")
def test_never_raises(text: bytes) -> None:
    nanoseconds(text)
