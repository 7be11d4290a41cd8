"""The client's requests, and its reactions to responses."""

from __future__ import annotations

import re
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aioresponses import CallbackResult, aioresponses
from yarl import URL

from bulkpull import (
    ApiError,
    AuthenticationError,
    Clickwrap,
    NotFoundError,
    RetryPolicy,
    ThrottledError,
    UnavailableError,
    UsageError,
)
from bulkpull.events import Event, Requested, Retried, Throttled

TOKEN = "a-secret-token"
BASE = "https://api.pactsafe.com/v1.1"
QUICK = RetryPolicy(attempts=4, base=0, cap=0)
EXPORT = {"data": {"id": "5f88abf5f4689d7295cf1134", "status": "pending"}}
ANY = re.compile(re.escape(BASE) + ".*")


def client(**options: Any) -> Clickwrap:
    return Clickwrap(TOKEN, **({"retry": QUICK} | options))


def sent(wire: aioresponses) -> list[tuple[str, URL, dict[str, str]]]:
    """Method, URL and headers of all requests, grouped by method and URL."""
    return [(method, url, call.kwargs["headers"]) for (method, url), calls in wire.requests.items() for call in calls]


async def test_start_export_sends_filter_and_fields_in_the_query(wire: aioresponses) -> None:
    wire.post(ANY, payload=EXPORT)
    async with client() as clickwrap:
        export = await clickwrap.start_export(
            "created_time>=2020-10-10 and event_type==agreed", ["id", "custom_data.vip"]
        )
    assert (export.id, export.status) == ("5f88abf5f4689d7295cf1134", "pending")
    [(method, url, headers)] = sent(wire)
    assert method == "POST"
    assert url.path == "/v1.1/tasks/export/activity"
    assert dict(url.query) == {
        "filter": "created_time>=2020-10-10 and event_type==agreed",
        "fields": "id,custom_data.vip",
    }
    assert headers["Authorization"] == f"Bearer {TOKEN}"


async def test_the_query_is_percent_encoded() -> None:
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.raw_path)
        return web.json_response(EXPORT)

    app = web.Application()
    app.router.add_post("/v1.1/tasks/export/activity", handler)
    async with TestServer(app) as server, client(base_url=str(server.make_url("/v1.1"))) as clickwrap:
        await clickwrap.start_export("created_time>=2020-10-10 and custom_data.plan==a+b&c", ["id"])
    assert seen == [
        "/v1.1/tasks/export/activity"
        "?filter=created_time%3E%3D2020-10-10%20and%20custom_data.plan%3D%3Da%2Bb%26c&fields=id"
    ]


async def test_get_export_encodes_the_id_as_one_path_segment(wire: aioresponses) -> None:
    wire.get(ANY, payload=EXPORT)
    async with client() as clickwrap:
        await clickwrap.get_export("../odd id")
    [(_, url, _)] = sent(wire)
    assert url.raw_path == "/v1.1/tasks/export/..%2Fodd%20id"


async def test_export_fields_returns_the_names(wire: aioresponses) -> None:
    wire.get(f"{BASE}/sites/5193/exportFields", payload={"data": [{"field": "id"}, {"field": "custom_data.vip"}]})
    async with client() as clickwrap:
        assert await clickwrap.export_fields(5193) == ["id", "custom_data.vip"]


async def test_activity_requests_pages_while_there_are_more(wire: aioresponses) -> None:
    def page(url: URL, **_: Any) -> CallbackResult:
        number = int(url.query["page"])
        return CallbackResult(payload={"has_more": number < 3, "data": [{"id": f"{number}-{row}"} for row in range(2)]})

    wire.get(ANY, callback=page, repeat=True)
    async with client() as clickwrap:
        found = [
            entry["id"]
            async for entry in clickwrap.activity("event_type==sent", fields=["id"], sort="-created_time", lean=True)
        ]
    assert found == ["1-0", "1-1", "2-0", "2-1", "3-0", "3-1"]
    queries = [dict(url.query) for _, url, _ in sent(wire)]
    assert {query.pop("page") for query in queries} == {"1", "2", "3"}
    assert queries == 3 * [
        {
            "filter": "event_type==sent",
            "fields": "id",
            "per_page": "100",
            "sort": "-created_time",
            "no_count": "true",
            "lean": "true",
        }
    ]


