"""A table in SQLite."""
# ruff: noqa: S608 - names are quoted by `quoted`, and values by `literal`

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

from bulkpull.disk import disk_errors
from bulkpull.errors import OutputError, UsageError
from bulkpull.rows.instants import nanoseconds
from bulkpull.source import Columns
from bulkpull.tables.database import Database
from bulkpull.tables.lock import LockFile
from bulkpull.tables.reading import csv_rows
from bulkpull.tables.sql import literal, quoted
from bulkpull.tables.table import Delivery, Policy

BUSY_TIMEOUT_S = 60.0  # for other writers
_EPOCH = datetime(1970, 1, 1)  # in UTC
_CANONICAL = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class SqliteTable(Database):
    """A table in an SQLite database. Times are text in ISO 8601, in UTC with milliseconds."""

    _product = "SQLite"
    text_type = "TEXT"
    time_type = "TEXT"
    texts: ClassVar = frozenset({"TEXT"})
    types = re.compile("text|integer|bigint|int|real|numeric")
    differs = "IS NOT"
    bound = "{}"  # without the Z, which would sort behind the digits of finer times
    prepare = "CREATE INDEX {table}_id ON {table} ({id})"

    def __init__(
        self,
        path: Path,
        columns: Columns,
        *,
        table: str,
        schema: str | None = None,
        types: Mapping[str, str] | None = None,
    ) -> None:
        if schema is not None:
            raise UsageError("SQLite databases have no schemas")
        super().__init__(columns, table=table, types=types)
        if table.lower().startswith("sqlite_"):
            raise UsageError(f"the table {table!r} cannot be created: SQLite reserves its name")
        self._path = path
        self._lock = LockFile(path.with_name(f".{path.name}.{table}.lock".replace("/", "_")))
        self._connection: sqlite3.Connection | None = None

    @property
    def name(self) -> str:
        """See `Table.name`."""
        return f"{self._table} in {self._path}"

    @property
    def identity(self) -> str:
        """See `Database.identity`."""
        return f"{self._table.lower()} in {self._path.resolve()}"

    def open(self, *, create: bool) -> None:
        """See `Table.open`."""
        if not create and not self._path.exists():
            return
        self._lock.claim(self.name)
        try:
            with disk_errors(f"open {self.name}"):
                is_new = not self._path.exists() or not self._path.stat().st_size
                # Every call is made in a thread, one at a time.
                self._connection = sqlite3.connect(
                    self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
                )
                if create:
                    if is_new:
                        self.run("PRAGMA journal_mode = WAL")  # readers go on while rows are written
                    with self._transaction():
                        self._create_state_tables()
                self._described(self._table)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """See `Table.close`."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._lock.release()

    def run(self, statement: str) -> int:
        """Execute a statement; return the number of rows that it changed."""
        return self._connected.execute(statement).rowcount

    def rows(self, query: str) -> Iterable[tuple[Any, ...]]:
        """Return the rows of a query."""
        return self._connected.execute(query).fetchall()

    def stream(self, query: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query."""
        yield from self._connected.execute(query)

    @property
    def _connected(self) -> sqlite3.Connection:
        assert self._connection is not None, "the table is not open"
        return self._connection

    @contextmanager
    def _session(self, purpose: str, *, writes: bool = False) -> Iterator[bool]:
        with disk_errors(f"{purpose} {self.name}", at=self._path):
            yield self._connection is not None

    def _begin(self) -> None:
        self.run("BEGIN IMMEDIATE")  # a transaction that starts as a reader may fail to become a writer

    def _described(self, table: str) -> dict[str, str] | None:
        kinds = [
            kind
            for (kind,) in self.rows(f"SELECT type FROM sqlite_master WHERE lower(name) = {literal(table.lower())}")
        ]
        if not kinds:
            return None
        if kinds[0] != "table":
            raise OutputError(f"{self.name} is not a table, but a {kinds[0]}: choose another name")
        return {name: type.upper() for _, name, type, *_ in self.rows(f"PRAGMA table_info({quoted(table)})")}

    def _canonical(self, type: str) -> str:
        return type.upper()

    def _load(self, target: str, names: Mapping[str, str], delivery: Delivery, policy: Policy) -> None:
        columns = ", ".join(map(quoted, names.values()))
        statement = f"INSERT INTO {target} ({columns}) VALUES ({', '.join('?' * len(names))})"
        key_at, time_at = (delivery.columns.index(name) for name in (self._columns.key, self._columns.time))

        def canonical(row: tuple[str | None, ...]) -> tuple[str | None, ...]:
            time = row[time_at]
            if time is not None and _CANONICAL.fullmatch(time):
                return row
            return (*row[:time_at], _canonical_time(time, row[key_at], self._columns.time), *row[time_at + 1 :])

        for rows in csv_rows(delivery.rows, self._columns.key):
            self._connected.executemany(statement, map(canonical, rows))

    def _index(self) -> None:
        for column, kind in ((self._columns.key, "UNIQUE INDEX"), (self._columns.time, "INDEX")):
            name = column.replace(".", "_")
            index = quoted(f"{self._table}_{name}")
            self.run(f"CREATE {kind} IF NOT EXISTS {index} ON {self._target} ({quoted(name)})")


def _canonical_time(time: str | None, id: str | None, column: str) -> str:
    """Return an instant as ISO 8601 in UTC: with milliseconds, or nine digits if it is finer."""
    moment = None if time is None else nanoseconds(time.encode(), zone=b"Z")
    if moment is None:
        raise OutputError(f"the row with id {id} has the {column} {time!r}, which is not an instant")
    seconds, fraction = divmod(moment, 1_000_000_000)
    whole = (_EPOCH + timedelta(seconds=seconds)).isoformat()
    return f"{whole}.{fraction:09d}Z" if fraction % 1_000_000 else f"{whole}.{fraction // 1_000_000:03d}Z"
