"""The journal: what a pull has done, so that it is never done twice, however the process ends.

It is a SQLite database in the work directory. In WAL mode with `synchronous=FULL` a committed record survives a power
cut, not only the end of the process ("PRAGMA synchronous", sqlite.org): an export whose id is lost can never be found
again. A commit costs one sync of the disk, and a window takes about six.

Signed links are secrets and are not recorded, nor is the token.
"""

from __future__ import annotations

import sqlite3
import subprocess
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import orjson

from bulkpull.disk import disk_errors
from bulkpull.journal.reading import JournalReader
from bulkpull.journal.records import Figures, PartRecord, PlacedConflict, Verdict
from bulkpull.journal.tables import open_for_writing
from bulkpull.journal.timeline import Moment
from bulkpull.journal.trouble import Trouble
from bulkpull.window import Window, instant

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_BOOT_ID_OF_MACOS = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
_MOMENTS_INTERVAL_S = 1.0  # between transactions that record moments: each of them writes one more page


class Journal(JournalReader):
    """The journal at `path`, which is created if needed, to write and read.

    What a method has recorded is durable when it returns, unless `is_durable` is false. The methods block on the disk
    and may be called from any thread. All raise OutputError.

    `moments` wait to be recorded with whatever is recorded next: they are worth no commit of their own.
    """

    def __init__(self, path: Path, *, is_durable: bool = True, moments: deque[Moment] | None = None) -> None:
        self._is_durable = is_durable
        self._moments = deque() if moments is None else moments
        self._moments_recorded_at = 0.0
        super().__init__(path)

    # The pull

    def begin(
        self,
        options: Mapping[str, str],
        end: datetime,
        windows: Iterable[Window],
        total: int | None = None,
        doubt: str = "",
    ) -> None:
        """Record a new pull.

        Args:
            options: What it was asked for.
            end: The end of the range, exclusive.
            windows: The plan.
            total: The count of the whole range, if the windows were not counted.
            doubt: Why counts cannot be trusted, if so.
        """
        with self._transaction() as db:
            _set(db, "end", instant(end))
            if doubt:
                _set(db, "doubt", doubt)
            if total is not None:
                _set(db, "total", str(total))
            db.executemany("INSERT INTO option VALUES (?, ?)", options.items())
            _insert_windows(db, windows, parent=None)

    def start_run(self) -> int:
        """Record that a run starts; returns its number, from 1.

        Incomplete files are resumed only until the machine restarts: after a power cut a file may be shorter than what
        was written, or hold zeros. If the system has no boot id, none is resumed.
        """
        boot = _boot_id()
        with self._transaction() as db:
            before = dict(db.execute("SELECT name, value FROM pull WHERE name IN ('boot', 'runs')"))
            if before.get("boot") != boot:
                db.execute("UPDATE part SET validator = NULL, length = NULL WHERE size IS NULL")
            run = int(before.get("runs", 0)) + 1
            _set(db, "trouble", "")
            _set(db, "boot", boot)
            _set(db, "runs", str(run))
        return run

    def distrust_counts(self, reason: str) -> None:
        """Record why the API's counts cannot be trusted."""
        with self._transaction() as db:
            _set(db, "doubt", reason)

    def record_cap(self, records: int, verdict: Verdict) -> None:
        """Record whether exports are truncated at this number of records."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO cap VALUES (?, ?)", (records, verdict))

    def record_trouble(self, trouble: Trouble | None) -> None:
        """Record what the pull waits out; None if it is over."""
        with self._transaction() as db:
            _set(db, "trouble", trouble.encoded() if trouble else "")

    def record_receipt(self, receipt: str) -> None:
        """Record that the output with the destination's `receipt` is about to be published."""
        with self._transaction() as db:
            _set(db, "receipt", receipt)

    # Windows

    def record_count(self, window: Window) -> None:
        """Record the window's new count."""
        with self._transaction() as db:
            db.execute("UPDATE window SET activities = ? WHERE number = ?", (window.rows, window.index))

    def split(self, window: Window, pieces: Sequence[Window], ids: int | None) -> tuple[Window, ...]:
        """Replace a window by pieces, and forget its parts. `ids` is how many different ids its exports have delivered,
        if any. Returns the pieces with the next free indexes."""
        with self._transaction() as db:
            [(first,)] = db.execute("SELECT max(number) + 1 FROM window")
            numbered = tuple(replace(piece, index=first + place) for place, piece in enumerate(pieces))
            db.execute("UPDATE window SET ids_before_split = ? WHERE number = ?", (ids, window.index))
            db.execute("DELETE FROM part WHERE window = ?", (window.index,))
            _insert_windows(db, numbered, parent=window.index)
        return numbered

    def skip(self, window: Window, reason: str) -> None:
        """Leave the window out for good, and forget its parts."""
        with self._transaction() as db:
            db.execute("UPDATE window SET skip_reason = ? WHERE number = ?", (reason, window.index))
            db.execute("DELETE FROM part WHERE window = ?", (window.index,))

    # Exports

    def record_launch(self, window: Window) -> int:
        """Record that an export is about to be launched; returns the number of the launch."""
        with self._transaction() as db:
            now = datetime.now(UTC).isoformat()
            number = db.execute("INSERT INTO export (window, launched) VALUES (?, ?)", (window.index, now)).lastrowid
        assert number is not None
        return number

    def record_export(self, launch: int, export_id: str) -> None:
        """Record the export that the API created for the launch."""
        with self._transaction() as db:
            db.execute("UPDATE export SET id = ? WHERE number = ?", (export_id, launch))

    def record_lost_answer(self, launch: int) -> None:
        """Record that the launch got no answer: it may have created an export, whose id is unknown."""
        with self._transaction() as db:
            reason = "the launch was not answered; it may have created an export"
            db.execute("UPDATE export SET failure = ? WHERE number = ?", (reason, launch))

    def forget_launch(self, launch: int) -> None:
        """Remove a launch: the API answered that it created no export."""
        with self._transaction() as db:
            db.execute("DELETE FROM export WHERE number = ?", (launch,))

    def record_success(self, window: Window, export_id: str, parts: Iterable[PartRecord]) -> None:
        """Record that the export has succeeded, with these parts in addition to those recorded before."""
        with self._transaction() as db:
            db.execute("UPDATE export SET has_succeeded = 1 WHERE id = ?", (export_id,))
            db.executemany(
                "INSERT INTO part (window, number, name, export) VALUES (?, ?, ?, ?)",
                ((window.index, part.number, part.name, export_id) for part in parts),
            )

    def record_failure(self, window: Window, export_id: str, reason: str) -> None:
        """Record that the export cannot be used, and forget its parts."""
        with self._transaction() as db:
            db.execute("UPDATE export SET failure = ? WHERE id = ?", (reason, export_id))
            db.execute("DELETE FROM part WHERE window = ? AND export = ?", (window.index, export_id))

    # Parts

    def record_partial_part(self, window: Window, part: int, validator: str | None, length: int | None) -> None:
        """Record that a part is being written; with a `validator` it can be resumed."""
        with self._transaction() as db:
            db.execute(
                "UPDATE part SET validator = ?, length = ? WHERE window = ? AND number = ?",
                (validator, length, window.index, part),
            )

    def record_complete_part(self, window: Window, part: int, size: int, checksum: str) -> None:
        """Record that a part is complete on the disk."""
        with self._transaction() as db:
            db.execute(
                "UPDATE part SET size = ?, checksum = ? WHERE window = ? AND number = ?",
                (size, checksum, window.index, part),
            )

    def reset_part(self, window: Window, part: int) -> None:
        """Record that a part has to be downloaded again."""
        with self._transaction() as db:
            db.execute(
                "UPDATE part SET validator = NULL, length = NULL, size = NULL, checksum = NULL "
                "WHERE window = ? AND number = ?",
                (window.index, part),
            )

    # The merge

    def record_merge(
        self,
        window: Window,
        figures: Figures,
        offset: int,
        columns: Sequence[str],
        *,
        records: int,
        ids: int,
        conflicts: Iterable[tuple[Mapping[str, str | None], Mapping[str, str | None]]] = (),
        scattered: Sequence[str] = (),
    ) -> None:
        """Record that a window is merged and synced, and forget its parts.

        Args:
            window: The window.
            figures: Its figures.
            offset: The size of the merged CSV behind its rows.
            columns: The header of the merged CSV.
            records: How many records its newest export delivered.
            ids: How many different ids all its exports delivered.
            conflicts: The conflicts to be reported: the rows that are kept, and the later ones.
            scattered: The names of its scattered parts, in order, if it is merged on a cluster.
        """
        with self._transaction() as db:
            values = {"window": window.index, "csv_size": offset, "columns": orjson.dumps(list(columns)).decode()}
            values |= {"records": records, "ids": ids}
            db.execute(
                "INSERT INTO merge "
                "(window, csv_size, columns, records, ids, parts, rows, duplicates, conflicts, outside) VALUES "
                "(:window, :csv_size, :columns, :records, :ids, :parts, :rows, :duplicates, :conflicts, :outside)",
                values | asdict(figures),
            )
            db.executemany(
                "INSERT INTO conflict VALUES (?, ?, ?)",
                (
                    (window.index, orjson.dumps(kept).decode(), orjson.dumps(other).decode())
                    for kept, other in conflicts
                ),
            )
            db.executemany(
                "UPDATE scattered SET place = (SELECT ifnull(max(place), 0) + 1 FROM scattered) WHERE name = ?",
                ((name,) for name in scattered),
            )
            db.execute("DELETE FROM part WHERE window = ?", (window.index,))

    # On a cluster

    def record_scattered(self, window: Window, part: int, name: str, facts: bytes) -> None:
        """Record that the rows of a part are in the storage under a name."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO scattered (name, window, number, facts) VALUES (?, ?, ?, ?)",
                (name, window.index, part, facts),
            )

    def replace_scattered(self, name: str, new_name: str, facts: bytes) -> None:
        """Record that the rows of a part are in the storage under another name."""
        with self._transaction() as db:
            db.execute("UPDATE scattered SET name = ?, facts = ? WHERE name = ?", (new_name, facts, name))

    def record_buckets(self, buckets: int) -> None:
        """Record into how many buckets the rows are divided."""
        with self._transaction() as db:
            _set(db, "buckets", str(buckets))

    def record_bucket(self, bucket: int, facts: bytes, conflicts: Iterable[PlacedConflict] = ()) -> None:
        """Record that the files of a bucket are in the storage, and its conflicts that are to be reported."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO bucket VALUES (?, ?)", (bucket, facts))
            db.execute("DELETE FROM bucket_conflict WHERE bucket = ?", (bucket,))
            db.executemany(
                "INSERT INTO bucket_conflict VALUES (?, ?, ?, ?, ?, ?)",
                (
                    (
                        bucket,
                        one.window,
                        one.place,
                        one.id,
                        *(orjson.dumps(row).decode() for row in (one.kept, one.other)),
                    )
                    for one in conflicts
                ),
            )

    def record_figures(self, figures: Mapping[int, Figures]) -> None:
        """Record the figures of merged windows, by index, except for their parts, in place of those that were recorded
        before."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE merge SET rows = :rows, duplicates = :duplicates, conflicts = :conflicts, "
                "outside = :outside WHERE window = :window",
                ({"window": index} | asdict(found) for index, found in figures.items()),
            )

    # The timeline

    def record_moments(self) -> None:
        """Record the moments that still wait."""
        self._moments_recorded_at = 0.0
        with self._transaction():
            pass

    def _open(self) -> sqlite3.Connection:
        return open_for_writing(self._path, is_durable=self._is_durable)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, disk_errors(f"write the journal {self._path}", at=self._path), self._db as db:
            yield db
            now = time.monotonic()
            if now >= self._moments_recorded_at + _MOMENTS_INTERVAL_S:
                self._moments_recorded_at = now
                db.executemany("INSERT INTO moment VALUES (?, ?, ?, ?, ?, ?)", self._taken_moments())

    def _taken_moments(self) -> Iterator[tuple[object, ...]]:
        """Yield the moments that wait, until there is none; others may come meanwhile."""
        with suppress(IndexError):
            while True:
                yield self._moments.popleft()


def _set(db: sqlite3.Connection, name: str, value: str) -> None:
    db.execute("INSERT OR REPLACE INTO pull VALUES (?, ?)", (name, value))


def _insert_windows(db: sqlite3.Connection, windows: Iterable[Window], *, parent: int | None) -> None:
    db.executemany(
        "INSERT INTO window (number, start, end, activities, parent) VALUES (?, ?, ?, ?, ?)",
        ((window.index, instant(window.start), instant(window.end), window.rows, parent) for window in windows),
    )


def _boot_id() -> str:
    """The id of the machine's current boot; a new id on each call if the system has none."""
    with suppress(OSError):
        return _BOOT_ID.read_text().strip()
    with suppress(OSError, subprocess.SubprocessError):
        sysctl = subprocess.run(_BOOT_ID_OF_MACOS, capture_output=True, text=True, timeout=5, check=True)  # noqa: S603
        if boot := sysctl.stdout.strip():
            return boot
    return str(uuid4())
