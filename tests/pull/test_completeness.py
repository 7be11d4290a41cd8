"""What is known to lack, by what the journal holds."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from bulkpull.journal import Figures, Journal
from bulkpull.pull.completeness import completeness
from bulkpull.window import Window
from tests.simulation.server import START

DAY = timedelta(days=1)
END = START + 2 * DAY


def journal_of(path: Path, windows: tuple[Window, ...], total: int | None) -> Journal:
    journal = Journal(path / "journal")
    journal.begin({"start": ""}, END, windows, total)
    return journal


def merged(journal: Journal, window: Window, rows: int) -> None:
    journal.record_merge(window, Figures(1, rows, 0, 0, 0), 100, ["id"], records=rows, ids=rows)


@pytest.mark.parametrize(("rows", "is_short"), [(13, False), (12, False), (11, True)])
def test_what_was_counted_in_all_is_held_against_windows_that_are_not_counted(
    tmp_path: Path, rows: int, is_short: bool
) -> None:
    windows = Window(0, START, START + DAY), Window(1, START + DAY, END)
    journal = journal_of(tmp_path, windows, 12)
    merged(journal, windows[0], 10)
    merged(journal, windows[1], rows - 10)
    found = completeness(journal)
    journal.close()
    assert found.known_by == ("short" if is_short else "counts unknown")
    assert [(one.window, one.counted, one.delivered) for one in found.short] == (
        [(Window(0, START, END, 12), 12, 11)] if is_short else []
    )


@pytest.mark.parametrize(("piece_rows", "is_short"), [(None, True), (1, False)])
def test_the_count_of_a_window_holds_for_its_pieces_where_they_are_not_counted(
    tmp_path: Path, piece_rows: int | None, is_short: bool
) -> None:
    window = Window(0, START, END, 6)
    journal = journal_of(tmp_path, (window,), None)
    pieces = journal.split(window, (Window(0, START, START + DAY, 4), Window(1, START + DAY, END, piece_rows)), 5)
    merged(journal, pieces[0], 4)
    merged(journal, pieces[1], 1)
    found = completeness(journal)
    journal.close()
    assert [(one.window, one.counted, one.delivered) for one in found.short] == ([(window, 6, 5)] if is_short else [])
