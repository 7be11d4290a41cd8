"""Each mode, observed with a plain HTTP client."""

from __future__ import annotations

import csv
import io
from collections import Counter
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import aiohttp
import anyio
import pytest

from bulkpull.errors import UsageError
from bulkpull.sandbox import Sandbox, SandboxConfig
from bulkpull.sandbox.data import Activities
from tests.sandbox.test_faults import AUTHORIZED, running
from tests.waiting import until

EARLY, LATE = "created_time<2024-06-01", "created_time>=2025-06-01"
NOTHING = "created_time<2000-01-01"


async def count(sandbox: Sandbox, session: aiohttp.ClientSession, filter: str = "") -> Any:
    """The reported total_count, or the status of a refusal."""
    url = f"{sandbox.url}/activity?per_page=1&filter={quote(filter)}"
    async with session.get(url, headers=AUTHORIZED) as response:
        return (await response.json())["total_count"] if response.status == 200 else response.status


async def launch(sandbox: Sandbox, session: aiohttp.ClientSession, filter: str = "") -> tuple[int, dict[str, Any]]:
    url = f"{sandbox.url}/tasks/export/activity?filter={quote(filter)}&fields=id,created_time,event_type"
    async with session.post(url, headers=AUTHORIZED) as response:
        answer = await response.json()
        return response.status, answer.get("data", answer)


async def poll(sandbox: Sandbox, session: aiohttp.ClientSession, id: str) -> tuple[int, dict[str, Any]]:
    url = f"{sandbox.url}/tasks/export/{quote(id, safe='')}"
    async with session.get(url, headers=AUTHORIZED) as response:
        answer = await response.json() if response.content_type == "application/json" else {}
        return response.status, answer.get("data", answer)


async def finished(sandbox: Sandbox, session: aiohttp.ClientSession, filter: str = "") -> dict[str, Any]:
    """Launch an export and wait for its end."""
    _, task = await launch(sandbox, session, filter)
    for _ in range(200):
        status, told = await poll(sandbox, session, task["id"])
        if status == 200 and not told.get("active", True):
            return told
        await anyio.sleep(0.01)
    raise AssertionError(f"the export did not end: {task}")


async def polls(sandbox: Sandbox, session: aiohttp.ClientSession, number: int) -> list[tuple[int, Any, Any]]:
    """The HTTP status, the export status, and whether there are links, for each poll of a finished export."""
    _, task = await launch(sandbox, session)
    await until(lambda: not sandbox.exports.in_flight)
    found = []
    for _ in range(number):
        status, told = await poll(sandbox, session, task["id"])
        found.append((status, told.get("status"), bool(told.get("links"))))
    return found


async def file(session: aiohttp.ClientSession, link: str, **headers: str) -> bytes:
    async with session.get(link, headers=headers) as response:
        assert response.status in (200, 206)
        return await response.read()


async def rows(session: aiohttp.ClientSession, task: dict[str, Any]) -> list[list[str]]:
    found = []
    for link in task["links"]:
        found += list(csv.reader(io.StringIO((await file(session, link)).decode(), newline="")))[1:]
    return found


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("counts-capped:200", [200, 200, 104]),
        ("counts-zero", [0, 0, 0]),
        ("counts-negative", [-1, -1, -1]),
        ("counts-null", [None, None, None]),
        ("counts-text", ["500", "500", "104"]),
        ("counts-float", [500.0, 500.0, 104.0]),
        ("counts-stale:2", [250, 250, 104]),
        ("counts-lag:10", [450, 450, 104]),
        ("counts-over:7", [507, 507, 111]),
        ("counts-under:200", [300, 300, 0]),
        ("counts-refused-after:1", [500, 403, 403]),
        ("counts-capped:200+counts-text", ["200", "200", "104"]),
    ],
)
async def test_modes_distort_counts(mode: str, expected: list[Any]) -> None:
    async with running(mode) as (sandbox, session):
        found = [await count(sandbox, session, filter) for filter in ("", "", EARLY)]
        assert repr(found) == repr(expected)
        assert all(sandbox.stats.faults[kind.split(":")[0]] for kind in mode.split("+"))


async def test_counts_lag_omits_the_newest_activities() -> None:
    async with running("counts-lag:10") as (sandbox, session):
        behind = "created_time>=2025-11-25"
        assert await count(sandbox, session, behind) == 0
        assert len(await rows(session, await finished(sandbox, session, behind))) > 20


