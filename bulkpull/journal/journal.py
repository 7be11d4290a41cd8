"""The journal: what a pull has done, so that it is never done twice, whatever ends the process.

It is a SQLite database in the directory beside the output. In WAL mode with `synchronous=FULL` a committed record
survives a power cut, and not only the process ("PRAGMA synchronous", sqlite.org): an export whose id were lost could
never be found again. A commit costs one sync of the disk, and a window needs half a dozen of them.

Signed links are secrets and stay out of it, and so does the token.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import orjson

from bulkpull.disk import disk_errors
from bulkpull.errors import OutputError
from bulkpull.window import Window, instant

Verdict = Literal["found", "refuted", "open"]  # whether exports end at a number of records
VERSION = 3  # of the tables
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_BOOT_ID_OF_MACOS = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
_TABLES = """
CREATE TABLE pull (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE option (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE window (number INTEGER PRIMARY KEY, start TEXT NOT NULL, end TEXT NOT NULL, rows INTEGER, parent INTEGER,
    delivered INTEGER, skipped TEXT);
CREATE VIEW active AS SELECT * FROM window WHERE number NOT IN (SELECT parent FROM window WHERE parent NOT NULL)
    ORDER BY start;
CREATE TABLE export (number INTEGER PRIMARY KEY, window INTEGER NOT NULL, launched TEXT NOT NULL, id TEXT,
    exported INTEGER NOT NULL DEFAULT 0, failure TEXT);
CREATE INDEX export_of_window ON export (window);
CREATE TABLE part (window INTEGER NOT NULL, number INTEGER NOT NULL, name TEXT NOT NULL, export TEXT NOT NULL,
    validator TEXT, length INTEGER, size INTEGER, checksum TEXT, PRIMARY KEY (window, number));
CREATE TABLE merged (window INTEGER PRIMARY KEY, parts INTEGER NOT NULL, rows INTEGER NOT NULL,
    duplicates INTEGER NOT NULL, conflicts INTEGER NOT NULL, outside INTEGER NOT NULL, records INTEGER NOT NULL,
    ids INTEGER NOT NULL, output INTEGER NOT NULL, columns TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class PartRecord:
    """One file of the export `export_id`. `name` tells it from the export's others, whatever link leads to it.

    `validator` and `length` are set where a half file can go on from its last byte, `size` (bytes) and `checksum`
    once it is whole.
    """

    number: int
    name: str
    export_id: str
    validator: str | None = None
    length: int | None = None
    size: int | None = None
    checksum: str | None = None


@dataclass(frozen=True, slots=True)
class ExportRecord:
    """One of a window's exports, launched `age` seconds ago and not known to have failed; `exported` once it succeeded,
    with these parts."""

    id: str
    age: float
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
class Outcome:
    """What a window came to. `records` its newest export delivered, `ids` of all its exports were different, `rows` are
    in the output: all None until it is merged. Where it was cut before, `delivered` different ids had come of it."""

    window: Window
    parent: int | None
    delivered: int | None
    records: int | None
    ids: int | None
    rows: int | None
    is_skipped: bool


@dataclass(frozen=True, slots=True)
class Frontier:
    """How far the merge has come: the first `windows` are in the output's first `offset` bytes, under `columns`."""

    windows: int
    offset: int
    columns: tuple[str, ...]
    figures: Figures


class Journal:
    """The journal at `path`. Every method but `close` blocks on the disk; they may be called from any thread.

    What a method has recorded is durable when it returns. With `read_only` nothing on the disk changes, no lock is
    held against a pull that is writing, and the journal must be there. Raises OutputError.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        self._lock = threading.Lock()
        with disk_errors(f"open the journal {path}", at=None if read_only else path):
            if read_only:
                self._db = sqlite3.connect(_read_only(path), uri=True, check_same_thread=False)
            else:
                self._db = sqlite3.connect(path, check_same_thread=False)
            try:
                self._prepare(read_only=read_only)
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        """Lets go of the file."""
        with self._lock:
            self._db.close()

    # What the pull is

    def begin(
        self,
        options: Mapping[str, str],
        end: datetime,
        windows: Iterable[Window],
        total: int | None = None,
        doubt: str = "",
    ) -> None:
        """The first run: what was asked for, where the range ends, and the plan; how much was counted in all, where the
        windows were not counted, and why counts cannot be trusted, if so."""
        with self._transaction() as db:
            self._set("end", instant(end))
            if doubt:
                self._set("doubt", doubt)
            if total is not None:
                self._set("total", str(total))
            db.executemany("INSERT INTO option VALUES (?, ?)", options.items())
            db.executemany(
                "INSERT INTO window (number, start, end, rows) VALUES (?, ?, ?, ?)",
                ((window.index, instant(window.start), instant(window.end), window.rows) for window in windows),
            )

    def start_run(self) -> int:
        """A run starts; returns its number, from 1.

        Half files are trusted only as long as the machine has been up: a power cut may leave less of a file than was
        written, or zeros. Where the system has no id of its start, none is trusted.
        """
        boot = _boot_id()
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
    def end(self) -> str:
        """Where the range ends."""
        return self._text("end")

    @property
    def windows(self) -> tuple[Window, ...]:
        """The plan as it is now, pieces in the place of what was cut."""
        return self._active()

    @property
    def waiting(self) -> tuple[Window, ...]:
        """The windows that are to be merged yet."""
        return self._active("WHERE skipped IS NULL AND number NOT IN (SELECT window FROM merged)")

    @property
    def skipped(self) -> tuple[Window, ...]:
        """The windows that are left out."""
        return self._active("WHERE skipped NOT NULL")

    @property
    def splits(self) -> int:
        """How many windows were cut."""
        return int(self._rows("SELECT count(DISTINCT parent) FROM window")[0][0])

    def outcomes(self) -> list[Outcome]:
        """Of all windows, in the order of their numbers, those that were cut included."""
        rows = self._rows(
            "SELECT number, start, end, window.rows, parent, window.delivered, records, ids, merged.rows, "
            "skipped NOT NULL AS left_out FROM window LEFT JOIN merged ON merged.window = number ORDER BY number"
        )
        return [Outcome(_window(*row[:4]), *row[4:]) for row in rows]

    @property
    def total(self) -> int | None:
        """What was counted in the whole range before counting failed; None where each window was counted, or nothing
        was."""
        text = self._text("total")
        return int(text) if text else None

    @property
    def doubt(self) -> str:
        """Why the API's counts cannot be trusted; empty where they can, as far as is known."""
        return self._text("doubt")

    def distrust(self, reason: str) -> None:
        """The API's counts cannot be trusted."""
        with self._transaction():
            self._set("doubt", reason)

    def recounted(self, window: Window) -> None:
        """The window was counted again."""
        with self._transaction() as db:
            db.execute("UPDATE window SET rows = ? WHERE number = ?", (window.rows, window.index))

    @property
    def caps(self) -> dict[int, Verdict]:
        """By a number of records that several exports delivered, whether exports end there: found, refuted or open."""
        rows = self._rows("SELECT name, value FROM pull WHERE name LIKE 'cap %'")
        return {int(name.removeprefix("cap ")): value for name, value in rows}

    def judge_cap(self, records: int, verdict: Verdict) -> None:
        """Whether exports end at so many records: found, refuted or open."""
        with self._transaction():
            self._set(f"cap {records}", verdict)

    @property
    def pid(self) -> int | None:
        """The process that opened the journal last to write it."""
        pid = self._text("pid")
        return int(pid) if pid else None

    @property
    def runs(self) -> int:
        """How often the pull was begun or resumed."""
        return int(self._text("runs") or 0)

    def by_window(self) -> list[tuple[Any, ...]]:
        """For each window its launches, of the last export the id, whether it succeeded, and its failure; its parts,
        those that are whole, the parts merged, their rows, and why the window is left out."""
        rows = self._rows(
            "SELECT active.number, active.start, active.end, active.rows, "
            "(SELECT count(*) FROM export WHERE export.window = active.number), last.id, last.exported, last.failure, "
            "(SELECT count(*) FROM part WHERE part.window = active.number), "
            "(SELECT count(size) FROM part WHERE part.window = active.number), merged.parts, merged.rows, "
            "active.skipped FROM active "
            "LEFT JOIN merged ON merged.window = active.number LEFT JOIN export AS last ON last.number = "
            "(SELECT max(number) FROM export WHERE export.window = active.number) ORDER BY active.start"
        )
        return [(_window(*row[:4]), *row[4:]) for row in rows]

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

    def unanswered(self, launch: int) -> None:
        """The launch ended without an answer: the API may have made an export, whose id is not known."""
        with self._transaction() as db:
            reason = "the launch was not answered: an export was perhaps made"
            db.execute("UPDATE export SET failure = ? WHERE number = ?", (reason, launch))

    def refused(self, launch: int) -> None:
        """The API answered that it made no export."""
        with self._transaction() as db:
            db.execute("DELETE FROM export WHERE number = ?", (launch,))

    def exported(self, window: Window, export_id: str, parts: Iterable[PartRecord]) -> None:
        """The export succeeded, with these parts, in addition to those that are known already."""
        with self._transaction() as db:
            db.execute("UPDATE export SET exported = 1 WHERE id = ?", (export_id,))
            db.executemany(
                "INSERT INTO part (window, number, name, export) VALUES (?, ?, ?, ?)",
                ((window.index, part.number, part.name, export_id) for part in parts),
            )

    def failed(self, window: Window, export_id: str, reason: str) -> None:
        """The export will not do, nor will its parts."""
        with self._transaction() as db:
            db.execute("UPDATE export SET failure = ? WHERE id = ?", (reason, export_id))
            db.execute("DELETE FROM part WHERE window = ? AND export = ?", (window.index, export_id))

    def cut(self, window: Window, pieces: Sequence[Window], delivered: int | None) -> tuple[Window, ...]:
        """The window is cut into pieces, which get the next numbers; `delivered` different ids came of its exports so
        far, if any did. Its parts go. Returns the numbered pieces."""
        with self._transaction() as db:
            [(first,)] = db.execute("SELECT max(number) + 1 FROM window")
            numbered = tuple(replace(piece, index=first + place) for place, piece in enumerate(pieces))
            db.execute("UPDATE window SET delivered = ? WHERE number = ?", (delivered, window.index))
            db.execute("DELETE FROM part WHERE window = ?", (window.index,))
            db.executemany(
                "INSERT INTO window (number, start, end, rows, parent) VALUES (?, ?, ?, ?, ?)",
                (
                    (piece.index, instant(piece.start), instant(piece.end), piece.rows, window.index)
                    for piece in numbered
                ),
            )
        return numbered

    def skip(self, window: Window, reason: str) -> None:
        """The window is left out, for good."""
        with self._transaction() as db:
            db.execute("UPDATE window SET skipped = ? WHERE number = ?", (reason, window.index))
            db.execute("DELETE FROM part WHERE window = ?", (window.index,))

    @property
    def launches(self) -> int:
        """How many exports were launched, those whose answer was lost included."""
        return int(self._rows("SELECT count(*) FROM export")[0][0])

    @property
    def unlaunched(self) -> set[int]:
        """The windows of the plan, by index, that no export was launched for."""
        rows = self._rows(
            "SELECT number FROM window WHERE parent IS NULL AND number NOT IN (SELECT window FROM export)"
        )
        return {number for (number,) in rows}

    @property
    def planned(self) -> int:
        """The windows of the plan, as it was at first."""
        return int(self._rows("SELECT count(*) FROM window WHERE parent IS NULL")[0][0])

    def exports(self) -> dict[int, tuple[ExportRecord, ...]]:
        """By the window's index, the exports of windows that are not merged yet, in the order of their launches."""
        now = datetime.now(UTC)
        parts: dict[str, list[PartRecord]] = {}
        for record in self._rows(
            "SELECT number, name, export, validator, length, size, checksum FROM part ORDER BY window, number"
        ):
            part = PartRecord(*record)
            parts.setdefault(part.export_id, []).append(part)
        exports: dict[int, tuple[ExportRecord, ...]] = {}
        for window, id, launched, exported in self._rows(
            "SELECT window, id, launched, exported FROM export WHERE id NOT NULL AND failure IS NULL "
            "AND window NOT IN (SELECT window FROM merged) ORDER BY number"
        ):
            record = ExportRecord(id, _age(launched, now), bool(exported), tuple(parts.get(id, ())))
            exports[window] = (*exports.get(window, ()), record)
        return exports

    # Parts

    def last_part(self, window: Window) -> int:
        """The highest number of the window's parts; 0 where it has none."""
        [(last,)] = self._rows("SELECT ifnull(max(number), 0) FROM part WHERE window = ?", window.index)
        return int(last)

    def transferring(self, window: Window, part: int, validator: str | None, length: int | None) -> None:
        """A part's bytes begin to stand on the disk; under `validator`, if any, they may be completed later."""
        with self._transaction() as db:
            db.execute(
                "UPDATE part SET validator = ?, length = ? WHERE window = ? AND number = ?",
                (validator, length, window.index, part),
            )

    def damaged(self, window: Window, part: int) -> None:
        """A part that was whole is to be downloaded again."""
        with self._transaction() as db:
            db.execute(
                "UPDATE part SET validator = NULL, length = NULL, size = NULL, checksum = NULL "
                "WHERE window = ? AND number = ?",
                (window.index, part),
            )

    def fetched(self, window: Window, part: int, size: int, checksum: str) -> None:
        """A part stands whole on the disk."""
        with self._transaction() as db:
            db.execute(
                "UPDATE part SET size = ?, checksum = ? WHERE window = ? AND number = ?",
                (size, checksum, window.index, part),
            )

    # The merge

    def merged(
        self, window: Window, figures: Figures, offset: int, columns: Sequence[str], *, records: int, ids: int
    ) -> None:
        """A window's rows are in the output's first `offset` bytes, which are on the disk; its newest export
        delivered so many `records`, and `ids` of all its exports were different."""
        with self._transaction() as db:
            values = {"window": window.index, "output": offset, "columns": orjson.dumps(list(columns)).decode()}
            values |= {"records": records, "ids": ids}
            db.execute(
                "INSERT INTO merged (window, parts, rows, duplicates, conflicts, outside, records, ids, output, "
                "columns) VALUES (:window, :parts, :rows, :duplicates, :conflicts, :outside, :records, :ids, "
                ":output, :columns)",
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
        last = self._rows("SELECT output, columns FROM merged ORDER BY output DESC, length(columns) DESC LIMIT 1")
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

    def _prepare(self, *, read_only: bool) -> None:
        db = self._db
        if not read_only:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA fullfsync = ON")  # macOS: through the disk's cache; elsewhere a no-op
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0 and read_only:
            raise OutputError(f"the journal {self._path} is empty: its pull has not begun")
        if version == 0:
            db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
        elif version != VERSION:
            raise OutputError(
                f"the journal {self._path} is of another version of bulkpull: go on with that one, or start over"
            )
        if not read_only:
            with db:
                self._set("pid", str(os.getpid()))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, disk_errors(f"write the journal {self._path}", at=self._path), self._db as db:
            yield db

    def _active(self, condition: str = "") -> tuple[Window, ...]:
        rows = self._rows(f"SELECT number, start, end, rows FROM active {condition}")  # noqa: S608
        return tuple(_window(*row) for row in rows)

    def _rows(self, query: str, *values: object) -> list[Any]:
        with (
            self._lock,
            disk_errors(f"read the journal {self._path}"),
            closing(self._db.execute(query, values)) as rows,
        ):
            return rows.fetchall()

    def _text(self, name: str) -> str:
        """What is kept under a name; empty where nothing is."""
        rows = self._rows("SELECT value FROM pull WHERE name = ?", name)
        return str(rows[0][0]) if rows else ""

    def _value(self, name: str) -> str | None:
        row = self._db.execute("SELECT value FROM pull WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def _set(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO pull VALUES (?, ?)", (name, value))


def _read_only(path: Path) -> str:
    """A URI for SQLite that neither makes nor changes a file, whether or not a pull is writing.

    As long as one is writing, or was killed, the log stands beside the journal, and its index is only read. Without a
    log the journal is all there is, and nobody is changing it.
    """
    logged = path.with_name(f"{path.name}-wal").exists()
    return f"{path.absolute().as_uri()}?mode=ro&{'readonly_shm=1' if logged else 'immutable=1'}"


def _boot_id() -> str:
    """Names the time since the machine was started; a new name each time where the system has none."""
    with suppress(OSError):
        return _BOOT_ID.read_text().strip()
    with suppress(OSError, subprocess.SubprocessError):
        asked = subprocess.run(_BOOT_ID_OF_MACOS, capture_output=True, text=True, timeout=5, check=True)  # noqa: S603
        if said := asked.stdout.strip():
            return said
    return str(uuid4())


def _window(number: int, start: str, end: str, rows: int | None) -> Window:
    return Window(number, datetime.fromisoformat(start), datetime.fromisoformat(end), rows)


def _age(launched: str, now: datetime) -> float:
    """Seconds; at least a little, whatever the clocks say."""
    return max(0.001, (now - datetime.fromisoformat(launched)).total_seconds())
