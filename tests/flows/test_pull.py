"""Complete pulls from the sandbox, over real sockets."""

from __future__ import annotations

import asyncio
import csv
import random
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

import bulkpull
from bulkpull import (
    AuthenticationError,
    BulkpullError,
    Clickwrap,
    ExportError,
    OutputError,
    Result,
    RetryPolicy,
    UsageError,
    events,
)
from bulkpull.events import Event
from bulkpull.rows.dedup import Deduplicator
from bulkpull.sandbox import Sandbox, SandboxConfig

START, END = date(2024, 1, 1), date(2024, 7, 1)
CONFIG = SandboxConfig(
    rows=12_000,
    seed=4,
    start=datetime(2024, 1, 1, tzinfo=UTC),
    end=datetime(2024, 7, 1, tzinfo=UTC),
    export_seconds=0.05,
    rows_per_file=300,
    workers=16,
)
SMALL = replace(CONFIG, rows=3000)
FIELDS = ["event_type", "connection_data.page_title", "custom_data.vip", "custom_data.unheard_of"]


@asynccontextmanager
async def opened(config: SandboxConfig = CONFIG, **options: Any) -> AsyncIterator[tuple[Sandbox, Clickwrap]]:
    """A sandbox and a client for it."""
    async with Sandbox(config) as sandbox, Clickwrap(config.token, base_url=sandbox.url, **options) as clickwrap:
        yield sandbox, clickwrap


async def pull(clickwrap: Clickwrap, out: Path, **options: Any) -> Result:
    defaults: dict[str, Any] = {"start": START, "end": END, "out": out, "window": "7d"}
    return await bulkpull.pull(clickwrap, **(defaults | options))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


async def test_pulls_every_row_once(tmp_path: Path) -> None:
    heard: list[Event] = []
    out = tmp_path / "activity.csv"
    async with opened() as (sandbox, clickwrap):
        result = await pull(clickwrap, out, fields=FIELDS, on_event=heard.append)
        stats, distinct = sandbox.stats, await sandbox.distinct_ids()
    rows = rows_of(out)
    assert len(rows) == len({row["id"] for row in rows}) == result.rows == distinct == 12_000
    assert list(rows[0]) == ["id", "signer_id", "created_time", *FIELDS]
    assert [row["created_time"] for row in rows] == sorted(row["created_time"] for row in rows)
    assert {row["custom_data.unheard_of"] for row in rows} == {""}
    assert any("\n" in row["connection_data.page_title"] for row in rows)
    assert b',""\n' not in out.read_bytes().splitlines(keepends=True)[0]
    assert result == Result(
        rows=12_000,
        duplicates=result.duplicates,
        conflicts=result.conflicts,
        outside=0,
        windows=26,
        exports=stats.exports,
        parts=stats.downloads,
        requests=sum(stats.requests.values()),
        throttled=0,
        retries=0,
        bytes=stats.bytes_sent,
        runs=1,
        seconds=result.seconds,
        output=out,
        counted=None,
        probes=0,
        splits=0,
        skipped=(),
        short=(),
        over=(),
        completeness="counts unknown",
        doubt="",
        empty_columns=("custom_data.unheard_of",),
        manifest=tmp_path / "activity.csv.manifest.json",
    )
    assert result.complete
    assert result.duplicates > result.conflicts > 0
    assert stats.exports == 26
    assert stats.leaks == stats.throttled == stats.unauthorized == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["activity.csv", "activity.csv.manifest.json"]

    def number_of(kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in heard)

    assert isinstance(heard[0], events.Planned)
    assert number_of(events.Launched) == number_of(events.Exported) == number_of(events.WindowMerged) == 26
    assert number_of(events.PartFetched) == number_of(events.PartMerged) == result.parts
    merged = [event.window.index for event in heard if isinstance(event, events.WindowMerged)]
    assert merged == list(range(26))


