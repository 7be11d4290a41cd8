"""Durations and sizes: what is written is what is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull import UsageError
from bulkpull.durations import duration_text, seconds_of
from bulkpull.sizes import bytes_of, size_text


@given(st.integers(0, 10**15))
def test_a_duration_is_read_as_it_is_written(microseconds: int) -> None:
    seconds = microseconds / 1e6
    assert seconds_of(duration_text(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        (" 0.5 ", 0.5),
        ("90s", 90),
        ("15m", 900),
        ("15min", 900),
        ("1h30m", 5400),
        ("1H 30M", 5400),
        ("1d", 86_400),
        ("2d1.25s", 172_801.25),
    ],
)
def test_a_duration_has_units_or_is_in_seconds(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["", " ", "s", "-1", "-1s", "nan", "inf", "1e3", "1.5h", "30m1h", "1y", "1 2", "٣s" * 2]
)
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a duration such as 90s, 15m or 1h30m"):
        seconds_of(text)


@given(
    st.integers(1, 10**15 - 1)
    | st.builds(lambda count, power: count * 1024**power, st.integers(1, 999), st.integers(0, 4))
)
def test_a_size_is_read_as_it_is_written(size: int) -> None:
    assert bytes_of(size_text(size)) == size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5", 5),
        ("5B", 5),
        ("4GB", 4 * 10**9),
        ("4g", 4 * 10**9),
        ("1GiB", 2**30),
        ("1.5 MB", 1_500_000),
        ("0.5KiB", 512),
        ("2Ti", 2**41),
    ],
)
def test_a_size_has_units_of_1000_or_1024(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "0", "0.0GB", "0.0001kB", "-1", "1PB", "1iB", "B", "1MX", "nan", "1e9"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size such as 500MB, 4GB or 1GiB"):
        bytes_of(text)


def test_sizes_are_shown_short() -> None:
    assert [size_text(size) for size in (1, 4_000_000_000, 2**30, 1_500_000, 256_000_000)] == [
        "1B",
        "4GB",
        "1GiB",
        "1500kB",
        "256MB",
    ]
