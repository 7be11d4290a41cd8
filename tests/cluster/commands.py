"""Workers in processes: Dask's own commands, joined over TCP, with SeaweedFS as the storage; and `local:N`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import orjson
import psutil  # type: ignore[import-untyped]
import pytest

from bulkpull import Clickwrap, Job, RetryPolicy, events, pull_many
from bulkpull.errors import ClusterError
from bulkpull.sandbox import Sandbox
from tests.cluster.both import CONFIG, OPTIONS, pull_from, pulled
from tests.servers.test_remote import BUCKET, Store, server, store  # noqa: F401
from tests.waiting import until

SMALL = replace(CONFIG, rows=600, token="token-that-no-worker-has")


@contextmanager
def dask(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command of Dask; it is killed at the end of the block."""
    command = [sys.executable, "-W", "ignore", "-m", "dask", *arguments, "--no-dashboard"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)  # noqa: S603
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_a_scheduler_and_workers_of_their_own(store: Store, tmp_path: Path) -> None:  # noqa: F811
    out = f"s3://{BUCKET}/x/activity"
    expected = await pulled(tmp_path / "here.parquet", SMALL)
    with ExitStack() as stack:
        file = tmp_path / "scheduler.json"
        stack.enter_context(dask("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file)))
        await until(lambda: file.exists() and file.stat().st_size, 60)
        address = scheduler_of(file)
        async with Sandbox(SMALL) as sandbox:
            hasty = RetryPolicy(base=0.02, cap=0.1, seconds=1.0)
            came = await pull_from(sandbox, out, cluster=address, retry=hasty)
            assert isinstance(came.error, ClusterError)  # there is no worker yet
            assert keys(store) == []
            options = ("--no-nanny", "--nthreads", "2", "--local-directory", str(tmp_path / "worker"))
            worker = stack.enter_context(dask("worker", address, *options))
            patient = RetryPolicy(base=0.02, cap=0.2, seconds=60.0)
            came = await pull_from(sandbox, out, cluster=address, retry=patient, buckets=3)
            if came.error:
                raise came.error
            assert memory_has(worker.pid, [b"window-000001-part-0001", SMALL.token.encode()]) == [True, False]
    assert came.table == expected.table
    assert (came.stats.exports, came.stats.throttled, came.stats.leaks) == (expected.stats.exports, 0, 0)
    assert sorted(key.partition("-")[0] for key in keys(store)) == [
        *("x/activity.manifest.json", "x/activity/_manifest.json"),
        *(f"x/activity/bucket={bucket:04d}/activity" for bucket in range(3)),
    ]
    assert store.uploads() == []
    assert list(Path.cwd().iterdir()) == []


async def test_workers_on_this_machine_listen_on_loopback_only_and_have_no_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BULKPULL_TOKEN", SMALL.token)
    expected = await pulled(tmp_path / "here.parquet", SMALL)
    me, listening, environments = psutil.Process(), set[str](), list[str]()
    others = set(me.children(recursive=True))

    def look(event: object) -> None:
        if isinstance(event, events.TaskEnded):
            children = set(me.children(recursive=True)) - others
            environments.extend(value for process in children for value in process.environ().values())
            for process in (me, *children):
                listening.update(one.laddr.ip for one in process.net_connections() if one.status == psutil.CONN_LISTEN)

    came = await pulled(tmp_path / "there", SMALL, cluster="local:2", buckets=3, on_event=look)
    assert came.table == expected.table
    assert listening == {"127.0.0.1"}
    assert environments
    assert SMALL.token not in environments
    assert set(me.children(recursive=True)) <= others
    assert not [one for one in me.children(recursive=True) if "spawn_main" in " ".join(one.cmdline())]


async def test_two_jobs_on_workers_that_they_share(tmp_path: Path) -> None:
    me = psutil.Process()
    others, most = set(me.children(recursive=True)), 0

    def look(_name: str, event: object) -> None:
        nonlocal most
        if isinstance(event, events.TaskEnded):
            most = max(most, sum("spawn_main" in " ".join(one.cmdline()) for one in me.children(recursive=True)))

    async with Sandbox(SMALL) as sandbox, Clickwrap(SMALL.token, base_url=sandbox.url) as clickwrap:
        options = OPTIONS | {"cluster": "local:2"}
        jobs = [Job(name, clickwrap, **options, out=tmp_path / name) for name in ("first", "second")]
        results = await pull_many(jobs, on_event=look)
    assert [one.complete for one in results.values()] == [True, True]
    assert most == 2
    assert set(me.children(recursive=True)) <= others


def keys(store: Store) -> list[str]:  # noqa: F811
    return [key for key in store.list() if key.startswith("x/")]


def scheduler_of(file: Path) -> str:
    return str(orjson.loads(file.read_bytes())["address"])


def memory_has(pid: int, words: list[bytes]) -> list[bool]:
    """Return for each word whether it is in the memory of a process."""
    found = [False] * len(words)
    overlap = max(map(len, words)) - 1
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, permissions, *_ = line.split()
            if not permissions.startswith("rw") or line.endswith(("[vvar]", "[vsyscall]")):
                continue
            start, end = (int(bound, 16) for bound in span.split("-"))
            tail = b""
            while start < end:
                try:
                    memory.seek(start)
                    data = memory.read(min(end - start, 2**22))
                except OSError:
                    break
                if not data:
                    break
                found = [before or word in tail + data for before, word in zip(found, words, strict=True)]
                tail, start = data[-overlap:], start + len(data)
    return found


async def test_starting_over_without_a_cluster_removes_what_its_workers_have_written(
    store: Store,  # noqa: F811
    tmp_path: Path,
) -> None:
    out = f"s3://{BUCKET}/x/activity"
    options: dict[str, Any] = {"partition_by": "month", "window": "2mo"}
    async with Sandbox(SMALL) as sandbox:
        with anyio.CancelScope() as scope:

            def listen(event: object) -> None:
                if isinstance(event, events.TaskEnded):
                    scope.cancel()

            await pull_from(sandbox, out, cluster="local:1", on_event=listen, **options)
        assert any(key.startswith("x/activity.bulkpull/") for key in keys(store))
        came = await pull_from(sandbox, out, resume=False, **options)
        assert came.result
    assert not any("bulkpull" in key for key in keys(store))


def test_a_worker_that_is_killed_while_it_uploads_leaves_nothing(store: Store, tmp_path: Path) -> None:  # noqa: F811
    """The upload of 100 MB takes about a second, in which its process is killed."""
    file, key = tmp_path / "file", f"s3://{BUCKET}/x/activity"
    file.write_bytes(os.urandom(2**20) * 100)
    code = (
        "from pathlib import Path; from bulkpull.cluster.storage import Storage; from bulkpull.store import ObjectUrl; "
        f"print(flush=True); Storage(ObjectUrl.of({key!r})).put('part', Path({str(file)!r})); print('done', flush=True)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for seconds in (0.2, 0.5, 0.9):
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)  # noqa: S603
        assert process.stdout
        process.stdout.readline()
        time.sleep(seconds)
        process.kill()
        said, _ = process.communicate()
        assert store.uploads() == []
        assert not said or keys(store) == ["x/activity/part"]
