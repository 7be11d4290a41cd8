"""A process that has imported the command line, and forks for each process that `tests.forked` asks for.

Those are like processes that Python starts: with streams of their own, and an end at which Python flushes them.
"""

from __future__ import annotations

import fcntl
import gc
import marshal
import os
import resource
import select
import signal
import socket
import sys
import tempfile
import threading
import time
from contextlib import suppress
from importlib import import_module
from typing import Any, NamedTuple

from bulkpull import patience
from bulkpull.cli import main

IMPORTED = [  # when commands run
    "bulkpull.cli.activity",
    "bulkpull.cli.config",
    "bulkpull.cli.plan",
    "bulkpull.cli.progress",
    "bulkpull.cli.pull",
    "bulkpull.cli.report",
    "bulkpull.cli.screen",
    "bulkpull.cli.status",
    "bulkpull.cli.summary",
    "bulkpull.cli.sync",
    "bulkpull.cli.unfinished",
    "bulkpull.cli.verify",
    "bulkpull.functions",
    "bulkpull.rows.dedup",
    "bulkpull.sandbox.server",
]
SERVERS_FILES = 256  # the server's own files have lower numbers, those that it hands over higher ones


class Request(NamedTuple):
    """What the message of `tests.forked` holds."""

    arguments: list[str]
    environment: dict[str, str]
    directory: str
    numbers: list[int]  # of the open files
    ignored: list[int]  # signals
    limits: tuple[int, int]  # of the size of a file, in bytes
    lag: float | None


def requested(listener: socket.socket) -> tuple[Request, list[int]]:
    """Fork for each request; return in the new process, with its request and files."""
    woken, wakes = socket.socketpair()
    woken.setblocking(False)
    wakes.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    clients: dict[int, socket.socket] = {}  # by the id of the process
    while True:
        waited: list[Any] = [0, listener, woken, *clients.values()]
        readable, _, _ = select.select(waited, [], [])
        if 0 in readable:  # the tests have ended
            for pid in clients:
                os.kill(pid, signal.SIGKILL)
            sys.exit()
        if woken in readable:
            woken.recv(1024)
            while clients and (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                pid, status = ended
                with clients.pop(pid) as client:
                    _tell(client, os.waitstatus_to_exitcode(status))
        for pid, client in clients.items():
            if client in readable:  # it has closed the connection, or has been killed
                os.kill(pid, signal.SIGKILL)
        if listener in readable:
            client, _ = listener.accept()
            request, files = _receive(client)
            pid = os.fork()
            if pid == 0:
                for own in (listener, woken, wakes, client, *clients.values()):
                    own.detach()  # the number may soon be that of another file
                return request, files
            for file in files:
                os.close(file)
            clients[pid] = client
            _tell(client, pid)


def _receive(client: socket.socket) -> tuple[Request, list[int]]:
    size, files, _, _ = socket.recv_fds(client, 8, SERVERS_FILES)
    message = bytearray()
    while len(message) < int.from_bytes(size, "big"):
        message += client.recv(65536)
    fields: Any = marshal.loads(message)  # noqa: S302  # from a test
    return Request(*fields), files


def _tell(client: socket.socket, number: int) -> None:
    with suppress(OSError):  # it has gone
        client.sendall(number.to_bytes(8, "big", signed=True))


def become(request: Request, files: list[int]) -> None:
    """Give this process what the request holds."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in request.ignored:
        signal.signal(number, signal.SIG_IGN)
    high = [fcntl.fcntl(file, fcntl.F_DUPFD, SERVERS_FILES) for file in files]
    os.closerange(0, SERVERS_FILES)
    for file, number in zip(high, request.numbers, strict=True):
        os.dup2(file, number)
        os.close(file)
    # As Python opens them at its start
    options: dict[str, Any]
    for number, name, options in (
        (0, "stdin", {}),
        (1, "stdout", {"mode": "w"}),
        (2, "stderr", {"mode": "w", "buffering": 1, "errors": "backslashreplace"}),
    ):
        stream = open(number, closefd=False, **options) if number in request.numbers else None  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    resource.setrlimit(resource.RLIMIT_FSIZE, request.limits)
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.directory)
    time.tzset()
    tempfile.tempdir = None
    if request.lag is not None:
        patience.LAG = request.lag


def run(program: str, *arguments: str) -> None:
    """Do what `bulkpull ARGUMENT...` does, or `python -c SCRIPT ARGUMENT...`."""
    if program == "bulkpull":
        sys.argv = [program, *arguments]
        main()
    assert (program, arguments[0]) == ("python", "-c")
    sys.argv = ["-c", *arguments[2:]]
    sys.path.insert(0, "")
    exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102  # from a test


if __name__ == "__main__":
    for name in IMPORTED:
        import_module(name)
    assert threading.active_count() == 1  # others would be missing in forked processes
    gc.collect()
    gc.freeze()  # a collection in a forked process would copy all that was imported
    forked, its_files = requested(socket.socket(fileno=int(sys.argv[1])))
    become(forked, its_files)
    run(*forked.arguments)
