"""The sandbox behaves as the API's documentation says, observed with a plain HTTP client instead of ours."""

from __future__ import annotations

import csv
import io
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull.sandbox import Sandbox, SandboxConfig
from bulkpull.sandbox.data import FIELDS, Activities
from bulkpull.sandbox.filters import FilterError, select
from bulkpull.sandbox.quota import RateLimit

START, END = datetime(2024, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
ACTIVITIES = Activities(20_000, START, END, seed=1)
AUTHORIZED = {"Authorization": "Bearer sandbox-token"}


@asynccontextmanager
async def running(**config: Any) -> AsyncIterator[tuple[Sandbox, aiohttp.ClientSession]]:
    async with (
        Sandbox(SandboxConfig(**({"rows": 2000, "export_seconds": 0.05} | config))) as sandbox,
        aiohttp.ClientSession() as session,
    ):
        yield sandbox, session


async def ask(session: aiohttp.ClientSession, method: str, url: str, **query: str) -> Any:
    async with session.request(method, url, params=query, headers=AUTHORIZED) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def exported(sandbox: Sandbox, session: aiohttp.ClientSession, **query: str) -> tuple[list[str], list[str]]:
    """The links of a finished export, and the sequence of its statuses."""
    task = (await ask(session, "POST", f"{sandbox.url}/tasks/export/activity", **query))["data"]
    statuses = [task["status"]]
    with anyio.fail_after(20):
        while task["status"] != "success":
            await anyio.sleep(0.01)
            task = (await ask(session, "GET", f"{sandbox.url}/tasks/export/{task['id']}"))["data"]
            statuses.append(task["status"])
    return task["links"], [status for status, _ in itertools.groupby(statuses)]


async def test_an_export_passes_through_all_statuses_and_has_several_files() -> None:
    async with running(rows_per_file=500) as (sandbox, session):
        links, statuses = await exported(sandbox, session, fields="id,custom_data.vip,custom_data.none")
        rows: list[list[str]] = []
        for link in links:
            assert not link.startswith(sandbox.url.removesuffix("/v1.1"))
            async with session.get(link) as response:
                assert response.headers["Accept-Ranges"] == "bytes"
                header, *more = csv.reader(io.StringIO((await response.read()).decode(), newline=""))
                assert header == ["id", "custom_data.vip", "custom_data.none"]
                rows += more
        assert statuses[0] == "pending"
        assert statuses[-2:] == ["started", "success"]
        assert len(links) > 3
        assert len({row[0] for row in rows}) == 2000 == await sandbox.distinct_ids()
        assert len(rows) > 2000  # some are repeated


async def test_a_worker_processes_one_export_at_a_time() -> None:
    async with running(workers=1, export_seconds=60) as (sandbox, session):
        seen = []
        for _ in range(3):
            task = (await ask(session, "POST", f"{sandbox.url}/tasks/export/activity"))["data"]
            seen.append(task["id"])
        statuses: list[str] = []
        with anyio.fail_after(20):
            while "started" not in statuses:
                statuses = [
                    (await ask(session, "GET", f"{sandbox.url}/tasks/export/{name}"))["data"]["status"] for name in seen
                ]
        assert statuses == ["started", "scheduled", "scheduled"]
        assert sandbox.stats.peak_exports == 3


async def test_the_file_host_supports_ranges_and_etags_and_checks_signatures() -> None:
    async with running() as (sandbox, session):
        [link] = (await exported(sandbox, session))[0]
        async with session.get(link) as response:
            whole, etag = await response.read(), response.headers["ETag"]
        for headers, status, body in (
            ({"Range": "bytes=100-"}, 206, whole[100:]),
            ({"Range": "bytes=100-199"}, 206, whole[100:200]),
            ({"Range": "bytes=100-", "If-Range": etag}, 206, whole[100:]),
            ({"Range": "bytes=100-", "If-Range": '"other"'}, 200, whole),
        ):
            async with session.get(link, headers=headers) as response:
                assert response.status == status
                assert await response.read() == body
                if status == 206:
                    end = 100 + len(body) - 1
                    assert response.headers["Content-Range"] == f"bytes 100-{end}/{len(whole)}"
        async with session.get(link, headers={"Range": f"bytes={len(whole)}-"}) as response:
            assert (response.status, response.headers["Content-Range"]) == (416, f"bytes */{len(whole)}")
        async with session.get(link, headers=AUTHORIZED) as response:
            assert response.status == 400
        assert sandbox.stats.leaks == 1
        for spoiled in (
            link[:-1] + ("0" if link[-1] != "0" else "1"),
            link.partition("?")[0],
            link.replace("expires=", "expires=9"),
        ):
            async with session.get(spoiled) as response:
                assert response.status == 403
                assert "<Error>" in await response.text()


async def test_links_expire() -> None:
    async with running(link_seconds=-2) as (sandbox, session):
        [link] = (await exported(sandbox, session))[0]
        async with session.get(link) as response:
            assert response.status == 403
            assert "expired" in await response.text()


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "name"),
    [
        ("GET", "/activity", {}, 401, "UnauthorizedError"),
        ("GET", "/activity", {"Authorization": "Bearer other"}, 401, "UnauthorizedError"),
        ("GET", "/activity?filter=event_type", AUTHORIZED, 400, "BadRequestError"),
        ("GET", "/activity?per_page=many", AUTHORIZED, 400, "BadRequestError"),
        ("GET", "/tasks/export/5f88abf5f4689d7295cf1134", AUTHORIZED, 404, "NotFoundError"),
        ("GET", "/nothing", AUTHORIZED, 404, "NotFoundError"),
        ("POST", "/tasks/export/activity?filter=a==1 or b==2", AUTHORIZED, 400, "BadRequestError"),
    ],
)
async def test_errors_have_the_form_of_the_api(
    method: str, path: str, headers: dict[str, str], status: int, name: str
) -> None:
    async with running() as (sandbox, session):
        async with session.request(method, sandbox.url + path, headers=headers) as response:
            assert response.status == status
            error = (await response.json())["error"]
        assert (error["status"], error["name"]) == (status, name)
        assert error["message"]