@pytest.mark.parametrize("status", [200, 400, 403, 409, 429, 503])
async def test_refuses_launches_beyond_the_limit_in_flight(status: int) -> None:
    async with running(f"launch-refused-{status}:2", export_seconds=0.3) as (sandbox, session):
        answers = [await launch(sandbox, session) for _ in range(3)]
        assert [code for code, _ in answers] == [200, 200, status]
        assert "id" not in answers[2][1]
        assert answers[2][1]["error"]["message"]
        assert sandbox.stats.exports == 2
        while sandbox.exports.in_flight == 2:
            await poll(sandbox, session, answers[0][1]["id"])
        assert (await launch(sandbox, session))[1]["id"]


async def test_a_slow_launch_starts_the_export_at_once() -> None:
    async with running("launch-slow:600") as (sandbox, session), anyio.create_task_group() as group:
        group.start_soon(launch, sandbox, session)
        await until(lambda: [task.status for task in sandbox.exports.tasks.values()] == ["success"])
        group.cancel_scope.cancel()


async def test_finds_odd_ids_if_encoded_in_the_path() -> None:
    async with running("odd-ids") as (sandbox, session):
        task = await finished(sandbox, session)
        assert task["id"].startswith("gid://shop/BulkOperation/")
        assert task["id"].endswith("?x=1")
        assert len(await rows(session, task)) >= 500


@pytest.mark.parametrize("status", [202, 204, 409, 425])
async def test_polls_of_a_running_export_get_another_status(status: int) -> None:
    async with running(f"status-{status}", export_seconds=0.2) as (sandbox, session):
        _, task = await launch(sandbox, session)
        code, told = await poll(sandbox, session, task["id"])
        assert code == status
        assert "status" not in told
        assert (await finished(sandbox, session))["status"] == "success"


async def test_the_first_polls_get_404() -> None:
    async with running("status-404-first:2") as (sandbox, session):
        assert [status for status, _, _ in await polls(sandbox, session, 4)] == [404, 404, 200, 200]


@pytest.mark.parametrize("status", [429, 503])
async def test_polls_get_a_retry_after_of_a_day(status: int) -> None:
    async with running(f"retry-after-day-{status}") as (sandbox, session):
        _, task = await launch(sandbox, session)
        url = f"{sandbox.url}/tasks/export/{task['id']}"
        async with session.get(url, headers=AUTHORIZED) as response:
            assert (response.status, response.headers["Retry-After"]) == (status, "86400")


async def test_statuses_use_the_words_of_other_systems() -> None:
    async with running("status-words+export-fails-once:6") as (sandbox, session):
        windows = [f"created_time>=2024-0{month}-01 and created_time<2024-0{month + 1}-01" for month in range(1, 7)]
        failed = [(await finished(sandbox, session, window))["status"] for window in windows]
        done = [await finished(sandbox, session, window) for window in windows]
    assert sorted(failed) == ["FAILED", "aborted", "canceled", "cancelled", "error", "expired"]
    assert sorted(task["status"] for task in done) == [
        "Done",
        "SUCCEEDED",
        "Success",
        "complete",
        "completed",
        "finished",
    ]
    assert all(task["links"] for task in done)


async def test_a_finished_export_has_an_unknown_status() -> None:
    async with running("status-unknown") as (sandbox, session):
        task = await finished(sandbox, session)
    assert (task["status"], task["active"], bool(task["links"])) == ("bottled", False, True)


async def test_the_first_successful_polls_have_no_links() -> None:
    async with running("links-late:2") as (sandbox, session):
        found = [await polls(sandbox, session, 4) for _ in range(3)]
        assert found == [[(200, "success", False)] * 2 + [(200, "success", True)] * 2] * 3
        absent, null, none = [sandbox.tasks._links(task) for task in fresh(sandbox)]
        assert (absent, null, none) == ({}, {"links": None}, {"links": []})


def fresh(sandbox: Sandbox) -> list[Any]:
    tasks = list(sandbox.exports.tasks.values())
    for task in tasks:
        task.successes = 0
    return tasks


async def test_the_first_exports_never_have_links() -> None:
    async with running("links-never:1") as (sandbox, session):
        assert await polls(sandbox, session, 5) == [(200, "success", False)] * 5
        assert await polls(sandbox, session, 2) == [(200, "success", True)] * 2


async def test_the_status_returns_from_success_to_started() -> None:
    async with running("status-flaps") as (sandbox, session):
        found = await polls(sandbox, session, 4)
        assert found == [(200, "success", False), (200, "started", False), *[(200, "success", True)] * 2]


async def test_exports_stay_pending() -> None:
    for mode, ended in (("export-pending-first", ["pending", "success"]), ("export-pending-all", ["pending"] * 2)):
        async with running(mode) as (sandbox, session):
            assert [(await polls(sandbox, session, 1))[0][1] for _ in range(2)] == ended


