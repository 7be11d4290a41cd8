"""The client on the wire: what it sends, and what it makes of the answers."""

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
    """Method, URL and headers of all requests, in order of their URL."""
    return [(method, url, call.kwargs["headers"]) for (method, url), calls in wire.requests.items() for call in calls]


async def test_start_export_sends_everything_in_the_query(wire: aioresponses) -> None:
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


async def test_the_query_is_percent_encoded_on_the_wire() -> None:
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


async def test_get_export_puts_the_id_into_the_path(wire: aioresponses) -> None:
    wire.get(ANY, payload=EXPORT)
    async with client() as clickwrap:
        await clickwrap.get_export("../odd id")
    [(_, url, _)] = sent(wire)
    assert url.raw_path == "/v1.1/tasks/export/..%2Fodd%20id"


async def test_export_fields_of_a_site(wire: aioresponses) -> None:
    wire.get(f"{BASE}/sites/5193/exportFields", payload={"data": [{"field": "id"}, {"field": "custom_data.vip"}]})
    async with client() as clickwrap:
        assert await clickwrap.export_fields(5193) == ["id", "custom_data.vip"]


async def test_activity_goes_from_page_to_page_while_there_is_more(wire: aioresponses) -> None:
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


async def test_numbers_of_an_activity_keep_their_digits(wire: aioresponses) -> None:
    numbers = '{"long": 123456789012345678901234567890, "minus": -18446744073709551617, "half": 0.5, "deep": [[1e400]]}'
    wire.get(ANY, body=f'{{"data": [{numbers}, {{"longer": {"7" * 5000}}}], "has_more": false}}')
    async with client() as clickwrap:
        [activity, longer] = [entry async for entry in clickwrap.activity()]
    assert activity == {"long": 123456789012345678901234567890, "minus": -(2**64) - 1, "half": 0.5, "deep": [["1e400"]]}
    assert longer == {"longer": "7" * 5000}


@pytest.mark.parametrize("body", ['{"data": [NaN, 1e400]}', '{"data": ["\\ud800", 1e400]}', "[" * 100_000, "", "1e"])
async def test_what_is_no_json_is_no_answer(wire: aioresponses, body: str) -> None:
    wire.get(ANY, body=body, repeat=True)
    async with client() as clickwrap:
        with pytest.raises(UnavailableError, match="no JSON but"):
            [entry async for entry in clickwrap.activity()]


async def test_activity_stops_at_an_empty_page_that_claims_more(wire: aioresponses) -> None:
    wire.get(ANY, payload={"has_more": True, "data": []}, repeat=True)
    async with client() as clickwrap:
        assert [entry async for entry in clickwrap.activity()] == []
    assert len(sent(wire)) == 1


@pytest.mark.parametrize("per_page", [0, 101])
async def test_pages_are_at_most_100(per_page: int) -> None:
    async with client() as clickwrap:
        with pytest.raises(UsageError, match="per_page"):
            await anext(clickwrap.activity(per_page=per_page))


async def test_count_asks_for_one_activity(wire: aioresponses) -> None:
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
async def test_what_may_pass_is_tried_again(wire: aioresponses, failure: dict[str, Any]) -> None:
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
async def test_refusals_are_not_tried_again(wire: aioresponses, status: int, error: type[ApiError]) -> None:
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
async def test_an_error_tells_whether_the_request_may_have_been_acted_upon(
    wire: aioresponses, answers: list[dict[str, Any]], undone: bool
) -> None:
    for answer in answers:
        wire.post(ANY, **answer)
    async with client() as clickwrap:
        with pytest.raises(ApiError) as caught:
            await clickwrap.start_export("a==1")
    assert caught.value.undone is undone


async def test_what_never_arrived_was_not_acted_upon() -> None:
    async with Clickwrap("a-secret-token", base_url="http://127.0.0.1:1", retry=QUICK) as clickwrap:
        with pytest.raises(UnavailableError) as caught:
            await clickwrap.start_export("a==1")
    assert caught.value.undone


async def test_a_last_attempt_in_vain_is_unavailable(wire: aioresponses) -> None:
    wire.get(ANY, status=503, body="<html>maintenance</html>", repeat=True)
    async with client() as clickwrap:
        with pytest.raises(UnavailableError, match=r"503.*maintenance"):
            await clickwrap.get_export("1")
    assert len(sent(wire)) == QUICK.attempts


