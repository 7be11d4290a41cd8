"""Status looks at a pull, running or not, and leaves no trace of that."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bulkpull import OutputError, Window, status
from bulkpull.journal import Journal
from bulkpull.store import WorkDirectory

WINDOW = Window(0, datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC), 10)
WORKER = """
import sys
from tests.journal.test_status import begun
from bulkpull.store import WorkDirectory
work = WorkDirectory.beside(sys.argv[1])
work.claim()
begun(work)
print("begun", flush=True)
sys.stdin.read()
"""


def begun(work: WorkDirectory) -> Journal:
    """A pull's journal once it has launched an export."""
    journal = Journal(work.journal)
    journal.begin({"start": "2024-01-01T00:00:00.000Z"}, WINDOW.end, [WINDOW])
    journal.start_run()
    journal.record_export(journal.record_launch(WINDOW), "export-1")
    return journal


def contents(directory: Path) -> dict[str, tuple[bytes, int]]:
    """All files, byte for byte, and when they were changed; but not what SQLite keeps of its locks in memory."""
    return {
        path.name: (path.read_bytes() if not path.name.endswith("-shm") else b"", path.stat().st_mtime_ns)
        for path in directory.iterdir()
    }


def test_a_running_pull_is_shown_with_its_process_and_not_disturbed(tmp_path: Path) -> None:
    work = WorkDirectory.beside(tmp_path / "ä ?#%.csv")  # what a URI would have to escape
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", WORKER, str(work.output)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "begun\n"
        before = contents(work.path)
        for _ in range(2):
            found = status(work.output)
            assert (found.running, found.pid) == (True, worker.pid)
            assert (found.runs, found.launches, [one.state for one in found.windows]) == (1, 1, ["exporting"])
        assert contents(work.path) == before
        worker.kill()
    before = contents(work.path)
    assert {f"journal.sqlite{suffix}" for suffix in ("", "-wal", "-shm")} <= before.keys()
    found = status(work.output)
    assert (found.running, found.pid) == (False, None)
    assert (found.launches, [one.state for one in found.windows]) == (1, ["exporting"])
    assert contents(work.path) == before


def test_a_pull_in_this_process_is_shown_too(tmp_path: Path) -> None:
    work = WorkDirectory.beside(tmp_path / "a.csv")
    work.claim()
    journal = begun(work)
    for _ in range(2):
        found = status(work.output)
        assert (found.running, found.pid, found.launches) == (True, os.getpid(), 1)
        journal.record_launch(WINDOW)
        assert status(work.output).launches == 2
        journal.forget_launch(2)
    with pytest.raises(OutputError, match="another pull"):
        WorkDirectory.beside(work.output).claim()
    journal.close()
    work.release(remove=False)
    assert (status(work.output).running, status(work.output).pid) == (False, None)


def test_the_status_of_a_pull_that_ended_in_order_makes_no_file(tmp_path: Path) -> None:
    work = WorkDirectory.beside(tmp_path / "a.csv")
    work.claim()
    begun(work).close()
    work.release(remove=False)
    before = contents(work.path)
    assert before.keys() == {"journal.sqlite"}
    assert status(work.output).launches == 1
    assert contents(work.path) == before


def test_status_needs_no_right_to_write(tmp_path: Path) -> None:
    work = WorkDirectory.beside(tmp_path / "a.csv")
    work.claim()
    begun(work).close()
    work.release(remove=False)
    work.journal.chmod(0o400)
    work.path.chmod(0o500)
    assert status(work.output).launches == 1


@pytest.mark.parametrize("planted", ["journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm"])
def test_a_pipe_in_the_place_of_the_journal_is_not_waited_for(tmp_path: Path, planted: str) -> None:
    work = WorkDirectory.beside(tmp_path / "a.csv")
    work.path.mkdir()
    work.journal.touch()
    (work.path / planted).unlink(missing_ok=True)
    os.mkfifo(work.path / planted)
    with pytest.raises(OutputError, match="no unfinished pull"):
        status(work.output)


def test_a_journal_that_has_not_begun_or_is_none_is_told(tmp_path: Path) -> None:
    work = WorkDirectory.beside(tmp_path / "a.csv")
    with pytest.raises(OutputError, match="no unfinished pull"):
        status(work.output)
    work.path.mkdir()
    work.journal.touch()
    with pytest.raises(OutputError, match="has not begun"):
        status(work.output)
    work.journal.write_bytes(b"no database" * 1000)
    with pytest.raises(OutputError, match="not a database"):
        status(work.output)


def test_where_the_file_system_does_not_tell_of_locks_the_process_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = WorkDirectory.beside(tmp_path / "a.csv")
    work.path.mkdir()
    begun(work).close()
    monkeypatch.setattr(WorkDirectory, "is_claimed", lambda _self: None)
    assert (status(work.output).running, status(work.output).pid) == (True, os.getpid())
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    monkeypatch.setattr(os, "getpid", lambda: ended.pid)
    Journal(work.journal).close()
    assert (status(work.output).running, status(work.output).pid) == (False, None)
