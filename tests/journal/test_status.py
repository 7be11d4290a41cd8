"""Status looks at a pull, running or not, and leaves no trace of that."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bulkpull import OutputError, Window, status
from bulkpull.journal.journal import Journal
from bulkpull.store.file import Output

WINDOW = Window(0, datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC), 10)
WORKER = """
import sys
from tests.journal.test_status import begun
from bulkpull.store.file import Output
output = Output(sys.argv[1])
output.claim()
begun(output)
print("begun", flush=True)
sys.stdin.read()
"""


def begun(output: Output) -> Journal:
    """A pull's journal once it has launched an export."""
    journal = Journal(output.journal)
    journal.begin({"start": "2024-01-01T00:00:00.000Z"}, WINDOW.end, [WINDOW])
    journal.start_run()
    journal.launched(journal.launching(WINDOW), "export-1")
    return journal


def contents(directory: Path) -> dict[str, tuple[bytes, int]]:
    """All files, byte for byte, and when they were changed; but not what SQLite keeps of its locks in memory."""
    return {
        path.name: (path.read_bytes() if not path.name.endswith("-shm") else b"", path.stat().st_mtime_ns)
        for path in directory.iterdir()
    }


def test_a_running_pull_is_shown_with_its_process_and_not_disturbed(tmp_path: Path) -> None:
    output = Output(tmp_path / "ä ?#%.csv")  # what a URI would have to escape
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", WORKER, str(output.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "begun\n"
        before = contents(output.directory)
        for _ in range(2):
            found = status(output.path)
            assert (found.running, found.pid) == (True, worker.pid)
            assert (found.runs, found.launches, [one.state for one in found.windows]) == (1, 1, ["exporting"])
        assert contents(output.directory) == before
        worker.kill()
    before = contents(output.directory)
    assert {f"journal.sqlite{suffix}" for suffix in ("", "-wal", "-shm")} <= before.keys()
    found = status(output.path)
    assert (found.running, found.pid) == (False, None)
    assert (found.launches, [one.state for one in found.windows]) == (1, ["exporting"])
    assert contents(output.directory) == before


def test_a_pull_in_this_process_is_shown_too(tmp_path: Path) -> None:
    output = Output(tmp_path / "a.csv")
    output.claim()
    journal = begun(output)
    for _ in range(2):
        found = status(output.path)
        assert (found.running, found.pid, found.launches) == (True, os.getpid(), 1)
        journal.launching(WINDOW)
        assert status(output.path).launches == 2
        journal.refused(2)
    with pytest.raises(OutputError, match="another pull"):
        Output(output.path).claim()
    journal.close()
    output.release(remove=False)
    assert (status(output.path).running, status(output.path).pid) == (False, None)


def test_the_status_of_a_pull_that_ended_in_order_makes_no_file(tmp_path: Path) -> None:
    output = Output(tmp_path / "a.csv")
    output.claim()
    begun(output).close()
    output.release(remove=False)
    before = contents(output.directory)
    assert before.keys() == {"journal.sqlite"}
    assert status(output.path).launches == 1
    assert contents(output.directory) == before


def test_status_needs_no_right_to_write(tmp_path: Path) -> None:
    output = Output(tmp_path / "a.csv")
    output.claim()
    begun(output).close()
    output.release(remove=False)
    output.journal.chmod(0o400)
    output.directory.chmod(0o500)
    assert status(output.path).launches == 1


@pytest.mark.parametrize("planted", ["journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm"])
def test_a_pipe_in_the_place_of_the_journal_is_not_waited_for(tmp_path: Path, planted: str) -> None:
    output = Output(tmp_path / "a.csv")
    output.directory.mkdir()
    output.journal.touch()
    (output.directory / planted).unlink(missing_ok=True)
    os.mkfifo(output.directory / planted)
    with pytest.raises(OutputError, match="no unfinished pull"):
        status(output.path)


def test_a_journal_that_has_not_begun_or_is_none_is_told(tmp_path: Path) -> None:
    output = Output(tmp_path / "a.csv")
    with pytest.raises(OutputError, match="no unfinished pull"):
        status(output.path)
    output.directory.mkdir()
    output.journal.touch()
    with pytest.raises(OutputError, match="has not begun"):
        status(output.path)
    output.journal.write_bytes(b"no database" * 1000)
    with pytest.raises(OutputError, match="not a database"):
        status(output.path)


def test_where_the_file_system_does_not_tell_of_locks_the_process_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Output(tmp_path / "a.csv")
    output.directory.mkdir()
    begun(output).close()
    monkeypatch.setattr(Output, "is_claimed", lambda _self: None)
    assert (status(output.path).running, status(output.path).pid) == (True, os.getpid())
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    monkeypatch.setattr(os, "getpid", lambda: ended.pid)
    Journal(output.journal).close()
    assert (status(output.path).running, status(output.path).pid) == (False, None)