async def test_the_bytes_do_not_depend_on_timing_or_concurrency(tmp_path: Path) -> None:
    outs = []
    async with opened() as (_, clickwrap):
        for exports, downloads in ((1, 1), (16, 8), (26, 64), (3, 1)):
            out = tmp_path / f"{exports}-{downloads}.csv"
            await pull(clickwrap, out, exports=exports, downloads=downloads, fields=FIELDS, window="2w")
            outs.append(out.read_bytes())
    assert len(set(outs)) == 1


async def test_rows_keep_the_delivered_bytes(tmp_path: Path) -> None:
    """With one window and no repeats, the output is the concatenation of the files."""
    async with opened() as (_, clickwrap):
        await pull(clickwrap, tmp_path / "a.csv", window="1y", fields=["connection_data.page_title", "custom_data.vip"])
        export = await clickwrap.start_export(
            "created_time>=2024-01-01 and created_time<2024-07-01",
            ["id", "signer_id", "created_time", "connection_data.page_title", "custom_data.vip"],
        )
        while not export.succeeded:
            await anyio.sleep(0.05)
            export = await clickwrap.get_export(export.id)
        delivered = b""
        for link in export.links:
            async with clickwrap.download(link) as download:
                delivered += b"".join([chunk async for chunk in download.chunks]).partition(b"\n")[2]
    output = (tmp_path / "a.csv").read_bytes().partition(b"\n")[2]
    assert len(export.links) > 1
    assert delivered.startswith(output)  # the sandbox delivers repeats last


async def test_the_limits_on_exports_and_downloads_hold(tmp_path: Path) -> None:
    running: set[int] = set()
    most = 0

    def listen(event: Event) -> None:
        nonlocal most
        if isinstance(event, events.Launched):
            running.add(event.window.index)
        elif isinstance(event, events.Exported):
            running.discard(event.window.index)
        most = max(most, len(running))

    async with opened() as (sandbox, clickwrap):
        await pull(clickwrap, tmp_path / "a.csv", exports=3, downloads=2, window="2w", on_event=listen)
        assert most == 3
        assert sandbox.stats.peak_downloads == 2


async def test_pulls_windows_without_activity_and_an_empty_range(tmp_path: Path) -> None:
    async with opened() as (_, clickwrap):
        result = await pull(clickwrap, tmp_path / "a.csv", start="2030-01-01", end="2030-06-01", fields=["event_type"])
        assert (result.rows, result.windows, result.exports) == (0, 22, 22)
        header = b"id,signer_id,created_time,event_type\n"
        assert (tmp_path / "a.csv").read_bytes() == header
        assert 0 < result.parts < 22  # some exports have no file, some only a header
        result = await pull(clickwrap, tmp_path / "b.csv", end=START, fields=["event_type"])
        assert (result.rows, result.windows, result.exports, result.requests) == (0, 0, 0, 0)
        assert (tmp_path / "b.csv").read_bytes() == header


async def test_combines_a_filter_with_the_windows(tmp_path: Path) -> None:
    async with opened() as (_, clickwrap):
        result = await pull(clickwrap, tmp_path / "a.csv", filter="event_type==sent", fields=["event_type"])
        assert {row["event_type"] for row in rows_of(tmp_path / "a.csv")} == {"sent"}
        assert result.rows >= await clickwrap.count("event_type==sent") > 0


async def test_requests_the_required_fields_by_default_and_keeps_other_columns(tmp_path: Path) -> None:
    async with opened() as (_, clickwrap):
        await pull(clickwrap, tmp_path / "a.csv")
    assert list(rows_of(tmp_path / "a.csv")[0]) == ["id", "signer_id", "created_time"]


async def test_expired_links_are_renewed(tmp_path: Path) -> None:
    config = SandboxConfig(rows=2000, start=CONFIG.start, end=CONFIG.end, export_seconds=0.02, link_seconds=-1)
    async with opened(config, retry=RetryPolicy(base=0)) as (sandbox, clickwrap):
        with pytest.raises(bulkpull.PartError, match=r"window 1 .* 3 exports.*part 1 is missing: .* 403 to 5 fresh"):
            await pull(clickwrap, tmp_path / "a.csv", window="1y")
        assert sandbox.stats.downloads == 3 * 6


async def test_a_rejected_token_costs_one_request_and_leaves_no_files(tmp_path: Path) -> None:
    async with Sandbox(CONFIG) as sandbox, Clickwrap("wrong", base_url=sandbox.url) as clickwrap:
        with pytest.raises(AuthenticationError, match="401"):
            await pull(clickwrap, tmp_path / "a.csv")
        assert sum(sandbox.stats.requests.values()) == 1
    assert not list(tmp_path.iterdir())


async def test_a_rejected_filter_costs_one_request(tmp_path: Path) -> None:
    async with opened() as (sandbox, clickwrap):
        with pytest.raises(bulkpull.ApiError, match="unknown field"):
            await pull(clickwrap, tmp_path / "a.csv", filter="nonsense==1")
        assert sum(sandbox.stats.requests.values()) == 1
    assert not list(tmp_path.iterdir())


async def test_an_export_that_never_ends_fails_the_pull(tmp_path: Path) -> None:
    config = SandboxConfig(rows=100, start=CONFIG.start, end=CONFIG.end, export_seconds=3600)
    async with opened(config) as (sandbox, clickwrap):
        with pytest.raises(ExportError, match=r"window \d+ .*none of its 1 exports succeeded.*after 0.1 s"):
            await pull(clickwrap, tmp_path / "a.csv", window="1y", export_timeout=0.1)
        assert sandbox.stats.exports <= 4
    assert not (tmp_path / "a.csv").exists()


async def test_rejects_an_existing_output_before_any_request(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"precious")
    async with opened() as (sandbox, clickwrap):
        with pytest.raises(OutputError, match="exists"):
            await pull(clickwrap, tmp_path / "a.csv")
        assert not sandbox.stats.requests
    assert (tmp_path / "a.csv").read_bytes() == b"precious"


@pytest.mark.parametrize(
    "options",
    [
        {"exports": 0},
        {"downloads": 0},
        {"export_timeout": 0},
        {"export_timeout": float("nan")},
        {"filter": "a==1 or b==2"},
        {"fields": "event_type"},
        {"fields": ["a,b"]},
        {"fields": [""]},
        {"window": "0d"},
        {"end": "2023-01-01"},
    ],
)
async def test_rejects_bad_input_before_any_request(tmp_path: Path, options: dict[str, Any]) -> None:
    async with opened() as (sandbox, clickwrap):
        with pytest.raises(UsageError):
            await pull(clickwrap, tmp_path / "a.csv", **options)
        assert not sandbox.stats.requests
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["task", "timeout", "scope"])
@pytest.mark.parametrize("seed", range(6))
async def test_cancelling_stops_everything_and_leaves_no_output(tmp_path: Path, kind: str, seed: int) -> None:
    after = random.Random(seed).uniform(0.0, 0.6)
    async with opened() as (_, clickwrap):
        work = pull(clickwrap, tmp_path / "a.csv")
        if kind == "task":
            task = asyncio.create_task(work)
            await asyncio.sleep(after)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        elif kind == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(after):
                    await work
        else:
            with anyio.move_on_after(after) as scope:
                await work
            assert scope.cancelled_caught
        assert not (tmp_path / "a.csv").exists()
        assert open_files(tmp_path) == []
        # All remaining tasks belong to the sandbox: one per export and connection.
        assert not [task for task in asyncio.all_tasks() if "bulkpull.pull" in repr(task)]


def open_files(directory: Path) -> list[str]:
    """The open files below `directory`."""
    found = []
    for handle in Path("/proc/self/fd").iterdir():
        try:
            target = handle.readlink()
        except FileNotFoundError:
            continue
        if target.is_relative_to(directory):
            found.append(str(target))
    return found


