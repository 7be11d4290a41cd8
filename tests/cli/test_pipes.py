"""Rows to standard output and other pipes: real processes, read by other programs."""

from __future__ import annotations

import json
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pytest

from bulkpull.sandbox.process import SandboxProcess
from tests.cli.test_cli import RANGE, environment
from tests.commands import program, sandbox_process

TIMEOUT_S = 60
PULL = f"pull {' '.join(RANGE)} --window 1mo -q"
# Prints the id of each line
JQ = (
    "jq -r .id"
    if shutil.which("jq")
    else f"'{sys.executable}' -c \"import json, sys; [print(json.loads(line)['id']) for line in sys.stdin]\""
)
READ_WITH_DUCKDB = """
import duckdb
duckdb.execute("set enable_progress_bar = false")
columns = {"id": "VARCHAR", "signer_id": "VARCHAR", "created_time": "TIMESTAMPTZ"}
query = f"select count(distinct id) from read_csv('/dev/stdin', header=true, auto_detect=false, columns={columns})"
print(duckdb.execute(query).fetchone()[0])
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with sandbox_process("--rows", "3000", "--end", "2024-07-01", "--export-seconds", "0.1") as running:
        yield running


@pytest.fixture(scope="module")
def endless() -> Iterator[SandboxProcess]:
    """A sandbox whose exports do not end within a test."""
    with sandbox_process("--rows", "3000", "--end", "2024-07-01", "--export-seconds", "600") as running:
        yield running


@pytest.fixture(scope="module")
def expected(sandbox: SandboxProcess, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a file."""
    directory = tmp_path_factory.mktemp("expected")
    assert bash("$bulkpull --out a.csv", sandbox, directory, directory).returncode == 0
    return (directory / "a.csv").read_bytes()


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """The directory for temporary files of pulls, which are gone afterwards."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    yield directory
    assert list(directory.iterdir()) == []


def bash(script: str, sandbox: SandboxProcess, directory: Path, temporary: Path) -> subprocess.CompletedProcess[bytes]:
    """Run a script in which `$bulkpull` pulls, and `$python_bulkpull` does so in a process that Python starts."""
    script = script.replace("$bulkpull", f"{shlex.join(program())} {PULL}")
    script = script.replace("$python_bulkpull", f"'{sys.executable}' -m bulkpull {PULL}")
    return subprocess.run(  # noqa: S603
        ["/bin/bash", "-c", script],
        cwd=directory,
        env=environment(sandbox, TMPDIR=str(temporary), PYTHONPATH=os.pathsep.join(sys.path)),
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def started(arguments: str, sandbox: SandboxProcess, temporary: Path, stdout: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603
        ["/bin/bash", "-c", f"exec {shlex.join(program())} {PULL} {arguments}"],
        env=environment(sandbox, TMPDIR=str(temporary), PYTHONPATH=os.pathsep.join(sys.path)),
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Wait for the end of a process; return its exit code and its messages."""
    try:
        _, messages = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, messages.decode()


@pytest.mark.parametrize("name", ["csv", "ndjson"])
def test_standard_output_gets_the_bytes_of_a_file(
    sandbox: SandboxProcess, tmp_path: Path, temporary: Path, name: str
) -> None:
    done = bash(
        f"$bulkpull --out a.{name} && $python_bulkpull --out - --format {name} | cat", sandbox, tmp_path, temporary
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == (tmp_path / f"a.{name}").read_bytes()
    assert done.stdout.count(b"\n") == 3000 + (name == "csv")


def test_standard_output_gets_an_arrow_stream_with_the_rows_of_a_file(
    sandbox: SandboxProcess, tmp_path: Path, temporary: Path
) -> None:
    done = bash("$bulkpull --out a.arrow && $bulkpull --out - --format arrow | cat", sandbox, tmp_path, temporary)
    assert (done.returncode, done.stderr) == (0, b"")
    expected = pa.ipc.open_file(tmp_path / "a.arrow").read_all()
    assert pa.ipc.open_stream(done.stdout).read_all().equals(expected)
    assert expected.num_rows == 3000


@pytest.mark.parametrize(
    "script",
    [
        "$bulkpull --out - > a.csv && cat a.csv",
        "$bulkpull --out - | gzip > a.gz && zcat a.gz",
        "$bulkpull --out /dev/stdout | cat",
        "$bulkpull --out /dev/stdout >> a.csv && cat a.csv",
        "$bulkpull --out /dev/fd/7 7> a.csv && cat a.csv",
        "$bulkpull --out >(gzip > a.gz; touch done) && until [ -e done ]; do sleep 0.01; done && zcat a.gz",
        "mkfifo fifo && { cat fifo & } && $bulkpull --out fifo && wait",
        "mkfifo fifo && { $bulkpull --out fifo & } && cat fifo && wait",
    ],
)
def test_redirections_get_the_bytes_of_a_file(
    sandbox: SandboxProcess, tmp_path: Path, temporary: Path, expected: bytes, script: str
) -> None:
    done = bash(script, sandbox, tmp_path, temporary)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == expected


def test_a_redirection_appends_to_what_the_file_holds(
    sandbox: SandboxProcess, tmp_path: Path, temporary: Path, expected: bytes
) -> None:
    done = bash("(echo first; $bulkpull --out -; echo last) > a.csv; cat a.csv", sandbox, tmp_path, temporary)
    assert done.stdout == b"first\n" + expected + b"last\n"


@pytest.mark.parametrize(
    ("format", "reader"), [("csv", f"'{sys.executable}' read.py"), ("ndjson", f"{JQ} | sort -u | wc -l")]
)
def test_other_programs_read_it(
    sandbox: SandboxProcess, tmp_path: Path, temporary: Path, format: str, reader: str
) -> None:
    (tmp_path / "read.py").write_text(READ_WITH_DUCKDB)
    done = bash(f"$bulkpull --out - --format {format} | {reader}", sandbox, tmp_path, temporary)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, b"3000", b"")


