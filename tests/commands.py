"""The command line in processes that start in no time: forked from one that has imported it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import orjson

from bulkpull import patience
from bulkpull.cli import main
from bulkpull.sandbox.process import SandboxProcess

TIMEOUT_S = 60.0

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    [
        "tests.commands",
        "tests.flows.victim",
        # What commands import when they run.
        "bulkpull.cli.progress",
        "bulkpull.cli.pull",
        "bulkpull.cli.summary",
        "bulkpull.functions",
        "bulkpull.rows.dedup",
        "bulkpull.sandbox.server",
    ]
)


def run(
    *arguments: str,
    environment: Mapping[str, str],
    lag: float = patience.LAG,
) -> subprocess.CompletedProcess[str]:
    """Run `bulkpull` with these arguments; return its exit code and what it wrote.

    `lag` is how long it waits for stale replicas, in seconds.
    """
    with tempfile.TemporaryDirectory() as directory:
        streams = Path(directory, "stdout"), Path(directory, "stderr")
        process = _PROCESSES.Process(target=_run, args=(arguments, dict(environment), streams, lag))
        process.start()
        process.join(TIMEOUT_S)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(["bulkpull", *arguments], TIMEOUT_S)
        written = [stream.read_text() for stream in streams]
    return subprocess.CompletedProcess(["bulkpull", *arguments], process.exitcode, *written)


@contextmanager
def sandbox_process(*options: str) -> Iterator[SandboxProcess]:
    """Do what `bulkpull.sandbox.process.sandbox_process` does."""
    with tempfile.TemporaryDirectory() as directory:
        stdout = Path(directory, "stdout")
        arguments = ("sandbox", "--port", "0", *options)
        streams = stdout, Path(os.devnull)
        process = _PROCESSES.Process(target=_run, args=(arguments, dict(os.environ), streams, patience.LAG))
        process.start()
        deadline = time.monotonic() + TIMEOUT_S
        while not (stdout.exists() and stdout.read_bytes().count(b"\n")):
            assert process.exitcode is None and time.monotonic() < deadline, "the sandbox did not start"
            time.sleep(0.005)
        running = SandboxProcess(**orjson.loads(stdout.read_bytes().splitlines()[0]))
        try:
            yield running
        finally:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGINT)
            process.join(TIMEOUT_S)
        running.stats.update(orjson.loads(stdout.read_bytes().splitlines()[1]))


def _run(
    arguments: tuple[str, ...],
    environment: dict[str, str],
    streams: tuple[Path, Path],
    lag: float,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for number, stream in enumerate(streams, 1):
        file = os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, number)
        os.close(file)
    sys.argv = ["bulkpull", *arguments]
    patience.LAG = lag
    main()
