"""Measurement of commands run in separate processes: time and memory as reported by the operating system."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Run:
    """A finished process: wall and CPU seconds, peak resident memory in MB, standard output."""

    wall: float
    cpu: float
    peak: float
    stdout: str


def run(arguments: Sequence[str], **environment: str) -> Run:
    """Run this Python with `arguments`. Standard error is passed through; a non-zero exit code raises SystemExit."""
    return run_command([sys.executable, *arguments], **environment)


def run_command(command: Sequence[str], **environment: str) -> Run:
    """Run a command. Standard error is passed through; a non-zero exit code raises SystemExit."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment) as process:  # noqa: S603
        assert process.stdout is not None
        stdout = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return Run(time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * kilobyte / 1e6, stdout)


def sha256(path: Path) -> str:
    """Return the first 12 hexadecimal digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def machine() -> str:
    """Return a one-line description of this machine."""
    return f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def file_system(directory: Path) -> str:
    """Return the type of the file system that holds a directory, such as ext4, or tmpfs for a RAM disk."""
    device = f"{os.major(directory.stat().st_dev)}:{os.minor(directory.stat().st_dev)}"
    mounts = Path("/proc/self/mountinfo")
    lines = mounts.read_text().splitlines() if mounts.exists() else []
    return next((line.partition(" - ")[2].split()[0] for line in lines if line.split()[2] == device), "disk")


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )
