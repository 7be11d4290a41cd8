"""Soak test of pulls on a cluster: seeded schedules of kills, stops, doubled tasks and failing storage.

python -m tests.cluster.soak [--seeds N] [--first SEED]
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import boto3
import pyarrow as pa
from aiohttp import ClientSession, web
from anyio import to_thread
from rich.console import Console
from rich.table import Table
from yarl import URL

from bulkpull import Clickwrap, RetryPolicy, open_dataset, pull
from bulkpull.sandbox import Sandbox
from tests.cluster.both import read
from tests.cluster.processes import FAILED, Cluster, end, processes, run_coordinator
from tests.flows.survival import CONFIG, PATIENT, WINDOWS
from tests.servers.running import KEY, SECRET, seaweedfs
from tests.servers.test_remote import BUCKET, wait_for_bucket
from tests.waiting import until

AT_A_TIME = 2
WORKERS = 3
MAX_EVENTS = 8  # of a schedule
RUN_S = 150.0  # for a schedule
LEFT_S = 30.0  # for tasks that nobody waits for to remove what they have written
RETRY = RetryPolicy(base=0.05, cap=0.5, seconds=30.0)
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}
EVENTS = ("worker", "worker", "worker", "scheduler", "coordinator", "stop")


@dataclass(slots=True)
class Survival:
    """The outcome of a schedule: what happened by kind, and the runs that ended with an error."""

    seed: int
    happened: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    exports: int = 0
    downloads: int = 0
    seconds: float = 0.0


@asynccontextmanager
async def failing(endpoint: str, probability: float, seed: int, happened: Counter[str]) -> AsyncIterator[str]:
    """Run a proxy in front of an S3 server; yield its URL."""
    draw = random.Random(seed)

    async with ClientSession(auto_decompress=False) as session:

        async def forward(request: web.Request) -> web.StreamResponse:
            data = await request.read()
            before, after = (draw.random() < probability / 2 for _ in range(2))
            status = draw.choice((500, 503))
            if before:
                happened[f"storage {status}"] += 1
                return web.Response(status=status, text="<Error><Code>SlowDown</Code></Error>")
            headers = {name: value for name, value in request.headers.items() if name != "Transfer-Encoding"}
            url = URL(f"{endpoint}{request.raw_path}", encoded=True)
            async with session.request(request.method, url, headers=headers, data=data) as answer:
                body = await answer.read()
            if after:  # it has taken effect
                happened[f"storage {status}, after"] += 1
                return web.Response(status=status, text="<Error><Code>InternalError</Code></Error>")
            hidden = ("Content-Length", "Transfer-Encoding", "Connection", "Date", "Server")
            kept = {name: value for name, value in answer.headers.items() if name not in hidden}
            if request.method == "HEAD":
                kept["Content-Length"] = answer.headers.get("Content-Length", "0")
            return web.Response(status=answer.status, headers=kept, body=None if request.method == "HEAD" else body)

        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", forward)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


async def survive(seed: int, directory: Path, endpoint: str, client: Any, expected: pa.Table) -> Survival:
    """Pull under a schedule, again after errors and kills, until the pull succeeds."""
    survival = Survival(seed)
    draw = random.Random(seed)
    began = anyio.current_time()
    is_remote = draw.random() < 0.5
    out: Path | str = f"s3://{BUCKET}/{seed}/activity" if is_remote else directory / "activity"
    doubled = draw.choice((0.0, 0.0, 0.3, 1.0))
    probability = draw.choice((0.0, 0.05, 0.2)) if is_remote else 0.0
    options = PATIENT | {"buckets": draw.choice((1, 3, 7, 20))}
    options |= {"state": directory} if is_remote else {}
    if draw.random() < 0.3:
        options["partition_by"] = "month"
    async with Sandbox(CONFIG) as sandbox, failing(endpoint, probability, seed, survival.happened) as storage:
        environment = ENVIRONMENT | {"AWS_ENDPOINT_URL": storage}
        with processes(WORKERS, environment) as cluster:
            survival.happened["tasks doubled"] += doubled > 0

            def coordinate() -> Any:
                return cluster.start(
                    run_coordinator,
                    sandbox.url,
                    CONFIG.token,
                    out,
                    options | {"cluster": cluster.address},
                    RETRY,
                    environment,
                    doubled,
                    draw.randrange(2**32),
                    cluster.log,
                )

            coordinator = coordinate()
            events = draw.randrange(MAX_EVENTS + 1)
            try:
                with anyio.fail_after(RUN_S):
                    while True:
                        moment = anyio.current_time() + draw.uniform(0.1, 1.5)
                        while coordinator.exitcode is None and (not events or anyio.current_time() < moment):
                            await to_thread.run_sync(coordinator.join, 0.02)
                            cluster.replace_workers()
                        if coordinator.exitcode == 0:
                            break
                        if coordinator.exitcode is not None:
                            assert coordinator.exitcode == FAILED, coordinator.exitcode
                            survival.errors.append(cluster.said().strip().splitlines()[-1])
                            assert len(survival.errors) < 10
                            coordinator = coordinate()
                            continue
                        events -= 1
                        kind = draw.choice(EVENTS)
                        survival.happened[kind] += 1
                        if kind == "coordinator":
                            await to_thread.run_sync(end, coordinator)
                            coordinator = coordinate()
                        else:
                            await disturb(kind, cluster, draw)
                await nothing_left(out, directory, client)
            except BaseException:
                print(f"seed {seed}:", cluster.said()[-3000:], file=sys.stderr)
                raise
        table = await to_thread.run_sync(read, out)
        assert table == expected, (table.num_rows, expected.num_rows)
        stats = sandbox.stats
        assert stats.throttled == 0
        assert stats.leaks == 0
        assert stats.exports <= len(WINDOWS) + survival.happened["coordinator"], stats.exports
        survival.exports, survival.downloads = stats.exports, stats.downloads
    survival.seconds = anyio.current_time() - began
    return survival


async def disturb(kind: str, cluster: Cluster, draw: random.Random) -> None:
    """Kill or stop a process of the cluster; another one takes the place of a killed one."""
    if kind == "scheduler":
        assert cluster.scheduler
        await to_thread.run_sync(end, cluster.scheduler)
        await anyio.sleep(draw.choice((0.0, 0.5, 2.0)))
        cluster.start_scheduler()
        return
    worker = draw.choice(cluster.workers)
    if kind == "worker":
        cluster.workers.remove(worker)
        await to_thread.run_sync(end, worker)
        await anyio.sleep(draw.choice((0.0, 0.3)))
        cluster.start_worker()
        return
    with suppress(ProcessLookupError, TypeError):
        os.kill(worker.pid, signal.SIGSTOP)  # type: ignore[arg-type]
        await anyio.sleep(draw.uniform(0.3, 2.0))
        os.kill(worker.pid, signal.SIGCONT)  # type: ignore[arg-type]


async def nothing_left(out: Path | str, directory: Path, client: Any) -> None:
    """Assert that there is nothing but the data set, once all tasks have ended."""
    with suppress(TimeoutError):
        await until(lambda: not left_over(out, directory, client), LEFT_S)
    found = left_over(out, directory, client)
    assert not found, found


def left_over(out: Path | str, directory: Path, client: Any) -> set[str]:
    """Return what there is beyond the data set and its manifest."""
    there = {path.relative_to(directory).as_posix() for path in directory.rglob("*")}
    if isinstance(out, Path):
        return {
            name for name in there if not name.startswith(("activity/", "activity.manifest.json")) and name != out.name
        }
    prefix = out.removeprefix(f"s3://{BUCKET}/").removesuffix("activity")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    keys = {one["Key"].removeprefix(prefix) for page in pages for one in page.get("Contents", ())}
    named = {f"activity/{file.path}" for file in open_dataset(out).files}
    assert named <= keys
    return there | (keys - named - {"activity/_manifest.json", "activity.manifest.json"})


async def soak(seeds: range) -> int:
    """Run all schedules, and print a table; return the number of those that went wrong."""
    done: list[Survival] = []
    wrong: list[int] = []
    limiter = anyio.CapacityLimiter(AT_A_TIME)
    with (
        tempfile.TemporaryDirectory(prefix="bulkpull-soak-", ignore_cleanup_errors=True) as made,
        seaweedfs() as server,
    ):
        os.environ.update(ENVIRONMENT | {"AWS_ENDPOINT_URL": server.url})
        client = boto3.client("s3", endpoint_url=server.url, region_name="us-east-1")
        await to_thread.run_sync(wait_for_bucket, client)
        expected = await undisturbed(Path(made) / "expected.parquet")

        async def run(seed: int) -> None:
            async with limiter:
                directory = Path(made) / str(seed)
                directory.mkdir()
                try:
                    one = await survive(seed, directory, server.url, client, expected)
                except Exception:
                    wrong.append(seed)
                    print(f"seed {seed}: WRONG", file=sys.stderr)
                    traceback.print_exc()
                    return
                done.append(one)
                happened = ", ".join(f"{kind} {number}" for kind, number in sorted(one.happened.items()) if number)
                print(
                    f"seed {seed}: {one.seconds:.1f} s, {one.exports} exports, {one.downloads} downloads; {happened}",
                    flush=True,
                )
                for error in one.errors:
                    print(f"  {error}", flush=True)

        async with anyio.create_task_group() as group:
            for seed in seeds:
                group.start_soon(run, seed)
    report(done, wrong)
    return len(wrong)


async def undisturbed(out: Path) -> pa.Table:
    """Return the rows of an undisturbed pull on one machine."""
    async with Sandbox(CONFIG) as sandbox, Clickwrap(CONFIG.token, base_url=sandbox.url) as clickwrap:
        await pull(clickwrap, out=out, **PATIENT)
    return read(out)


def report(done: list[Survival], wrong: list[int]) -> None:
    """Print the table."""
    table = Table("", "", box=None, title="Pulls on a cluster under chaos")
    table.add_row("same rows as on one machine, nothing left over", str(len(done)))
    table.add_row("wrong", str(len(wrong)))
    for kind, number in sorted(sum((one.happened for one in done), Counter[str]()).items()):
        table.add_row(kind, str(number))
    table.add_row("runs that ended with an error", str(sum(len(one.errors) for one in done)))
    table.add_row("exports", str(sum(one.exports for one in done)))
    slowest = max(done, key=lambda one: one.seconds, default=Survival(0))
    table.add_row("slowest, s (seed)", f"{slowest.seconds:.1f} ({slowest.seed})")
    Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(table)


def main() -> int:
    """Run the soak test; return 1 if any schedule went wrong."""
    parser = argparse.ArgumentParser(description="Soak test of pulls on a cluster.")
    parser.add_argument("--seeds", type=int, default=100, help="schedules")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    asked = parser.parse_args()
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # it logs requests of killed processes
    return 1 if anyio.run(partial(soak, range(asked.first, asked.first + asked.seeds))) else 0


if __name__ == "__main__":
    sys.exit(main())