async def test_numbers_in_an_activity_keep_all_their_digits(wire: aioresponses) -> None:
    numbers = '{"long": 123456789012345678901234567890, "minus": -18446744073709551617, "half": 0.5, "deep": [[1e400]]}'
    wire.get(ANY, body=f'{{"data": [{numbers}, {{"longer": {"7" * 5000}}}], "has_more": false}}')
    async with client() as clickwrap:
        [activity, longer] = [entry async for entry in clickwrap.activity()]
    assert activity == {"long": 123456789012345678901234567890, "minus": -(2**64) - 1, "half": 0.5, "deep": [["1e400"]]}
    assert longer == {"longer": "7" * 5000}


@pytest.mark.parametrize("body", ['{"data": [NaN, 1e400]}', '{"data": ["\\ud800", 1e400]}', "[" * 100_000, "", "1e"])
async def test_a_response_that_is_not_json_is_an_error(wire: aioresponses, body: str) -> None:
    wire.get(ANY, body=body, repeat=True)
    async with client() as clickwrap:
        with pytest.raises(UnavailableError, match="not JSON but"):
            [entry async for entry in clickwrap.activity()]


async def test_activity_stops_at_an_empty_page_despite_has_more(wire: aioresponses) -> None:
    wire.get(ANY, payload={"has_more": True, "data": []}, repeat=True)
    async with client() as clickwrap:
        assert [entry async for entry in clickwrap.activity()] == []
    assert len(sent(wire)) == 1


@pytest.mark.parametrize("per_page", [0, 101])
async def test_rejects_a_page_size_out_of_range(per_page: int) -> None:
    async with client() as clickwrap:
        with pytest.raises(UsageError, match="per_page"):
            await anext(clickwrap.activity(per_page=per_page))


async def test_count_requests_a_page_of_one_activity(wire: aioresponses) -> None:
    wire.get(ANY, payload={"total_count": 1234, "has_more": True, "data": [{"id": "1"}]})
    async with client() as clickwrap:
        assert await clickwrap.count("event_type==sent") == 1234
    [(_, url, _)] = sent(wire)
    assert dict(url.query) == {"filter": "event_type==sent", "page": "1", "per_page": "1"}


@pytest.mark.parametrize(
    "failure",
    [
        {"status": 500, "payload": {"error": {"message": "oops"}}},
        {"status": 502, "body": "<html>Bad gateway</html>"},
        {"status": 503},
        {"status": 408},
        {"status": 429, "headers": {"Retry-After": "0"}},
        {"status": 200, "body": "<html>Please log in</html>"},
        {"status": 200, "body": ""},
        {"status": 200, "payload": {"unexpected": "shape"}},
        {"exception": aiohttp.ClientConnectionError("reset")},
        {"exception": aiohttp.ServerDisconnectedError()},
        {"exception": TimeoutError()},
    ],
)
async def test_retries_transient_failures(wire: aioresponses, failure: dict[str, Any]) -> None:
    heard: list[Event] = []
    wire.get(ANY, **failure)
    wire.get(ANY, **failure)
    wire.get(ANY, payload=EXPORT)
    async with client() as clickwrap:
        export = await clickwrap.observed(heard.append).get_export("1")
    assert export.status == "pending"
    assert len([event for event in heard if isinstance(event, Requested)]) == 3
    assert [event.attempt for event in heard if isinstance(event, Retried)] == [1, 2]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, ApiError),
        (401, AuthenticationError),
        (403, AuthenticationError),
        (404, NotFoundError),
        (410, ApiError),
        (302, ApiError),
    ],
)
async def test_does_not_retry_rejected_requests(wire: aioresponses, status: int, error: type[ApiError]) -> None:
    answer = {"error": {"message": "because of the moon", "status": status, "name": "X", "code": 1}}
    wire.get(ANY, status=status, payload=answer, headers={"Location": "https://elsewhere.example/"}, repeat=True)
    async with client() as clickwrap:
        with pytest.raises(error, match="because of the moon") as caught:
            await clickwrap.get_export("1")
    assert caught.value.status == status
    assert len(sent(wire)) == 1


