"""Each fault, observed with a plain HTTP client."""

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
from bulkpull.sandbox.modes import COSTLY, FATAL, HARMLESS, MODES

AUTHORIZED = {"Authorization": "Bearer sandbox-token"}
MODE_KINDS = {kind: mode.default for kinds in MODES.values() for kind, mode in kinds.items()}
ALL = [*(kind for kinds in KINDS.values() for kind in kinds), *MODE_KINDS]
Outcome = tuple[int | None, CIMultiDict[str], bytes]  # status, headers, the received part of the body


@asynccontextmanager
async def running(faults: str, **config: Any) -> AsyncIterator[tuple[Sandbox, aiohttp.ClientSession]]:
    settings = {"rows": 500, "export_seconds": 0.0, "file_latency": 0.0, "fault_seconds": 0.2} | config
    async with (
        Sandbox(SandboxConfig(faults=faults, **settings)) as sandbox,
        aiohttp.ClientSession(auto_decompress=False) as session,
    ):
        yield sandbox, session


async def ask(session: aiohttp.ClientSession, url: str, method: str = "GET", **headers: str) -> Outcome:
    """Send a request; a status of None means that the connection broke before the response."""
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


async def api_outcomes(faults: str, times: int = 80) -> tuple[list[Outcome], Sandbox]:
    async with running(faults) as (sandbox, session):
        return [await ask(session, f"{sandbox.url}/activity?per_page=1", **AUTHORIZED) for _ in range(times)], sandbox


async def exported(sandbox: Sandbox, session: aiohttp.ClientSession, query: str = "") -> tuple[str, list[str]]:
    """The final status of a new export ("vanished" if it no longer exists), and its links."""
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


async def file_outcomes(faults: str, times: int = 12, **headers: str) -> tuple[list[Outcome], bytes, Sandbox]:
    """The outcomes of `times` downloads, each with a fresh link, and the right content of the file."""
    async with running(faults) as (sandbox, session):
        async with session.post(f"{sandbox.url}/tasks/export/activity", headers=AUTHORIZED) as response:
            id = (await response.json())["data"]["id"]
        outcomes: list[Outcome] = []
        while len(outcomes) < times:
            async with session.get(f"{sandbox.url}/tasks/export/{id}", headers=AUTHORIZED) as response:
                task = (await response.json())["data"]
            if not task["active"]:
                outcomes.append(await ask(session, task["links"][0], **headers))
        [file] = sandbox.exports.tasks[id].files
        return outcomes, file.path.read_bytes(), sandbox


def share(found: Iterable[object]) -> int:
    """Count the true values; assert that these are some, but not all."""
    each = [bool(one) for one in found]
    assert 0 < sum(each) < len(each)
    return sum(each)


async def test_server_errors_are_json_or_html() -> None:
    outcomes, sandbox = await api_outcomes("server-error")
    count = share(status != 200 for status, _, _ in outcomes)
    assert {status for status, _, _ in outcomes} == {200, 500, 502, 503}
    assert {headers["Content-Type"].split(";")[0] for _, headers, _ in outcomes} == {"application/json", "text/html"}
    assert sandbox.stats.faults == {"server-error": count}


async def test_injected_429_do_not_count_as_throttled() -> None:
    outcomes, sandbox = await api_outcomes("throttle")
    count = share(status == 429 for status, _, _ in outcomes)
    assert {headers.get("Retry-After") for status, headers, _ in outcomes if status == 429} == {"1"}
    assert sandbox.stats.faults == {"throttle": count}
    assert sandbox.stats.throttled == 0
    in_a_row = "".join("x" if status == 429 else " " for status, _, _ in outcomes)
    assert "xx" in in_a_row


async def test_html_pages_have_status_200() -> None:
    outcomes, _ = await api_outcomes("html")
    assert share(body.startswith(b"<!doctype html>") for _, _, body in outcomes)
    assert {status for status, _, _ in outcomes} == {200}


@pytest.mark.parametrize("kind", ["reset", "hang"])
async def test_resets_connections_before_processing_the_request(kind: str) -> None:
    async with running(kind) as (sandbox, session):
        url = f"{sandbox.url}/tasks/export/activity"
        outcomes = [await ask(session, url, "POST", **AUTHORIZED) for _ in range(30)]
        answered = share(status == 200 for status, _, _ in outcomes)
        assert {status for status, _, _ in outcomes} == {200, None}
        assert sandbox.stats.exports == answered
        assert sandbox.stats.lost_posts == 0


async def test_a_lost_post_starts_an_export() -> None:
    async with running("lost") as (sandbox, session):
        url = f"{sandbox.url}/tasks/export/activity"
        outcomes = [await ask(session, url, "POST", **AUTHORIZED) for _ in range(30)]
        lost = share(status is None for status, _, _ in outcomes)
        assert sandbox.stats.exports == 30
        assert sandbox.stats.lost_posts == lost


