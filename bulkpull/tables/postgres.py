"""A table in PostgreSQL."""
# ruff: noqa: S608 - names are quoted by `quoted`, and values by `literal`

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar

from bulkpull.errors import FormatError, OutputError, UsageError
from bulkpull.source import Columns
from bulkpull.tables.database import Database
from bulkpull.tables.reading import csv_chunks, csv_rows
from bulkpull.tables.sql import literal, quoted
from bulkpull.tables.table import Delivery, Policy

if TYPE_CHECKING:
    import psycopg

LOCK_WAIT_S = 5  # for another sync, which may just be ending: a killed one holds its lock until the server notices
_CONNECTION_DEFAULTS = {  # a host that is gone is noticed within two minutes
    "connect_timeout": "15",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "6",
    "tcp_user_timeout": "120000",
}
_SETTINGS = {
    "client_encoding": "UTF8",
    "statement_timeout": "6h",  # longer than a COPY of hundreds of millions of rows takes
    "lock_timeout": "1min",
    "idle_in_transaction_session_timeout": "0",
    "timezone": "UTC",
    "datestyle": "ISO",
    "standard_conforming_strings": "on",
    "work_mem": "64MB",  # a night's ids, of which the joins take two hash tables at a time
    "maintenance_work_mem": "256MB",  # for the indexes of a new table
    "temp_buffers": "32MB",
}
_NEWER_SETTINGS = {"idle_session_timeout": "0", "client_connection_check_interval": "10s"}  # since PostgreSQL 14
_ALTER_WAIT = "10s"  # for readers, while new readers wait behind it
_TYPES = (
    r"text|citext|uuid|inet|jsonb|boolean|bool|date|(character varying|varchar)(\(\d+\))?|bigint|int8|integer|int|int4|"
    r"smallint|int2|real|float4|double precision|float8|numeric(\(\d+(, ?\d+)?\))?|"
    r"timestamptz|timestamp|timestamp with(out)? time zone"
)
_REJECTED = re.compile(r'COPY \S+, line \d+(?:, column (?P<column>[^:]+): "(?P<value>.*)")?', re.DOTALL)


