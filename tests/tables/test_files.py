"""What becomes of the files of data sets and of single files: which are written, left, removed and refused."""

from __future__ import annotations

import errno
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bulkpull.errors import OutputError
from bulkpull.store import open_dataset
from bulkpull.tables import Changes, Policy, Table, dataset, table_at
from bulkpull.window import Window
from tests.tables.places import COLUMNS, START, FilePlace, Row, delivery, window
from tests.tables.test_tables import row

MONTHS = [Window(0, datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 4, 1, tzinfo=UTC))]
DAY = 24 * 60


def deliver(
    table: Table, directory: Path, rows: Sequence[Row], windows: list[Window] = MONTHS, **options: Any
) -> Changes:
    """Deliver rows on top of whatever state there is."""
    state = table.state()
    number = int(state or "0") + 1
    policy = options.pop("policy", Policy())
    return table.replace(delivery(directory, windows, rows, expected=state, state=str(number), **options), policy)


@pytest.fixture
def data_set(tmp_path: Path) -> Iterator[tuple[Path, Table]]:
    """A data set that is open, and its directory."""
    path = tmp_path / "set"
    table = table_at(path, columns=COLUMNS)
    table.open(create=True)
    yield path, table
    table.close()


def current(path: Path) -> set[str]:
    """The files that the manifest of a data set names."""
    return {file.path for file in open_dataset(path).files}


def on_disk(path: Path) -> set[str]:
    return {file.relative_to(path).as_posix() for file in path.rglob("*.parquet")}


def test_only_months_with_changes_are_written_anew(data_set: tuple[Path, Table], tmp_path: Path) -> None:
    path, table = data_set
    rows = [row(f"{number:03}", number * DAY) for number in range(90)]
    deliver(table, tmp_path, rows)
    before = current(path)
    assert {file.partition("/")[0] for file in before} == {"month=2024-01", "month=2024-02", "month=2024-03"}
    rows[40] = row("040", 40 * DAY, "new")
    assert deliver(table, tmp_path, rows) == Changes(changed=1, rewritten=29)
    assert {file.partition("/")[0] for file in before ^ current(path)} == {"month=2024-02"}
    unchanged = current(path)
    assert deliver(table, tmp_path, rows) == Changes()
    assert current(path) == unchanged


def test_a_reader_of_the_former_manifest_has_a_day(data_set: tuple[Path, Table], tmp_path: Path) -> None:
    path, table = data_set
    deliver(table, tmp_path, [row("a"), row("b")], at="2025-01-01T00:00:00.000Z")
    reader = open_dataset(path)
    [former] = current(path)
    deliver(table, tmp_path, [row("a"), row("b", 0, "new")], at="2025-01-02T00:00:00.000Z")
    deliver(table, tmp_path, [row("a"), row("b", 0, "new")], at="2025-01-02T23:59:00.000Z")
    assert {one["value"] for one in pa.RecordBatchReader.from_stream(reader).read_all().to_pylist()} == {"v"}
    deliver(table, tmp_path, [row("a"), row("b", 0, "new")], at="2025-01-03T00:00:00.000Z")
    assert former not in on_disk(path)
    assert on_disk(path) == current(path)


def test_many_small_files_of_a_month_become_one(
    data_set: tuple[Path, Table], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "MAX_SMALL_FILES", 3)
    path, table = data_set
    sizes = []
    for hour in range(6):
        deliver(table, tmp_path, [row(str(hour), hour * 60)], [window(hour)])
        sizes.append(len(current(path)))
    assert sizes == [1, 2, 3, 1, 2, 3]
    assert table.count([window(0, 6)]) == [6]


def test_files_have_a_limit_of_rows(
    data_set: tuple[Path, Table], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "ROWS_PER_FILE", 40)
    path, table = data_set
    deliver(table, tmp_path, [row(f"{number:03}", number) for number in range(100)])
    assert [file.rows for file in open_dataset(path).files] == [40, 40, 20]
    assert table.count(
        [window(0), window(1), Window(0, START + timedelta(minutes=35), START + timedelta(minutes=85))]
    ) == [60, 40, 50]


def test_a_moved_id_is_found_in_a_file_that_no_window_touches(data_set: tuple[Path, Table], tmp_path: Path) -> None:
    _, table = data_set
    deliver(table, tmp_path, [row("b", 5), row("c", 6)], [window(0)])
    deliver(table, tmp_path, [row("z", 3 * DAY)], [window(72)])
    moved = [row("z", 3 * DAY), row("b", 3 * DAY + 1)]
    assert deliver(table, tmp_path, moved, [window(72)]) == Changes(inserted=0, changed=1, rewritten=2)
    assert table.count([window(0), window(72)]) == [1, 2]