@pytest.mark.parametrize(
    ("kind", "status"), [("export-fails", "failed"), ("export-never-ends", "started"), ("export-vanishes", "vanished")]
)
async def test_some_exports_do_not_succeed(kind: str, status: str) -> None:
    async with running(kind) as (sandbox, session):
        found = [(await exported(sandbox, session))[0] for _ in range(20)]
        count = share(one == status for one in found)
        assert set(found) == {"success", status}
        assert sandbox.stats.faults == {kind: count}


async def test_exports_of_the_first_filter_and_of_some_others_always_fail() -> None:
    others = set()
    for seed in range(20):
        async with running(f"export-always-fails:{seed}") as (sandbox, session):
            assert {(await exported(sandbox, session))[0] for _ in range(3)} == {"failed"}
            found = {(await exported(sandbox, session, "?filter=event_type==agreed"))[0] for _ in range(3)}
            assert len(found) == 1
            others |= found
    assert others == {"success", "failed"}


async def test_purged_files_are_not_found() -> None:
    async with running("purged") as (sandbox, session):
        statuses = set()
        for _ in range(20):
            status, links = await exported(sandbox, session)
            assert status == "success"
            statuses.add((await ask(session, links[0]))[0])
    assert statuses == {200, 404}


async def test_damaged_files_are_truncated_within_a_record() -> None:
    async with running("damaged") as (sandbox, session):
        widths = []
        for _ in range(20):
            _, links = await exported(sandbox, session)
            first, again = [(await ask(session, links[0]))[2] for _ in range(2)]
            assert first == again
            widths.append({len(record) for record in csv.reader(first.decode().splitlines())})
    assert share(len(found) > 1 for found in widths)


async def test_downloads_fail_before_the_body() -> None:
    for kind, statuses in (("file-error", {500, 502, 503}), ("file-reset", {None}), ("file-hang", {None})):
        outcomes, file, _ = await file_outcomes(kind, 24)
        assert {status for status, _, _ in outcomes} == statuses | {200}
        assert all(body == file for status, _, body in outcomes if status == 200)


@pytest.mark.parametrize("kind", ["stall", "cut", "expire", "changed"])
async def test_bodies_are_cut_off(kind: str) -> None:
    outcomes, file, sandbox = await file_outcomes(kind)
    assert {status for status, _, _ in outcomes} == {200}
    assert sandbox.stats.faults == {kind: share("broken" in headers for _, headers, _ in outcomes)}
    for _, headers, body in outcomes:
        changed = headers["ETag"] == '"changed"'
        assert changed == (kind == "changed" and "broken" in headers)
        assert (file.swapcase() if changed else file).startswith(body)
        assert (len(body) < len(file)) == ("broken" in headers)
        assert int(headers["Content-Length"]) == len(file)


async def test_a_link_expires_during_the_download() -> None:
    async with running("expire") as (sandbox, session):
        _, [link] = await exported(sandbox, session)
        statuses = [(await ask(session, link))[0] for _ in range(20)]
    assert statuses == [200] * statuses.count(200) + [403] * statuses.count(403)
    assert len(set(statuses)) == 2


async def test_truncated_bodies_have_a_matching_length() -> None:
    for wanted in ("", "bytes=1000-"):
        outcomes, file, _ = await file_outcomes("cut-short-length", Range=wanted)
        assert not any("broken" in headers for _, headers, _ in outcomes)
        assert share(len(body) < len(file) - 1000 for _, _, body in outcomes)
        for _, headers, _ in outcomes:
            assert headers.get("Content-Range", f"/{len(file)}").endswith(f"/{len(file)}")


async def test_slow_bodies_are_complete() -> None:
    outcomes, file, sandbox = await file_outcomes("trickle")
    assert {body for _, _, body in outcomes} == {file}
    assert sandbox.stats.faults["trickle"]


async def test_ignored_ranges_get_the_whole_file() -> None:
    outcomes, file, _ = await file_outcomes("range-ignored", Range="bytes=1000-")
    assert share(status == 200 for status, _, _ in outcomes)
    assert {(status, body) for status, _, body in outcomes} == {(200, file), (206, file[1000:])}
    outcomes, _, sandbox = await file_outcomes("range-ignored")
    assert sandbox.stats.faults == {}


async def test_wrong_ranges_have_another_offset_or_length() -> None:
    outcomes, file, _ = await file_outcomes("wrong-range", 24, Range="bytes=1000-")
    size = len(file)
    found = {headers["Content-Range"]: body for _, headers, body in outcomes}
    assert found == {
        f"bytes 1000-{size - 1}/{size}": file[1000:],
        f"bytes 500-{size - 1}/{size}": file[500:],
        f"bytes 1000-{size - 1}/{size + 7}": file[1000:],
    }