def test_rows_are_readable_while_later_exports_run(temporary: Path) -> None:
    with sandbox_process(
        "--rows", "3000", "--end", "2024-07-01", "--export-seconds", "0.5", "--workers", "1"
    ) as sandbox:
        process = started("--out - --format ndjson", sandbox, temporary, subprocess.PIPE)
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert process.poll() is None
        rest = process.stdout.read().splitlines()
        assert ended(process) == (0, "")
    assert first["created_time"].startswith("2024-01")
    assert len(rest) == 2999
    assert sandbox.stats["exports"] == 6


def test_a_reader_that_exits_ends_the_pull_quietly(sandbox: SandboxProcess, tmp_path: Path, temporary: Path) -> None:
    done = bash("$bulkpull --out - | head -1; exit ${PIPESTATUS[0]}", sandbox, tmp_path, temporary)
    assert (done.returncode, done.stdout, done.stderr) == (141, b"id,signer_id,created_time\n", b"")


def test_a_reader_that_exits_ends_a_pull_that_waits_for_exports(
    endless: SandboxProcess, tmp_path: Path, temporary: Path
) -> None:
    done = bash("$bulkpull --out - | true; exit ${PIPESTATUS[0]}", endless, tmp_path, temporary)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_a_pull_whose_reader_has_stopped_reading(
    sandbox: SandboxProcess, temporary: Path, number: signal.Signals
) -> None:
    read, write = os.pipe()
    process = started("--out -", sandbox, temporary, write)
    wait_until_full(write)
    process.send_signal(number)
    code, messages = ended(process)
    os.close(read)
    os.close(write)
    assert code == 130
    assert messages.splitlines() == [
        "bulkpull: interrupted",
        "bulkpull: The output to standard output is incomplete, and cannot be resumed.",
    ]


def test_the_descriptor_that_others_share_stays_blocking(
    sandbox: SandboxProcess, tmp_path: Path, temporary: Path
) -> None:
    shown = f"'{sys.executable}' -c 'import os, sys; print(os.get_blocking(1), file=sys.stderr)'"
    done = bash(f"($bulkpull --out - & sleep 0.5; {shown}; wait; {shown}) | cat", sandbox, tmp_path, temporary)
    assert done.stderr.split() == [b"True", b"True"]


def test_an_interruption_ends_the_wait_for_a_reader_of_a_fifo(
    sandbox: SandboxProcess, tmp_path: Path, temporary: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    process = started(f"--out {tmp_path / 'fifo'}", sandbox, temporary, subprocess.DEVNULL)
    while not any((directory / "journal.sqlite").exists() for directory in temporary.iterdir()):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert ended(process)[0] == 130


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("--out - > /dev/full", 5, "cannot write to standard output: No space left on device"),
        ("--out /dev/full", 5, "cannot write to /dev/full: No space left on device"),
        ("--out - >&-", 5, "standard output is closed"),
        ("--out /dev/fd/77", 5, "cannot write to /dev/fd/77: Bad file descriptor"),
        ("--out /dev/fd/0 < /dev/zero", 5, "/dev/fd/0 is open for reading only"),
        ("--out - --json", 2, "--json would print among the rows"),
        ("--out - --format parquet", 2, "parquet cannot be written to standard output"),
        ("--out fifo.csv.gz", 2, "the output to fifo.csv.gz cannot be compressed"),
        ("--out - --format parquet --partition-by month", 2, "parquet cannot be written to standard output"),
    ],
)
def test_what_cannot_be_written_to_says_so(
    sandbox: SandboxProcess, tmp_path: Path, temporary: Path, arguments: str, code: int, message: str
) -> None:
    os.mkfifo(tmp_path / "fifo.csv.gz")
    pull = "$python_bulkpull" if arguments.endswith(">&-") else "$bulkpull"
    done = bash(f"{pull} {arguments}", sandbox, tmp_path, temporary)
    assert (done.returncode, done.stdout) == (code, b"")
    assert done.stderr.decode().startswith(f"bulkpull: {message}")
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", ["--out /dev/null", "--out /dev/null --json", "--out - --fresh --overwrite"])
def test_the_null_device_and_options_of_files_do_no_harm(
    sandbox: SandboxProcess, tmp_path: Path, temporary: Path, arguments: str
) -> None:
    done = bash(f"$bulkpull {arguments}", sandbox, tmp_path, temporary)
    assert (done.returncode, done.stderr) == (0, b"")
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]


def wait_until_full(pipe: int) -> None:
    """Wait until nothing more can be written to a pipe."""
    poll = select.poll()
    poll.register(pipe, select.POLLOUT)
    while poll.poll(0):
        time.sleep(0.01)
