"""Several pulls in one call: checked first, side by side, and resumed by the same call."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
from obstore.store import MemoryStore

import bulkpull
from bulkpull import Clickwrap, Job, JobResult, OutputError, UsageError, events, pull_many
from bulkpull.errors import AuthenticationError
from bulkpull.events import Event
from bulkpull.logs import LOGGER
from bulkpull.pull import shared_memory
from bulkpull.sandbox import Sandbox, SandboxConfig
from bulkpull.sandbox.quota import RateLimit
from bulkpull.store import Bucket, WorkDirectory, manifest_path, published_manifest

FIRST: Mapping[str, Any] = {"start": "2024", "end": "2025", "window": "3mo"}
SECOND: Mapping[str, Any] = {"start": "2025", "end": "2026", "window": "3mo"}


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(SandboxConfig(rows=600, export_seconds=0.02, file_latency=0.0)) as running:
        yield running


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[Clickwrap]:
    async with Clickwrap(sandbox.token, base_url=sandbox.url) as opened:
        yield opened


def states(results: Mapping[str, JobResult]) -> dict[str, str]:
    return {name: result.state for name, result in results.items()}


async def test_each_job_writes_what_a_pull_of_its_own_writes(client: Clickwrap, tmp_path: Path) -> None:
    jobs = [
        Job("first", client, **FIRST, out=tmp_path / "first.csv"),
        Job("second", client, **SECOND, out=tmp_path / "second.ndjson"),
    ]
    heard: set[str] = set()
    ended: list[JobResult] = []
    results = await pull_many(jobs, on_event=lambda name, _event: heard.add(name), on_result=ended.append)
    assert list(results) == ["first", "second"]
    assert all(result.complete for result in results.values())
    assert sorted(ended, key=lambda one: one.name) == list(results.values())
    assert heard == {"first", "second"}
    alone = await bulkpull.pull(client, **FIRST, out=tmp_path / "alone.csv")
    assert (tmp_path / "first.csv").read_bytes() == (tmp_path / "alone.csv").read_bytes()
    assert results["first"].rows == alone.rows > 0


async def test_jobs_run_side_by_side_up_to_the_limit(client: Clickwrap, tmp_path: Path) -> None:
    running: set[str] = set()
    most = 0

    def listener(name: str, event: Event) -> None:
        nonlocal most
        running.add(name)
        most = max(most, len(running))
        if isinstance(event, events.Published):
            running.remove(name)

    jobs = [Job(f"job-{n}", client, **FIRST, out=tmp_path / f"{n}.csv") for n in range(4)]
    assert all(result.complete for result in (await pull_many(jobs, limit=2, on_event=listener)).values())
    assert most == 2


async def test_a_failed_job_does_not_stop_the_others_and_is_resumed(
    sandbox: Sandbox, client: Clickwrap, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Clickwrap("wrong", base_url=sandbox.url) as refused:
        jobs = [
            Job("bad", refused, **FIRST, out=tmp_path / "bad.csv"),
            Job("good", client, **SECOND, out=tmp_path / "good.csv"),
        ]
        with caplog.at_level(logging.INFO, LOGGER):
            results = await pull_many(jobs, limit=1)
        assert states(results) == {"bad": "failed", "good": "complete"}
        assert isinstance(results["bad"].error, AuthenticationError)
        merged = [record for record in caplog.records if vars(record)["event"] == "window_merged"]
        assert {vars(record)["job"] for record in merged} == {"good"}
        assert all(record.getMessage().startswith("good: window") for record in merged)
        others = [Job("good", client, **SECOND, out=tmp_path / "other.csv")]
        assert states(await pull_many([jobs[0], *others], fail_fast=True)) == {
            "bad": "failed",
            "good": "stopped",
        }
    before = sandbox.stats.exports
    again = await pull_many([Job("bad", client, **FIRST, out=tmp_path / "bad.csv"), jobs[1]])
    assert states(again) == {"bad": "complete", "good": "complete"}
    assert (again["good"].was_finished, again["bad"].was_finished) == (True, False)
    assert again["good"].rows == results["good"].rows
    assert sandbox.stats.exports == before + 4


async def test_jobs_with_one_client_stay_within_its_budget(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A budget of 6 requests in a second; each job alone needs more.
    monkeypatch.setattr("bulkpull.clickwrap.quota.QUOTA_PERIOD_S", 1.0)
    monkeypatch.setattr(Clickwrap, "requests_per_minute", 360)  # by which polls are paced
    monkeypatch.setattr(sandbox, "_authenticated", RateLimit(6, seconds=1.0))
    async with Clickwrap(sandbox.token, base_url=sandbox.url, requests_per_minute=6) as limited:
        jobs = [
            Job("first", limited, **FIRST, out=tmp_path / "first.csv"),
            Job("second", limited, **SECOND, out=tmp_path / "second.csv"),
        ]
        results = await pull_many(jobs)
    assert all(result.complete for result in results.values())
    assert sum(sandbox.stats.requests.values()) > 12
    assert sandbox.stats.throttled == 0


async def test_a_cancelled_call_is_resumed_by_the_same_call(
    sandbox: Sandbox, client: Clickwrap, tmp_path: Path
) -> None:
    jobs = [
        Job("first", client, **FIRST, out=tmp_path / "first.csv"),
        Job("second", client, **SECOND, out=tmp_path / "second.csv"),
    ]
    merged: set[str] = set()
    with anyio.CancelScope() as scope:

        def listener(name: str, event: Event) -> None:
            if isinstance(event, events.WindowMerged):
                merged.add(name)
                if len(merged) == 2:
                    scope.cancel()

        await pull_many(jobs, on_event=listener)
    assert scope.cancelled_caught
    left = [job for job in jobs if WorkDirectory.of(job.output).journal.exists()]
    assert left
    results = await pull_many(jobs)
    assert all(result.complete for result in results.values())
    assert sandbox.stats.exports == 8
    await bulkpull.pull(client, **SECOND, out=tmp_path / "alone.csv")
    assert (tmp_path / "second.csv").read_bytes() == (tmp_path / "alone.csv").read_bytes()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([{"out": "a.csv"}], "the jobs 'job-0' and 'job-1' both write .*a.csv"),
        ([{"out": "link.csv"}], "both write .*a.csv"),
        ([{"out": "a.csv.manifest.json", "format": "csv"}], "both write .*manifest.json"),
        ([{"out": "b.csv", "report": "a.csv"}], "both write .*a.csv"),
        (
            [{"out": "c", "partition_by": "month"}, {"out": "c/d.csv"}],
            "the job 'job-2' would write .*d.csv into .*c, which the job 'job-1' writes",
        ),
        ([{"out": "-"}], "job 'job-1': standard output"),
        ([{"out": "b.csv", "filter": "nonsense"}], "job 'job-1': "),
        ([{"out": "missing/b.csv"}], "job 'job-1': cannot write .*missing is not a directory"),
        (
            [{"out": "d.csv"}, {"out": "d.csv.bulkpull/e.csv"}],
            "the job 'job-2' would write .*e.csv into .*d.csv.bulkpull, which the job 'job-1' writes",
        ),
        (
            [{"out": "s3://b/c", "partition_by": "month"}, {"out": "s3://b/c/d.csv"}],
            "the job 'job-2' would write s3://b/c/d.csv into s3://b/c, which the job 'job-1' writes",
        ),
        ([{"to": "sqlite:///a.db"}, {"to": "sqlite:///a.db"}], "'job-1' and 'job-2' both write activity in .*a.db"),
        (
            [{"to": "sqlite:///a.db", "state": "new"}, {"to": "sqlite:///c/../link.db", "table": "Activity"}],
            "'job-1' and 'job-2' both write activity in .*a.db",
        ),
        (
            [{"to": "duckdb:///a.db"}, {"to": "duckdb:///c/../a.db", "schema": "MAIN"}],
            "'job-1' and 'job-2' both write main.activity in .*a.db",
        ),
        (
            [{"to": "postgresql://user:secret@h/d"}, {"to": "postgres://H:5432/d", "schema": "public"}],
            "'job-1' and 'job-2' both write public.activity in postgresql://h:5432/d",
        ),
        ([{"to": "c"}, {"out": "c/d.csv"}], "the job 'job-2' would write .*d.csv into .*c, which the job 'job-1'"),
        ([{"to": "mysql://user:secret@host/a"}], "job 'job-1': the destination is a mysql URL: it must look like"),
    ],
)
async def test_nothing_starts_unless_all_jobs_can_run(
    sandbox: Sandbox,
    client: Clickwrap,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: list[dict[str, Any]],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("link.csv").symlink_to("a.csv")
    Path("link.db").symlink_to("a.db")
    Path("c").mkdir()
    Path("d.csv.bulkpull").mkdir()
    jobs = [Job(f"job-{n}", client, **dict(FIRST) | one) for n, one in enumerate([{"out": "a.csv"}, *more])]
    with pytest.raises((UsageError, OutputError), match=message) as refused:
        await pull_many(jobs)
    assert "secret" not in str(refused.value)
    assert not sandbox.stats.requests
    assert not Path("a.csv.bulkpull").exists()
    assert not Path("new").exists()


def test_options_are_checked_when_a_job_is_made(tmp_path: Path) -> None:
    source: Any = None
    with pytest.raises(UsageError, match="job 'a': the start '2024-13' is not a date"):
        Job("a", source, start="2024-13", out=tmp_path / "a.csv")
    assert "secret" not in repr(Job("a", source, start="2024", to="postgresql://user:secret@host/a"))
    with pytest.raises(UsageError, match="name of a job"):
        Job(" ", source, start="2024", out=tmp_path / "a.csv")


async def test_two_jobs_of_one_name_and_no_job_are_refused(client: Clickwrap, tmp_path: Path) -> None:
    jobs = [Job("same", client, **FIRST, out=tmp_path / f"{n}.csv") for n in range(2)]
    with pytest.raises(UsageError, match="two jobs have the name 'same'"):
        await pull_many(jobs)
    with pytest.raises(UsageError, match="there are no jobs"):
        await pull_many([])


async def test_a_finished_output_is_taken_for_what_it_is(client: Clickwrap, tmp_path: Path) -> None:
    out = tmp_path / "a.csv"

    async def again(**options: Any) -> JobResult:
        return (await pull_many([Job("a", client, **dict(FIRST) | {"out": out} | options)]))["a"]

    assert not (await again()).was_finished
    assert (await again()).was_finished
    assert (await again(window="1mo", exports=2)).was_finished  # the same rows
    assert (await again(end=None)).was_finished  # as a pull with an open end is resumed
    for options, named in (
        ({"start": "2024-02"}, "start"),
        ({"end": "2024-12"}, "end"),
        ({"fields": ["event_type"]}, "fields"),
        ({"filter": "event_type==agreed"}, "filter"),
        ({"format": "ndjson"}, "format"),
    ):
        with pytest.raises(OutputError, match=rf"job 'a': the output .* exists, pulled with other options \({named}\)"):
            await again(**options)
    with pytest.raises(OutputError, match=r"job .a.: the output .* exists: "):
        await again(resume=False)
    assert not (await again(overwrite=True)).was_finished
    with out.open("ab") as file:
        file.write(b"more")
    with pytest.raises(OutputError, match="not what its manifest describes"):
        await again()
    Path(f"{out}.manifest.json").unlink()
    with pytest.raises(OutputError, match="exists without its manifest"):
        await again()


async def test_the_memory_is_divided(client: Clickwrap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, int | None] = {}

    async def pull(_source: object, options: bulkpull.PullOptions) -> None:
        given[Path(options.out).name] = options.memory_bytes
        raise OutputError("not now")

    monkeypatch.setattr("bulkpull.many.pulling.pull", pull)
    job = Job("0", client, **FIRST, out=tmp_path / "0")
    jobs = [
        job,
        Job("1", client, **FIRST, out=tmp_path / "1", memory="150MB"),
        Job("2", client, **FIRST, out=tmp_path / "2"),
    ]
    await pull_many(jobs, limit=2, memory="600MB")
    assert given == {"0": 350_000_000, "1": 150_000_000, "2": 350_000_000}
    await pull_many(jobs, limit=2)
    assert given == {"0": None, "1": 150_000_000, "2": None}
    with pytest.raises(UsageError, match="job '0': its share of the memory, with 3 jobs at a time, is too small"):
        await pull_many(jobs, memory="130MB")
    assert shared_memory(130_000_000, 3) == 110_000_000


async def test_an_error_of_a_listener_ends_the_call_as_it_is(client: Clickwrap, tmp_path: Path) -> None:
    def fail(_result: JobResult) -> None:
        raise LookupError("of the listener")

    with pytest.raises(LookupError, match="of the listener"):
        await pull_many([Job("a", client, **FIRST, out=tmp_path / "a.csv")], on_result=fail)

    async def asynchronous(_name: str, _event: Event) -> None: ...

    with pytest.raises(UsageError, match="asynchronous"):
        await pull_many([Job("a", client, **FIRST, out=tmp_path / "b.csv")], on_event=asynchronous)


async def test_an_output_in_object_storage_is_finished_as_its_manifest_says(
    client: Clickwrap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, url = tmp_path / "a.csv", "s3://bucket/key/a.csv"
    await bulkpull.pull(client, **FIRST, out=out)
    bucket = MemoryStore()
    monkeypatch.setattr(Bucket, "_store", bucket)
    assert published_manifest(url) is None
    bucket.put("key/a.csv.manifest.json", manifest_path(out).read_bytes())
    assert published_manifest(url) is None  # of an output that was removed
    bucket.put("key/a.csv", out.read_bytes())
    assert published_manifest(url) == published_manifest(out) is not None
    results = await pull_many([Job("a", client, **FIRST, out=url, state=tmp_path)])
    assert (results["a"].was_finished, results["a"].output) == (True, url)
    with pytest.raises(UsageError, match=r"'a' and 'b' both write .*a\.csv\.bulkpull"):  # their progress
        other = "s3://bucket/other/a.csv"
        await pull_many([Job(name, client, **FIRST, out=at) for name, at in (("a", url), ("b", other))])


async def test_a_full_disk_or_a_storage_that_does_not_answer_fails_its_job_alone(
    client: Clickwrap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(out: object) -> None:
        if str(out).startswith("s3:"):
            raise OutputError("the storage does not answer")

    async def pull(_source: object, options: bulkpull.PullOptions) -> bulkpull.Result:
        fail(options.out)
        return await bulkpull.pull(client, **options.asdict())

    monkeypatch.setattr("bulkpull.many.checks.published_manifest", fail)
    monkeypatch.setattr("bulkpull.many.pulling.pull", pull)
    jobs = [
        Job("far", client, **FIRST, out="s3://bucket/far.csv", state=tmp_path),
        Job("full", client, **FIRST, out="/dev/full"),
        Job("near", client, **FIRST, out=tmp_path / "near.csv"),
    ]
    results = await pull_many(jobs)
    assert states(results) == {"far": "failed", "full": "failed", "near": "complete"}
    assert str(results["far"].error) == "the storage does not answer"
    assert "No space left on device" in str(results["full"].error)