@pytest.mark.parametrize(
    "kind",
    [
        events.Planned,
        events.Requested,
        events.Launched,
        events.Exported,
        events.Received,
        events.PartFetched,
        events.PartMerged,
        events.WindowMerged,
    ],
)
@pytest.mark.parametrize("raised", [ZeroDivisionError, BrokenPipeError, asyncio.CancelledError])
async def test_an_exception_in_a_listener_ends_the_pull(
    tmp_path: Path, kind: type[Event], raised: type[BaseException]
) -> None:
    def listen(event: Event) -> None:
        if isinstance(event, kind):
            raise raised

    async with opened(SMALL) as (_, clickwrap):
        # A cancellation raised by the listener must not look like success, or like a cancellation by the caller.
        expected = BulkpullError if raised is asyncio.CancelledError else raised
        with anyio.fail_after(60), pytest.raises(expected):
            await pull(clickwrap, tmp_path / "a.csv", window="1mo", on_event=listen)
        assert not (tmp_path / "a.csv").exists()
        assert (await pull(clickwrap, tmp_path / "a.csv", window="1mo")).rows == SMALL.rows
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.csv.manifest.json"]


async def test_closing_the_session_during_a_pull_fails_it(tmp_path: Path) -> None:
    async with Sandbox(CONFIG) as sandbox, aiohttp.ClientSession() as session:

        async def close_soon() -> None:
            await anyio.sleep(0.3)
            await session.close()

        clickwrap = Clickwrap(CONFIG.token, base_url=sandbox.url, session=session)
        async with clickwrap, anyio.create_task_group() as group:
            group.start_soon(close_soon)
            with anyio.fail_after(60), pytest.raises(BulkpullError):
                await pull(clickwrap, tmp_path / "a.csv", exports=1)
    assert not (tmp_path / "a.csv").exists()


async def test_two_pulls_share_a_client_but_not_their_statistics(tmp_path: Path) -> None:
    results: dict[str, Result] = {}

    async with opened() as (sandbox, clickwrap):

        async def one(name: str, end: str) -> None:
            results[name] = await pull(clickwrap, tmp_path / name, end=end)

        async with anyio.create_task_group() as group:
            group.start_soon(one, "half.csv", "2024-03-01")
            group.start_soon(one, "whole.csv", "2024-07-01")
        assert results["half.csv"].requests + results["whole.csv"].requests == sum(sandbox.stats.requests.values())
    assert 0 < results["half.csv"].rows < results["whole.csv"].rows == 12_000


async def test_rejects_a_second_pull_to_the_same_output(tmp_path: Path) -> None:
    async with opened() as (_, clickwrap), anyio.create_task_group() as group:
        planned = anyio.Event()
        group.start_soon(partial(pull, clickwrap, tmp_path / "a.csv", on_event=lambda _: planned.set()))
        with anyio.fail_after(60):
            await planned.wait()
        with pytest.raises(OutputError, match="another pull"):
            await pull(clickwrap, tmp_path / "a.csv")
    assert len(rows_of(tmp_path / "a.csv")) == 12_000


async def test_the_merge_does_not_block_the_event_loop(tmp_path: Path) -> None:
    merging: set[int] = set()
    original = Deduplicator.add

    def add(*arguments: Any) -> Any:
        merging.add(threading.get_ident())
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Deduplicator, "add", add)
        async with opened() as (_, clickwrap):
            await pull(clickwrap, tmp_path / "a.csv")
    assert merging
    assert threading.get_ident() not in merging


async def test_merging_starts_while_exports_are_still_running(tmp_path: Path) -> None:
    order: list[type[Event]] = []
    async with opened() as (_, clickwrap):
        await pull(
            clickwrap, tmp_path / "a.csv", exports=2, window="2w", on_event=lambda event: order.append(type(event))
        )
    last_launch = len(order) - 1 - order[::-1].index(events.Launched)
    assert order.index(events.PartMerged) < last_launch
