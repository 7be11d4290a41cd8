"""Reading the journal."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from bulkpull.disk import disk_errors
from bulkpull.journal.records import ExportRecord, Figures, Frontier, Outcome, PartRecord, Progress, Verdict
from bulkpull.journal.tables import open_for_reading
from bulkpull.journal.timeline import Moment, Timeline, TimelineWindow
from bulkpull.journal.trouble import Trouble
from bulkpull.store import WorkDirectory
from bulkpull.window import Window, instant

_MIN_AGE_S = 0.001  # of an export, whatever the clocks say


def has_journal(work: WorkDirectory) -> bool:
    """Return whether there is an unfinished pull, whose journal can be opened without blocking. Raises OutputError."""
    return work.journal.exists() and all(map(_is_safe_to_open, work.journal_files))


class JournalReader:
    """The journal at `path`, which must exist, to read. Nothing on the disk changes, and no pull is disturbed.

    The methods block on the disk and may be called from any thread. All raise OutputError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._db = self._open()

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    # The pull

    @property
    def options(self) -> dict[str, str]:
        """The options of the first run; empty before `begin`."""
        return dict(self._rows("SELECT name, value FROM option"))

    @property
    def end(self) -> str:
        """The end of the range, exclusive."""
        return self._value("end")

    @property
    def total(self) -> int | None:
        """The count of the whole range, if counting failed after it; None if each window was counted, or nothing."""
        text = self._value("total")
        return int(text) if text else None

    @property
    def doubt(self) -> str:
        """Why the API's counts cannot be trusted; empty while nothing is known against them."""
        return self._value("doubt")

    @property
    def runs(self) -> int:
        """How many runs the pull has had."""
        return int(self._value("runs") or 0)

    @property
    def pid(self) -> int | None:
        """The process that last opened the journal for writing."""
        text = self._value("pid")
        return int(text) if text else None

    @property
    def trouble(self) -> Trouble | None:
        """What the pull waits out, while it runs."""
        text = self._value("trouble")
        return Trouble.decoded(text) if text else None

    @property
    def receipt(self) -> str:
        """The destination's receipt of the output that was about to be published; empty before that."""
        return self._value("receipt")

    @property
    def caps(self) -> dict[int, Verdict]:
        """By number of records: whether exports are truncated there."""
        return dict(self._rows("SELECT records, verdict FROM cap ORDER BY records"))

    # Windows

    @property
    def windows(self) -> tuple[Window, ...]:
        """All windows in order of time, the pieces in place of those that were split."""
        return self._windows("SELECT number, start, end, activities FROM active ORDER BY start")

    @property
    def waiting(self) -> tuple[Window, ...]:
        """The windows that are still to be merged, in order of time."""
        return self._windows(
            "SELECT number, start, end, activities FROM active WHERE skip_reason IS NULL "
            "AND number NOT IN (SELECT window FROM merge) ORDER BY start"
        )

    @property
    def skipped(self) -> tuple[Window, ...]:
        """The windows that are left out, in order of time."""
        return self._windows(
            "SELECT number, start, end, activities FROM active WHERE skip_reason NOT NULL ORDER BY start"
        )

    @property
    def planned(self) -> int:
        """How many windows the plan had at first."""
        return self._count("SELECT count(*) FROM window WHERE parent IS NULL")

    @property
    def splits(self) -> int:
        """How many windows were split."""
        return self._count("SELECT count(DISTINCT parent) FROM window")

    def outcomes(self) -> list[Outcome]:
        """The outcomes of all windows by number, including those that were split."""
        rows = self._rows(
            "SELECT number, start, end, activities, parent, ids_before_split, records, ids, rows, "
            "skip_reason NOT NULL, number IN (SELECT parent FROM window WHERE parent NOT NULL) FROM window "
            "LEFT JOIN merge ON merge.window = number ORDER BY number"
        )
        return [
            Outcome(
                _window(*window), parent, ids_before_split, records, ids, new_rows, bool(is_skipped), bool(is_split)
            )
            for *window, parent, ids_before_split, records, ids, new_rows, is_skipped, is_split in rows
        ]

    def progress(self) -> list[Progress]:
        """The progress of all windows in order of time, the pieces in place of those that were split."""
        rows = self._rows(
            "SELECT active.number, active.start, active.end, active.activities, "
            "(SELECT count(*) FROM export WHERE export.window = active.number), "
            "last.id, ifnull(last.has_succeeded, 0), last.failure, "
            "(SELECT count(*) FROM part WHERE part.window = active.number), "
            "(SELECT count(size) FROM part WHERE part.window = active.number), active.skip_reason, "
            "last.launched, merge.parts, merge.rows, merge.duplicates, merge.conflicts, merge.outside FROM active "
            "LEFT JOIN merge ON merge.window = active.number LEFT JOIN export AS last ON last.number = "
            "(SELECT max(number) FROM export WHERE export.window = active.number) ORDER BY active.start"
        )
        return [
            Progress(
                window=_window(*row[:4]),
                launches=row[4],
                export_id=row[5],
                has_succeeded=bool(row[6]),
                failure=row[7],
                parts=row[8],
                complete_parts=row[9],
                skip_reason=row[10],
                launched=row[11],
                merged=None if row[12] is None else Figures(*row[12:]),
            )
            for row in rows
        ]

    # Exports

    @property
    def launches(self) -> int:
        """How many exports were launched, including those whose answer was lost."""
        return self._count("SELECT count(*) FROM export")

    @property
    def unanswered_seconds(self) -> float | None:
        """Seconds since the last launch that was not answered; None if all were. Its export may still be running."""
        [(launched,)] = self._rows("SELECT max(launched) FROM export WHERE id IS NULL")
        if launched is None:
            return None
        return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(launched)).total_seconds())

    @property
    def since(self) -> str | None:
        """When the first export was launched, an instant; None if none was."""
        [(launched,)] = self._rows("SELECT min(launched) FROM export")
        return None if launched is None else str(launched)

    @property
    def unlaunched(self) -> set[int]:
        """The indexes of the plan's windows for which no export was launched."""
        rows = self._rows(
            "SELECT number FROM window WHERE parent IS NULL AND number NOT IN (SELECT window FROM export)"
        )
        return {number for (number,) in rows}

    def conflicts(self) -> Iterator[tuple[Window, str, str]]:
        """Yield the conflicts to be reported, by window, file and id: the window of the later row, and the row that is
        kept and the later one as JSON."""
        query = "SELECT kept, other FROM conflict WHERE window = ? ORDER BY rowid"
        found = {window for (window,) in self._rows("SELECT DISTINCT window FROM conflict")}
        if self.buckets:
            query = "SELECT kept, other FROM bucket_conflict WHERE window = ? ORDER BY place, id, rowid"
            found = {window for (window,) in self._rows("SELECT DISTINCT window FROM bucket_conflict")}
        for window in self.windows:
            if window.index in found:
                yield from ((window, kept, other) for kept, other in self._rows(query, window.index))

    def exports(self) -> dict[int, tuple[ExportRecord, ...]]:
        """By index, the usable exports of the windows that are not merged, in the order of their launches."""
        now = datetime.now(UTC)
        parts: dict[str, list[PartRecord]] = {}
        for row in self._rows(
            "SELECT number, name, export, validator, length, size, checksum FROM part ORDER BY window, number"
        ):
            part = PartRecord(*row)
            parts.setdefault(part.export_id, []).append(part)
        exports: dict[int, tuple[ExportRecord, ...]] = {}
        for window, id, launched, has_succeeded in self._rows(
            "SELECT window, id, launched, has_succeeded FROM export WHERE id NOT NULL AND failure IS NULL "
            "AND window NOT IN (SELECT window FROM merge) ORDER BY number"
        ):
            age = max(_MIN_AGE_S, (now - datetime.fromisoformat(launched)).total_seconds())
            record = ExportRecord(id, age, bool(has_succeeded), tuple(parts.get(id, ())))
            exports[window] = (*exports.get(window, ()), record)
        return exports

    def successful_exports(self) -> dict[int, tuple[str, ...]]:
        """By index, the ids of the exports that succeeded and can be used, in the order of their launches."""
        exports: dict[int, tuple[str, ...]] = {}
        for window, id in self._rows(
            "SELECT window, id FROM export WHERE has_succeeded AND id NOT NULL AND failure IS NULL ORDER BY number"
        ):
            exports[window] = (*exports.get(window, ()), id)
        return exports

    def skip_reasons(self) -> dict[int, str]:
        """By index, why windows are left out."""
        return dict(self._rows("SELECT number, skip_reason FROM active WHERE skip_reason NOT NULL"))

    def last_part(self, window: Window) -> int:
        """The highest number of the window's parts; 0 if it has none."""
        return self._count("SELECT ifnull(max(number), 0) FROM part WHERE window = ?", window.index)

    # The merge

    @property
    def frontier(self) -> Frontier:
        """How far the merge has come."""
        [sums] = self._rows(
            "SELECT count(*), total(parts), total(rows), total(duplicates), total(conflicts), total(outside) FROM merge"
        )
        windows, *figures = map(int, sums)
        last = self._rows("SELECT csv_size, columns FROM merge ORDER BY csv_size DESC, length(columns) DESC LIMIT 1")
        offset, columns = last[0] if last else (0, "[]")
        return Frontier(windows, offset, tuple(orjson.loads(columns)), Figures(*figures))

    # On a cluster

    @property
    def buckets(self) -> int:
        """Into how many buckets the rows are divided; 0 if the pull is not one on a cluster, or none is decided."""
        return int(self._value("buckets") or 0)

    def scattered(self) -> dict[str, bytes]:
        """What is recorded of the scattered parts of windows that are not merged, by name."""
        return dict(self._rows("SELECT name, facts FROM scattered WHERE place IS NULL"))

    def accepted(self) -> list[tuple[Window, int, str, bytes]]:
        """The scattered parts of the merged windows, in the order of the merge: window, number, name and what is
        recorded."""
        rows = self._rows(
            "SELECT window.number, start, end, activities, scattered.number, name, facts FROM scattered "
            "JOIN window ON window.number = scattered.window WHERE place NOT NULL ORDER BY place"
        )
        return [(_window(*window), number, name, facts) for *window, number, name, facts in rows]

    def bucket_facts(self) -> dict[int, bytes]:
        """What is recorded of the buckets whose files are in the storage, by number."""
        return dict(self._rows("SELECT number, facts FROM bucket"))

    # The timeline

    def latest_moments(self, number: int) -> list[Moment]:
        """Return the latest moments except for traffic, in the order in which they were recorded."""
        if not self._has_moments:
            return []
        query = "SELECT at, kind, window, number, other, text FROM moment WHERE kind != 'traffic' ORDER BY rowid DESC "
        return [Moment(*row) for row in reversed(self._rows(f"{query} LIMIT ?", number))]

    @property
    def _has_moments(self) -> bool:
        """Whether a version has written the journal that records moments."""
        return bool(self._count("SELECT count(*) FROM sqlite_master WHERE name = 'moment'"))

    def timeline(self, format: str = "") -> Timeline:
        """The timeline of all runs, as far as it is recorded. `format` is that of the output."""
        options = self.options
        query = "SELECT at, kind, window, number, other, text FROM moment ORDER BY rowid"
        moments = self._rows(query) if self._has_moments else []
        return Timeline(
            start=options.get("start", ""),
            end=self.end,
            is_filtered=bool(options.get("filter")),
            format=format,
            figures=self.frontier.figures,
            windows=tuple(
                TimelineWindow(
                    one.window.index,
                    instant(one.window.start),
                    instant(one.window.end),
                    one.window.rows,
                    one.ids,
                    one.rows,
                    one.is_split,
                    one.is_skipped,
                )
                for one in sorted(self.outcomes(), key=lambda one: (one.window.start, one.window.index))
            ),
            moments=tuple(Moment(*row) for row in moments),
        )

    def _open(self) -> sqlite3.Connection:
        return open_for_reading(self._path)

    def _rows(self, query: str, *values: object) -> list[Any]:
        with (
            self._lock,
            disk_errors(f"read the journal {self._path}"),
            closing(self._db.execute(query, values)) as rows,
        ):
            return rows.fetchall()

    def _count(self, query: str, *values: object) -> int:
        return int(self._rows(query, *values)[0][0])

    def _windows(self, query: str) -> tuple[Window, ...]:
        return tuple(_window(*row) for row in self._rows(query))

    def _value(self, name: str) -> str:
        """A value of the table `pull`; empty if it is not set."""
        rows = self._rows("SELECT value FROM pull WHERE name = ?", name)
        return str(rows[0][0]) if rows else ""


def _window(number: int, start: str, end: str, activities: int | None) -> Window:
    return Window(number, datetime.fromisoformat(start), datetime.fromisoformat(end), activities)


def _is_safe_to_open(path: Path) -> bool:
    """False for a pipe or a device, which could block for ever."""
    return not path.exists() or path.is_file()
