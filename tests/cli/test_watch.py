"""`bulkpull status --watch` and `bulkpull list`: they read what a pull has recorded, and disturb nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from bulkpull import Window, status, unfinished
from bulkpull.cli import cli
from bulkpull.cli.watch import Follower
from bulkpull.journal import Figures, Journal, PartRecord, Status, WindowStatus
from bulkpull.store import WorkDirectory

DAY = datetime(2024, 1, 1, tzinfo=UTC)
WINDOWS = tuple(Window(at, DAY + timedelta(at), DAY + timedelta(at + 1), 10) for at in range(3))
OPTIONS = {"start": "2024-01-01T00:00:00Z", "filter": ""}
LAUNCHED = "2024-05-01T10:00:00+00:00"
AT = datetime.fromisoformat(LAUNCHED).timestamp()


def begun(out: Path) -> WorkDirectory:
    """An unfinished pull: its first window is merged, and an export of the second is launched."""
    work = WorkDirectory.beside(out)
    work.claim()
    journal = Journal(work.journal)
    journal.begin(OPTIONS, WINDOWS[-1].end, WINDOWS)
    for window in WINDOWS[:2]:
        journal.record_export(journal.record_launch(window), f"export-{window.index}")
    journal.record_success(WINDOWS[0], "export-0", [PartRecord(1, "name", "export-0")])
    journal.record_merge(WINDOWS[0], Figures(1, 9, 1, 0, 0), 500, ["id"], records=10, ids=9)
    journal.close()
    return work


def contents(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in directory.iterdir()}


def test_lists_the_unfinished_pulls_below_a_directory(tmp_path: Path) -> None:
    below = tmp_path / "year [bold]" / "2024"
    below.mkdir(parents=True)
    running, stopped = begun(tmp_path / "a.csv"), begun(below / "b.parquet")
    stopped.release(remove=False)
    broken = tmp_path / "c.csv.bulkpull"
    broken.mkdir()
    (broken / "journal.sqlite").write_bytes(b"not a database, and long enough to be read as one" * 40)
    (tmp_path / "not-begun.csv.bulkpull").mkdir()
    before = contents(stopped.path)
    found, unreadable = unfinished(tmp_path)
    assert [(one.output, one.running, len(one.windows), one.merged.rows) for one in found] == [
        (tmp_path / "a.csv", True, 3, 9),
        (below / "b.parquet", False, 3, 9),
    ]
    assert list(unreadable) == [broken]
    shown = CliRunner().invoke(cli, ["list", str(tmp_path)])
    assert shown.exit_code == 0
    first, second = shown.stdout.splitlines()[1:3]
    assert first.split()[:4] == ["a.csv", "1", "of", "3"]
    assert f"pid {found[0].pid}" in first
    assert "year [bold]/2024/b.parquet" in second
    assert "not running" in second
    assert shown.stderr.startswith("c.csv.bulkpull: ")
    listed = json.loads(CliRunner().invoke(cli, ["list", str(tmp_path), "--json"]).stdout)
    assert [(pull["windows_merged"], pull["rows"], pull["running"]) for pull in listed["pulls"]] == [
        (1, 9, True),
        (1, 9, False),
    ]
    assert contents(stopped.path) == before
    running.release(remove=True)


def test_says_that_nothing_is_unfinished(tmp_path: Path) -> None:
    assert CliRunner().invoke(cli, ["list", str(tmp_path)]).stdout == f"No unfinished pulls below {tmp_path}.\n"


def test_watching_a_pull_that_does_not_run_shows_it_once(tmp_path: Path) -> None:
    work = begun(tmp_path / "a.csv")
    work.release(remove=False)
    before = contents(work.path)
    shown = CliRunner().invoke(cli, ["status", str(tmp_path / "a.csv"), "--watch"])
    state, end = shown.stdout.splitlines()
    assert "waiting for 1 export (oldest 0:00); 1 of 3 windows merged; 9 of 30 rows; 500 bytes" in state
    assert end == f"The pull is not running. Its progress is saved in {work.path}; rerun its command to resume."
    assert contents(work.path) == before
    assert CliRunner().invoke(cli, ["status", str(tmp_path / "a.csv"), "--watch", "--json"]).exit_code != 0


def found(*windows: WindowStatus, rows: int = 0) -> Status:
    merged = Figures(0, rows, 0, 0, 0)
    return Status(Path("a.csv"), True, 1, {}, 1, 1, 0, merged, 50 * rows, windows, Path("a.csv.bulkpull"), LAUNCHED)


def at(state: str, window: Window, *, whole: int = 0, export_id: str | None = "e") -> WindowStatus:
    launched = None if state == "waiting" else LAUNCHED
    return WindowStatus(window, state, 1, export_id, 1, whole, 0, None, launched)


def test_follows_a_pull_from_one_status_to_the_next() -> None:
    follower = Follower()

    def seen(*windows: WindowStatus, seconds: float, rows: int = 0) -> tuple[str, int, int, int]:
        follower.follow(found(*windows, rows=rows), AT + seconds)
        now = follower.figures.snapshot()
        return now.waits_for, now.exports_done, now.windows_merged, now.rows

    waiting = [at("waiting", window, export_id=None) for window in WINDOWS]
    assert seen(*waiting, seconds=0) == ("launching exports", 0, 0, 0)
    exporting = [at("exporting", window) for window in WINDOWS]
    assert seen(*exporting, seconds=60) == ("waiting for 3 exports (oldest 1:00)", 0, 0, 0)
    one_done = [at("fetched", WINDOWS[0], whole=1), *exporting[1:]]
    assert seen(*one_done, seconds=62) == ("waiting for 2 exports (oldest 1:02, usually 1:02)", 1, 0, 0)
    merged = [at("merged", window, whole=1) for window in WINDOWS]
    assert seen(merged[0], *exporting[1:], seconds=64, rows=9)[1:] == (1, 1, 9)
    again = at("exporting", WINDOWS[1], export_id="f")
    assert seen(merged[0], again, exporting[2], seconds=66, rows=9)[0].startswith("waiting for 2 exports")
    pieces = [Window(9, WINDOWS[2].start, WINDOWS[2].end)]
    assert seen(*merged[:2], at("waiting", pieces[0]), seconds=70, rows=18) == ("launching exports", 2, 2, 18)
    assert seen(*merged[:2], at("merged", pieces[0]), seconds=90, rows=27) == ("publishing the output", 3, 3, 27)
    assert follower.figures.elapsed == pytest.approx(90)


STUBBORN = """
import anyio
from bulkpull.cli.running import run
async def work():
    with anyio.CancelScope(shield=True):
        print("ready", flush=True)
        await anyio.sleep(60)
run(work)
"""


@pytest.mark.parametrize("numbers", [[signal.SIGINT] * 2, [signal.SIGTERM, signal.SIGINT]], ids=["Ctrl-C", "mixed"])
def test_a_second_signal_ends_work_that_is_still_cleaning_up(numbers: Sequence[signal.Signals]) -> None:
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # noqa: S603
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(numbers[0])
        with pytest.raises(subprocess.TimeoutExpired):  # it cleans up
            process.wait(0.3)
        process.send_signal(numbers[1])
        _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (130, b"")


def test_the_status_names_the_directory_and_the_start(tmp_path: Path) -> None:
    work = begun(tmp_path / "a.csv")
    now = status(tmp_path / "a.csv")
    work.release(remove=True)
    assert now.directory == work.path
    assert now.since == now.windows[0].launched is not None
    assert now.windows[2].launched is None
