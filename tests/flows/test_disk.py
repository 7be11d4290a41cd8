"""Disk errors are reported, and the pull can be resumed once they are fixed."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import bulkpull
from bulkpull import Clickwrap, OutputError, Result, events
from bulkpull.events import Event
from bulkpull.rows.sink import CsvSink
from bulkpull.sandbox.process import SandboxProcess
from tests.commands import program, sandbox_process

NOBODY = 65534
ROWS = 60_000
OPTIONS: dict[str, Any] = {"start": "2024-01-01", "end": "2024-07-01", "window": "2w"}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    options = ["--rows", str(ROWS), "--end", "2024-07-01", "--export-seconds", "0.05", "--rows-per-file", "5000"]
    with sandbox_process(*options) as running:
        yield running


async def pull(sandbox: SandboxProcess, out: Path, **options: Any) -> Result:
    async with Clickwrap(sandbox.token, base_url=sandbox.url) as clickwrap:
        return await bulkpull.pull(clickwrap, out=out, **OPTIONS, **options)


def command(sandbox: SandboxProcess, out: Path, limit: int | None, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `bulkpull pull` with a limit on file sizes, in bytes."""

    def limited() -> None:
        if limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    arguments = [f"--{name}={value}" for name, value in OPTIONS.items()]
    return subprocess.run(  # noqa: S603
        [*program(), "pull", *arguments, *options, f"--out={out}"],
        env=os.environ | {"BULKPULL_TOKEN": sandbox.token, "BULKPULL_BASE_URL": sandbox.url},
        preexec_fn=limited,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def unprivileged() -> Iterator[None]:
    """Drop root privileges temporarily, since root may write anywhere."""
    if os.geteuid() == 0:
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        yield


def remove_directory(out: Path) -> None:
    """Remove a pull's working directory by renaming it first, since the pull removes files in it concurrently."""
    gone = out.with_name("gone")
    out.with_name(f"{out.name}.bulkpull").rename(gone)
    shutil.rmtree(gone)


@pytest.fixture
def forbidden() -> Iterator[Path]:
    """A directory that may be read but not written; those of pytest cannot be read by other users."""
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        directory.chmod(0o555)
        yield directory
        directory.chmod(0o755)


@pytest.mark.parametrize("limit", [0, 2_000, 10_000, 60_000])
def test_a_full_disk_for_the_journal_exits_with_code_5(sandbox: SandboxProcess, tmp_path: Path, limit: int) -> None:
    out = tmp_path / "a.csv"
    done = command(sandbox, out, limit)
    assert done.returncode == 5, done.stderr
    assert "the journal" in done.stderr
    assert "bytes are free there" in done.stderr
    assert "Traceback" not in done.stderr
    done = command(sandbox, out, None)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.csv.manifest.json"]


@pytest.mark.parametrize(
    ("window", "limit", "what"),
    [
        ("1y", 250_000, "cannot merge window"),
        ("2w", 2_500_000, "cannot merge window"),
    ],
)
def test_a_full_disk_exits_with_code_5_and_the_pull_resumes_once_there_is_space(
    sandbox: SandboxProcess, tmp_path: Path, window: str, limit: int, what: str
) -> None:
    out = tmp_path / "a.csv"
    for run in range(2):
        done = command(sandbox, out, limit, f"--window={window}")
        assert done.returncode == 5, done.stderr
        assert re.search(what, done.stderr)
        assert "bytes are free there, and " in done.stderr
        assert "more are needed" in done.stderr
        assert "Resume with: bulkpull pull" in done.stderr
        assert "Traceback" not in done.stderr
        assert ("resuming: " in done.stderr) == (run > 0)
        assert not out.exists()
    done = command(sandbox, out, None, f"--window={window}")
    assert done.returncode == 0, done.stderr
    assert f"{ROWS:,} rows" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.csv.manifest.json"]


async def test_reports_missing_write_permission(sandbox: SandboxProcess, tmp_path: Path, forbidden: Path) -> None:
    await pull(sandbox, tmp_path / "a.csv")  # imports all modules, which may be unreadable later
    with unprivileged(), pytest.raises(OutputError, match="Permission denied"):
        await pull(sandbox, forbidden / "a.csv")
    assert not list(forbidden.iterdir())


async def test_reports_an_output_that_cannot_be_published(
    sandbox: SandboxProcess, tmp_path: Path, forbidden: Path
) -> None:
    await pull(sandbox, tmp_path / "a.csv")
    forbidden.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(forbidden, NOBODY, NOBODY)

    def forbid(event: Event) -> None:
        if isinstance(event, events.WindowMerged):
            forbidden.chmod(0o555)

    with unprivileged():
        with pytest.raises(OutputError, match="Permission denied"):
            await pull(sandbox, forbidden / "a.csv", on_event=forbid)
        forbidden.chmod(0o755)
        result = await pull(sandbox, forbidden / "a.csv")
    assert (result.rows, result.exports, result.requests) == (ROWS, 13, 0)
    assert sorted(path.name for path in forbidden.iterdir()) == ["a.csv", "a.csv.manifest.json"]


@pytest.mark.parametrize("when", [events.Launched, events.Exported, events.PartFetched, events.WindowMerged])
@pytest.mark.parametrize("times", [1, 9])
async def test_reports_a_working_directory_that_disappears(
    sandbox: SandboxProcess, tmp_path: Path, when: type[Event], times: int
) -> None:
    out, seen = tmp_path / "a.csv", 0

    def remove(event: Event) -> None:
        nonlocal seen
        seen += isinstance(event, when)
        if isinstance(event, when) and seen == times:
            remove_directory(out)

    with pytest.raises(OutputError):
        await pull(sandbox, out, on_event=remove)
    assert not out.exists()
    assert (await pull(sandbox, out)).rows == ROWS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.csv.manifest.json"]


async def test_reports_a_working_directory_that_disappears_after_the_merge(
    sandbox: SandboxProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.csv"
    finish = CsvSink.finish

    def finish_and_remove(sink: CsvSink, checkpoint: Callable[[], None]) -> Path:
        finished = finish(sink, checkpoint)
        remove_directory(out)
        return finished

    with monkeypatch.context() as patch:
        patch.setattr(CsvSink, "finish", finish_and_remove)
        with pytest.raises(OutputError):
            await pull(sandbox, out)
    assert (await pull(sandbox, out)).rows == ROWS


@pytest.mark.parametrize("file", ["output", "window-*"])
async def test_detects_files_changed_between_two_runs(sandbox: SandboxProcess, tmp_path: Path, file: str) -> None:
    """A changed part is downloaded again; a truncated output cannot be repaired."""
    out, merged = tmp_path / "a.csv", 0

    def stop(event: Event) -> None:
        nonlocal merged
        merged += isinstance(event, events.WindowMerged)
        if merged >= 3 and isinstance(event, events.PartFetched):  # now there are an unfinished output and a part
            raise InterruptedError

    undisturbed = tmp_path / "b.csv"
    await pull(sandbox, undisturbed)
    with pytest.raises(InterruptedError):
        await pull(sandbox, out, exports=1, on_event=stop)
    [first, *_] = sorted((tmp_path / "a.csv.bulkpull").glob(file))
    first.write_bytes(first.read_bytes()[:1000])
    if file == "output":
        with pytest.raises(OutputError, match="Start over with --fresh"):
            await pull(sandbox, out)
        await pull(sandbox, out, resume=False)
    else:
        await pull(sandbox, out)
    assert out.read_bytes() == undisturbed.read_bytes()