@pytest.mark.parametrize(
    ("answers", "undone"),
    [
        ([{"status": 400}], True),
        ([{"status": 429, "headers": {"Retry-After": "0"}}, {"status": 401}], True),
        ([{"exception": aiohttp.ServerDisconnectedError()}, {"status": 400}], False),
        ([{"status": 500}, {"status": 404}], False),
        ([{"status": 408}, {"status": 404}], False),
        ([{"status": 200, "body": ""}, {"status": 404}], False),
        ([{"status": 429, "headers": {"Retry-After": "0"}}] * 9, True),
        ([{"status": 503}] * 9, False),
    ],
)
async def test_an_error_says_whether_the_request_was_certainly_not_processed(
    wire: aioresponses, answers: list[dict[str, Any]], undone: bool
) -> None:
    for answer in answers:
        wire.post(ANY, **answer)
    async with client() as clickwrap:
        with pytest.raises(ApiError) as caught:
            await clickwrap.start_export("a==1")
    assert caught.value.undone is undone


async def test_a_refused_connection_means_not_processed() -> None:
    async with Clickwrap("a-secret-token", base_url="http://127.0.0.1:1", retry=QUICK) as clickwrap:
        with pytest.raises(UnavailableError) as caught:
            await clickwrap.start_export("a==1")
    assert caught.value.undone


async def test_raises_unavailable_after_the_last_attempt(wire: aioresponses) -> None:
    wire.get(ANY, status=503, body="<html>maintenance</html>", repeat=True)
    async with client() as clickwrap:
        with pytest.raises(UnavailableError, match=r"503.*maintenance"):
            await clickwrap.get_export("1")
    assert len(sent(wire)) == QUICK.attempts


async def test_reports_each_429_and_finally_raises(wire: aioresponses) -> None:
    heard: list[Event] = []
    wire.get(ANY, status=429, headers={"Retry-After": "0"}, repeat=True)
    async with client() as clickwrap:
        with pytest.raises(ThrottledError, match="quota"):
            await clickwrap.observed(heard.append).get_export("1")
    assert len([event for event in heard if isinstance(event, Throttled)]) == QUICK.attempts


async def test_gives_up_at_once_if_retry_after_exceeds_the_limit(wire: aioresponses) -> None:
    wire.get(ANY, status=429, headers={"Retry-After": "86400"}, repeat=True)
    async with client() as clickwrap:
        with pytest.raises(ThrottledError):
            await clickwrap.get_export("1")
    assert len(sent(wire)) == 1


async def test_masks_the_token_in_an_error_response(wire: aioresponses) -> None:
    wire.get(ANY, status=401, payload={"error": {"message": f"token {TOKEN} has expired"}})
    async with client() as clickwrap:
        with pytest.raises(AuthenticationError, match="expired") as caught:
            await clickwrap.get_export("1")
        assert TOKEN not in repr(clickwrap)
    assert TOKEN not in str(caught.value)


async def test_masks_the_token_in_an_unexpected_response(wire: aioresponses) -> None:
    heard: list[Event] = []
    wire.get(ANY, status=200, body=f"<html>proxy: Authorization: Bearer {TOKEN}</html>", repeat=True)
    async with client() as clickwrap:
        with pytest.raises(UnavailableError, match="proxy") as caught:
            await clickwrap.observed(heard.append).get_export("1")
    assert TOKEN not in str(caught.value)
    assert TOKEN not in repr(heard)


async def test_removes_control_characters_from_messages(wire: aioresponses) -> None:
    wire.get(ANY, payload={"data": {"id": "1", "status": "failed", "message": f"\x1b[2Jno\r\nroom {TOKEN}\x07"}})
    async with client() as clickwrap:
        export = await clickwrap.get_export("1")
    assert export.message == "[2Jno room ***"


async def test_aiohttp_does_not_retry_behind_our_back() -> None:
    arrived = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal arrived
        arrived += 1
        if arrived % 2 == 0:  # a kept-alive connection that closes without a response
            assert request.transport is not None
            request.transport.close()
        return web.json_response({"total_count": 1, "data": []})

    app = web.Application()
    app.router.add_get("/v1.1/activity", handler)
    heard: list[Event] = []
    async with TestServer(app) as server, client(base_url=str(server.make_url("/v1.1"))) as clickwrap:
        for _ in range(5):
            assert await clickwrap.observed(heard.append).count() == 1
    assert arrived == len([event for event in heard if isinstance(event, Requested)]) == 9
    assert len([event for event in heard if isinstance(event, Retried)]) == 4


async def test_a_429_stops_requests_not_yet_sent() -> None:
    arrived = 0

    async def handler(_request: web.Request) -> web.Response:
        nonlocal arrived
        arrived += 1
        await anyio.sleep(0.2)  # all concurrent requests arrive before the first response
        return web.json_response({}, status=429, headers={"Retry-After": "3000"})

    app = web.Application()
    app.router.add_get("/v1.1/activity", handler)
    async with TestServer(app) as server, client(base_url=str(server.make_url("/v1.1"))) as clickwrap:

        async def refused() -> None:
            with pytest.raises(ThrottledError):
                await clickwrap.count()

        with anyio.move_on_after(5):
            async with anyio.create_task_group() as group:
                for _ in range(200):
                    group.start_soon(refused)
    assert 0 < arrived <= 64


@pytest.mark.filterwarnings("ignore:.*deprecated and will be removed:DeprecationWarning")
async def test_rejects_a_session_with_its_own_auth() -> None:
    async with aiohttp.ClientSession(auth=aiohttp.BasicAuth("u", "p")) as session:
        with pytest.raises(UsageError, match="auth"):
            async with client(session=session):
                pass


async def test_rejects_requests_before_the_client_is_opened() -> None:
    clickwrap = client()
    with pytest.raises(UsageError, match="async with"):
        await clickwrap.count()
    with pytest.raises(UsageError, match="async with"):
        clickwrap.download("https://files.example/x")


async def test_leaves_the_callers_session_open(wire: aioresponses) -> None:
    wire.get(ANY, payload=EXPORT)
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        async with client(session=session) as clickwrap:
            await clickwrap.get_export("1")
        assert not session.closed


async def test_observed_clients_report_only_their_own_requests(wire: aioresponses) -> None:
    wire.get(ANY, payload=EXPORT, repeat=True)
    first: list[Event] = []
    second: list[Event] = []
    async with client() as clickwrap:
        await clickwrap.observed(first.append).get_export("1")
        await clickwrap.observed(second.append).get_export("2")
        await clickwrap.get_export("3")
    assert first == [Requested("GET /tasks/export/1")]
    assert second == [Requested("GET /tasks/export/2")]


@pytest.mark.parametrize("token", ["", "with blank", "line\n", "tökén", "tab\t", "nul\0"])
def test_rejects_tokens_not_allowed_in_a_header(token: str) -> None:
    with pytest.raises(UsageError, match="token") as caught:
        Clickwrap(token)
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://localhost:8080/v1.1", "http://127.0.0.1", "http://[::1]:1/", "https://api.example/v1.1/"]
)
def test_accepts_base_urls(url: str) -> None:
    assert repr(Clickwrap(TOKEN, base_url=url)) == f"Clickwrap('{url.rstrip('/')}')"


@pytest.mark.parametrize(
    "url",
    [
        "http://api.pactsafe.com/v1.1",
        "http://10.0.0.1",
        "https://u@x",
        "https://:hunter2@x",
        "https://exa..mple",
        "ftp://x",
        "api.pactsafe.com",
        "https://u:p@x",
        "https://x?a=b",
        "",
        "https://x:y",
    ],
)
def test_rejects_base_urls_that_are_invalid_or_insecure(url: str) -> None:
    with pytest.raises(UsageError, match="base URL") as caught:
        Clickwrap(TOKEN, base_url=url)
    assert "hunter2" not in str(caught.value)
