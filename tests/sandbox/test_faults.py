"""Each fault, as a plain HTTP client meets it."""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from click.testing import CliRunner
from multidict import CIMultiDict

from bulkpull.cli.sandbox import sandbox as sandbox_command
from bulkpull.errors import UsageError
from bulkpull.sandbox import Sandbox, SandboxConfig
from bulkpull.sandbox.faults import KINDS, Faults
from bulkpull.sandbox.modes import COMES, COSTS, ENDS, MODES

AUTHORIZED = {"Authorization": "Bearer sandbox-token"}
MODE_KINDS = {kind: mode.default for kinds in MODES.values() for kind, mode in kinds.items()}
ALL = [*(kind for kinds in KINDS.values() for kind in kinds), *MODE_KINDS]
Met = tuple[int | None, CIMultiDict[str], bytes]  # status, headers, body as far as it came


@asynccontextmanager
async def running(faults: str, **config: Any) -> AsyncIterator[tuple[Sandbox, aiohttp.ClientSession]]:
    settings = {"rows": 500, "export_seconds": 0.0, "file_latency": 0.0, "fault_seconds": 0.2} | config
    async with (
        Sandbox(SandboxConfig(faults=faults, **settings)) as sandbox,
        aiohttp.ClientSession(auto_decompress=False) as session,
    ):
        yield sandbox, session


async def ask(session: aiohttp.ClientSession, url: str, method: str = "GET", **headers: str) -> Met:
    """What came; a status of None says that the connection broke before."""
    status, shown, body = None, CIMultiDict[str](), b""
    try:
        async with session.request(method, url, headers=headers) as response:
            status, shown = response.status, response.headers.copy()
            async for chunk in response.content.iter_any():
                body += chunk
    except aiohttp.ClientError:
        if status is not None:
            shown["broken"] = "yes"
    return status, shown, body


async def met_by_the_api(faults: str, times: int = 80) -> tuple[list[Met], Sandbox]:
    async with running(faults) as (sandbox, session):
        return [await ask(session, f"{sandbox.url}/activity?per_page=1", **AUTHORIZED) for _ in range(times)], sandbox


async def exported(sandbox: Sandbox, session: aiohttp.ClientSession, query: str = "") -> tuple[str, list[str]]:
    """An export's status when it is done, or vanished, or stays as it is, and its links."""
    async with session.post(f"{sandbox.url}/tasks/export/activity{query}", headers=AUTHORIZED) as response:
        task = (await response.json())["data"]
    for _ in range(30):
        async with session.get(f"{sandbox.url}/tasks/export/{task['id']}", headers=AUTHORIZED) as response:
            if response.status == 404:
                return "vanished", []
            task = (await response.json())["data"]
        if not task["active"]:
            break
        await anyio.sleep(0.01)
    return task["status"], task.get("links", [])


async def met_by_files(faults: str, times: int = 12, **headers: str) -> tuple[list[Met], bytes, Sandbox]:
    """What `times` downloads, each of a fresh link, met, and the file that it should have been."""
    async with running(faults) as (sandbox, session):
        async with session.post(f"{sandbox.url}/tasks/export/activity", headers=AUTHORIZED) as response:
            id = (await response.json())["data"]["id"]
        met: list[Met] = []
        while len(met) < times:
            async with session.get(f"{sandbox.url}/tasks/export/{id}", headers=AUTHORIZED) as response:
                task = (await response.json())["data"]
            if not task["active"]:
                met.append(await ask(session, task["links"][0], **headers))
        [file] = sandbox.exports.tasks[id].files
        return met, file.path.read_bytes(), sandbox


def share(found: Iterable[object]) -> int:
    """How many of what was found are true; never none, never all."""
    each = [bool(one) for one in found]
    assert 0 < sum(each) < len(each)
    return sum(each)