class PostgresTable(Database):
    """A table in PostgreSQL. The URL follows the rules of libpq, as do passwords and TLS."""

    _product = "PostgreSQL"
    types = re.compile(_TYPES)
    texts: ClassVar = frozenset({"text", "character varying", "citext"})
    key_collation = ' COLLATE "C"'
    temporary = "pg_temp"
    max_name_bytes = 63
    folds_case = False
    text_of_time = "to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US')"
    # Without both, the planner may join 300,000 rows with as many row by row.
    prepare = "CREATE INDEX ON {table} ({id}); ANALYZE {table} ({filters})"

    def __init__(
        self,
        url: str,
        columns: Columns,
        *,
        table: str,
        schema: str | None = None,
        types: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(columns, table=table, schema=schema, types=types)
        try:
            from psycopg import Error
            from psycopg.conninfo import conninfo_to_dict, make_conninfo
        except ImportError:
            raise UsageError("PostgreSQL needs psycopg: pip install 'bulkpull[postgres]'") from None
        try:
            given = conninfo_to_dict(url)
        except Error:
            # The error repeats parts of the URL, which may be those of a password.
            raise UsageError("the PostgreSQL URL is not valid: it must look like postgresql://HOST/DATABASE") from None
        self._conninfo = make_conninfo(
            url, **{name: value for name, value in _CONNECTION_DEFAULTS.items() if name not in given}
        )
        place = f"{given.get('host', '')}:{given['port']}" if given.get("port") else str(given.get("host", ""))
        self._place = f"postgresql://{place}/{given.get('dbname', '')}"
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._creates = False

    @property
    def name(self) -> str:
        """See `Table.name`."""
        return f"{self._schema}.{self._table} in {self._place}" if self._schema else f"{self._table} in {self._place}"

    @property
    def identity(self) -> str:
        """See `Database.identity`. Only a connection knows the default schema: it is taken for `public`."""
        from psycopg.conninfo import conninfo_to_dict
        from psycopg.pq import Conninfo

        defaults = {one.keyword: one.val for one in Conninfo.get_defaults() if one.val}
        given = conninfo_to_dict(self._conninfo)
        host, port, database, user = (
            str(given.get(name) or os.fsdecode(defaults.get(name.encode(), b"")))
            for name in ("host", "port", "dbname", "user")
        )
        place = f"postgresql://{host.lower()}:{port}/{database or user}"
        return f"{self._schema or 'public'}.{self._table} in {place}"

    def open(self, *, create: bool) -> None:
        """See `Table.open`."""
        self._creates = create
        with self._session("open"):
            pass

    def close(self) -> None:
        """See `Table.close`."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def run(self, statement: str) -> int:
        """Execute a statement; return the number of rows that it changed."""
        return self._connected.execute(statement.encode()).rowcount

    def rows(self, query: str) -> Iterable[tuple[Any, ...]]:
        """Return the rows of a query."""
        return self._connected.execute(query.encode()).fetchall()

    def stream(self, query: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query, a few thousand at a time."""
        with self._connected.cursor("_bulkpull_rows") as cursor:
            cursor.itersize = 10_000
            yield from cursor.execute(query.encode())

    @property
    def _connected(self) -> psycopg.Connection[tuple[Any, ...]]:
        assert self._connection is not None, "the table is not open"
        return self._connection

    @contextmanager
    def _session(self, purpose: str, *, writes: bool = False) -> Iterator[bool]:
        import psycopg

        try:
            # Between two calls hours may pass, while exports run. A connection that was lost meanwhile is replaced:
            # no transaction was open, and the state tells whether another sync has written.
            if self._connection is not None:
                with suppress(psycopg.OperationalError):
                    self._connection.execute("SELECT 1")
                if self._connection.broken:
                    self.close()
            if self._connection is None:
                self._connect()
            yield True
        except psycopg.Error as error:
            if self._connection is not None and self._connection.broken:
                self.close()
            raise OutputError(f"cannot {purpose} {self.name}: {_reason(error)}") from error

    def _connect(self) -> None:
        import psycopg

        self._connection = psycopg.connect(self._conninfo, autocommit=True, prepare_threshold=None)
        try:
            newer = _NEWER_SETTINGS if self._connection.info.server_version >= 140_000 else {}
            for setting, value in {**_SETTINGS, **newer}.items():
                self.run(f"SET {setting} = {literal(value)}")
            self.run(f"SET application_name = {literal(f'bulkpull {os.getpid()} on {socket.gethostname()}'[:63])}")
            if self._schema is None:
                [(schema,)] = self.rows("SELECT coalesce(current_schema(), 'public')")
                self._schema = str(schema)
            self._lock()
            if self._creates:
                self._create_all_state_tables()
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        """Lock the table against other syncs, for as long as the connection lives."""
        import psycopg

        key = f"hashtextextended({literal(f'bulkpull {self._schema}.{self._table}')}, 0)"
        try:
            self.run(f"SET lock_timeout = '{LOCK_WAIT_S}s'")
            self.run(f"SELECT pg_advisory_lock({key})")
        except psycopg.errors.LockNotAvailable:
            holders = self.rows(
                "SELECT a.application_name, a.pid, coalesce(host(a.client_addr), 'local'), a.backend_start "
                "FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.granted "
                "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
                f"AND ((l.classid::bigint << 32) | l.objid::bigint) = {key}"
            )
            by = "".join(
                f": {application or 'process'} (backend {pid}, client {client}, connected {since:%Y-%m-%d %H:%M} UTC)"
                for application, pid, client, since in holders
            )
            raise OutputError(f"another sync holds {self.name}{by}: wait until it has ended") from None
        self.run(f"SET lock_timeout = {literal(_SETTINGS['lock_timeout'])}")

    def _create_all_state_tables(self) -> None:
        """Create the schema and the tables of the state in a transaction of their own: two syncs of different tables
        would otherwise wait for each other."""
        if self._described("_bulkpull_sync") and self._described("_bulkpull_kept"):
            return
        with self._transaction():
            self.run("SELECT pg_advisory_xact_lock(hashtextextended('bulkpull creates tables', 0))")
            self._create_state_tables()

    def _described(self, table: str) -> dict[str, str] | None:
        assert self._schema is not None
        place = f"n.nspname = {literal(self._schema)} AND c.relname = {literal(table)}"
        kinds = [
            kind
            for (kind,) in self.rows(
                f"SELECT c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {place}"
            )
        ]
        if not kinds:
            return None
        if kinds[0] not in ("r", "p"):
            raise OutputError(f"{self.name} is not a table, but a view or something else: choose another name")
        return dict(
            self.rows(
                "SELECT a.attname, format_type(a.atttypid, NULL) FROM pg_attribute a "
                "JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
                f"WHERE {place} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"
            )
        )

    def _canonical(self, type: str) -> str:
        [(name,)] = self.rows(f"SELECT format_type({literal(type)}::regtype, NULL)")
        return str(name)

    def _lock_state(self) -> str:
        return " FOR UPDATE"

    def _confirm_privileges(self, *, alters: bool) -> None:
        target = literal(self._target)
        [(*may, owns, temporary)] = self.rows(
            f"SELECT has_table_privilege({target}, 'SELECT'), has_table_privilege({target}, 'INSERT'), "
            f"has_table_privilege({target}, 'UPDATE'), has_table_privilege({target}, 'DELETE'), "
            f"pg_has_role((SELECT relowner FROM pg_class WHERE oid = {target}::regclass), 'USAGE'), "
            "has_database_privilege(current_database(), 'TEMPORARY')"
        )
        lacking = [
            name for name, granted in zip(("SELECT", "INSERT", "UPDATE", "DELETE"), may, strict=True) if not granted
        ]
        if not temporary:
            lacking.append("TEMPORARY on the database")
        if alters and not owns:
            lacking.append("ownership, which adding a column takes")
        if lacking:
            raise OutputError(f"cannot write to {self.name}: the role lacks {', '.join(lacking)}")

    def _add_columns(self, definitions: Sequence[str], delivery: Delivery) -> None:
        # Adding a column blocks readers until the end of its transaction, which therefore must not be that of the
        # rows. A column that was added in vain is empty, and harms nobody.
        self.run("COMMIT")
        self.run(f"SET lock_timeout = '{_ALTER_WAIT}'")
        self.run(f"ALTER TABLE {self._target} " + ", ".join(f"ADD COLUMN {definition}" for definition in definitions))
        self.run(f"SET lock_timeout = {literal(_SETTINGS['lock_timeout'])}")
        self.run("BEGIN")
        self._confirm_state(delivery)

    def _load(self, target: str, names: Mapping[str, str], delivery: Delivery, policy: Policy) -> None:
        import psycopg

        columns = ", ".join(map(quoted, names.values()))
        statement = f"COPY {target} ({columns}) FROM STDIN (FORMAT csv)"
        try:
            with self._connected.cursor() as cursor, cursor.copy(statement.encode()) as copy:
                for chunk in csv_chunks(delivery.rows, self._columns.key, replace_nul=policy.replace_nul):
                    copy.write(chunk)
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            raise self._rejection(error, names, delivery) from error

    def _rejection(self, error: psycopg.Error, names: Mapping[str, str], delivery: Delivery) -> OutputError:
        """Return the error for a row that PostgreSQL has rejected. It tells the value, from which the row is found."""
        context = _REJECTED.match(error.diag.context or "")
        named, text = (context["column"], context["value"]) if context else (None, None)
        rejected = error.diag.column_name or named  # which a constraint names, and a conversion only mentions
        column = next((column for column, name in names.items() if name == rejected), None)
        if column is not None:
            at, key_at = delivery.columns.index(column), delivery.columns.index(self._columns.key)
            row = 0
            for rows in csv_rows(delivery.rows, self._columns.key):
                for values in rows:
                    row += 1
                    if _is_shown_as(values[at], text):
                        reason = f"{column} cannot be stored in {self.name}: {_reason(error)}"
                        return FormatError(row, values[key_at] or "", reason)
        return OutputError(f"cannot store the exported rows in {self.name}: {_reason(error)}")

    def _index(self) -> None:
        key, time = (name.replace(".", "_") for name in (self._columns.key, self._columns.time))
        first_columns = self.rows(
            "SELECT a.attname, i.indisunique AND i.indnkeyatts = 1 AND i.indpred IS NULL AND i.indisvalid "
            "FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] "
            f"WHERE i.indrelid = {literal(self._target)}::regclass"
        )
        existing = {(str(column), bool(is_unique)) for column, is_unique in first_columns}
        if (key, True) not in existing:
            self.run(f"CREATE UNIQUE INDEX ON {self._target} ({quoted(key)})")
        if not existing & {(time, False), (time, True)}:
            self.run(f"CREATE INDEX ON {self._target} ({quoted(time)})")

    def _settle(self) -> None:
        # The next sync may come before autovacuum. Who does not own the table gets a warning only.
        key, time = (quoted(name.replace(".", "_")) for name in (self._columns.key, self._columns.time))
        self.run(f"ANALYZE {self._target} ({key}, {time})")


def _is_shown_as(value: str | None, text: str | None) -> bool:
    """Whether the server shows a value as this text, which ends with dots if it is long; None stands for null."""
    if value is None or text is None:
        return value is text
    return value.startswith(text.removesuffix("...")) if text.endswith("...") else value == text


def _reason(error: psycopg.Error) -> str:
    """Return the server's message with its detail on one line, or the client's."""
    message, detail = error.diag.message_primary, error.diag.message_detail
    if message is None:
        return " ".join(str(error).split()) or type(error).__name__
    # The detail may be a whole row.
    return f"{message} ({detail.rstrip('.')})" if detail and not detail.startswith("Failing row") else message
