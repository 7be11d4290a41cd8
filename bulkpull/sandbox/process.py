"""A sandbox in a separate process, so that it does not share the caller's event loop and GIL."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import field
from typing import Any

import orjson

from bulkpull.record import record


@record(frozen=False)
class SandboxProcess:
    """A running sandbox. `stats` has the fields of `SandboxStats`, and is empty until the sandbox has stopped."""

    url: str
    token: str
    stats: dict[str, Any] = field(default_factory=dict)


@contextmanager
def sandbox_process(*options: str) -> Iterator[SandboxProcess]:
    """Run `bulkpull sandbox` with these options on a free port, and stop it at the end."""
    command = [sys.executable, "-m", "bulkpull", "sandbox", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:  # noqa: S603
        assert process.stdout is not None
        first_line = process.stdout.readline()
        if not first_line:
            raise RuntimeError(f"the sandbox did not start: {' '.join(command)}")
        running = SandboxProcess(**orjson.loads(first_line))
        try:
            yield running
        finally:
            process.send_signal(signal.SIGINT)
            report = process.stdout.read()
    running.stats.update(orjson.loads(report))
