"""A stream delivers the rows of the file, in the same order, while exports still run."""

from __future__ import annotations

import asyncio
import csv
import gc
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import pyarrow as pa
import pyarrow.parquet
import pytest

import bulkpull
from bulkpull import Clickwrap, OutputError, RowStream, UnavailableError, UsageError, events
from bulkpull.events import Event
from bulkpull.sandbox import Sandbox
from tests.flows.test_resume import CONFIG, PATIENT, at
from tests.late_column import add_a_late_column
from tests.waiting import until

FIELDS = ["connection_data.page_title", "custom_data.vip"]
OPTIONS: dict[str, Any] = {"start": "2024-01-01", "end": "2024-07-01", "window": "2w", "fields": FIELDS}


@asynccontextmanager
async def opened(sandbox: Sandbox) -> AsyncIterator[Clickwrap]:
    async with Clickwrap(sandbox.config.token, base_url=sandbox.url, retry=PATIENT) as clickwrap:
        yield clickwrap


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory for temporary files, which must be empty in the end."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    yield directory
    assert not directories_of_streams(directory)


def directories_of_streams(temporary: Path) -> list[Path]:
    """The sandbox has a directory there, too."""
    return [path for path in temporary.glob("bulkpull-*") if not path.name.startswith("bulkpull-sandbox-")]


async def collected(rows: RowStream) -> list[dict[str, Any]]:
    return [row async for batch in rows for row in batch.to_pylist()]


def expected(path: Path) -> list[dict[str, Any]]:
    return list(pyarrow.parquet.read_table(path).to_pylist())


async def test_delivers_the_rows_of_the_file_in_its_order(tmp_path: Path) -> None:
    async with Sandbox(CONFIG) as sandbox, opened(sandbox) as clickwrap:
        of_file = await bulkpull.pull(clickwrap, out=tmp_path / "a.parquet", **OPTIONS)
        async with bulkpull.stream(clickwrap, **OPTIONS) as rows:
            with pytest.raises(UsageError, match="not ended"):
                rows.result  # noqa: B018
            found = await collected(rows)
        streamed = rows.result
    assert found == expected(tmp_path / "a.parquet")
    assert len({row["id"] for row in found}) == len(found) == of_file.rows
    assert isinstance(found[0]["created_time"], datetime)
    for name in ("rows", "duplicates", "conflicts", "outside", "windows", "completeness", "counted"):
        assert getattr(streamed, name) == getattr(of_file, name)
    assert streamed.complete


async def test_times_are_text_if_asked_for(tmp_path: Path) -> None:
    async with Sandbox(CONFIG) as sandbox, opened(sandbox) as clickwrap:
        await bulkpull.pull(clickwrap, out=tmp_path / "a.csv", **OPTIONS)
        async with bulkpull.stream(clickwrap, all_strings=True, **OPTIONS) as rows:
            found = await collected(rows)
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        assert [{name: value or "" for name, value in row.items()} for row in found] == list(csv.DictReader(file))


async def test_batches_and_the_stream_speak_arrow(tmp_path: Path) -> None:
    async with Sandbox(CONFIG) as sandbox, opened(sandbox) as clickwrap:
        await bulkpull.pull(clickwrap, out=tmp_path / "a.parquet", **OPTIONS)
        of_file = pyarrow.parquet.read_table(tmp_path / "a.parquet")
        async with bulkpull.stream(clickwrap, **OPTIONS) as rows:
            batches = [pa.record_batch(batch) async for batch in rows]
        async with bulkpull.stream(clickwrap, **OPTIONS) as rows:
            streamed = await asyncio.to_thread(pa.table, rows)
            assert rows.result.complete
        table = await bulkpull.table(clickwrap, **OPTIONS)
    expected = of_file.replace_schema_metadata(None)
    assert pa.Table.from_batches(batches).equals(expected)
    assert streamed.equals(expected)
    assert pa.table(table).equals(expected)


async def test_a_batch_has_no_more_rows_than_allowed() -> None:
    async with (
        Sandbox(CONFIG) as sandbox,
        opened(sandbox) as clickwrap,
        bulkpull.stream(clickwrap, max_batch_rows=100, **OPTIONS) as rows,
    ):
        sizes = [batch.num_rows async for batch in rows]
    assert max(sizes) == 100
    assert sum(sizes) == rows.result.rows


async def test_reading_it_in_the_event_loop_is_refused() -> None:
    async with Sandbox(CONFIG) as sandbox, opened(sandbox) as clickwrap, bulkpull.stream(clickwrap, **OPTIONS) as rows:
        with pytest.raises(UsageError, match="block the event loop"):
            rows.__arrow_c_stream__()


