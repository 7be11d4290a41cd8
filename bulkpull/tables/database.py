"""What tables in all SQL databases share: names, types, the state, and the steps of a replacement."""
# ruff: noqa: S608 - names are quoted by `quoted`, and values by `literal`

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, ClassVar

import orjson

from bulkpull.disk import disk_errors, replacing
from bulkpull.errors import OutputError, UsageError
from bulkpull.source import Columns
from bulkpull.tables.sql import (
    INCOMING,
    TEMPORARY,
    Diff,
    apply,
    change_lines,
    confirm_within,
    judge,
    literal,
    quoted,
    write_changes,
)
from bulkpull.tables.table import DELETED_COLUMN, Changes, Delivery, Policy
from bulkpull.window import Window

STATE_TABLE = "_bulkpull_sync"  # a row for each table
KEPT_TABLE = "_bulkpull_kept"  # ids of rows that stay, though they are gone at the source


class Database(ABC):
    """A table in an SQL database.

    Args:
        columns: The columns that have a meaning.
        table: The name of the table.
        schema: The name of its schema; None for the default one.
        types: The types of columns, by the source's name; others are text.

    Raises:
        UsageError: a type is not one of the database's, or cannot be chosen.
    """

    text_type: ClassVar[str] = "text"
    time_type: ClassVar[str] = "timestamptz"
    texts: ClassVar[frozenset[str]] = frozenset({"text"})  # types that hold any text, as the database names them
    types: ClassVar[re.Pattern[str]]  # of columns, that users may choose
    key_collation: ClassVar[str] = ""
    temporary: ClassVar[str] = "temp"  # the schema of temporary tables
    max_name_bytes: ClassVar[int] = 255
    folds_case: ClassVar[bool] = True
    differs: ClassVar[str] = "IS DISTINCT FROM"
    bound: ClassVar[str] = "{}Z"
    text_of_time: ClassVar[str] = "{}"
    prepare: ClassVar[str] = ""

    def __init__(
        self, columns: Columns, *, table: str, schema: str | None = None, types: Mapping[str, str] | None = None
    ) -> None:
        self._columns = columns
        self._table = table
        self._schema = schema
        self._types = dict(types or {})
        for named in (table, schema):
            if named is not None and (reason := self._reason_against(named)):
                raise UsageError(f"the table or schema {named!r} {reason}")
        for name, type in self._types.items():
            if name in (columns.key, columns.time):
                raise UsageError(f"the type of the column {name} cannot be chosen")
            if not self.types.fullmatch(type.lower()):
                raise UsageError(
                    f"the type {type!r} of the column {name} is not one that {self._product} tables can have"
                )

    # What each database does in its own way

    _product: ClassVar[str]

    @property
    @abstractmethod
    def name(self) -> str:
        """How messages call it. Never contains a password."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """What is the same for all names of the table. Never contains a password."""

    @abstractmethod
    def open(self, *, create: bool) -> None:
        """See `Table.open`."""

    @abstractmethod
    def close(self) -> None:
        """See `Table.close`."""

    @abstractmethod
    def _session(self, purpose: str, *, writes: bool = False) -> AbstractContextManager[bool]:
        """Have a connection, and raise errors of the database as `cannot {purpose} {name}: {reason}`.

        False if there is no database yet.
        """

    @abstractmethod
    def run(self, statement: str) -> int:
        """Execute a statement; return the number of rows that it changed."""

    @abstractmethod
    def rows(self, query: str) -> Iterable[tuple[Any, ...]]:
        """Return the rows of a query."""

    def stream(self, query: str) -> Iterable[tuple[Any, ...]]:
        """Yield the rows of a query that may have more than fit into memory."""
        return self.rows(query)

    @abstractmethod
    def _described(self, table: str) -> dict[str, str] | None:
        """Return the columns of a table with their types; None if there is none. Raises OutputError for a view."""

    @abstractmethod
    def _load(self, target: str, names: Mapping[str, str], delivery: Delivery, policy: Policy) -> None:
        """Insert the delivered rows into an empty table. `names` are the table's of the delivered columns."""

    @abstractmethod
    def _index(self) -> None:
        """Make the indexes that are missing."""

    def _settle(self) -> None:  # noqa: B027 - only some have anything to do
        """Gather the statistics of a table that was filled."""

    def _add_columns(self, definitions: Sequence[str], delivery: Delivery) -> None:
        """Add columns to the table; what was done before in the transaction may be committed."""
        for definition in definitions:
            self.run(f"ALTER TABLE {self._target} ADD COLUMN {definition}")

    def _begin(self) -> None:
        self.run("BEGIN")

    def _lock_state(self) -> str:
        """Return what locks the row of the state that a query returns."""
        return ""

    def _confirm_privileges(self, *, alters: bool) -> None:  # noqa: B027 - files have none
        """Raise OutputError if the user may not write to the existing table, or alter it."""

    # The protocol

    def state(self) -> str | None:
        """See `Table.state`."""
        with self._session("read the state of") as exists:
            return self._state() if exists and self._described(STATE_TABLE) else None

    def count(self, windows: Sequence[Window]) -> list[int]:
        """See `Table.count`."""
        with self._session("count the rows of") as exists:
            found = self._described(self._table) if exists and self._described(STATE_TABLE) else None
            if found is None:
                return [0] * len(windows)
            diff = self._diff((), found)
            return [int(rows) for window in windows for (rows,) in self.rows(diff.count(window))]

    def columns(self) -> tuple[str, ...]:
        """See `Table.columns`."""
        with self._session("read the columns of") as exists:
            found = self._described(self._table) if exists else None
            if found is None:
                return ()
            names = {name.replace(".", "_"): name for name in self._registered() or ()}
            return tuple(
                names.get(name, name) for name in found if name != DELETED_COLUMN and (not names or name in names)
            )

    def check(self, columns: Sequence[str]) -> None:
        """See `Table.check`."""
        names = self._named(columns)
        with self._session("write to") as exists:
            if not exists:
                return
            found = self._described(self._table)
            if found is not None:
                missing = self._missing(names, found, is_ours=self._registered() is not None)
                self._confirm_privileges(alters=bool(missing) or DELETED_COLUMN not in found)
        if found is None:
            with self._session("create", writes=True), self._transaction(commits=False):
                self._create(names, marks=True)
                self.run(f"CREATE TEMPORARY TABLE {INCOMING} AS SELECT * FROM {self._target} LIMIT 0")

    def replace(self, delivery: Delivery, policy: Policy) -> Changes:
        """See `Table.replace`."""
        listing = replacing(delivery.changes) if delivery.changes else nullcontext()
        # The list is renamed last: what it tells is committed then.
        with listing as listed, self._session("replace rows of", writes=True), self._transaction():
            return self._replace(delivery, policy, listed)

    # The steps of a replacement

    def _replace(self, delivery: Delivery, policy: Policy, listed: Path | None) -> Changes:
        names = self._named(delivery.columns)
        self._confirm_state(delivery)
        found = self._described(self._table)
        registered = self._registered()
        is_ours = registered is not None
        marks = policy.deleted == "mark"
        if found is None:
            self._create(names, marks=marks)
            found = self._described(self._table)
            assert found is not None
        missing = self._missing(names, found, is_ours=is_ours)
        if marks and DELETED_COLUMN not in found:
            missing[DELETED_COLUMN] = self.time_type
        definitions = [f"{quoted(name)} {type}" for name, type in missing.items()]
        diff = self._diff(tuple(names.values()), found | missing)
        if delivery.rebuild:
            if definitions:
                self._add_columns(definitions, delivery)
            definitions, registered = [], ()
            self.run(f"DELETE FROM {self._target}")  # unlike TRUNCATE, blocks no readers
        if not any(True for _ in self.rows(f"SELECT 1 FROM {self._target} LIMIT 1")):
            if definitions:
                self._add_columns(definitions, delivery)
            changes, query = self._fill(names, delivery, policy, diff), diff.listed_rows
        else:
            self._stage(names, missing)
            self._load(INCOMING, names, delivery, policy)
            judge(self, self._diff(tuple(names.values()), found), delivery.windows, policy, self.name)
            if definitions:
                self._add_columns(definitions, delivery)
            self._index()
            changes, query = apply(self, diff, self, policy=policy, at=delivery.at), diff.listed_changes
        self._register(tuple(dict.fromkeys((*(registered or ()), *delivery.columns))), delivery.state)
        if listed is not None:
            with disk_errors(f"write {delivery.changes}"):
                write_changes(change_lines(self.stream(query), delivery.windows), listed)
        return changes

    def _fill(self, names: Mapping[str, str], delivery: Delivery, policy: Policy, diff: Diff) -> Changes:
        """Load the rows straight into the table, which is empty."""
        self.run(f"DELETE FROM {self._kept} WHERE table_name = {literal(self._table)}")
        self._load(self._target, names, delivery, policy)
        confirm_within(self, diff, self._target, delivery.windows)
        self._index()
        self._settle()
        [(inserted,)] = self.rows(f"SELECT count(*) FROM {self._target}")
        return Changes(inserted=int(inserted), rewritten=int(inserted))

    def _stage(self, names: Mapping[str, str], missing: Mapping[str, str]) -> None:
        """Create an empty INCOMING, with the types and collations of the table."""
        columns = ", ".join(
            f"CAST(NULL AS {missing[name]}) AS {quoted(name)}" if name in missing else quoted(name)
            for name in names.values()
        )
        self.run(f"CREATE TEMPORARY TABLE {INCOMING} AS SELECT {columns} FROM {self._target} LIMIT 0")

    def _create(self, names: Mapping[str, str], *, marks: bool) -> None:
        self._create_schema()
        definitions = [f"{quoted(name)} {self._definition(column)}" for column, name in names.items()]
        if marks:
            definitions.append(f"{quoted(DELETED_COLUMN)} {self.time_type}")
        self.run(f"CREATE TABLE {self._target} ({', '.join(definitions)})")

    def _definition(self, column: str) -> str:
        if column == self._columns.key:
            return f"{self.text_type}{self.key_collation} NOT NULL"
        if column == self._columns.time:
            return f"{self.time_type} NOT NULL"
        return self._type(column)

    def _type(self, column: str) -> str:
        return self.time_type if column == self._columns.time else self._types.get(column, self.text_type)

    # Names and types

    def _named(self, columns: Sequence[str]) -> dict[str, str]:
        """Return the table's names of columns. Raises OutputError if one is impossible, or two are the same."""
        names: dict[str, str] = {}
        taken = {DELETED_COLUMN: DELETED_COLUMN}
        for column in columns:
            name = column.replace(".", "_")
            folded = name.lower() if self.folds_case else name
            if folded in taken:
                raise OutputError(f"the columns {taken[folded]} and {column} would both be {name} in {self.name}")
            if reason := self._reason_against(name):
                raise OutputError(f"{self.name} cannot have the column {column!r}: its name {reason}")
            names[column], taken[folded] = name, column
        for column in (self._columns.key, self._columns.time):
            if column not in names:
                raise OutputError(f"{self.name} needs the column {column}")
        if unknown := sorted(self._types.keys() - names.keys()):
            raise UsageError(f"a type is given for {', '.join(unknown)}, which is not among the exported columns")
        return names

    def _reason_against(self, name: str) -> str:
        if not name or not name.isprintable():
            return "is empty, or has control characters"
        if len(name.encode(errors="replace")) > self.max_name_bytes:
            return f"is longer than {self.max_name_bytes} bytes"
        return ""

    def _missing(self, names: Mapping[str, str], found: Mapping[str, str], *, is_ours: bool) -> dict[str, str]:
        """Return the columns that the table lacks, with their types.

        Raises OutputError if the table is not ours and lacks a column, or if one has another type.
        """
        missing: dict[str, str] = {}
        for column, name in names.items():
            type = self._type(column)
            if name in found:
                self._confirm_type(name, found[name], type)
            elif not is_ours or column in (self._columns.key, self._columns.time):
                raise OutputError(f"{self.name} exists, and has no column {name}: add it, or choose another table")
            else:
                missing[name] = type
        if DELETED_COLUMN in found:
            self._confirm_type(DELETED_COLUMN, found[DELETED_COLUMN], self.time_type)
        return missing

    def _confirm_type(self, name: str, found: str, type: str) -> None:
        expected = self._canonical(type)
        if found != expected and not (found in self.texts and expected in self.texts):
            raise OutputError(
                f"the column {name} of {self.name} is of type {found}, and should be {expected}: change it, choose the "
                "type of the column, or choose another table"
            )

    def _canonical(self, type: str) -> str:
        """Return a type as the database names it."""
        return type

    @property
    def _target(self) -> str:
        return self._qualified(self._table)

    @property
    def _states(self) -> str:
        return self._qualified(STATE_TABLE)

    @property
    def _kept(self) -> str:
        return self._qualified(KEPT_TABLE)

    def _qualified(self, table: str) -> str:
        return f"{quoted(self._schema)}.{quoted(table)}" if self._schema else quoted(table)

    def _diff(self, columns: tuple[str, ...], found: Mapping[str, str]) -> Diff:
        return Diff(
            target=self._target,
            key=quoted(self._columns.key.replace(".", "_")),
            time=quoted(self._columns.time.replace(".", "_")),
            columns=tuple(map(quoted, columns)),
            missing=frozenset(quoted(column) for column in columns if column not in found),
            mark=quoted(DELETED_COLUMN) if DELETED_COLUMN in found else None,
            kept=f"SELECT id FROM {self._kept} WHERE table_name = {literal(self._table)}",
            time_type=self.time_type,
            differs=self.differs,
            collate=self.key_collation,
            bound=self.bound,
            text_of_time=self.text_of_time,
            prepare=self.prepare,
        )

    # The state, and ids that are kept

    def remember(self, ids: str) -> None:
        """Add the ids of a query to those that are kept."""
        self.run(f"INSERT INTO {self._kept} (table_name, id) SELECT {literal(self._table)}, k.id FROM ({ids}) k")

    def forget(self, ids: str) -> None:
        """Remove the ids of a query from those that are kept."""
        self.run(f"DELETE FROM {self._kept} WHERE table_name = {literal(self._table)} AND id IN ({ids})")

    def _create_schema(self) -> None:
        if self._schema and not any(
            True
            for _ in self.rows(f"SELECT 1 FROM information_schema.schemata WHERE schema_name = {literal(self._schema)}")
        ):
            self.run(f"CREATE SCHEMA {quoted(self._schema)}")

    def _create_state_tables(self) -> None:
        self._create_schema()
        text = self.text_type
        self.run(
            f"CREATE TABLE IF NOT EXISTS {self._states} (table_name {text} PRIMARY KEY, state {text}, "
            f"columns {text} NOT NULL)"
        )
        self.run(
            f"CREATE TABLE IF NOT EXISTS {self._kept} (table_name {text} NOT NULL, "
            f"id {text}{self.key_collation} NOT NULL, PRIMARY KEY (table_name, id))"
        )

    def _state(self, lock: str = "") -> str | None:
        query = f"SELECT state FROM {self._states} WHERE table_name = {literal(self._table)}{lock}"
        return next((state for (state,) in self.rows(query)), None)

    def _confirm_state(self, delivery: Delivery) -> None:
        delivery.confirm_state(self._state(self._lock_state()), self.name)

    def _registered(self) -> tuple[str, ...] | None:
        """Return the columns that were delivered to the table so far; None if it is not ours."""
        if not self._described(STATE_TABLE):
            return None
        query = f"SELECT columns FROM {self._states} WHERE table_name = {literal(self._table)}"
        return next((tuple(orjson.loads(columns)) for (columns,) in self.rows(query)), None)

    def _register(self, columns: Sequence[str], state: str | None) -> None:
        listed = literal(orjson.dumps(columns).decode())
        changed = f"state = {literal(state)}, columns = {listed}"
        if not self.run(f"UPDATE {self._states} SET {changed} WHERE table_name = {literal(self._table)}"):
            self.run(
                f"INSERT INTO {self._states} (table_name, state, columns) "
                f"VALUES ({literal(self._table)}, {literal(state)}, {listed})"
            )

    @contextmanager
    def _transaction(self, *, commits: bool = True) -> Iterator[None]:
        """Commit what is done within; roll it back after an error, or if it is a trial."""
        self._drop_temporary()
        self._begin()
        try:
            yield
            self.run("COMMIT" if commits else "ROLLBACK")
        except BaseException:
            with suppress(Exception):  # the connection may be lost: then the server rolls back
                self.run("ROLLBACK")
            raise
        with suppress(Exception):  # it is committed, and the next transaction drops them as well
            self._drop_temporary()

    def _drop_temporary(self) -> None:
        for table in TEMPORARY:
            self.run(f"DROP TABLE IF EXISTS {self.temporary}.{table}")
