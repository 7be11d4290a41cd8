"""Schedulers, workers and coordinators in processes of their own, which start in no time and can be killed."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import anyio

from bulkpull import BulkpullError, Clickwrap, RetryPolicy, patience, pull
from tests.cluster.both import NO_DASHBOARD

FAILED = 4
START_S = 60.0  # a busy machine starts programs slowly

# Processes that are forked from one which has imported all this start in no time.
PROCESSES = multiprocessing.get_context("forkserver")
_PRELOADED = ["distributed", "dask", "obstore.store", "pyarrow.parquet", "bulkpull.cluster.workers", __name__]


def run_scheduler(port: int, log: str) -> None:
    """Run a scheduler, which listens on loopback."""
    _begin(log)

    async def main() -> None:
        from distributed import Scheduler

        async with Scheduler(host="127.0.0.1", port=port, **NO_DASHBOARD) as scheduler:
            await scheduler.finished()

    asyncio.run(main())


def run_worker(address: str, directory: str, environment: Mapping[str, str], log: str) -> None:
    """Run a worker with one thread."""
    _begin(log)
    os.environ.update(environment)

    async def main() -> None:
        from distributed import Worker

        worker = Worker(
            address, nthreads=1, local_directory=directory, memory_limit=0, death_timeout=30, **NO_DASHBOARD
        )
        async with worker:
            await worker.finished()  # type: ignore[no-untyped-call]

    asyncio.run(main())


def run_coordinator(
    url: str,
    token: str,
    out: Any,
    options: dict[str, Any],
    retry: RetryPolicy,
    environment: Mapping[str, str],
    doubled: float,
    seed: int,
    log: str,
) -> None:
    """Pull; exit with FAILED after a BulkpullError. A fraction of the tasks is `doubled`: submitted twice."""
    _begin(log)
    os.environ.update(environment)
    patience.LAG = 0.3
    _double_tasks(doubled, random.Random(seed))

    async def main() -> None:
        async with Clickwrap(token, base_url=url, retry=retry) as clickwrap:
            await pull(clickwrap, out=out, **options)

    try:
        anyio.run(main)
    except BulkpullError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        sys.exit(FAILED)


def _begin(log: str) -> None:
    with Path(log).open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    logging.getLogger("distributed").setLevel(logging.WARNING)


def _double_tasks(probability: float, draw: random.Random) -> None:
    from distributed import Client

    submit, kept = Client.submit, []

    def submit_twice(self: Client, function: Any, *arguments: Any, key: str, **options: Any) -> Any:
        if draw.random() < probability:
            kept.append(submit(self, function, *arguments, key=f"{key}-again", **options))
        return submit(self, function, *arguments, key=key, **options)

    Client.submit = submit_twice  # type: ignore[method-assign, assignment]


@dataclass(slots=True)
class Cluster:
    """A scheduler and its workers, each a process. `environment` is that of the workers."""

    directory: str
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    scheduler: ForkServerProcess | None = None
    workers: list[ForkServerProcess] = field(default_factory=list)
    all: list[ForkServerProcess] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """Where all processes write what they say."""
        return f"{self.directory}/log"

    def start_scheduler(self) -> None:
        """Start a scheduler, at the port of the one before."""
        if not self.port:
            with socket.socket() as found:
                found.bind(("127.0.0.1", 0))
                self.port = found.getsockname()[1]
        self.scheduler = self.start(run_scheduler, self.port, self.log)

    def start_worker(self) -> None:
        """Start one more worker."""
        self.workers.append(self.start(run_worker, self.address, self.directory, self.environment, self.log))

    def replace_workers(self) -> None:
        """Start workers in place of those that have ended, as they do without a scheduler."""
        for worker in [one for one in self.workers if one.exitcode is not None]:
            self.workers.remove(worker)
            self.start_worker()

    def start(self, target: Any, *arguments: Any) -> ForkServerProcess:
        """Start a process that ends with this cluster."""
        process = PROCESSES.Process(target=target, args=arguments, daemon=True)
        process.start()
        self.all.append(process)
        return process

    def wait(self) -> None:
        """Wait until the scheduler listens."""
        deadline = time.monotonic() + START_S
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            assert time.monotonic() < deadline, "the scheduler did not start"
            time.sleep(0.02)

    def said(self) -> str:
        """What all processes have written."""
        return Path(self.log).read_text(encoding="utf-8", errors="replace")


@contextmanager
def processes(workers: int, environment: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """A scheduler and workers, which end at the end of the block."""
    PROCESSES.set_forkserver_preload(_PRELOADED)
    with tempfile.TemporaryDirectory(prefix="bulkpull-cluster-", ignore_cleanup_errors=True) as directory:
        cluster = Cluster(directory, environment or {})
        try:
            cluster.start_scheduler()
            for _ in range(workers):
                cluster.start_worker()
            cluster.wait()
            yield cluster
        finally:
            for process in cluster.all:
                end(process)


def end(process: ForkServerProcess) -> None:
    """Kill a process, and wait for it."""
    with suppress(ProcessLookupError, TypeError):
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
    process.join(30)