async def test_requests_over_the_rate_limit_are_not_processed() -> None:
    async with running(requests_per_minute=3) as (sandbox, session):
        for _ in range(3):
            await ask(session, "POST", f"{sandbox.url}/tasks/export/activity")
        async with session.post(f"{sandbox.url}/tasks/export/activity", headers=AUTHORIZED) as response:
            assert response.status == 429
            assert 1 <= int(response.headers["Retry-After"]) <= 60
            assert (await response.json())["error"]["name"] == "RateLimitExceededError"
        assert (sandbox.stats.exports, sandbox.stats.throttled) == (3, 1)


def test_the_period_of_the_rate_limit_starts_with_its_first_request() -> None:
    limit = RateLimit(3)
    assert [limit.retry_after("t", now) for now in (100, 150, 159.9)] == [None, None, None]
    assert limit.retry_after("t", 159.95) == 1
    assert limit.retry_after("other", 159.95) is None
    assert [limit.retry_after("t", now) for now in (160, 161, 162)] == [None, None, None]
    assert limit.retry_after("t", 170.5) == 50


async def test_the_list_route_supports_paging_counting_sorting_and_lean() -> None:
    async with running(rows=250) as (sandbox, session):
        url = f"{sandbox.url}/activity"
        first = await ask(session, "GET", url)
        assert (first["page"], first["per_page"], first["count"], first["total_count"]) == (1, 25, 25, 250)
        last = await ask(session, "GET", url, page="3", per_page="1000", no_count="true", lean="true")
        assert (last["per_page"], last["count"], last["has_more"]) == (100, 50, False)
        assert "total_count" not in last
        assert set(last["data"][0]) == {"id", "signer_id", "created_time", "event_type"}
        newest = await ask(
            session, "GET", url, sort="-created_time", per_page="1", fields="id,connection_data.page_title"
        )
        assert newest["has_more"]
        assert newest["data"][0]["id"] == last["data"][-1]["id"]
        assert set(newest["data"][0]["connection_data"]) == {"page_title"}
        filtered = await ask(session, "GET", url, filter="event_type==sent", per_page="100")
        assert filtered["total_count"] == len(filtered["data"]) < 250


async def test_refuses_to_count_if_configured() -> None:
    async with running(counting=False) as (sandbox, session):
        url = f"{sandbox.url}/activity"
        async with session.get(url, headers=AUTHORIZED) as response:
            assert response.status == 403
        assert "total_count" not in await ask(session, "GET", url, per_page="1", no_count="true")