async def test_server_errors_in_json_and_html() -> None:
    met, sandbox = await met_by_the_api("server-error")
    count = share(status != 200 for status, _, _ in met)
    assert {status for status, _, _ in met} == {200, 500, 502, 503}
    assert {headers["Content-Type"].split(";")[0] for _, headers, _ in met} == {"application/json", "text/html"}
    assert sandbox.seen.faults == {"server-error": count}


async def test_storms_of_429_do_not_count_as_throttled() -> None:
    met, sandbox = await met_by_the_api("throttle")
    count = share(status == 429 for status, _, _ in met)
    assert {headers.get("Retry-After") for status, headers, _ in met if status == 429} == {"1"}
    assert sandbox.seen.faults == {"throttle": count}
    assert sandbox.seen.throttled == 0
    in_a_row = "".join("x" if status == 429 else " " for status, _, _ in met)
    assert "xx" in in_a_row


async def test_html_with_status_200() -> None:
    met, _ = await met_by_the_api("html")
    assert share(body.startswith(b"<!doctype html>") for _, _, body in met)
    assert {status for status, _, _ in met} == {200}


@pytest.mark.parametrize("kind", ["reset", "hang"])
async def test_connections_that_are_reset_before_anything_was_done(kind: str) -> None:
    async with running(kind) as (sandbox, session):
        url = f"{sandbox.url}/tasks/export/activity"
        met = [await ask(session, url, "POST", **AUTHORIZED) for _ in range(30)]
        answered = share(status == 200 for status, _, _ in met)
        assert {status for status, _, _ in met} == {200, None}
        assert sandbox.seen.exports == answered
        assert sandbox.seen.lost_posts == 0


async def test_posts_that_are_lost_although_the_export_runs() -> None:
    async with running("lost") as (sandbox, session):
        url = f"{sandbox.url}/tasks/export/activity"
        met = [await ask(session, url, "POST", **AUTHORIZED) for _ in range(30)]
        lost = share(status is None for status, _, _ in met)
        assert sandbox.seen.exports == 30
        assert sandbox.seen.lost_posts == lost


@pytest.mark.parametrize(
    ("kind", "status"), [("export-fails", "failed"), ("export-never-ends", "started"), ("export-vanishes", "vanished")]
)
async def test_exports_that_do_not_succeed(kind: str, status: str) -> None:
    async with running(kind) as (sandbox, session):
        found = [(await exported(sandbox, session))[0] for _ in range(20)]
        count = share(one == status for one in found)
        assert set(found) == {"success", status}
        assert sandbox.seen.faults == {kind: count}


async def test_exports_of_the_first_filter_and_of_some_others_always_fail() -> None:
    others = set()
    for seed in range(20):
        async with running(f"export-always-fails:{seed}") as (sandbox, session):
            assert {(await exported(sandbox, session))[0] for _ in range(3)} == {"failed"}
            found = {(await exported(sandbox, session, "?filter=event_type==agreed"))[0] for _ in range(3)}
            assert len(found) == 1
            others |= found
    assert others == {"success", "failed"}


async def test_purged_files() -> None:
    async with running("purged") as (sandbox, session):
        statuses = set()
        for _ in range(20):
            status, links = await exported(sandbox, session)
            assert status == "success"
            statuses.add((await ask(session, links[0]))[0])
    assert statuses == {200, 404}


async def test_files_that_are_cut_within_a_record_for_good() -> None:
    async with running("damaged") as (sandbox, session):
        widths = []
        for _ in range(20):
            _, links = await exported(sandbox, session)
            first, again = [(await ask(session, links[0]))[2] for _ in range(2)]
            assert first == again
            widths.append({len(record) for record in csv.reader(first.decode().splitlines())})
    assert share(len(found) > 1 for found in widths)


async def test_files_that_fail_before_they_come() -> None:
    for kind, statuses in (("file-error", {500, 502, 503}), ("file-reset", {None}), ("file-hang", {None})):
        met, file, _ = await met_by_files(kind, 24)
        assert {status for status, _, _ in met} == statuses | {200}
        assert all(body == file for status, _, body in met if status == 200)


