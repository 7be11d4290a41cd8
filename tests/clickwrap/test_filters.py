"""Filter expressions: validation, and combination with a window's bounds."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bulkpull.clickwrap.filters import check_filter, window_filter
from bulkpull.errors import UsageError
from bulkpull.window import Window

WINDOW = Window(0, datetime(2020, 10, 10, tzinfo=UTC), datetime(2020, 10, 15, 18, 42, 19, 689000, tzinfo=UTC))
BOUNDS = "created_time>=2020-10-10T00:00:00.000Z and created_time<2020-10-15T18:42:19.689Z"


@pytest.mark.parametrize(
    "text",
    [
        "event_type==agreed",
        "event_type == agreed and custom_data.vip!=TRUE",
        "connection_data.page_title==Order",  # contains the letters, not the word
        "connection_data.page_title==Terms and Conditions",
        'connection_data.page_title=="Terms or Conditions"',
        "connection_data.page_title=='Terms OR Conditions' and event_type==agreed",
        'connection_data.page_title != "a || b"',
        r'connection_data.page_title=="say \"yes\" or \"no\""',
        "connection_data.page_title=='Men''s or Women''s'",
        "connection_data.page_title==\"Men's or Women's\"",
        'connection_data.page_title=="this and"',
        'connection_data.page_title==""',
        "connection_data.page_title==Men's",
        'connection_data.page_title=="two\nlines or more"',
    ],
)
def test_accepts_valid_filters_unchanged(text: str) -> None:
    assert check_filter(f" {text} ") == text


@pytest.mark.parametrize("text", [None, "", "   "])
def test_an_empty_filter_is_none(text: str | None) -> None:
    assert check_filter(text) is None


OR_OUTSIDE = [
    'a=="x or y" or b==2',
    "a=='x' or b=='y'",
    "a=='' or b==''",
    'a=="x or y',  # unclosed quote
    'a==x" or b=="y',
    r'a=="x\" or b==2',
    "a==Men's or b==Women's",
    'a=="x"y or b=="z"',
    """a=="x' or b=='y" or c==1""",
]


@pytest.mark.parametrize(
    "text", ["a==1 or b==2", "a==1 OR b==2", "a==1\tor b==2", "a==1 || b==2", "a==1 or", *OR_OUTSIDE]
)
def test_rejects_or_outside_quotes(text: str) -> None:
    with pytest.raises(UsageError, match="'or'"):
        check_filter(text)


@pytest.mark.parametrize(
    "text", ["agreed", "event_type=agreed", "==agreed", "event_type==", "a==1 and", 'a=="b and c" and']
)
def test_rejects_what_is_not_a_comparison(text: str) -> None:
    with pytest.raises(UsageError, match="comparisons"):
        check_filter(text)


def test_combines_bounds_and_filter_into_one_expression() -> None:
    assert window_filter(WINDOW, None) == BOUNDS
    assert window_filter(WINDOW, "event_type==agreed") == f"{BOUNDS} and event_type==agreed"
