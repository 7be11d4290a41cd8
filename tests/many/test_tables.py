"""Several pulls in one call, some of which fill tables of databases."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import duckdb
import pytest

from bulkpull import Clickwrap, Job, JobResult, LoadOptions, OutputError, Result, ShrinkError, pull_many
from bulkpull.many.receipts import read_receipt, write_receipt
from bulkpull.sandbox import Sandbox, SandboxConfig
from bulkpull.sync import load

RANGE: Mapping[str, Any] = {"start": "2024", "end": "2025", "window": "6mo"}


@pytest.fixture
async def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Clickwrap]:
    monkeypatch.chdir(tmp_path)
    async with (
        Sandbox(SandboxConfig(rows=300, export_seconds=0.02, file_latency=0.0)) as sandbox,
        Clickwrap(sandbox.token, base_url=sandbox.url) as opened,
    ):
        yield opened


def rows(table: str) -> int:
    with closing(sqlite3.connect("a.db")) as database:
        found: tuple[int] = database.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
        return found[0]


def left() -> list[str]:
    return sorted(path.name for path in Path().iterdir() if path.name.endswith((".bulkpull", ".finished")))


async def test_a_table_that_refuses_fails_its_job_alone_and_others_are_not_filled_again(client: Clickwrap) -> None:
    first = Job("first", client, **RANGE, to="sqlite:///a.db", table="first")
    jobs = [
        first,
        Job("second", client, **RANGE, to="sqlite:///a.db", table="second"),
        Job("file", client, **RANGE, out="a.csv"),
        Job("bad", client, **RANGE, to="sqlite:///missing/a.db"),
    ]
    results = await pull_many(jobs)
    assert {name: one.state for name, one in results.items()} == {
        "first": "complete",
        "second": "complete",
        "file": "complete",
        "bad": "failed",
    }
    assert results["first"].output == "first in a.db"
    assert rows("first") == rows("second") == results["first"].rows == results["file"].rows
    again = await pull_many(jobs)
    assert [name for name, one in again.items() if one.was_finished] == ["first", "second", "file"]
    assert again["first"].rows == results["first"].rows
    # Whatever would put other rows there, or finds them gone, is a run of its own.
    other = Job("first", client, **dict(RANGE) | {"start": "2024-02"}, to="sqlite:///a.db", table="first")
    for job in (other, Job("first", client, **RANGE, to="sqlite:///a.db", table="first", overwrite=True)):
        assert not (await pull_many([job, jobs[3]]))["first"].was_finished
    with closing(sqlite3.connect("a.db")) as database:
        database.execute("DROP TABLE first")
    assert not (await pull_many([first, jobs[3]]))["first"].was_finished
    Path("missing").mkdir()
    assert [name for name, one in (await pull_many(jobs)).items() if not one.was_finished] == ["bad"]
    assert left() == []
    assert [name for name, one in (await pull_many(jobs)).items() if one.was_finished] == ["file"]  # the next run


async def test_a_cancelled_call_resumes_the_tables_that_are_left(client: Clickwrap) -> None:
    jobs = [Job(name, client, **RANGE, to="sqlite:///a.db", table=name) for name in ("first", "second")]
    with anyio.CancelScope() as scope:
        await pull_many(jobs, limit=1, on_result=lambda _result: scope.cancel())
    assert scope.cancelled_caught
    assert len(left()) >= 1
    again = await pull_many(jobs)
    assert [one.was_finished for one in again.values()] == [True, False]
    assert left() == []


async def test_a_receipt_holds_for_the_same_table_range_and_options_as_long_as_the_rows_are_there(
    client: Clickwrap,
) -> None:
    options = dict(RANGE) | {"to": "sqlite:///a.db"}
    job = Job("first", client, **options)
    result = (await pull_many([job]))["first"]
    write_receipt(job, result)
    other: list[Mapping[str, Any]] = [
        {"end": None},
        {"end": "2024-12"},
        {"filter": "event_type==agreed"},
        {"deleted": "drop"},
        {"on_conflict": "first"},
        {"replace_nul": "?"},
        {"types": {"event_type": "TEXT"}},
    ]

    def found(**changed: Any) -> JobResult | None:
        changed_job = Job("first", client, **options | changed)
        assert isinstance(changed_job.options, LoadOptions)
        return read_receipt(changed_job, changed_job.options)

    assert found() == replace(result, result=None)
    assert found(window="1mo", max_shrink=0.5) is not None  # the same rows
    assert [changed for changed in other if found(**changed)] == []
    with closing(sqlite3.connect("a.db")) as database:
        database.execute("DELETE FROM activity WHERE rowid > 1")
        database.commit()
        assert found() is not None
        database.execute("DELETE FROM activity")
        database.commit()
    assert found() is None


async def test_a_receipt_goes_before_its_load_starts_and_is_written_even_if_the_call_is_cancelled(
    client: Clickwrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job("first", client, **RANGE, to="sqlite:///a.db")
    ended: list[JobResult] = []
    with anyio.CancelScope() as scope:

        async def cancelled(*arguments: Any) -> Result:
            found = await load(*arguments)
            scope.cancel()
            return found

        monkeypatch.setattr("bulkpull.many.pulling.load", cancelled)
        await pull_many([job], on_result=ended.append)
    assert scope.cancelled_caught
    assert [one.state for one in ended] == ["complete"]
    (receipt,) = left()

    async def failing(*_arguments: Any) -> Result:
        assert left() == []
        raise OutputError("not now")

    def cannot(_path: Path) -> None:
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr("bulkpull.many.pulling.load", failing)
    again = Job("first", client, **RANGE, to="sqlite:///a.db", overwrite=True)
    with monkeypatch.context() as patched:
        patched.setattr("bulkpull.many.receipts.discard", cannot)
        error = (await pull_many([again]))["first"].error
    assert str(error).startswith("cannot remove ")
    assert left() == [receipt]
    assert str((await pull_many([again]))["first"].error) == "not now"


async def test_a_table_that_would_shrink_is_left_as_it_is(client: Clickwrap) -> None:
    job = Job("first", client, **RANGE, to="sqlite:///a.db")
    assert (await pull_many([job]))["first"].complete
    before = rows("activity")
    fewer = dict(RANGE) | {"filter": "event_type==agreed", "max_shrink": 0.0, "max_shrink_rows": 0}
    result = (await pull_many([Job("first", client, **fewer, to="sqlite:///a.db")]))["first"]
    assert (result.state, type(result.error), rows("activity")) == ("failed", ShrinkError, before)


async def test_jobs_fill_tables_of_one_duckdb_file_at_the_same_time(client: Clickwrap) -> None:
    names = [f"of_{number}" for number in range(3)]
    jobs = [Job(name, client, **RANGE, to="duckdb:///a.duckdb", table=name) for name in names]
    results = await pull_many(jobs)
    assert [(one.error, one.complete) for one in results.values()] == [(None, True)] * 3
    with duckdb.connect("a.duckdb") as database:
        counts = [database.execute(f"SELECT count(*) FROM {name}").fetchone() for name in names]  # noqa: S608
    assert counts == [(results[name].rows,) for name in names]