@pytest.mark.parametrize("kind", ["stall", "cut", "expire", "changed"])
async def test_bodies_that_break_off(kind: str) -> None:
    met, file, sandbox = await met_by_files(kind)
    assert {status for status, _, _ in met} == {200}
    assert sandbox.seen.faults == {kind: share("broken" in headers for _, headers, _ in met)}
    for _, headers, body in met:
        changed = headers["ETag"] == '"changed"'
        assert changed == (kind == "changed" and "broken" in headers)
        assert (file.swapcase() if changed else file).startswith(body)
        assert (len(body) < len(file)) == ("broken" in headers)
        assert int(headers["Content-Length"]) == len(file)


async def test_a_link_expires_while_its_file_is_on_its_way() -> None:
    async with running("expire") as (sandbox, session):
        _, [link] = await exported(sandbox, session)
        statuses = [(await ask(session, link))[0] for _ in range(20)]
    assert statuses == [200] * statuses.count(200) + [403] * statuses.count(403)
    assert len(set(statuses)) == 2


async def test_bodies_that_are_short_by_their_own_account() -> None:
    for wanted in ("", "bytes=1000-"):
        met, file, _ = await met_by_files("cut-short-length", Range=wanted)
        assert not any("broken" in headers for _, headers, _ in met)
        assert share(len(body) < len(file) - 1000 for _, _, body in met)
        for _, headers, _ in met:
            assert headers.get("Content-Range", f"/{len(file)}").endswith(f"/{len(file)}")


async def test_bodies_that_trickle_are_whole() -> None:
    met, file, sandbox = await met_by_files("trickle")
    assert {body for _, _, body in met} == {file}
    assert sandbox.seen.faults["trickle"]


async def test_ranges_that_are_ignored() -> None:
    met, file, _ = await met_by_files("range-ignored", Range="bytes=1000-")
    assert share(status == 200 for status, _, _ in met)
    assert {(status, body) for status, _, body in met} == {(200, file), (206, file[1000:])}
    met, _, sandbox = await met_by_files("range-ignored")
    assert sandbox.seen.faults == {}


async def test_ranges_other_than_asked_for() -> None:
    met, file, _ = await met_by_files("wrong-range", 24, Range="bytes=1000-")
    size = len(file)
    found = {headers["Content-Range"]: body for _, headers, body in met}
    assert found == {
        f"bytes 1000-{size - 1}/{size}": file[1000:],
        f"bytes 500-{size - 1}/{size}": file[500:],
        f"bytes 1000-{size - 1}/{size + 7}": file[1000:],
    }


async def test_error_pages_and_compressed_bodies() -> None:
    met, _, _ = await met_by_files("error-page")
    assert share(body.startswith(b"<!doctype html>") for _, _, body in met)
    met, file, _ = await met_by_files("gzip", Range="bytes=1000-")
    assert share("Content-Encoding" in headers for _, headers, _ in met)
    assert {gzip.decompress(body) for _, headers, body in met if "Content-Encoding" in headers} == {file}


async def test_an_outage_begins_and_ends() -> None:
    async with running("outage:1") as (sandbox, session):
        found: list[int | None] = []
        with anyio.fail_after(20):
            while found.count(200) < 3 or len(set(found[found.index(None) :] if None in found else [])) < 2:
                found.append((await ask(session, f"{sandbox.url}/activity?per_page=1", **AUTHORIZED))[0])
                await anyio.sleep(0.02)
        first, last = found.index(None), len(found) - found[::-1].index(None)
        assert set(found[:first]) == {200}
        assert set(found[first:last]) == {None}
        assert sandbox.seen.faults["outage"] >= last - first  # aiohttp asks again
        async with session.get(sandbox.url.replace("/v1.1", "/sandbox")) as response:  # is never out
            assert (await response.json())["faults"] == sandbox.seen.faults


