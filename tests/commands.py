"""The command line in processes that start in no time: forked from one that has imported it."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import cache
from pathlib import Path

import orjson

from bulkpull import patience
from bulkpull.sandbox.process import SandboxProcess
from tests import forked
from tests.forked import Forked

TIMEOUT_S = 60.0
NULL = Path(os.devnull)


@cache
def server() -> str:
    """The address of the process that forks; it ends with this one."""
    directory = tempfile.mkdtemp()
    path = str(Path(directory, "socket"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-m", "tests.fork_server", str(listener.fileno())],
            stdin=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"},
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )

    def end() -> None:
        shutil.rmtree(directory, ignore_errors=True)
        process.communicate()

    atexit.register(end)
    return path


def program(name: str = "bulkpull") -> list[str]:
    """The words for `bulkpull`, or for `python` with the option -c, in a shell and in `subprocess`."""
    return [sys.executable, "-IS", forked.__file__, server(), name]


def run(
    *arguments: str,
    environment: Mapping[str, str],
    lag: float = patience.LAG,
) -> subprocess.CompletedProcess[str]:
    """Run `bulkpull` with these arguments; return its exit code and what it wrote.

    `lag` is how long it waits for stale replicas, in seconds.
    """
    with ExitStack() as stack:
        stdin = stack.enter_context(NULL.open("rb"))
        written = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(2)]
        files = {number: file.fileno() for number, file in enumerate((stdin, *written))}
        with closing(Forked(server(), ["bulkpull", *arguments], environment, files, lag)) as process:
            try:
                code = process.wait(TIMEOUT_S)
            except TimeoutError:
                raise subprocess.TimeoutExpired(["bulkpull", *arguments], TIMEOUT_S) from None
        for stream in written:
            stream.seek(0)
        texts = [stream.read().decode() for stream in written]
    return subprocess.CompletedProcess(["bulkpull", *arguments], code, *texts)


@contextmanager
def sandbox_process(*options: str) -> Iterator[SandboxProcess]:
    """Do what `bulkpull.sandbox.process.sandbox_process` does."""
    with tempfile.TemporaryDirectory() as directory:
        stdout = Path(directory, "stdout")
        with stdout.open("wb") as written, NULL.open("r+b") as null:
            files = {0: null.fileno(), 1: written.fileno(), 2: null.fileno()}
            process = Forked(server(), ("bulkpull", "sandbox", "--port", "0", *options), os.environ, files)
        with closing(process):
            deadline = time.monotonic() + TIMEOUT_S
            while not stdout.read_bytes().count(b"\n"):
                assert time.monotonic() < deadline, "the sandbox did not start"
                time.sleep(0.005)
            running = SandboxProcess(**orjson.loads(stdout.read_bytes().splitlines()[0]))
            try:
                yield running
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(TIMEOUT_S)
        running.stats.update(orjson.loads(stdout.read_bytes().splitlines()[1]))