async def test_sends_error_pages_and_compressed_bodies() -> None:
    outcomes, _, _ = await file_outcomes("error-page")
    assert share(body.startswith(b"<!doctype html>") for _, _, body in outcomes)
    outcomes, file, _ = await file_outcomes("gzip", Range="bytes=1000-")
    assert share("Content-Encoding" in headers for _, headers, _ in outcomes)
    assert {gzip.decompress(body) for _, headers, body in outcomes if "Content-Encoding" in headers} == {file}


async def test_an_outage_starts_and_ends() -> None:
    async with running("outage:1") as (sandbox, session):
        found: list[int | None] = []
        with anyio.fail_after(20):
            while found.count(200) < 3 or len(set(found[found.index(None) :] if None in found else [])) < 2:
                found.append((await ask(session, f"{sandbox.url}/activity?per_page=1", **AUTHORIZED))[0])
                await anyio.sleep(0.02)
        first, last = found.index(None), len(found) - found[::-1].index(None)
        assert set(found[:first]) == {200}
        assert set(found[first:last]) == {None}
        assert sandbox.stats.faults["outage"] >= last - first  # aiohttp may retry
        async with session.get(sandbox.url.replace("/v1.1", "/sandbox")) as response:  # not affected by outages
            assert (await response.json())["faults"] == sandbox.stats.faults


def test_the_same_seed_injects_the_same_faults() -> None:
    assert strikes("everything:7") == strikes("everything:7") != strikes("everything:8")
    assert strikes("") == [None] * 180
    assert {found.split()[0] for found in strikes("everything:7") if found} == set(KINDS["file"])


def strikes(profile: str) -> list[str | None]:
    faults = Faults(profile, 1.0)
    found = [faults.draw_fault("file", key, 0) for key in "abcdef" * 30]
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
def test_parses_values_and_a_seed(profile: str, value: int, same: str) -> None:
    faults = Faults(profile, 1.0)
    assert faults.has("counts-capped")
    assert faults.value("counts-capped") == value
    assert strikes(profile) == strikes(same)


def test_everything_and_odd_draw_modes_that_keep_pulls_complete() -> None:
    def drawn(word: str, seed: int) -> set[str]:
        faults = Faults(f"{word}:{seed}", 1.0)
        return {kind for kind in MODE_KINDS if faults.has(kind)}

    for word, known in (("everything", HARMLESS.keys()), ("odd", HARMLESS.keys() | COSTLY.keys())):
        found = [drawn(word, seed) for seed in range(4000)]
        assert set().union(*found) == known
        assert all(len(found & kinds.keys()) <= 1 for found in found for kinds in MODES.values())
        assert found == [drawn(word, seed) for seed in range(4000)]
    assert all(drawn("odd", seed) for seed in range(400))


def test_each_kind_is_documented() -> None:
    """As `kind` or `kind:N`, or after another kind by its end, such as `-403`."""
    text = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`([a-z-][a-z0-9-]*)(?::N)?`", text))
    ends = {kind: {kind[at:] for at, letter in enumerate(kind) if letter == "-"} for kind in ALL}
    assert not [kind for kind in ALL if not names & {kind, *ends[kind]}]


def test_the_help_lists_each_kind_with_its_value() -> None:
    _, _, shown = CliRunner().invoke(sandbox_command, ["--help"]).output.partition("Faults, injected")
    entries = re.sub(r"\n {28}(?=\S)", " ", shown).splitlines()
    for kind in ALL:
        [line] = [line for line in entries if line[4:].split(" ")[0] in (kind, f"{kind}:N")]
        default = MODE_KINDS.get(kind)
        assert (default is None) == ("(N: " not in line), line
        assert default is None or f"(N: {default:,})" in line


def test_each_mode_is_in_exactly_one_category() -> None:
    places = [*HARMLESS, *COSTLY, *FATAL]
    assert sorted(places) == sorted(MODE_KINDS)
    for kind, values in (HARMLESS | COSTLY).items():
        assert bool(values) == (MODE_KINDS[kind] is not None), kind
    assert not MODE_KINDS.keys() & {kind for kinds in KINDS.values() for kind in kinds}


@pytest.mark.parametrize(
    "profile",
    [
        *("nothing", "reset+nothing", "everything:x", "reset:-1", "reset:1:2", "reset:1+cut", "everything:1+cut"),
        *("counts-capped:", "counts-capped:x", "counts-capped:1:2:3", "counts-capped:1:2+cut"),
    ],
)
def test_rejects_unknown_profiles_and_lists_all_kinds(profile: str) -> None:
    with pytest.raises(UsageError) as caught:
        Faults(profile, 1.0)
    assert all(kind in str(caught.value) for kind in ["everything", *ALL])
