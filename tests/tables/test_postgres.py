"""PostgreSQL's own: locks, privileges, existing tables, lost connections and servers, passwords."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bulkpull.errors import OutputError, UsageError
from bulkpull.tables import Changes, Policy, reading, table_at
from bulkpull.tables.postgres import PostgresTable
from tests.tables.places import COLUMNS, PostgresPlace, at_minute, delivery, window
from tests.tables.server import PostgresServer

ROW = {"id": "a", "created_time": at_minute(0), "value": "v"}
NEW = {**ROW, "value": "new"}


@pytest.fixture
def name() -> str:
    return PostgresPlace("").new_name()


@pytest.fixture
def table(postgres: PostgresServer, name: str, tmp_path: Path) -> Iterator[PostgresTable]:
    """A table that is open, and holds a row."""
    table = PostgresTable(postgres.url, COLUMNS, table=name)
    table.open(create=True)
    table.replace(delivery(tmp_path, [window(0)], [ROW]), Policy(deleted="drop"))
    yield table
    table.close()


def before(statement: str, table: PostgresTable, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Act before a statement is executed."""
    run = table.run

    def acting(executed: str) -> int:
        if executed == statement:
            act()
        return run(executed)

    monkeypatch.setattr(table, "run", acting)


def test_readers_go_on_until_the_commit(
    postgres: PostgresServer, table: PostgresTable, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if columns are added."""
    seen: list[list[Any]] = []

    def read() -> None:
        with postgres.connect(options="-c statement_timeout=5s") as reader:
            seen.append(reader.execute(f'SELECT value FROM "{name}"'.encode()).fetchall())  # noqa: S608

    before("COMMIT", table, read, monkeypatch)
    columns = (*ROW, "custom_data.plan")
    table.replace(delivery(tmp_path, [window(0)], [NEW], columns=columns, expected="1"), Policy())
    read()
    assert seen == [[("v",)], [("v",)], [("new",)]]  # before the columns, before the rows, and after them


def test_equal_rows_are_not_touched(postgres: PostgresServer, table: PostgresTable, name: str, tmp_path: Path) -> None:
    with postgres.connect() as connection:
        query = f'SELECT xmin, ctid FROM "{name}"'.encode()  # noqa: S608
        versions = connection.execute(query).fetchall()
        table.replace(delivery(tmp_path, [window(0)], [ROW], expected="1"), Policy())
        assert connection.execute(query).fetchall() == versions


def test_a_server_that_crashes_while_rows_are_copied(
    postgres: PostgresServer, table: PostgresTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = reading.csv_chunks

    def crash(*given: Any, **options: Any) -> Generator[bytes]:
        yield from chunks(*given, **options)
        postgres.stop(signal.SIGQUIT)

    changed = delivery(tmp_path, [window(0)], [NEW], expected="1")
    try:
        with monkeypatch.context() as patched, pytest.raises(OutputError, match="cannot replace rows of"):
            patched.setattr("bulkpull.tables.postgres.csv_chunks", crash)
            table.replace(changed, Policy())
        with pytest.raises(OutputError, match=r"cannot read the state of .*connection to server"):
            table.state()
    finally:
        postgres.start()
    assert table.state() == "1"
    assert table.replace(changed, Policy()) == Changes(changed=1, rewritten=1)


def test_a_connection_that_is_lost_between_calls_is_replaced_and_locks_again(
    postgres: PostgresServer, table: PostgresTable, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgres.connect() as connection:
        assert table._connection is not None
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", (table._connection.info.backend_pid,))
    assert table.replace(delivery(tmp_path, [window(0)], [NEW], expected="1"), Policy()).changed == 1
    monkeypatch.setattr("bulkpull.tables.postgres.LOCK_WAIT_S", 0.05)
    with pytest.raises(OutputError, match="another sync holds"):
        PostgresTable(postgres.url, COLUMNS, table=name).open(create=True)


def test_a_table_that_was_changed_by_hand_is_as_delivered_again(
    postgres: PostgresServer, table: PostgresTable, name: str, tmp_path: Path
) -> None:
    with postgres.connect() as connection:
        connection.execute(f"UPDATE \"{name}\" SET value = 'mine'".encode())  # noqa: S608
        connection.execute(f"INSERT INTO \"{name}\" VALUES ('b', '2024-01-01T00:10Z', 'mine')".encode())  # noqa: S608
        connection.execute(f'ALTER TABLE "{name}" ADD COLUMN note text'.encode())
    assert table.columns() == ("id", "created_time", "value")
    changes = table.replace(delivery(tmp_path, [window(0)], [ROW], expected="1"), Policy(deleted="drop"))
    assert changes == Changes(changed=1, deleted=1, rewritten=2)


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ("(id text PRIMARY KEY, created_time timestamptz, value varchar(20), note text DEFAULT 'mine')", None),
        ("(id text, created_time timestamptz)", "has no column value: add it"),
        ("(created_time timestamptz, value text)", "has no column id"),
        ("(id uuid, created_time timestamptz, value text)", "column id of .* is of type uuid, and should be text"),
        ("(id text, created_time timestamp, value text)", "is of type timestamp without time zone"),
        ("(id text, created_time timestamptz, value text, _deleted_at text)", "column _deleted_at of .* of type text"),
        ("AS SELECT 1", "is not a table, but a view"),
    ],
)
def test_a_table_that_exists(
    postgres: PostgresServer, name: str, tmp_path: Path, definition: str, message: str | None
) -> None:
    kind = "VIEW" if definition.startswith("AS") else "TABLE"
    with postgres.connect() as connection:
        connection.execute(f'CREATE {kind} "{name}" {definition}'.encode())
    table = PostgresTable(postgres.url, COLUMNS, table=name)
    table.open(create=True)
    try:
        if message is None:
            table.check(tuple(ROW))
            table.replace(delivery(tmp_path, [window(0)], [ROW]), Policy())
            [found] = PostgresPlace(postgres.url).query(name)
            assert (found["value"], found["note"]) == ("v", "mine")
        else:
            with pytest.raises(OutputError, match=message):
                table.check(tuple(ROW))
            with pytest.raises(OutputError, match=message):
                table.replace(delivery(tmp_path, [window(0)], [ROW]), Policy())
    finally:
        table.close()


def test_a_role_that_may_not_write_is_told_what_it_lacks(
    postgres: PostgresServer, table: PostgresTable, name: str
) -> None:
    with postgres.connect() as connection:
        connection.execute("DROP ROLE IF EXISTS clerk")
        connection.execute("CREATE ROLE clerk LOGIN")
        connection.execute(f'GRANT SELECT, INSERT ON "{name}", _bulkpull_sync, _bulkpull_kept TO clerk'.encode())
    table.close()
    clerk = table_at(postgres.url.replace("postgres@", "clerk@"), columns=COLUMNS, table=name)
    clerk.open(create=True)
    try:
        with pytest.raises(OutputError, match="the role lacks UPDATE, DELETE, ownership"):
            clerk.check(tuple(ROW))
    finally:
        clerk.close()
        with postgres.connect() as connection:
            connection.execute("DROP OWNED BY clerk")
            connection.execute("DROP ROLE clerk")
    other = table_at(postgres.url, columns=COLUMNS, table=name, schema="new schema")
    other.open(create=True)
    other.check(tuple(ROW))
    other.close()


def test_passwords_are_in_no_message(postgres: PostgresServer) -> None:
    for url in (
        postgres.url.replace("postgres@", "nobody:secret@"),
        "postgresql://postgres:secret@127.0.0.1:1/db",
        "postgresql://postgres@/db?host=/nowhere&password=secret",
    ):
        table = table_at(url, columns=COLUMNS)
        with pytest.raises(OutputError, match="cannot open activity in postgresql://") as raised:
            table.open(create=True)
        assert "secret" not in f"{raised.value} {table.name} {table!r}"
    with pytest.raises(UsageError, match="not valid") as refused:
        table_at("postgresql://postgres:sec%ret@host/db", columns=COLUMNS)
    assert "ret@" not in str(refused.value)
    with pytest.raises(psycopg.ProgrammingError):
        psycopg.conninfo.conninfo_to_dict("postgresql://postgres:sec%ret@host/db")
