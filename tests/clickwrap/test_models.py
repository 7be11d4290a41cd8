"""Responses are parsed tolerantly where the API's documentation is silent."""

from __future__ import annotations

from typing import Any

import pytest

from bulkpull import ApiError, Export
from bulkpull.clickwrap.models import (
    UnexpectedResponse,
    parse_count,
    parse_export,
    parse_export_fields,
    parse_page,
)

LINKS = ["https://files/1", "https://files/2"]
TASK = {"id": "5f88abf5f4689d7295cf1134", "status": "success"}


@pytest.mark.parametrize(
    "answer",
    [
        {"data": {**TASK, "links": LINKS}},
        {"data": {**TASK, "data": {"exportName": "action", "links": LINKS}}},
        {"data": TASK, "links": LINKS},
        {**TASK, "links": LINKS},
        {**TASK, "data": {"links": LINKS}},
        {"data": {**TASK, "links": [{"url": LINKS[0]}, {"href": LINKS[1]}]}},
        {"data": {**TASK, "links": [{"link": LINKS[0], "size": 3}, LINKS[1]]}},
        {"data": {**TASK, "links": None, "data": {"links": LINKS}}},
        {"data": {**TASK, "links": {"0": LINKS[0], "1": LINKS[1]}}},
        {"id": "9", "data": {**TASK, "links": LINKS}},
    ],
)
def test_finds_links_in_every_documented_place_and_shape(answer: Any) -> None:
    export = parse_export(answer)
    assert list(export.links) == LINKS
    assert export.succeeded


def test_the_repr_omits_links() -> None:
    assert "files" not in repr(parse_export({"data": {**TASK, "links": LINKS}}))


@pytest.mark.parametrize("links", [{}, {"links": []}, {"links": None}, {"links": {}}, {"links": ""}])
def test_an_export_may_have_no_links(links: dict[str, Any]) -> None:
    assert parse_export({"data": {**TASK, **links}}).links == ()


def test_an_unknown_status_is_still_running() -> None:
    export = parse_export({"data": {**TASK, "status": "Archiving"}})
    assert not export.succeeded
    assert not export.failed


@pytest.mark.parametrize("links", [[None], "", {}, 7])
def test_ignores_links_until_the_export_has_succeeded(links: Any) -> None:
    assert parse_export({"data": {**TASK, "status": "pending", "links": links}}).links == ()


def test_a_failed_export_has_its_message() -> None:
    export = parse_export({"data": {**TASK, "status": "FAILED", "message": "out of memory"}})
    assert export.failed
    assert export.message == "out of memory"


def test_the_response_to_a_launch_needs_only_an_id() -> None:
    assert parse_export({"data": {"id": 7}}) == Export("7", "running", "unknown")
    with pytest.raises(UnexpectedResponse):
        parse_export({"data": {"id": "7"}}, "7")  # a status response needs a status


@pytest.mark.parametrize(
    "answer",
    [
        [],
        "pending",
        {},
        {"data": {"status": "success"}},
        {"data": {**TASK, "links": [{"size": 3}]}},
    ],
)
def test_rejects_responses_that_are_not_an_export(answer: Any) -> None:
    with pytest.raises(UnexpectedResponse):
        parse_export(answer)


@pytest.mark.parametrize(
    "answer",
    [
        ["id", "custom_data.vip"],
        {"data": ["id", "custom_data.vip"]},
        [{"field": "id"}, {"name": "custom_data.vip"}],
        {"data": [{"key": "id"}, {"field": "custom_data.vip", "label": "VIP"}]},
    ],
)
def test_parses_export_fields_in_every_shape(answer: Any) -> None:
    assert parse_export_fields(answer) == ["id", "custom_data.vip"]


@pytest.mark.parametrize("answer", [{}, {"data": {}}, [{"label": "VIP"}], [7]])
def test_rejects_responses_that_are_not_a_list_of_fields(answer: Any) -> None:
    with pytest.raises(UnexpectedResponse):
        parse_export_fields(answer)


def test_parses_a_page_and_its_count() -> None:
    answer = {"page": 1, "per_page": 25, "count": 1, "total_count": 11, "has_more": True, "data": [{"id": "1"}]}
    page = parse_page(answer)
    assert (page.data, page.has_more, page.total_count) == ([{"id": "1"}], True, 11)
    assert parse_count(answer) == 11


def test_rejects_a_page_without_a_count() -> None:
    with pytest.raises(ApiError, match="has no total_count"):
        parse_count({"has_more": False, "data": []})