@pytest.mark.parametrize("name", ["month=2024-01/activity.parquet", "notes.txt"])
def test_a_directory_with_other_files_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "set" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    table = table_at(tmp_path / "set", columns=COLUMNS)
    with pytest.raises(OutputError, match=re.escape(f"holds {name}, and is no data set that a sync keeps up to date")):
        table.open(create=True)
    assert [path for path in (tmp_path / "set").rglob("*") if path.is_file()] == [file]


@pytest.mark.parametrize("file", ["a.csv", "a.parquet"])
def test_a_file_of_another_program_is_refused_or_told(tmp_path: Path, file: str) -> None:
    path = tmp_path / file
    path.write_text("id\n")
    table = table_at(path, columns=COLUMNS)
    with pytest.raises(OutputError, match="exists and was not written by a sync"):
        table.open(create=True)
    assert [*tmp_path.iterdir()] == [path]
    path.unlink()
    table.open(create=True)
    (tmp_path / "work").mkdir()
    deliver(table, tmp_path / "work", [row("a")])
    table.close()
    path.write_text("id\n")
    table.open(create=True)
    with pytest.raises(OutputError, match=r"changed by another program since the last sync: .* --rebuild"):
        table.state()
    again = delivery(tmp_path / "work", MONTHS, [row("b")], state="2")
    assert table.replace(replace(again, rebuild=True), Policy()) == Changes(inserted=1, rewritten=1)
    assert (table.state(), table.count(MONTHS)) == ("2", [1])
    table.close()


class Killed(BaseException):
    """The process ends here."""


def steps_of(monkeypatch: pytest.MonkeyPatch, fail_at: int, error: type[BaseException]) -> Callable[[], int]:
    """Raise an error instead of rename number `fail_at`; return what counts the renames."""
    rename, done = Path.replace, 0

    def replaced(self: Path, target: Path) -> Path:
        nonlocal done
        if done == fail_at:
            raise error(errno.ENOSPC, "No space left on device")
        done += 1
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replaced)
    return lambda: done


@pytest.mark.parametrize("error", [Killed, OSError])
def test_after_a_failure_at_any_step_the_next_sync_goes_on(
    file_place: FilePlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """Each step that another process can see is a rename."""
    first = [row("a"), row("b"), row("c", 40 * DAY)]
    second = [row("a", 0, "new"), row("c", 40 * DAY, "new"), row("d", 41 * DAY)]
    for fail_at in range(10):
        name = file_place.new_name()
        table = file_place.table(name)
        table.open(create=True)
        deliver(table, tmp_path, first)
        before = file_place.rows(name)
        failed = False
        with monkeypatch.context() as patch:
            steps_of(patch, fail_at, error)
            try:
                deliver(table, tmp_path, second)
            except OutputError as told:
                assert "No space left on device" in str(told)
                failed = True
            except Killed:
                failed = True
        table.close()
        found = file_place.rows(name)
        table = file_place.table(name)
        table.open(create=True)
        if failed:
            assert (table.state(), found == before) in {("1", True), ("2", False)}
            if table.state() == "1":
                deliver(table, tmp_path, second)
        assert table.state() == "2"
        assert {id: values["value"] for id, values in file_place.rows(name).items()} == {
            "a": "new",
            "b": "v",
            "c": "new",
            "d": "v",
        }
        table.close()
        assert not file_place.leftovers(name)
        if not failed:
            break
    assert not failed
    assert fail_at >= 2


def test_after_a_kill_the_next_sync_goes_on(file_place: FilePlace, tmp_path: Path) -> None:
    """The process is killed between two of the steps that another process can see."""
    name = file_place.new_name()
    table = file_place.table(name)
    table.open(create=True)
    deliver(table, tmp_path, [row("a"), row("b")])
    table.close()
    victim = f"""
import os, signal
from pathlib import Path
from bulkpull.tables import table_at
from tests.tables.places import COLUMNS
from tests.tables.test_files import deliver, row
table = table_at({file_place.address(name)!r}, columns=COLUMNS)
table.open(create=True)
rename, done = Path.replace, []
def replace(self, target):
    if done:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(target)
    return rename(self, target)
Path.replace = replace
deliver(table, Path({str(tmp_path)!r}), [row("a", 0, "new"), row("c")])
"""
    ended = subprocess.run([sys.executable, "-c", victim], cwd=Path(__file__).parents[2])  # noqa: S603
    assert ended.returncode == -signal.SIGKILL
    assert file_place.leftovers(name)
    assert (tmp_path / "incoming.csv.spool").exists()
    table.open(create=True)
    assert table.state() == "1"
    assert {id: values["value"] for id, values in file_place.rows(name).items()} == {"a": "v", "b": "v"}
    changes = deliver(table, tmp_path, [row("a", 0, "new"), row("c")])
    assert (changes.inserted, changes.changed, changes.deleted) == (1, 1, 1)
    table.close()
    assert not file_place.leftovers(name)
    assert not (tmp_path / "incoming.csv.spool").exists()
