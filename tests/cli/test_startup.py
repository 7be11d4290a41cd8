"""What a command imports before it does its work: users wait for it, and Tab completion runs at every key."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import pytest

from bulkpull.cli import cli
from bulkpull.sandbox.process import SandboxProcess
from tests.commands import sandbox_process

PULL = ("pull", "--start", "2024-01-01", "--end", "2024-07-01")
HEAVY = {"aiohttp", "anyio", "asyncio", "numpy", "orjson", "pyarrow", "rich", "sqlite3", "tenacity"}

# Runs the command line, and notes whether libraries are first imported in the main thread.
WITNESS = """
import json, os, sys, threading
from bulkpull.cli import main
found = {}
class Witness:
    def find_spec(self, name, path=None, target=None):
        if name in ("aiohttp", "numpy", "pyarrow.lib"):
            found.setdefault(name, threading.current_thread() is threading.main_thread())
        if name == "numpy":
            found["OpenBLAS"] = os.environ["OPENBLAS_NUM_THREADS"]
sys.meta_path.insert(0, Witness())
try:
    main()
finally:
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with sandbox_process("--rows", "1000", "--end", "2024-07-01", "--export-seconds", "0.1") as running:
        yield running


def python(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("BULKPULL", "OPENBLAS"))}
    return subprocess.run(  # noqa: S603
        [sys.executable, *arguments], env=environment | more, capture_output=True, text=True, timeout=60
    )


def imported(done: subprocess.CompletedProcess[str]) -> set[str]:
    """The modules that statements have imported in a process with `-X importtime`."""
    return set(re.findall(r"^import time:.*\| +([\w.]+)$", done.stderr, re.MULTILINE))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--help"],
        ["completion", "bash"],
        *([command, "--help"] for command in cli.list_commands(click.Context(cli))),
    ],
    ids=" ".join,
)
def test_help_imports_nothing_that_does_work(arguments: list[str]) -> None:
    done = python("-X", "importtime", "-m", "bulkpull", *arguments)
    assert done.returncode == 0
    assert done.stdout
    assert "click" in imported(done)
    assert imported(done) & HEAVY == set()


@pytest.mark.parametrize(("words", "expected"), [("bulkpull syn", "sync"), ("bulkpull pull --overw", "--overwrite")])
def test_completion_imports_nothing_that_does_work(words: str, expected: str) -> None:
    variables: Mapping[str, str] = {
        "_BULKPULL_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    done = python("-X", "importtime", "-m", "bulkpull", **variables)
    assert done.stdout == f"plain,{expected}\n"
    assert imported(done) & HEAVY == set()


def test_a_pull_sends_its_first_request_before_it_imports_what_merges(sandbox: SandboxProcess, tmp_path: Path) -> None:
    refused = {"BULKPULL_BASE_URL": sandbox.url, "BULKPULL_TOKEN": "wrong"}
    for more, later in (
        (["--quiet"], {"numpy", "pyarrow", "rich", "aiohttp.web", "bulkpull.report.page", "bulkpull.sync.recheck"}),
        (["--format", "parquet"], {"numpy", "pyarrow", "aiohttp.web"}),
        (["--window", "1mo"], {"numpy", "tenacity"}),  # nothing is counted: the first request launches an export
    ):
        done = python("-X", "importtime", "-m", "bulkpull", *PULL, "--out", str(tmp_path / "a"), *more, **refused)
        assert done.returncode == 3, done.stderr
        assert {"aiohttp", "bulkpull.pull.merge"} <= imported(done)
        assert imported(done) & later == set()


@pytest.mark.parametrize("format", ["csv", "ndjson", "parquet"])
def test_numpy_is_imported_outside_the_event_loop_and_with_one_thread(
    sandbox: SandboxProcess, tmp_path: Path, format: str
) -> None:
    accepted = {"BULKPULL_BASE_URL": sandbox.url, "BULKPULL_TOKEN": sandbox.token}
    done = python("-c", WITNESS, *PULL, "--out", str(tmp_path / "a"), "--format", format, **accepted)
    assert done.returncode == 0, done.stderr
    in_event_loop = json.loads(done.stdout)
    assert in_event_loop.pop("OpenBLAS") == "1"
    assert in_event_loop == {"aiohttp": True, "numpy": False} | ({"pyarrow.lib": False} if format == "parquet" else {})