async def test_a_429_is_announced_and_in_the_end_an_error(wire: aioresponses) -> None:
    heard: list[Event] = []
    wire.get(ANY, status=429, headers={"Retry-After": "0"}, repeat=True)
    async with client() as clickwrap:
        with pytest.raises(ThrottledError, match="quota"):
            await clickwrap.observed(heard.append).get_export("1")
    assert len([event for event in heard if isinstance(event, Throttled)]) == QUICK.attempts


async def test_a_429_that_asks_for_more_than_the_limit_ends_at_once(wire: aioresponses) -> None:
    wire.get(ANY, status=429, headers={"Retry-After": "86400"}, repeat=True)
    async with client() as clickwrap:
        with pytest.raises(ThrottledError):
            await clickwrap.get_export("1")
    assert len(sent(wire)) == 1


async def test_an_error_that_quotes_the_token_does_not_tell_it(wire: aioresponses) -> None:
    wire.get(ANY, status=401, payload={"error": {"message": f"token {TOKEN} has expired"}})
    async with client() as clickwrap:
        with pytest.raises(AuthenticationError, match="expired") as caught:
            await clickwrap.get_export("1")
        assert TOKEN not in repr(clickwrap)
    assert TOKEN not in str(caught.value)


async def test_a_200_that_quotes_the_token_does_not_tell_it(wire: aioresponses) -> None:
    heard: list[Event] = []
    wire.get(ANY, status=200, body=f"<html>proxy: Authorization: Bearer {TOKEN}</html>", repeat=True)
    async with client() as clickwrap:
        with pytest.raises(UnavailableError, match="proxy") as caught:
            await clickwrap.observed(heard.append).get_export("1")
    assert TOKEN not in str(caught.value)
    assert TOKEN not in repr(heard)


async def test_messages_hold_nothing_that_a_terminal_obeys(wire: aioresponses) -> None:
    wire.get(ANY, payload={"data": {"id": "1", "status": "failed", "message": f"\x1b[2Jno\r\nroom {TOKEN}\x07"}})
    async with client() as clickwrap:
        export = await clickwrap.get_export("1")
    assert export.message == "[2Jno room ***"


async def test_a_closed_connection_is_one_attempt_of_ours_and_no_silent_second() -> None:
    arrived = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal arrived
        arrived += 1
        if arrived % 2 == 0:  # a kept-alive connection that closes without an answer
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


async def test_a_429_holds_back_what_has_not_been_sent() -> None:
    arrived = 0

    async def handler(_request: web.Request) -> web.Response:
        nonlocal arrived
        arrived += 1
        await anyio.sleep(0.2)  # all that is on the wire is there before the first answer
        return web.json_response({}, status=429, headers={"Retry-After": "3000"})

    app = web.Application()
    app.router.add_get("/v1.1/activity", handler)
    async with TestServer(app) as server, client(base_url=str(server.make_url("/v1.1"))) as clickwrap:

        async def refused() -> None:
            with pytest.raises(ThrottledError):
                await clickwrap.count()

        with anyio.move_on_after(2):
            async with anyio.create_task_group() as group:
                for _ in range(200):
                    group.start_soon(refused)
    assert 0 < arrived <= 64


@pytest.mark.filterwarnings("ignore:.*deprecated and will be removed:DeprecationWarning")
async def test_a_session_with_credentials_of_its_own_is_refused() -> None:
    async with aiohttp.ClientSession(auth=aiohttp.BasicAuth("u", "p")) as session:
        with pytest.raises(UsageError, match="auth"):
            async with client(session=session):
                pass


async def test_a_client_that_is_not_open_says_so() -> None:
    clickwrap = client()
    with pytest.raises(UsageError, match="async with"):
        await clickwrap.count()
    with pytest.raises(UsageError, match="async with"):
        clickwrap.download("https://files.example/x")


async def test_a_session_handed_in_is_left_open(wire: aioresponses) -> None:
    wire.get(ANY, payload=EXPORT)
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        async with client(session=session) as clickwrap:
            await clickwrap.get_export("1")
        assert not session.closed


async def test_twins_share_the_quota_but_not_the_listener(wire: aioresponses) -> None:
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
def test_tokens_that_no_header_may_carry_are_refused(token: str) -> None:
    with pytest.raises(UsageError, match="token") as caught:
        Clickwrap(token)
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://localhost:8080/v1.1", "http://127.0.0.1", "http://[::1]:1/", "https://api.example/v1.1/"]
)
def test_base_urls(url: str) -> None:
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
def test_base_urls_that_would_leak_or_make_no_sense_are_refused(url: str) -> None:
    with pytest.raises(UsageError, match="base URL") as caught:
        Clickwrap(TOKEN, base_url=url)
    assert "hunter2" not in str(caught.value)