@pytest.mark.parametrize("peak", [0.5, 0.95])
def test_a_peak_falls_into_one_week(peak: float) -> None:
    activities = Activities(20_000, START, END, seed=1, peak=peak)
    times = [datetime.fromisoformat(str(activities.row(number)[2])) for number in range(20_000)]
    assert times == sorted(times)
    assert START <= times[0] < times[-1] < END
    busy = START + (END - START) * 0.6
    week = activities.first_from(busy + timedelta(days=7)) - activities.first_from(busy)
    assert week == pytest.approx(peak * 20_000, rel=0.01)
    for moment in (START, busy, busy + timedelta(hours=5, milliseconds=7), END - timedelta(days=90), END):
        assert activities.first_from(moment) == sum(time < moment for time in times)


async def test_returns_the_export_fields() -> None:
    async with running() as (sandbox, session):
        fields = await ask(session, "GET", f"{sandbox.url}/sites/5193/exportFields")
        assert [entry["field"] for entry in fields["data"]] == list(FIELDS)


def test_the_seed_determines_the_rows() -> None:
    again = Activities(20_000, START, END, seed=1)
    other = Activities(20_000, START, END, seed=2)
    assert list(ACTIVITIES.export_rows(range(500), None)) == list(again.export_rows(range(500), None))
    assert list(ACTIVITIES.export_rows(range(500), None)) != list(other.export_rows(range(500), None))


def test_ids_are_object_ids_that_start_with_their_second() -> None:
    rows = [ACTIVITIES.row(number) for number in range(20_000)]
    ids = {row[0] for row in rows}
    assert len(ids) == 20_000
    for name, _, created, *_ in rows[::1999]:
        assert name is not None
        assert created is not None
        assert len(name) == 24
        assert int(name[:8], 16) == int(datetime.fromisoformat(created).timestamp())


def test_the_data_has_awkward_values_repeats_and_conflicts() -> None:
    rows = list(ACTIVITIES.export_rows(range(20_000), None))
    flat = {value for row in rows for value in row}
    assert {"", '""'} <= flat
    for awkward in ("\n", "\r\n", ",", '""Best""', "利"):
        assert any(awkward in value for value in flat)
    times = Counter(row[0] for row in rows)
    repeats = {name for name, count in times.items() if count > 1}
    variants = {row for row in rows if row[0] in repeats}
    assert 100 < len(repeats) < 400
    assert len(repeats) < len(variants)  # some with other values


@given(
    first=st.integers(-10, 740).map(lambda days: START + timedelta(days=days)),
    seconds=st.integers(0, 100 * 86_400),
)
def test_selects_exactly_the_rows_of_a_time_range(first: datetime, seconds: int) -> None:
    last = first + timedelta(seconds=seconds)
    numbers = range(ACTIVITIES.first_from(first), ACTIVITIES.first_from(last))
    around = range(max(0, numbers.start - 2), min(20_000, numbers.stop + 2))
    for number in (*around[:5], *around[-5:]):
        created = datetime.fromisoformat(str(ACTIVITIES.row(number)[2]))
        assert (number in numbers) == (first <= created < last)


@pytest.mark.parametrize(
    ("filter", "holds"),
    [
        (
            "created_time>=2024-03-01 and created_time<2024-03-02T12:00:00.000Z",
            lambda row: "2024-03-01" <= row[2] < "2024-03-02T12",
        ),
        (
            "created_time<=2024-01-02 and created_time>2024-01-01",
            lambda row: "2024-01-01T00:00:00.000Z" < row[2] <= "2024-01-02T00:00:00.000Z",
        ),
        ("event_type==sent and custom_data.vip!=TRUE", lambda row: row[3] == "sent" and row[7] != "TRUE"),
        ("signer_id>=20000", lambda row: row[1] >= "20000"),
        ("", lambda row: True),
    ],
)
def test_filters_select_the_matching_rows(filter: str, holds: Any) -> None:
    selection = select(ACTIVITIES, filter)
    found = [n for n in selection.numbers if selection.matches is None or selection.matches(ACTIVITIES.row(n))]
    assert found == [n for n in range(20_000) if holds(ACTIVITIES.row(n))]
    assert found


@pytest.mark.parametrize("filter", ["agreed", "a==1", "event_type==", "created_time>=soon", "id~1"])
def test_rejects_invalid_filters(filter: str) -> None:
    with pytest.raises(FilterError):
        select(ACTIVITIES, filter)
