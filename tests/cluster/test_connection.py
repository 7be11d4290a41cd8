"""Clusters that cannot be used, and clients of the caller."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import dask
import distributed
import orjson
import pytest
from distributed import Client, Worker
from distributed.protocol import pickle

import bulkpull
from bulkpull import BulkpullError, RetryPolicy, UsageError
from bulkpull.cluster import connection, run, tasks
from bulkpull.cluster.storage import Storage
from bulkpull.errors import ClusterError
from bulkpull.events import Launched
from bulkpull.sandbox import Sandbox
from tests.cluster.both import CONFIG, NO_DASHBOARD, Came, client_of_threads, pull_from, pulled

SMALL = replace(CONFIG, rows=300, rows_per_file=40, token="token-that-no-worker-has")
HASTY = RetryPolicy(base=0.02, cap=0.1, seconds=1.0)


async def refused(directory: Path, cluster: object) -> str:
    """Assert that a pull fails before any export, and leaves nothing; return its error."""
    came = await pulled(directory / "there", SMALL, cluster=cluster, retry=HASTY)
    assert isinstance(came.error, ClusterError)
    assert came.stats.exports == 0
    assert list(directory.iterdir()) == []
    return str(came.error)


async def test_no_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_CONNECT_S", 0.3)
    assert "the scheduler at tcp://127.0.0.1:1 does not answer" in await refused(tmp_path, "tcp://127.0.0.1:1")


async def test_no_workers(tmp_path: Path) -> None:
    async with client_of_threads(0) as client:
        assert "the cluster has had no worker for 1 s" in await refused(tmp_path, client)


async def test_a_worker_with_another_version(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "versions", lambda: run.versions() | {"bulkpull": "0.0.1"})
    assert f"has bulkpull {bulkpull.__version__} instead of 0.0.1" in await refused(tmp_path, client)


async def test_a_worker_with_another_version_that_joins_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = run.versions()

    def versions() -> dict[str, str]:
        return here | ({"pyarrow": "0.1"} if run.worker() in late else {})

    monkeypatch.setattr(run, "versions", versions)
    late, has_launched = list[str](), anyio.Event()

    async def join(client: Client, stack: AsyncExitStack) -> None:
        await has_launched.wait()
        address = client.scheduler.address  # type: ignore[union-attr]
        worker = Worker(address, name="late", nthreads=4, local_directory=str(tmp_path), memory_limit=0, **NO_DASHBOARD)
        late.append((await stack.enter_async_context(worker)).address)

    def listen(event: object) -> None:
        if isinstance(event, Launched):
            has_launched.set()

    async with client_of_threads(1) as client, AsyncExitStack() as stack, anyio.create_task_group() as group:
        group.start_soon(join, client, stack)
        config = replace(SMALL, file_latency=0.2)
        came = await pulled(tmp_path / "there", config, cluster=client, on_event=listen)
    assert isinstance(came.error, ClusterError)
    [address] = late
    expected = f"the worker {address} has pyarrow 0.1 instead of {here['pyarrow']}: install the same versions"
    assert str(came.error) == expected


async def test_a_worker_that_joins_late_without_bulkpull(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_task: object) -> None:
        raise ModuleNotFoundError("No module named 'bulkpull'")

    monkeypatch.setattr(tasks, "run_sealed", fail)
    came = await pulled(tmp_path / "there", SMALL, cluster=client)
    assert isinstance(came.error, ClusterError)
    assert "a worker cannot run bulkpull: ModuleNotFoundError" in str(came.error)


async def test_a_worker_without_access_to_the_storage(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Storage, "exists", lambda _self, _name: False)
    assert "it does not see what the coordinator has written to" in await refused(tmp_path, client)


@pytest.mark.parametrize("cluster", ["tcp:/host", "local:0", 3])
async def test_what_is_no_cluster(tmp_path: Path, cluster: object) -> None:
    came = await pulled(tmp_path / "there", SMALL, cluster=cluster)
    assert isinstance(came.error, UsageError)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="the profiler is harmless there")
async def test_the_profiler_of_workers_is_stopped(tmp_path: Path) -> None:
    with dask.config.set({"distributed.worker.profile.enabled": True}):
        async with client_of_threads(1) as client:
            await pulled(tmp_path / "there", SMALL, cluster=client, buckets=1)
            running = await client.run(lambda dask_worker: dask_worker.periodic_callbacks["profile"].is_running())
    assert set(running.values()) == {False}


async def test_two_pulls_at_once_on_a_client_that_stays_open(client: Client, tmp_path: Path) -> None:
    came: dict[int, Came] = {}
    configs = {seed: replace(SMALL, seed=seed) for seed in (1, 2)}

    async def one(seed: int) -> None:
        came[seed] = await pulled(tmp_path / f"there-{seed}", configs[seed], cluster=client, buckets=3)

    async with anyio.create_task_group() as group:
        for seed in configs:
            group.start_soon(one, seed)
    for seed, config in configs.items():
        expected = await pulled(tmp_path / f"here-{seed}.parquet", config)
        assert came[seed].table == expected.table
    assert came[1].table != came[2].table
    assert client.status == "running"
    with pytest.raises(ValueError, match="No clients found"):
        distributed.default_client()  # type: ignore[no-untyped-call]


async def test_secrets_are_in_no_task_journal_log_or_error(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[bytes] = []
    shown: list[str] = []
    submit, links = Client.submit, list[str]()

    def record(self: Client, function: Any, task: Any, **options: Any) -> Any:
        sent.append(pickle.dumps((function, task)))  # type: ignore[no-untyped-call]
        _, argument = pickle.loads(task.content)  # type: ignore[no-untyped-call]
        shown.extend((repr(task), repr(argument)))
        links.extend([argument.link] if hasattr(argument, "link") else [])
        return submit(self, function, task, **options)

    monkeypatch.setattr(Client, "submit", record)
    out = tmp_path / "there"
    kept: list[bytes] = []

    def keep(_event: object) -> None:
        journal = out.with_name("there.bulkpull")
        kept.extend(path.read_bytes() for path in journal.glob("journal.sqlite*"))

    monkeypatch.setattr("bulkpull.cluster.destination.ClusterDirectory.publish", refuse)
    with caplog.at_level("DEBUG"):
        async with Sandbox(replace(SMALL, faults="file-error+cut-first")) as sandbox:
            came = await pull_from(sandbox, out, cluster=client, buckets=3, on_event=keep)
    assert isinstance(came.error, BulkpullError)
    assert links
    token = SMALL.token.encode()
    assert not [task for task in sent if token in task]
    told = "\n".join((*shown, caplog.text, str(came.error), repr(came.error))).encode() + b"".join(kept)
    assert orjson.dumps("window-000001")[1:-1] in b"".join(kept)  # it was kept when there was something in it
    assert token not in told
    for link in links:
        _, _, signature = link.partition("signature=")
        assert signature
        assert signature.encode() not in told


def refuse(_self: object) -> None:
    raise BulkpullError("not published")


class Task:
    """A task with this status, whose result comes after `first_s` seconds if it is asked for once, then at once."""

    def __init__(self, status: str, first_s: float) -> None:
        self.status = status
        self.asked = 0
        self._first_s = first_s

    async def result(self) -> int:
        self.asked += 1
        asked = self.asked
        await anyio.sleep(self._first_s if asked == 1 else 0)
        return asked


async def test_a_result_that_does_not_come_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a worker which has died meanwhile, and which the scheduler still tries to reach."""
    monkeypatch.setattr(tasks, "_RESULT_S", 0.01)
    task = Task("finished", 3600)
    with anyio.fail_after(30):
        assert await tasks._result(task) == 2  # type: ignore[arg-type]


async def test_a_task_that_still_runs_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_RESULT_S", 0.001)
    task = Task("pending", 0.05)
    assert await tasks._result(task) == task.asked == 1  # type: ignore[arg-type]