async def test_exports_with_too_many_records_fail() -> None:
    async with running("too-many-records:150") as (sandbox, session):
        task = await finished(sandbox, session)
        assert (task["status"], task["message"]) == ("failed", "too many records")
        assert (await finished(sandbox, session, EARLY))["status"] == "success"


async def test_exports_with_the_middle_instant_fail() -> None:
    async with running("poisoned-instant", burst=100) as (sandbox, session):
        middle = sandbox.rows[250]["created_time"]
        found = {
            filter: (await finished(sandbox, session, filter))["status"]
            for filter in ("", f"created_time=={middle}", f"created_time<{middle}", f"created_time>{middle}")
        }
        assert list(found.values()) == ["failed", "failed", "success", "success"]
        assert await count(sandbox, session, f"created_time=={middle}") == 100


async def test_exports_of_the_first_filters_fail_once() -> None:
    async with running("export-fails-once:2") as (sandbox, session):
        found = [
            (await finished(sandbox, session, filter))["status"] for filter in (EARLY, EARLY, LATE, LATE, "", NOTHING)
        ]
    assert found == ["failed", "success", "failed", "success", "success", "success"]


async def test_exports_are_silently_limited() -> None:
    async with running("rows-capped:120") as (sandbox, session):
        task = await finished(sandbox, session)
        assert (task["status"], len(await rows(session, task))) == ("success", 120)
        assert 104 <= len(await rows(session, await finished(sandbox, session, EARLY))) < 120


async def test_late_rows_are_missing_in_the_first_export_only() -> None:
    async with running("late-rows:3") as (sandbox, session):
        first, second = [
            {row[0] for row in await rows(session, await finished(sandbox, session, EARLY))} for _ in range(2)
        ]
        assert len(second - first) == 3
        assert first < second


@pytest.mark.parametrize(("kind", "content"), [("zero", b""), ("newline", b"\n"), ("bom", b"\xef\xbb\xbf")])
async def test_exports_without_rows_have_an_empty_file(kind: str, content: bytes) -> None:
    async with running(f"empty-file-{kind}") as (sandbox, session):
        for _ in range(4):
            task = await finished(sandbox, session, NOTHING)
            assert [await file(session, link) for link in task["links"]] == [content]
        assert len(await rows(session, await finished(sandbox, session, EARLY))) >= 104


async def test_a_file_is_damaged_in_transit() -> None:
    for mode, sound in (("damaged-once", [False, True, True]), ("damaged-always", [False, False, False])):
        async with running(mode, rows_per_file=100) as (sandbox, session):
            first, second = [await finished(sandbox, session) for _ in range(2)]
            bodies = [[await file(session, link) for link in first["links"]] for _ in range(3)]
            whole = [await file(session, link) for link in second["links"]]
        assert len(whole) == 6
        assert [len(body) for body in bodies[0]] == [len(body) for body in whole]
        assert [found == whole for found in bodies] == sound
        damaged = [body for body, good in zip(bodies[0], whole, strict=True) if body != good]
        assert len(damaged) == 1
        assert len({len(record) for record in csv.reader(io.StringIO(damaged[0].decode(), newline=""))}) > 1


async def test_responses_have_a_long_header() -> None:
    async with (
        running("headers-long") as (sandbox, _),
        aiohttp.ClientSession(max_field_size=65536) as session,
        session.get(f"{sandbox.url}/activity", headers=AUTHORIZED) as response,
    ):
        assert len(response.headers["Content-Security-Policy"]) > 12_000


@pytest.mark.parametrize("burst", [1, 40, 100])
def test_a_burst_shares_one_instant(burst: int) -> None:
    start, end = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC)
    activities = Activities(100, start, end, burst=burst)
    times = [activities.row(number)[2] or "" for number in range(100)]
    assert times == sorted(times)
    assert len({activities.row(number)[0] for number in range(100)}) == 100
    instant, number = Counter(times).most_common(1)[0]
    assert number == burst
    at = datetime.fromisoformat(instant)
    before = times.index(instant)
    assert activities.first_from(at) == before
    assert activities.first_from(datetime.fromtimestamp(at.timestamp() + 0.001, UTC)) == before + burst


def test_rejects_a_burst_that_is_too_large_or_has_a_peak() -> None:
    for config in ({"rows": 5, "burst": 6}, {"burst": 5, "peak": 0.5}):
        with pytest.raises(UsageError, match="a burst cannot"):
            SandboxConfig(**config)