async def test_rows_are_dicts(tmp_path: Path) -> None:
    async with Sandbox(CONFIG) as sandbox, opened(sandbox) as clickwrap:
        await bulkpull.pull(clickwrap, out=tmp_path / "a.parquet", **OPTIONS)
        found = [row async for row in bulkpull.rows(clickwrap, **OPTIONS)]
    assert found == expected(tmp_path / "a.parquet")


async def test_rows_left_early_end_the_pull() -> None:
    async with Sandbox(CONFIG) as sandbox, opened(sandbox) as clickwrap:
        async with aclosing(bulkpull.rows(clickwrap, **OPTIONS)) as rows:
            async for row in rows:
                assert row["id"]
                break
        async for _ in bulkpull.rows(clickwrap, **OPTIONS):
            break  # closed by the event loop, in a task of its own
        gc.collect()
        await until(lambda: not any(task.get_name() == "bulkpull stream" for task in asyncio.all_tasks()))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("merge", "scan", "files"))]


async def test_the_first_rows_come_while_exports_still_run() -> None:
    config = replace(CONFIG, workers=1, export_seconds=0.3)
    exported: list[Event] = []

    def listen(event: Event) -> None:
        if isinstance(event, events.Exported):
            exported.append(event)

    async with (
        Sandbox(config) as sandbox,
        opened(sandbox) as clickwrap,
        bulkpull.stream(clickwrap, on_event=listen, **OPTIONS) as rows,
    ):
        async for batch in rows:
            assert batch.num_rows
            assert len(exported) < 13
            break


async def test_leaving_early_stops_everything(temporary: Path) -> None:
    async with Sandbox(CONFIG) as sandbox, opened(sandbox) as clickwrap:
        async with bulkpull.stream(clickwrap, **OPTIONS) as rows:
            async for _ in rows:
                assert len(directories_of_streams(temporary)) == 1
                break
        assert not directories_of_streams(temporary)
        launched = sandbox.stats.exports
        await anyio.sleep(0.3)
        assert sandbox.stats.exports == launched
        with pytest.raises(UsageError, match="was left"):
            await anext(rows)
        with pytest.raises(UsageError, match="not ended"):
            rows.result  # noqa: B018


async def test_it_may_be_left_in_another_task() -> None:
    async with Sandbox(CONFIG) as sandbox, opened(sandbox) as clickwrap:
        rows = bulkpull.stream(clickwrap, **OPTIONS)
        await asyncio.create_task(_enter(rows))
        await asyncio.create_task(_read_one(rows))
        await asyncio.create_task(_leave(rows))


async def _enter(rows: RowStream) -> None:
    await rows.__aenter__()


async def _read_one(rows: RowStream) -> None:
    assert (await anext(rows)).num_rows


async def _leave(rows: RowStream) -> None:
    await rows.__aexit__(None, None, None)


@pytest.mark.parametrize("way", ["asyncio", "anyio"])
async def test_a_cancelled_consumer_ends_the_pull(way: str) -> None:
    reading = asyncio.Event()

    async def consume(clickwrap: Clickwrap) -> None:
        async with bulkpull.stream(clickwrap, **OPTIONS) as rows:
            async for _ in rows:
                reading.set()
                await anyio.sleep_forever()

    async with Sandbox(CONFIG) as sandbox, opened(sandbox) as clickwrap:
        if way == "asyncio":
            task = asyncio.create_task(consume(clickwrap))
            await reading.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            async with anyio.create_task_group() as group:
                group.start_soon(consume, clickwrap)
                await reading.wait()
                group.cancel_scope.cancel()
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "bulkpull stream"]


async def test_an_error_of_the_pull_is_raised_by_the_iteration() -> None:
    async with Sandbox(CONFIG) as sandbox:
        clickwrap = Clickwrap("another-token", base_url=sandbox.url)
        async with clickwrap:
            with pytest.raises(bulkpull.AuthenticationError):
                async with bulkpull.stream(clickwrap, **OPTIONS) as rows:
                    await collected(rows)
            async with bulkpull.stream(clickwrap, **OPTIONS) as rows:
                with pytest.raises(bulkpull.AuthenticationError):
                    await asyncio.to_thread(pa.table, rows)


async def test_an_error_of_the_consumer_is_not_hidden() -> None:
    async with Sandbox(CONFIG) as sandbox, opened(sandbox) as clickwrap:
        with pytest.raises(ZeroDivisionError):
            async with bulkpull.stream(clickwrap, **OPTIONS) as rows:
                async for batch in rows:
                    batch.num_rows // 0


async def test_a_slow_consumer_slows_the_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    from bulkpull.store import stream as module

    monkeypatch.setattr(module, "_MAX_LEAD_BYTES", 100_000)
    merged: list[Event] = []

    def listen(event: Event) -> None:
        if isinstance(event, events.WindowMerged):
            merged.append(event)

    async with (
        Sandbox(CONFIG) as sandbox,
        opened(sandbox) as clickwrap,
        bulkpull.stream(clickwrap, max_batch_rows=50, on_event=listen, **OPTIONS) as rows,
    ):
        await anext(rows)
        await anyio.sleep(2)
        ahead = len(merged)
        total = 50 + len(await collected(rows))
    assert ahead < 13
    assert len(merged) == 13
    assert total == rows.result.rows


