"""A table in DuckDB."""
# ruff: noqa: S608 - names are quoted by `quoted`, and values by `literal`

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

from bulkpull.errors import FormatError, OutputError, UsageError
from bulkpull.rows.instants import nanoseconds
from bulkpull.rows.records import MAX_RECORD_BYTES
from bulkpull.source import Columns
from bulkpull.tables.database import Database
from bulkpull.tables.lock import LockFile
from bulkpull.tables.reading import csv_rows
from bulkpull.tables.sql import literal, quoted
from bulkpull.tables.table import Delivery, Policy

MEMORY_LIMIT = "1GB"  # the rest goes to a temporary directory beside the database
FILE_WAIT_S = 60.0  # for another process that has the database open
_FILE_POLL_S = 0.25
_PROCESS_WAIT_S = 3600.0  # for other tables of this process in the same database, whose rows are being replaced
_in_use: dict[Path, Lock] = {}  # by the path of the database
_TYPES = (
    r"text|varchar|uuid|boolean|bool|date|bigint|integer|int|smallint|hugeint|real|float|double|"
    r"decimal(\(\d+(, ?\d+)?\))?|numeric(\(\d+(, ?\d+)?\))?|timestamptz|timestamp|timestamp with time zone"
)


class DuckDBTable(Database):
    """A table in a DuckDB database.

    The database is open during each call only: while one process has it open for writing, no other can read it, and a
    sync waits for exports for hours.
    """

    _product = "DuckDB"
    text_type = "VARCHAR"
    time_type = "TIMESTAMP WITH TIME ZONE"
    texts: ClassVar = frozenset({"VARCHAR"})
    types = re.compile(_TYPES)
    text_of_time = "strftime({} AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%f')"

    def __init__(
        self,
        path: Path,
        columns: Columns,
        *,
        table: str,
        schema: str | None = None,
        types: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(columns, table=table, schema=schema, types=types)
        try:
            import duckdb  # noqa: F401
        except ImportError:
            raise UsageError("DuckDB needs duckdb: pip install 'bulkpull[duckdb]'") from None
        self._path = path
        held = f"{schema}.{table}" if schema else table
        self._lock = LockFile(path.with_name(f".{path.name}.{held}.lock".replace("/", "_")))
        self._connection: Any = None

    @property
    def name(self) -> str:
        """See `Table.name`."""
        return f"{self._schema}.{self._table} in {self._path}" if self._schema else f"{self._table} in {self._path}"

    @property
    def identity(self) -> str:
        """See `Database.identity`."""
        return f"{self._schema or 'main'}.{self._table}".lower() + f" in {self._path.resolve()}"

    def open(self, *, create: bool) -> None:
        """See `Table.open`."""
        if not create and not self._path.exists():
            return
        self._lock.claim(self.name)
        try:
            with self._session("open", writes=create, creates=create):
                if create:
                    with self._transaction():
                        self._create_state_tables()
                self._described(self._table)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """See `Table.close`."""
        self._lock.release()

    def run(self, statement: str) -> int:
        """Execute a statement; return the number of rows that it changed."""
        found = self._connection.execute(statement)
        is_change = statement.startswith(("INSERT", "UPDATE", "DELETE"))
        return int(found.fetchone()[0]) if is_change else 0

    def rows(self, query: str) -> Iterable[tuple[Any, ...]]:
        """Return the rows of a query."""
        found: list[tuple[Any, ...]] = self._connection.execute(query).fetchall()
        return found

    def stream(self, query: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query, a few thousand at a time."""
        cursor = self._connection.execute(query)
        while rows := cursor.fetchmany(10_000):
            yield from rows

    @contextmanager
    def _session(self, purpose: str, *, writes: bool = False, creates: bool = False) -> Iterator[bool]:
        import duckdb

        if not creates and not self._path.exists():
            yield False
            return
        # Connections of one process share the database: they must agree on `read_only`, and may not create at once.
        in_use = _in_use.setdefault(self._path.resolve(), Lock())
        if not in_use.acquire(timeout=_PROCESS_WAIT_S):
            raise OutputError(f"cannot {purpose} {self.name}: this process has used its database for an hour")
        try:
            self._connection = self._connected(read_only=not writes)
            try:
                yield True
            finally:
                self._connection.close()
                self._connection = None
        except duckdb.Error as error:
            raise OutputError(f"cannot {purpose} {self.name}: {_reason(error)}") from error
        finally:
            in_use.release()

    def _connected(self, *, read_only: bool) -> Any:
        """Open the database; wait for another process that has it open."""
        import duckdb

        deadline = time.monotonic() + FILE_WAIT_S
        while True:
            try:
                connection = duckdb.connect(str(self._path), read_only=read_only)
                break
            except duckdb.IOException as error:
                if "lock" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(_FILE_POLL_S)
        connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_progress_bar = false")  # it would go to standard output
        return connection

    def _described(self, table: str) -> dict[str, str] | None:
        schema = literal(self._schema) if self._schema else "current_schema()"
        place = f"database_name = current_database() AND schema_name = {schema}"
        named = literal(table.lower())
        if any(True for _ in self.rows(f"SELECT 1 FROM duckdb_views() WHERE {place} AND lower(view_name) = {named}")):
            raise OutputError(f"{self.name} is not a table, but a view: choose another name")
        found = self.rows(
            f"SELECT column_name, data_type FROM duckdb_columns() WHERE {place} AND lower(table_name) = {named} "
            "ORDER BY column_index"
        )
        return dict(found) or None

    def _canonical(self, type: str) -> str:
        [(name,)] = self.rows(f"SELECT typeof(CAST(NULL AS {type}))")
        return str(name)

    def _load(self, target: str, names: Mapping[str, str], delivery: Delivery, policy: Policy) -> None:
        import duckdb

        path = re.sub(r"([*?\[])", r"[\1]", str(delivery.rows))  # it would be a pattern
        read = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names.values())
        columns = ", ".join(
            quoted(name)
            if self._canonical(self._type(column)) == "VARCHAR"
            else f"CAST({quoted(name)} AS {self._type(column)})"
            for column, name in names.items()
        )
        try:
            # With several threads, the reader guesses where records start: a quote in an unquoted cell may mislead it.
            self.run(
                f"INSERT INTO {target} ({', '.join(map(quoted, names.values()))}) SELECT {columns} FROM read_csv("
                f"{literal(path)}, auto_detect = false, header = true, delim = ',', quote = '\"', escape = '\"', "
                f"new_line = '\\n', nullstr = '', allow_quoted_nulls = false, parallel = false, "
                f"max_line_size = {MAX_RECORD_BYTES}, columns = {{{read}}})"
            )
        except (duckdb.ConversionException, duckdb.InvalidInputException, duckdb.ConstraintException) as error:
            self._find_bad_row(delivery)
            raise OutputError(f"cannot store the exported rows in {self.name}: {_reason(error)}") from error

    def _find_bad_row(self, delivery: Delivery) -> None:
        """Raise FormatError if a row is not valid UTF-8, or its time is not an instant."""
        key_at, time_at = (delivery.columns.index(name) for name in (self._columns.key, self._columns.time))
        row = 0
        for rows in csv_rows(delivery.rows, self._columns.key):
            for values in rows:
                row += 1
                text = values[time_at] or ""
                if nanoseconds(text.encode(), zone=b"Z") is None:
                    raise FormatError(row, values[key_at] or "", f"{self._columns.time} {text!r} is not an instant")

    def _index(self) -> None:
        """Make none: DuckDB keeps the bounds of each column in each row group, and its indexes must fit into memory."""


def _reason(error: Exception) -> str:
    """Return the line of a message that tells most: the first one, or that of the column."""
    first, *more = str(error).splitlines() or [type(error).__name__]
    column = next((line for line in more if line.startswith("Error when converting column")), None)
    return column or first
