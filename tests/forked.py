"""Processes that start in no time, since `tests.fork_server` forks them with all their imports.

As a script, `python -IS tests/forked.py SOCKET bulkpull ARGUMENT...` stands for `bulkpull ARGUMENT...`, and with
`python` instead for Python: for shells, and for tests that send signals. It hands over its arguments, environment,
directory and open files, relays signals, and ends as the process ends. It imports little: each start would wait for it.
"""

from __future__ import annotations

import marshal
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping, Sequence

RELAYED: tuple[int, ...] = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


class Forked:
    """A process of the server, which is killed if this is closed before it ends.

    The first of the `arguments` is the program; `files` maps the numbers of its open files to those of this process;
    `lag` is how long it waits for stale replicas, in seconds.
    """

    def __init__(
        self,
        server: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        files: Mapping[int, int],
        lag: float | None = None,
    ) -> None:
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(server)
        ignored = [int(number) for number in RELAYED if signal.getsignal(number) is signal.SIG_IGN]
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        directory = os.getcwd()  # noqa: PTH109
        message = marshal.dumps((list(arguments), dict(environment), directory, list(files), ignored, limits, lag))
        socket.send_fds(self.connection, [len(message).to_bytes(8, "big")], list(files.values()))
        self.connection.sendall(message)
        self.pid = self._number()

    def wait(self, seconds: float | None = None) -> int:
        """Return the exit code, or the negative number of a signal. Raises TimeoutError after so many seconds."""
        self.connection.settimeout(seconds)
        return self._number()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def close(self) -> None:
        self.connection.close()

    def _number(self) -> int:
        received = b""
        while len(received) < 8:
            more = self.connection.recv(8 - len(received))
            assert more, "the fork server has ended"
            received += more
        return int.from_bytes(received, "big", signed=True)


def open_files() -> list[int]:
    """The numbers of all open files of this process."""
    listed = os.listdir("/dev/fd")  # noqa: PTH208
    return [number for number in map(int, listed) if _is_open(number)]  # one was that of the directory itself


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def main() -> None:
    early: list[int] = []  # signals that came before the process was there
    process: Forked | None = None

    def relay(number: int, _frame: object) -> None:
        if process is None:
            early.append(number)
        else:
            process.send_signal(number)

    for number in RELAYED:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as in the background of a shell
            signal.signal(number, relay)
    server, *arguments = sys.argv[1:]
    process = Forked(server, arguments, os.environ, {number: number for number in open_files()})
    for number in early:
        process.send_signal(number)
    code = process.wait()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
