"""What the machine and the caller did to pulls: readers that went away, closed streams, threads that others hold."""

from __future__ import annotations

import asyncio
import os
import pty
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import anyio.to_thread
import orjson
import pytest

import bulkpull
from bulkpull import Clickwrap, Result, cli
from bulkpull.sandbox.process import SandboxProcess
from tests.commands import program, sandbox_process

ROWS = 3000
DEADLINE = 60.0  # seconds after which a pull counts as endless
RANGE = ["--start", "2024-01-01", "--end", "2024-07-01"]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    options = ["--rows", str(ROWS), "--end", "2024-07-01", "--export-seconds", "0.1", "--rows-per-file", "500"]
    with sandbox_process(*options) as running:
        yield running


@pytest.fixture
def environment(sandbox: SandboxProcess) -> dict[str, str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("BULKPULL")}
    return variables | {"BULKPULL_TOKEN": sandbox.token, "BULKPULL_BASE_URL": sandbox.url}


def command(out: Path, *more: str) -> list[str]:
    return [*program(), "pull", *RANGE, "--window", "1mo", "--out", str(out), *more]


def rows_in(out: Path) -> int:
    return len(out.read_bytes().splitlines()) - 1


def shell(line: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        ["bash", "-c", line],  # noqa: S607
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# The reader of a stream disappears


def test_a_reader_that_closes_all_streams_does_not_end_the_pull(environment: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    line = shlex.join(command(out, "-v", "--json"))
    done = shell(f"{line} 2>&1 | head -1; exit ${{PIPESTATUS[0]}}", environment)
    assert (done.returncode, len(done.stdout.splitlines()), done.stderr) == (0, 1, "")
    assert rows_in(out) == ROWS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.csv.manifest.json"]


@pytest.mark.parametrize("lines", [0, 1, 5])
def test_closing_standard_error_does_not_end_the_pull(environment: dict[str, str], tmp_path: Path, lines: int) -> None:
    out = tmp_path / "a.csv"
    with subprocess.Popen(  # noqa: S603
        command(out, "-v", "--json"), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(lines):
            assert process.stderr.readline()
        process.stderr.close()
        assert orjson.loads(process.stdout.read())["rows"] == ROWS
    assert (process.returncode, rows_in(out)) == (0, ROWS)


def test_closing_the_terminal_does_not_end_the_pull(environment: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    ours, theirs = pty.openpty()
    with subprocess.Popen(  # noqa: S603
        command(out, "--json"), env=environment | {"TERM": "xterm"}, stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        assert os.read(ours, 1)  # the live progress has started
        os.close(ours)
        assert process.stdout is not None
        assert orjson.loads(process.stdout.read())["rows"] == ROWS
    assert (process.returncode, rows_in(out)) == (0, ROWS)


def test_an_error_keeps_its_exit_code_if_standard_error_is_closed(environment: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    with subprocess.Popen(  # noqa: S603
        command(out, "-v"), env=environment | {"BULKPULL_TOKEN": "wrong"}, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        process.stderr.close()
    assert process.returncode == 3
    assert not out.exists()


def test_a_closed_standard_output_does_not_undo_the_pull(environment: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    with subprocess.Popen(  # noqa: S603
        command(out, "--json"), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, said = process.communicate(timeout=60)
    assert (process.returncode, rows_in(out)) == (0, ROWS), said
    assert f"{ROWS:,} rows in" in said
    assert "Traceback" not in said
    assert "Broken" not in said


def test_skipped_windows_keep_their_exit_code_if_standard_output_is_closed(
    environment: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "a.csv"
    options = ["--rows", "3000", "--end", "2024-07-01", "--export-seconds", "0.05", "--faults", "export-always-fails:2"]
    arguments = ["pull", *RANGE, "--rows-per-export", "100", "--max-extra-exports", "0"]
    arguments += ["--out", str(out), "--skip-failed", "--json"]
    with sandbox_process(*options) as failing:
        more = {"BULKPULL_TOKEN": failing.token, "BULKPULL_BASE_URL": failing.url}
        with subprocess.Popen(  # noqa: S603
            [*program(), *arguments], env=environment | more, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdout is not None
            process.stdout.close()
    assert process.returncode == 6
    assert out.exists()


@pytest.mark.parametrize("words", ["--help", "plan --start 2024-01-01 --end 2024-07-01 --window 1d", "completion bash"])
def test_closing_the_pipe_ends_commands_that_only_print(environment: dict[str, str], words: str) -> None:
    done = shell(f"{shlex.join(program())} {words} | true; exit ${{PIPESTATUS[0]}}", environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Streams that are closed, or full


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_pulls_without_standard_streams(environment: dict[str, str], tmp_path: Path, closed: str) -> None:
    """A file that gets the descriptor of a closed stream must not receive the stream's output."""
    undisturbed, out = tmp_path / "b.csv", tmp_path / "a.csv"
    assert shell(shlex.join(command(undisturbed)), environment).returncode == 0
    started_by_python = [sys.executable, "-m", "bulkpull", *command(out, "-v", "--json")[len(program()) :]]
    done = shell(f"{shlex.join(started_by_python)} {closed}", environment)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert out.read_bytes() == undisturbed.read_bytes()
    assert shell(f"{shlex.join(command(out))} {closed}", environment).returncode == 5  # the output exists


def test_a_full_disk_for_standard_error_does_not_end_the_pull(environment: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    done = shell(f"{shlex.join(command(out, '-v'))} 2>/dev/full", environment)
    assert (done.returncode, rows_in(out)) == (0, ROWS)


def test_a_full_disk_for_standard_output_is_reported(environment: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    for words in (command(out, "--json"), [*program(), "activity"], [*program(), "--help"]):
        done = shell(f"{shlex.join(words)} >/dev/full", environment)
        assert done.returncode == 5
        assert "cannot write to standard output: No space left on device" in done.stderr
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
    assert rows_in(out) == ROWS


def test_a_broken_pipe_inside_the_pull_is_an_error(
    sandbox: SandboxProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(bulkpull, "pull", broken)
    monkeypatch.setenv("BULKPULL_TOKEN", sandbox.token)
    monkeypatch.setattr("sys.argv", ["bulkpull", "pull", *RANGE, "--out", str(tmp_path / "a.csv")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capfd.readouterr()
    assert ended.value.code == 5
    assert "Broken pipe" in said.err
    assert "Traceback" not in said.err


# Threads that others hold


async def six_pulls(sandbox: SandboxProcess, tmp_path: Path) -> list[Result]:
    results: list[Result] = []

    async def one(number: int) -> None:
        async with Clickwrap(sandbox.token, base_url=sandbox.url) as clickwrap:
            out = tmp_path / f"{number}.ndjson"
            results.append(await bulkpull.pull(clickwrap, start=RANGE[1], end=RANGE[3], window="1mo", out=out))

    async with anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(one, number)
    return results


async def test_six_rendering_pulls_finish_with_four_threads(sandbox: SandboxProcess, tmp_path: Path) -> None:
    anyio.to_thread.current_default_thread_limiter().total_tokens = 4
    with anyio.fail_after(DEADLINE):
        results = await six_pulls(sandbox, tmp_path)
    assert [result.rows for result in results] == [ROWS] * 6


async def test_pulls_finish_while_the_caller_occupies_all_threads(sandbox: SandboxProcess, tmp_path: Path) -> None:
    """The threads of anyio's default limiter, and of the event loop's default executor."""
    release = threading.Event()
    deadline = threading.Timer(DEADLINE, release.set)  # a pull that waits for a thread cannot be cancelled
    deadline.start()
    limiter = anyio.to_thread.current_default_thread_limiter()
    limiter.total_tokens = 4
    holding = threading.Barrier(4 + 2 + 1)

    def hold() -> None:
        holding.wait()
        release.wait()

    with ThreadPoolExecutor(2) as executor:
        asyncio.get_running_loop().set_default_executor(executor)
        try:
            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(anyio.to_thread.run_sync, hold)
                for _ in range(2):
                    executor.submit(hold)
                await anyio.to_thread.run_sync(holding.wait, limiter=anyio.CapacityLimiter(1))
                results = await six_pulls(sandbox, tmp_path)
                was_released = release.is_set()
                release.set()
        finally:
            release.set()
            deadline.cancel()
    assert not was_released
    assert [result.rows for result in results] == [ROWS] * 6
