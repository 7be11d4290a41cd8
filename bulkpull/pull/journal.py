"""The journal: what a pull has done, so that it is never done twice, whatever ends the process.

It is a SQLite database in the directory beside the output. In WAL mode with `synchronous=FULL` a committed record
survives a power cut, and not only the process ("PRAGMA synchronous", sqlite.org): an export whose id were lost could
never be found again. A commit costs one sync of the disk, and a window needs half a dozen of them.

Signed links are secrets and stay out of it, and so does the token.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson

from bulkpull.errors import OutputError
from bulkpull.pull.output import disk_errors
from bulkpull.window import Window, instant

VERSION = 1  # of the tables
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TABLES = """
CREATE TABLE pull (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE option (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE window (number INTEGER PRIMARY KEY, start TEXT NOT NULL, end TEXT NOT NULL);
CREATE TABLE export (number INTEGER PRIMARY KEY, window INTEGER NOT NULL, launched TEXT NOT NULL, id TEXT,
    exported INTEGER NOT NULL DEFAULT 0, failure TEXT);
CREATE INDEX export_of_window ON export (window);
CREATE TABLE part (window INTEGER NOT NULL, number INTEGER NOT NULL, name TEXT NOT NULL, validator TEXT, length INTEGER,
    size INTEGER, checksum TEXT, PRIMARY KEY (window, number));
CREATE TABLE merged (window INTEGER PRIMARY KEY, parts INTEGER NOT NULL, rows INTEGER NOT NULL,
    duplicates INTEGER NOT NULL, conflicts INTEGER NOT NULL, outside INTEGER NOT NULL, output INTEGER NOT NULL,
    columns TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class PartRecord:
    """One file of an export. `name` tells it from the others, whatever link leads to it.

    `validator` and `length` are set where a half file can go on from its last byte, `size` (bytes) and `checksum`
    once it is whole.
    """

    number: int
    name: str
    validator: str | None = None
    length: int | None = None
    size: int | None = None
    checksum: str | None = None


@dataclass(frozen=True, slots=True)
class ExportRecord:
    """A window's export, launched and not known to have failed; `exported` once it succeeded, with these parts."""

    id: str
    launched: datetime
    exported: bool
    parts: tuple[PartRecord, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of one window, or of several."""

    parts: int = 0
    rows: int = 0
    duplicates: int = 0
    conflicts: int = 0
    outside: int = 0


@dataclass(frozen=True, slots=True)
class Frontier:
    """How far the merge has come: the first `windows` are in the output's first `offset` bytes, under `columns`."""

    windows: int
    offset: int
    columns: tuple[str, ...]
    figures: Figures


class Journal:
    """The journal at `path`. Every method but `close` blocks on the disk; they may be called from any thread.

    What a method has recorded is durable when it returns. Raises OutputError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        with disk_errors(f"open the journal {path}", at=path):
            self._db = sqlite3.connect(path, check_same_thread=False)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        """Lets go of the file."""
        with self._lock:
            self._db.close()

    # What the pull is

    def begin(self, options: Mapping[str, str], windows: Iterable[Window]) -> None:
        """The first run: what was asked for, and the plan."""
        with self._transaction() as db:
            db.executemany("INSERT INTO option VALUES (?, ?)", options.items())
            db.executemany(
                "INSERT INTO window VALUES (?, ?, ?)",
                ((window.index, instant(window.start), instant(window.end)) for window in windows),
            )

    def start_run(self) -> int:
        """A run starts; returns its number, from 1.

        Half files are trusted only as long as the machine has been up: a power cut may leave less of a file than was
        written, or zeros.
        """
        boot = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else str(uuid4())
        with self._transaction() as db:
            if self._value("boot") != boot:
                db.execute("UPDATE part SET validator = NULL, length = NULL WHERE size IS NULL")
            run = int(self._value("runs") or 0) + 1
            self._set("boot", boot)
            self._set("runs", str(run))
            return run

    @property
    def options(self) -> dict[str, str]:
        """What the first run was asked for; empty before it."""
        return dict(self._rows("SELECT name, value FROM option"))

    @property
    def windows(self) -> tuple[Window, ...]:
        """The plan."""
        rows = self._rows("SELECT number, start, end FROM window ORDER BY number")
        return tuple(_window(*row) for row in rows)

    @property
    def runs(self) -> int:
        """How often the pull was begun or resumed."""
        rows = self._rows("SELECT value FROM pull WHERE name = 'runs'")
        return int(rows[0][0]) if rows else 0

    def by_window(self) -> list[tuple[Any, ...]]:
        """For each window its launches, of the last export the id, whether it succeeded, and its failure; its parts,
        those that are whole, the parts merged, and their rows."""
        rows = self._rows(
            "SELECT window.number, window.start, window.end, "
            "(SELECT count(*) FROM export WHERE export.window = window.number), last.id, last.exported, last.failure, "
            "(SELECT count(*) FROM part WHERE part.window = window.number), "
            "(SELECT count(size) FROM part WHERE part.window = window.number), merged.parts, merged.rows FROM window "
            "LEFT JOIN merged ON merged.window = window.number LEFT JOIN export AS last ON last.number = "
            "(SELECT max(number) FROM export WHERE export.window = window.number) ORDER BY window.number"
        )
        return [(_window(*row[:3]), *row[3:]) for row in rows]

    # Exports

    def launching(self, window: Window) -> int:
        """An export is about to be launched; returns the launch's number."""
        with self._transaction() as db:
            now = datetime.now(UTC).isoformat()
            number = db.execute("INSERT INTO export (window, launched) VALUES (?, ?)", (window.index, now)).lastrowid
        assert number is not None
        return number

    def launched(self, launch: int, export_id: str) -> None:
        """The API answered the launch with an export."""
        with self._transaction() as db:
            db.execute("UPDATE export SET id = ? WHERE number = ?", (export_id, launch))

    def refused(self, launch: int) -> None:
        """The API answered that it made no export."""
        with self._transaction() as db:
            db.execute("DELETE FROM export WHERE number = ?", (launch,))

    def exported(self, window: Window, export_id: str, parts: Iterable[PartRecord]) -> None:
        """The export succeeded, with these parts."""
        with self._transaction() as db:
            db.execute("UPDATE export SET exported = 1 WHERE id = ?", (export_id,))
            db.execute("DELETE FROM part WHERE window = ?", (window.index,))
            db.executemany(
                "INSERT INTO part (window, number, name) VALUES (?, ?, ?)",
                ((window.index, part.number, part.name) for part in parts),
            )

    def failed(self, window: Window, export_id: str, reason: str) -> None:
        """The export will not do, nor will its parts."""
        with self._transaction() as db:
            db.execute("UPDATE export SET failure = ? WHERE id = ?", (reason, export_id))
            db.execute("DELETE FROM part WHERE window = ?", (window.index,))

    @property
    def launches(self) -> int:
        """How many exports were launched, those whose answer was lost included."""
        return int(self._rows("SELECT count(*) FROM export")[0][0])

    def exports(self) -> dict[int, ExportRecord]:
        """By the window's index, the exports of windows that are not merged yet."""
        parts: dict[int, list[PartRecord]] = {}
        for window, *values in self._rows("SELECT * FROM part ORDER BY window, number"):
            parts.setdefault(window, []).append(PartRecord(*values))
        return {
            window: ExportRecord(id, datetime.fromisoformat(launched), bool(exported), tuple(parts.get(window, ())))
            for window, id, launched, exported in self._rows(
                "SELECT window, id, launched, exported FROM export WHERE id NOT NULL AND failure IS NULL "
                "AND window NOT IN (SELECT window FROM merged) ORDER BY number"
            )
        }

    # Parts

    def transferring(self, window: Window, part: int, validator: str | None, length: int | None) -> None:
        """A part's bytes begin to stand on the disk; under `validator`, if any, they may be completed later."""
        with self._transaction() as db:
            db.execute(
                "UPDATE part SET validator = ?, length = ? WHERE window = ? AND number = ?",
                (validator, length, window.index, part),
            )

    def fetched(self, window: Window, part: int, size: int, checksum: str) -> None:
        """A part stands whole on the disk."""
        with self._transaction() as db:
            db.execute(
                "UPDATE part SET size = ?, checksum = ? WHERE window = ? AND number = ?",
                (size, checksum, window.index, part),
            )

    # The merge

    def merged(self, window: Window, figures: Figures, offset: int, columns: Sequence[str]) -> None:
        """A window's rows are in the output's first `offset` bytes, which are on the disk."""
        with self._transaction() as db:
            values = {"window": window.index, "output": offset, "columns": orjson.dumps(list(columns)).decode()}
            db.execute(
                "INSERT INTO merged (window, parts, rows, duplicates, conflicts, outside, output, columns) VALUES "
                "(:window, :parts, :rows, :duplicates, :conflicts, :outside, :output, :columns)",
                values | asdict(figures),
            )
            db.execute("DELETE FROM part WHERE window = ?", (window.index,))

    @property
    def frontier(self) -> Frontier:
        """How far the merge has come."""
        [sums] = self._rows(
            "SELECT count(*), total(parts), total(rows), total(duplicates), total(conflicts), total(outside) "
            "FROM merged"
        )
        windows, *figures = map(int, sums)
        last = self._rows("SELECT output, columns FROM merged ORDER BY window DESC LIMIT 1")
        offset, columns = last[0] if last else (0, "[]")
        return Frontier(windows, offset, tuple(orjson.loads(columns)), Figures(*figures))

    # The output

    def publishing(self, inode: int, format: str) -> None:
        """The whole output, the file or directory `inode` in a `format`, is about to appear at its path."""
        with self._transaction():
            self._set("inode", str(inode))
            self._set("format", format)

    def published(self, format: str) -> int | None:
        """The file or directory that was about to be published in a `format`."""
        values = dict(self._rows("SELECT name, value FROM pull WHERE name IN ('inode', 'format')"))
        return int(values["inode"]) if values.get("format") == format else None

    def _prepare(self) -> None:
        db = self._db
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
        elif version != VERSION:
            raise OutputError(
                f"the journal {self._path} is of another version of bulkpull: go on with that one, or start over"
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, disk_errors(f"write the journal {self._path}", at=self._path), self._db as db:
            yield db

    def _rows(self, query: str) -> list[Any]:
        with self._lock, disk_errors(f"read the journal {self._path}"), closing(self._db.execute(query)) as rows:
            return rows.fetchall()

    def _value(self, name: str) -> str | None:
        row = self._db.execute("SELECT value FROM pull WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def _set(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO pull VALUES (?, ?)", (name, value))


def _window(number: int, start: str, end: str) -> Window:
    return Window(number, datetime.fromisoformat(start), datetime.fromisoformat(end))