def test_the_same_seed_injects_the_same() -> None:
    assert strikes("everything:7") == strikes("everything:7") != strikes("everything:8")
    assert strikes("") == [None] * 180
    assert {found.split()[0] for found in strikes("everything:7") if found} == set(KINDS["file"])


def strikes(profile: str) -> list[str | None]:
    faults = Faults(profile, 1.0)
    found = [faults.strike("file", key, 0) for key in "abcdef" * 30]
    return [f"{fault.kind} {fault.draw.random()}" if fault else None for fault in found]


@pytest.mark.parametrize(
    ("profile", "value", "same"),
    [
        ("counts-capped+cut", 10_000, "cut"),
        ("counts-capped:70+cut", 70, "cut:0"),
        ("counts-capped:70+cut:7", 70, "cut:7"),
        ("cut+counts-capped:7", 7, "cut:0"),
        ("cut+counts-capped:70:7", 70, "cut:7"),
        ("everything+counts-capped:70:7", 70, "everything:7"),
    ],
)
def test_kinds_may_carry_a_value_and_the_last_one_a_seed(profile: str, value: int, same: str) -> None:
    faults = Faults(profile, 1.0)
    assert faults.has("counts-capped")
    assert faults.value("counts-capped") == value
    assert strikes(profile) == strikes(same)


def test_everything_and_odd_draw_modes_that_leave_every_row() -> None:
    def drawn(word: str, seed: int) -> set[str]:
        faults = Faults(f"{word}:{seed}", 1.0)
        return {kind for kind in MODE_KINDS if faults.has(kind)}

    for word, known in (("everything", COMES.keys()), ("odd", COMES.keys() | COSTS.keys())):
        found = [drawn(word, seed) for seed in range(4000)]
        assert set().union(*found) == known
        assert all(len(found & kinds.keys()) <= 1 for found in found for kinds in MODES.values())
        assert found == [drawn(word, seed) for seed in range(4000)]
    assert all(drawn("odd", seed) for seed in range(400))


def test_each_kind_is_documented() -> None:
    """As `kind` or `kind:N`; behind another of its family the end, as in `-403`, is enough."""
    text = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`([a-z-][a-z0-9-]*)(?::N)?`", text))
    ends = {kind: {kind[at:] for at, letter in enumerate(kind) if letter == "-"} for kind in ALL}
    assert not [kind for kind in ALL if not names & {kind, *ends[kind]}]


def test_the_help_lists_each_kind_with_its_value() -> None:
    _, _, shown = CliRunner().invoke(sandbox_command, ["--help"]).output.partition("Random faults")
    for kind in ALL:
        [line] = [line for line in shown.splitlines() if line.strip().split(" ")[0] in (kind, f"{kind}:N")]
        default = MODE_KINDS.get(kind)
        assert (default is None) == ("(N: " not in line), line
        assert default is None or f"(N: {default:,})" in line


def test_each_mode_has_its_place_in_what_is_drawn() -> None:
    places = [*COMES, *COSTS, *ENDS]
    assert sorted(places) == sorted(MODE_KINDS)
    for kind, values in (COMES | COSTS).items():
        assert bool(values) == (MODE_KINDS[kind] is not None), kind
    assert not MODE_KINDS.keys() & {kind for kinds in KINDS.values() for kind in kinds}


@pytest.mark.parametrize(
    "profile",
    [
        *("nothing", "reset+nothing", "everything:x", "reset:-1", "reset:1:2", "reset:1+cut", "everything:1+cut"),
        *("counts-capped:", "counts-capped:x", "counts-capped:1:2:3", "counts-capped:1:2+cut"),
    ],
)
def test_unknown_profiles_are_errors_that_name_the_known(profile: str) -> None:
    with pytest.raises(UsageError) as caught:
        Faults(profile, 1.0)
    assert all(kind in str(caught.value) for kind in ["everything", *ALL])
