"""The journal's SQLite database: its tables and how it is opened."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bulkpull.disk import disk_errors
from bulkpull.errors import OutputError

VERSION = 4  # of the tables

# window: the plan, and the pieces of windows that were split (parent). activities: its count by the API.
# merge: the merged windows. csv_size: the size of the merged CSV behind a window's rows.
_TABLES = """
CREATE TABLE pull (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE option (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE cap (records INTEGER PRIMARY KEY, verdict TEXT NOT NULL);
CREATE TABLE window (number INTEGER PRIMARY KEY, start TEXT NOT NULL, end TEXT NOT NULL, activities INTEGER,
    parent INTEGER, ids_before_split INTEGER, skip_reason TEXT);
CREATE VIEW active AS SELECT * FROM window WHERE number NOT IN (SELECT parent FROM window WHERE parent NOT NULL);
CREATE TABLE export (number INTEGER PRIMARY KEY, window INTEGER NOT NULL, launched TEXT NOT NULL, id TEXT,
    has_succeeded INTEGER NOT NULL DEFAULT 0, failure TEXT);
CREATE INDEX export_of_window ON export (window);
CREATE TABLE part (window INTEGER NOT NULL, number INTEGER NOT NULL, name TEXT NOT NULL, export TEXT NOT NULL,
    validator TEXT, length INTEGER, size INTEGER, checksum TEXT, PRIMARY KEY (window, number));
CREATE TABLE merge (window INTEGER PRIMARY KEY, parts INTEGER NOT NULL, rows INTEGER NOT NULL,
    duplicates INTEGER NOT NULL, conflicts INTEGER NOT NULL, outside INTEGER NOT NULL, records INTEGER NOT NULL,
    ids INTEGER NOT NULL, csv_size INTEGER NOT NULL, columns TEXT NOT NULL);
"""
# See `Moment`. A journal that was created without these tables gets them when it is next opened for writing.
_MOMENTS = """
CREATE TABLE IF NOT EXISTS moment (at REAL NOT NULL, kind TEXT NOT NULL, window INTEGER, number REAL, other REAL,
    text TEXT NOT NULL)
"""
_CONFLICTS = "CREATE TABLE IF NOT EXISTS conflict (window INTEGER NOT NULL, kept TEXT NOT NULL, other TEXT NOT NULL)"
# Of a pull on a cluster: where the rows of parts are, what became of each bucket, and its conflicts. place: that of the
# part in the merge, once its window is accepted.
_CLUSTER = """
CREATE TABLE IF NOT EXISTS scattered (name TEXT PRIMARY KEY, window INTEGER NOT NULL, number INTEGER NOT NULL,
    place INTEGER, facts BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS place_of_scattered ON scattered (place);
CREATE TABLE IF NOT EXISTS bucket (number INTEGER PRIMARY KEY, facts BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS bucket_conflict (bucket INTEGER NOT NULL, window INTEGER NOT NULL, place INTEGER NOT NULL,
    id TEXT NOT NULL, kept TEXT NOT NULL, other TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS place_of_conflict ON bucket_conflict (window, place, id);
"""


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open an existing journal without changing anything on the disk, and without a lock against a pull that writes."""
    with disk_errors(f"open the journal {path}"), _closed_on_error(_read_only_uri(path), uri=True) as db:
        if _version(db) == 0:
            raise OutputError(f"the journal {path} is empty: its pull has not begun")
        _check_version(db, path)
        return db


def open_for_writing(path: Path, *, is_durable: bool) -> sqlite3.Connection:
    """Open a journal, or create it; every commit is synced if it `is_durable`."""
    with disk_errors(f"open the journal {path}", at=path), _closed_on_error(str(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'OFF'}")
        db.execute("PRAGMA fullfsync = ON")  # macOS: past the cache of the disk; a no-op elsewhere
        if _version(db) == 0:
            db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
        _check_version(db, path)
        with db:
            db.execute(_MOMENTS)
            db.execute(_CONFLICTS)
            for statement in _CLUSTER.split(";"):
                db.execute(statement)
            db.execute("INSERT OR REPLACE INTO pull VALUES ('pid', ?)", (str(os.getpid()),))
        return db


@contextmanager
def _closed_on_error(database: str, *, uri: bool = False) -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(database, uri=uri, check_same_thread=False)
    try:
        yield db
    except BaseException:
        db.close()
        raise


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _check_version(db: sqlite3.Connection, path: Path) -> None:
    if _version(db) != VERSION:
        raise OutputError(
            f"the journal {path} was written by another version of bulkpull. Resume with that version, or discard the "
            "progress with --fresh"
        )


def _read_only_uri(path: Path) -> str:
    """The URI with which SQLite neither creates nor changes a file, whether or not a pull is writing.

    While a pull writes, or after it was killed, there is a write-ahead log, whose index in shared memory is only read.
    Without a log the database is complete, and nobody changes it.
    """
    has_log = path.with_name(f"{path.name}-wal").exists()
    return f"{path.absolute().as_uri()}?mode=ro&{'readonly_shm=1' if has_log else 'immutable=1'}"