async def test_with_a_state_it_resumes_behind_what_was_committed(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with Sandbox(CONFIG) as sandbox, opened(sandbox) as clickwrap:
        await bulkpull.pull(clickwrap, out=tmp_path / "a.parquet", **OPTIONS)
        exports = sandbox.stats.exports
        first: list[dict[str, Any]] = []
        async with bulkpull.stream(clickwrap, state=state, max_batch_rows=500, **OPTIONS) as rows:
            async for batch in rows:
                first += batch.to_pylist()
                await batch.ack()
                if len(first) >= 2000:
                    await anext(rows)  # delivered, but not acknowledged
                    break
        async with bulkpull.stream(clickwrap, state=state, **OPTIONS) as rows:
            rest = await collected(rows)
            await rows.commit()
        assert sandbox.stats.exports - exports < 13 + 13
        async with bulkpull.stream(clickwrap, state=state, **OPTIONS) as rows:
            again = await collected(rows)
        assert rows.result.rows == len(first) + len(rest)
        async with bulkpull.stream(clickwrap, state=state, resume=False, **OPTIONS) as rows:
            anew = await collected(rows)
    assert first + rest == anew == expected(tmp_path / "a.parquet")
    assert again == []


async def test_without_a_state_nothing_can_be_committed() -> None:
    async with Sandbox(CONFIG) as sandbox, opened(sandbox) as clickwrap, bulkpull.stream(clickwrap, **OPTIONS) as rows:
        batch = await anext(rows)
        with pytest.raises(UsageError, match="no state"):
            await batch.ack()


async def test_two_streams_do_not_share_a_state(tmp_path: Path) -> None:
    async with (
        Sandbox(CONFIG) as sandbox,
        opened(sandbox) as clickwrap,
        bulkpull.stream(clickwrap, state=tmp_path / "state", **OPTIONS) as rows,
    ):
        await anext(rows)
        async with bulkpull.stream(clickwrap, state=tmp_path / "state", **OPTIONS) as others:
            with pytest.raises(OutputError, match="another pull"):
                await anext(others)


async def test_a_damaged_record_is_an_error(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with Sandbox(CONFIG) as sandbox, opened(sandbox) as clickwrap:
        async with bulkpull.stream(clickwrap, state=state, **OPTIONS) as rows:
            await anext(rows)
        for record in ("[]", '{"end": 1000000000}', '{"end": 100}'):  # damaged, beyond the rows, within a row
            (state / "taken").write_text(record)
            async with bulkpull.stream(clickwrap, state=state, **OPTIONS) as rows:
                with anyio.fail_after(30), pytest.raises(OutputError, match="was changed"):
                    await collected(rows)


async def test_a_column_that_appears_late_ends_it_unless_fields_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    add_a_late_column(monkeypatch)
    async with Sandbox(CONFIG) as sandbox, opened(sandbox) as clickwrap:
        async with bulkpull.stream(clickwrap, **OPTIONS | {"fields": None}) as rows:
            with pytest.raises(OutputError, match="late appeared after"):
                await collected(rows)
        async with bulkpull.stream(clickwrap, **OPTIONS) as rows:
            found = await collected(rows)
        assert len(found) == rows.result.rows


async def test_a_range_without_activity_has_a_schema_and_no_rows() -> None:
    async with Sandbox(CONFIG) as sandbox, opened(sandbox) as clickwrap:
        table = await bulkpull.table(
            clickwrap, **OPTIONS | {"start": "2025-01-01", "end": "2025-01-03", "window": "1d"}
        )
    assert pa.table(table).num_rows == 0
    assert pa.table(table).schema.names == ["id", "signer_id", "created_time", *FIELDS]


async def test_an_interrupted_stream_keeps_its_progress(tmp_path: Path) -> None:
    state, when = tmp_path / "state", at(events.WindowMerged, 4)

    def fail(event: Event) -> None:
        if when(event):
            raise UnavailableError("enough")

    async with Sandbox(CONFIG) as sandbox, opened(sandbox) as clickwrap:
        async with bulkpull.stream(clickwrap, state=state, on_event=fail, **OPTIONS) as rows:
            with pytest.raises(UnavailableError, match="enough"):
                await collected(rows)
        async with bulkpull.stream(clickwrap, state=state, **OPTIONS) as rows:
            found = await collected(rows)
        stats = sandbox.stats
    assert len(found) == rows.result.rows
    assert rows.result.runs == 2
    assert stats.exports == 13
    assert state.stat().st_mode & 0o077 == 0
