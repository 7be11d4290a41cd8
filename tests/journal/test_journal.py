"""The journal keeps what it was told, for whichever process opens it next."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bulkpull import OutputError, Window
from bulkpull.journal import ExportRecord, Figures, Frontier, Journal, Outcome, PartRecord
from bulkpull.journal import journal as journal_module

WINDOWS = tuple(
    Window(index, datetime(2024, 1, 1 + index, tzinfo=UTC), datetime(2024, 1, 2 + index, tzinfo=UTC))
    for index in range(3)
)
OPTIONS = {"start": "2024-01-01T00:00:00.000Z", "end": "now", "filter": "", "fields": "a,b"}
Reopen = Callable[[], Journal]


@pytest.fixture
def reopen(tmp_path: Path) -> Iterator[Reopen]:
    """Opens the journal once more, without closing it first: the process before was killed."""
    opened: list[Journal] = []

    def again() -> Journal:
        opened.append(Journal(tmp_path / "journal.sqlite"))
        return opened[-1]

    again().begin(OPTIONS, WINDOWS[-1].end, WINDOWS)
    yield again
    for journal in opened:
        journal.close()


def part(number: int, name: str, export_id: str = "one", **known: Any) -> PartRecord:
    return PartRecord(number, name, export_id, **known)


def launched(journal: Journal, window: Window, export_id: str) -> None:
    journal.record_export(journal.record_launch(window), export_id)


def test_options_and_plan(reopen: Reopen) -> None:
    journal = reopen()
    assert journal.options == OPTIONS
    assert journal.windows == WINDOWS
    assert journal.launches == 0
    assert journal.exports() == {}
    assert journal.frontier == Frontier(0, 0, (), Figures())
    assert journal.receipt == ""


def test_runs_are_counted(reopen: Reopen) -> None:
    assert reopen().runs == 0
    assert [reopen().start_run() for _ in range(3)] == [1, 2, 3]
    assert reopen().runs == 3


def test_an_export_is_known_from_the_answer_on_and_its_launch_before(reopen: Reopen) -> None:
    journal = reopen()
    launch = journal.record_launch(WINDOWS[0])
    assert reopen().launches == 1
    assert reopen().exports() == {}
    journal.record_export(launch, "one")
    [(record,)] = reopen().exports().values()
    assert (record.id, record.has_succeeded, record.parts) == ("one", False, ())
    assert 0 < record.age < 60


def test_a_launch_that_was_refused_was_none(reopen: Reopen) -> None:
    journal = reopen()
    journal.forget_launch(journal.record_launch(WINDOWS[0]))
    assert reopen().launches == 0


def test_an_export_that_will_not_do_is_forgotten_with_its_parts(reopen: Reopen) -> None:
    journal = reopen()
    launched(journal, WINDOWS[0], "one")
    journal.record_success(WINDOWS[0], "one", [part(1, "a"), part(2, "b")])
    journal.record_failure(WINDOWS[0], "one", "gone")
    assert reopen().exports() == {}
    launched(journal, WINDOWS[0], "two")
    journal.record_success(WINDOWS[0], "two", [part(1, "c", "two")])
    [(record,)] = reopen().exports().values()
    assert (record.id, record.has_succeeded, record.parts) == ("two", True, (part(1, "c", "two"),))
    assert reopen().launches == 2


def test_a_lost_launch_does_not_hide_an_export(reopen: Reopen) -> None:
    journal = reopen()
    launched(journal, WINDOWS[0], "one")
    journal.record_launch(WINDOWS[0])
    assert reopen().exports()[0][-1].id == "one"


def test_parts_half_and_whole(reopen: Reopen) -> None:
    journal = reopen()
    journal.start_run()
    launched(journal, WINDOWS[1], "one")
    journal.record_success(WINDOWS[1], "one", [part(1, "a"), part(2, "b"), part(3, "c")])
    journal.record_partial_part(WINDOWS[1], 1, '"v1"', 1000)
    journal.record_partial_part(WINDOWS[1], 2, '"v2"', None)
    journal.record_complete_part(WINDOWS[1], 2, 17, "check")
    half, whole, missing = reopen().exports()[1][0].parts
    assert half == part(1, "a", validator='"v1"', length=1000)
    assert whole == part(2, "b", validator='"v2"', size=17, checksum="check")
    assert missing == part(3, "c")


def test_half_files_are_not_trusted_after_the_machine_went_down(
    reopen: Reopen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = reopen()
    journal.start_run()
    launched(journal, WINDOWS[0], "one")
    journal.record_success(WINDOWS[0], "one", [part(1, "a"), part(2, "b")])
    journal.record_partial_part(WINDOWS[0], 1, '"v1"', 1000)
    journal.record_complete_part(WINDOWS[0], 2, 17, "check")
    reopen().start_run()
    assert reopen().exports()[0][0].parts[0].validator == '"v1"'
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("another\n")
    monkeypatch.setattr(journal_module, "_BOOT_ID", boot_id)
    reopen().start_run()
    assert reopen().exports()[0][0].parts == (part(1, "a"), part(2, "b", size=17, checksum="check"))
    # Where the machine does not tell when it was started, it may always have been down.
    journal.record_partial_part(WINDOWS[0], 1, '"v1"', 1000)
    monkeypatch.setattr(journal_module, "_BOOT_ID", tmp_path / "none")
    monkeypatch.setattr(journal_module, "_BOOT_ID_OF_MACOS", ["false"])
    reopen().start_run()
    assert reopen().exports()[0][0].parts[0].validator is None


@pytest.mark.parametrize("trusted", [True, False])
def test_macos_tells_its_start_in_another_way(
    reopen: Reopen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    monkeypatch.setattr(journal_module, "_BOOT_ID", tmp_path / "none")
    monkeypatch.setattr(journal_module, "_BOOT_ID_OF_MACOS", ["echo", "5D6F"])
    journal = reopen()
    journal.start_run()
    launched(journal, WINDOWS[0], "one")
    journal.record_success(WINDOWS[0], "one", [part(1, "a")])
    journal.record_partial_part(WINDOWS[0], 1, '"v1"', 1000)
    if not trusted:
        monkeypatch.setattr(journal_module, "_BOOT_ID_OF_MACOS", ["echo", "9A0C"])
    reopen().start_run()
    assert reopen().exports()[0][0].parts[0].validator == ('"v1"' if trusted else None)


def test_the_frontier_sums_up_and_hides_what_is_merged(reopen: Reopen) -> None:
    journal = reopen()
    for window, export_id in zip(WINDOWS, ("one", "two", "three"), strict=True):
        launched(journal, window, export_id)
        journal.record_success(window, export_id, [part(1, "a", export_id)])
    journal.record_merge(WINDOWS[0], Figures(1, 10, 2, 1, 0), 400, ["id", "v"], records=12, ids=10)
    journal.record_merge(WINDOWS[1], Figures(2, 5, 0, 0, 3), 700, ["id", "v", "w"], records=5, ids=5)
    again = reopen()
    assert again.frontier == Frontier(2, 700, ("id", "v", "w"), Figures(3, 15, 2, 1, 3))
    assert [record.id for (record,) in again.exports().values()] == ["three"]
    assert isinstance(again.exports()[2][0], ExportRecord)


def test_pieces_take_the_place_of_a_window_and_the_last_merged_is_the_latest(reopen: Reopen) -> None:
    journal = reopen()
    journal.record_export(journal.record_launch(WINDOWS[1]), "one")
    journal.record_success(WINDOWS[1], "one", [part(1, "a")])
    journal.record_failure(WINDOWS[1], "one", "gone")
    noon = WINDOWS[1].start + (WINDOWS[1].end - WINDOWS[1].start) / 2
    cut = (Window(0, WINDOWS[1].start, noon, 30), Window(1, noon, WINDOWS[1].end, None))
    halves = journal.split(WINDOWS[1], cut, 17)
    assert halves == (Window(3, WINDOWS[1].start, noon, 30), Window(4, noon, WINDOWS[1].end, None))
    again = reopen()
    assert again.windows == again.waiting == (WINDOWS[0], *halves, WINDOWS[2])
    assert again.exports() == {}
    assert (again.splits, again.launches) == (1, 1)
    for number, window in enumerate((WINDOWS[0], *halves)):
        again.record_merge(window, Figures(1, 10, 0, 0, 0), 100 * number, [f"column {number}"], records=10, ids=10)
    assert reopen().frontier == Frontier(3, 200, ("column 2",), Figures(3, 30, 0, 0, 0))
    assert reopen().waiting == (WINDOWS[2],)
    assert [one.window.index for one in reopen().progress()] == [0, 3, 4, 2]


def test_what_is_left_out_is_not_waited_for(reopen: Reopen) -> None:
    reopen().skip(WINDOWS[1], "it always fails")
    again = reopen()
    assert again.windows == WINDOWS
    assert again.waiting == (WINDOWS[0], WINDOWS[2])
    assert again.skipped == (WINDOWS[1],)
    assert [one.skip_reason for one in again.progress()] == [None, "it always fails", None]


def test_an_export_that_is_made_again_has_parts_of_its_own(reopen: Reopen) -> None:
    journal = reopen()
    launched(journal, WINDOWS[0], "one")
    journal.record_success(WINDOWS[0], "one", [part(1, "a"), part(2, "b")])
    journal.record_complete_part(WINDOWS[0], 1, 17, "check")
    launched(journal, WINDOWS[0], "two")
    assert journal.last_part(WINDOWS[0]) == 2
    journal.record_success(WINDOWS[0], "two", [part(3, "a", "two")])
    journal.record_success(WINDOWS[0], "one", [part(4, "c")])  # a link that came late
    one, two = reopen().exports()[0]
    assert one.parts == (part(1, "a", size=17, checksum="check"), part(2, "b"), part(4, "c"))
    assert two.parts == (part(3, "a", "two"),)
    journal.reset_part(WINDOWS[0], 1)
    assert reopen().exports()[0][0].parts[0] == part(1, "a")
    journal.record_failure(WINDOWS[0], "one", "gone")
    assert [record.id for record in reopen().exports()[0]] == ["two"]


def test_what_windows_came_to(reopen: Reopen) -> None:
    journal = reopen()
    journal.record_merge(WINDOWS[0], Figures(1, 8, 4, 0, 0), 100, ["id"], records=12, ids=10)
    journal.record_count(replace(WINDOWS[0], rows=11))
    half = WINDOWS[1].start + (WINDOWS[1].end - WINDOWS[1].start) / 2
    pieces = journal.split(WINDOWS[1], (replace(WINDOWS[1], end=half), replace(WINDOWS[1], start=half)), 9)
    journal.skip(pieces[0], "no")
    assert reopen().outcomes() == [
        Outcome(replace(WINDOWS[0], rows=11), None, None, 12, 10, 8, False, False),
        Outcome(WINDOWS[1], None, 9, None, None, None, False, True),
        Outcome(WINDOWS[2], None, None, None, None, None, False, False),
        Outcome(pieces[0], 1, None, None, None, None, True, False),
        Outcome(pieces[1], 1, None, None, None, None, False, False),
    ]


def test_launches_of_the_plan_and_those_without_an_answer(reopen: Reopen) -> None:
    journal = reopen()
    assert (journal.planned, journal.unlaunched) == (3, {0, 1, 2})
    journal.record_lost_answer(journal.record_launch(WINDOWS[1]))
    [piece] = journal.split(WINDOWS[0], WINDOWS[:1], None)
    assert (reopen().planned, reopen().unlaunched, reopen().launches) == (3, {0, 2}, 1)
    failures = {one.window.index: one.failure for one in reopen().progress()}
    assert failures == {piece.index: None, 1: "the launch was not answered; it may have created an export", 2: None}


def test_verdicts_and_doubts_are_kept(reopen: Reopen) -> None:
    journal = reopen()
    assert (journal.caps, journal.doubt) == ({}, "")
    journal.record_cap(500, "open")
    journal.record_cap(10_000, "refuted")
    journal.record_cap(500, "confirmed")
    journal.distrust_counts("children count more than their parent")
    assert reopen().caps == {500: "confirmed", 10_000: "refuted"}
    assert reopen().doubt == "children count more than their parent"


def test_what_is_about_to_be_published(reopen: Reopen) -> None:
    reopen().record_receipt("csv 12345")
    reopen().record_receipt("ndjson 678")
    assert reopen().receipt == "ndjson 678"


def test_a_half_written_record_is_none(reopen: Reopen) -> None:
    journal = reopen()
    launched(journal, WINDOWS[0], "one")
    with pytest.raises(OutputError, match=r"write the journal .*UNIQUE"):
        journal.record_success(WINDOWS[0], "one", [part(1, "a"), part(1, "b")])
    assert not reopen().exports()[0][0].has_succeeded
    assert reopen().exports()[0][0].parts == ()


@pytest.mark.parametrize("garbage", [b"no database at all", b"SQLite format 3\0" + b"x" * 5000])
def test_what_is_no_journal_is_told(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(garbage)
    with pytest.raises(OutputError, match=r"open the journal .*journal\.sqlite"):
        Journal(path)
    assert path.read_bytes() == garbage


def test_a_journal_of_another_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(OutputError, match="another version"):
        Journal(path)


def test_every_commit_is_synced(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    try:
        assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)
        assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    finally:
        journal.close()
