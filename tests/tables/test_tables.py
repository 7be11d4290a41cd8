"""What tables of all kinds do beyond plain deliveries: names, types, errors, locks, nasty data."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bulkpull.errors import FormatError, OutputError, ShrinkError, UsageError
from bulkpull.tables import DELETED_COLUMN, Changes, Policy, Table, table_at
from tests.tables.places import (
    AT,
    COLUMNS,
    DuckDBPlace,
    Place,
    PostgresPlace,
    SqlitePlace,
    at_minute,
    delivery,
    window,
)

WIDE = ("id", "created_time", "value", "custom_data.seats")


def row(id: str, minute: int = 0, value: str | None = "v") -> dict[str, str | None]:
    return {"id": id, "created_time": at_minute(minute), "value": value}


@pytest.fixture
def name(place: Place) -> str:
    return place.new_name()


@pytest.fixture
def table(place: Place, name: str) -> Iterator[Table]:
    """A table that is open."""
    table = place.table(name)
    table.open(create=True)
    yield table
    table.close()


def test_a_new_table_has_no_state_no_columns_and_no_rows(table: Table) -> None:
    assert (table.state(), table.columns(), table.count([window(0), window(1)])) == (None, (), [0, 0])


def test_without_create_nothing_is_made(place: Place, name: str, tmp_path: Path) -> None:
    elsewhere = place if isinstance(place, PostgresPlace) else type(place)(str(tmp_path))
    table = elsewhere.table(name)
    table.open(create=False)
    try:
        assert (table.state(), table.columns(), table.count([window(0)])) == (None, (), [0])
        table.check(WIDE)
    finally:
        table.close()
    assert not list(tmp_path.iterdir())
    assert not place.query(name)


def test_a_check_creates_no_table(place: Place, name: str, table: Table) -> None:
    table.check(WIDE)
    assert table.columns() == ()
    assert not place.query(name)


def test_rows_that_are_equal_are_not_rewritten(table: Table, tmp_path: Path) -> None:
    rows = [row(str(number), number % 60) for number in range(200)]
    assert table.replace(delivery(tmp_path, [window(0)], rows), Policy()) == Changes(inserted=200, rewritten=200)
    again = delivery(tmp_path, [window(0)], rows, expected="1", state="2")
    assert table.replace(again, Policy()) == Changes()
    assert table.state() == "2"


def test_the_guard_tells_how_many_rows_would_go(place: Place, name: str, table: Table, tmp_path: Path) -> None:
    table.replace(delivery(tmp_path, [window(0)], [row(str(number)) for number in range(20)]), Policy())
    empty = delivery(tmp_path, [window(0)], [], expected="1")
    with pytest.raises(ShrinkError, match=r"20 of the 20 rows that .* nothing was changed") as raised:
        table.replace(empty, Policy(max_shrink_rows=10))
    assert (raised.value.gone, raised.value.held) == (20, 20)
    assert len(place.rows(name)) == 20
    assert table.replace(empty, Policy()) == Changes(deleted=20, rewritten=20)  # 100 rows may always go


def test_another_state_than_the_expected_one_changes_nothing(
    place: Place, name: str, table: Table, tmp_path: Path
) -> None:
    table.replace(delivery(tmp_path, [window(0)], [row("a")]), Policy())
    for expected in (None, "0"):
        with pytest.raises(OutputError, match=r"the state of .* nothing was changed"):
            table.replace(delivery(tmp_path, [window(0)], [row("b")], expected=expected), Policy())
    assert set(place.rows(name)) == {"a"}


def test_a_rebuild_replaces_rows_and_state_at_once_and_may_add_columns(
    place: Place, name: str, table: Table, tmp_path: Path
) -> None:
    table.replace(delivery(tmp_path, [window(0), window(1)], [row("a"), row("b"), row("c", 61)]), Policy())
    rows = [{**row("a"), "custom_data.seats": "7"}]
    wide = delivery(tmp_path, [window(0)], rows, columns=WIDE, expected="another", state="2")
    changes = table.replace(replace(wide, rebuild=True), Policy(max_shrink=0, max_shrink_rows=0))
    assert changes == Changes(inserted=1, rewritten=1)
    assert (table.state(), table.count([window(0), window(1)]), set(place.rows(name))) == ("2", [1, 0], {"a"})
    assert place.rows(name)["a"]["custom_data_seats"] == "7"
    assert table.columns() == WIDE


def test_a_rebuild_that_fails_changes_nothing(place: Place, name: str, table: Table, tmp_path: Path) -> None:
    table.replace(delivery(tmp_path, [window(0)], [row("a"), row("b")]), Policy())
    wrong = delivery(tmp_path, [window(0)], [{**row("c"), "created_time": "2024-13-01T00:00:00Z"}], expected="1")
    with pytest.raises(OutputError):
        table.replace(replace(wrong, rebuild=True), Policy())
    assert (table.state(), table.count([window(0)]), set(place.rows(name))) == ("1", [2], {"a", "b"})


def test_a_field_that_is_added_changes_the_rows_that_have_it(
    place: Place, name: str, table: Table, tmp_path: Path
) -> None:
    table.replace(delivery(tmp_path, [window(0)], [row("a"), row("b")]), Policy(deleted="drop"))
    assert DELETED_COLUMN not in place.rows(name)["a"]
    rows = [{**row("a"), "custom_data.seats": "7"}, row("b")]
    wide = delivery(tmp_path, [window(0)], rows, columns=WIDE, expected="1")
    table.check(WIDE)
    assert table.replace(wide, Policy()) == Changes(changed=1, rewritten=1)
    found = place.rows(name)
    assert (found["a"]["custom_data_seats"], found["b"]["custom_data_seats"]) == ("7", None)
    assert found["a"][DELETED_COLUMN] is None
    assert table.columns() == WIDE


def test_names_that_cannot_be_columns_are_refused(table: Table) -> None:
    for columns, message in (
        (("a.b", "a_b"), "a.b and a_b would both be a_b"),
        ((DELETED_COLUMN,), f"{DELETED_COLUMN} and {DELETED_COLUMN} would both be"),
        (("tab\t",), "control characters"),
        (("x" * 300,), "longer than"),
    ):
        with pytest.raises(OutputError, match=message):
            table.check(("id", "created_time", *columns))


def test_names_and_values_are_never_taken_for_sql(place: Place, tmp_path: Path) -> None:
    name = 'a"; DROP TABLE b; --'
    table = place.table(name)
    table.open(create=True)
    columns = ("id", "created_time", 'x"y', "it's", "select", "100%")
    rows = [{"id": "'; --", "created_time": at_minute(0), 'x"y': "%s", "it's": "{}", "select": "$1", "100%": "%(a)s"}]
    for expected, state in ((None, "it's 100% {}"), ("it's 100% {}", "2")):
        table.replace(delivery(tmp_path, [window(0)], rows, columns=columns, expected=expected, state=state), Policy())
        assert table.state() == state
    table.replace(delivery(tmp_path, [window(0)], [], columns=columns, expected="2"), Policy(deleted="keep"))
    assert table.columns() == columns
    assert table.count([window(0)]) == [0]
    table.close()


def test_columns_may_have_types(place: Place, name: str, tmp_path: Path) -> None:
    table = place.table(name, types={"custom_data.seats": "bigint"})
    table.open(create=True)
    try:
        rows = [{**row("a"), "custom_data.seats": "7"}, row("b")]
        for expected in (None, "1"):
            table.replace(delivery(tmp_path, [window(0)], rows, columns=WIDE, expected=expected), Policy())
        assert {row["id"]: row["custom_data_seats"] for row in place.query(name)} == {"a": 7, "b": None}
        if not isinstance(place, SqlitePlace):  # which stores any value in any column
            bad = delivery(
                tmp_path, [window(0)], [{**row("a"), "custom_data.seats": "many"}], columns=WIDE, expected="1"
            )
            with pytest.raises(OutputError, match=r"cannot .*many"):
                table.replace(bad, Policy())
            assert table.count([window(0)]) == [2]
    finally:
        table.close()


@pytest.mark.parametrize("types", [{"value": "text; DROP TABLE a"}, {"value": "text DEFAULT 1"}, {"id": "uuid"}])
def test_a_type_that_is_none_is_refused(place: Place, types: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="type"):
        place.table("activity", types=types)


def test_a_type_of_an_unknown_column_is_refused(place: Place, name: str) -> None:
    table = place.table(name, types={"custom_data.seats": "bigint"})
    table.open(create=True)
    try:
        with pytest.raises(UsageError, match=r"custom_data.seats, which is not among the exported columns"):
            table.check(("id", "created_time"))
    finally:
        table.close()


@pytest.mark.parametrize("time", ["2024-13-01T00:00:00Z", None])
def test_a_time_that_is_no_instant_is_told_with_its_id(
    place: Place, name: str, table: Table, tmp_path: Path, time: str | None
) -> None:
    table.replace(delivery(tmp_path, [window(0)], [row("a")]), Policy())
    rows = [row("a"), {**row("b"), "created_time": time}]
    for is_rebuild in (True, False):  # straight into an empty table, and by way of the temporary one
        with pytest.raises(OutputError, match=r"\bid b\b.*created_time"):
            table.replace(replace(delivery(tmp_path, [window(0)], rows, expected="1"), rebuild=is_rebuild), Policy())
    assert set(place.rows(name)) == {"a"}


def test_a_row_outside_the_windows_is_refused(table: Table, tmp_path: Path) -> None:
    rows = [row("a"), row("b", 90)]
    windows = [window(0), window(2)]
    with pytest.raises(OutputError, match=r"id b has the time 2024-01-01T01:30.*in none of the exported windows"):
        table.replace(delivery(tmp_path, windows, rows), Policy())
    table.replace(delivery(tmp_path, windows, [row("a")]), Policy())
    with pytest.raises(OutputError, match="in none of the exported windows"):
        table.replace(delivery(tmp_path, windows, rows, expected="1"), Policy())


def test_times_of_any_form_are_the_same_instants(place: Place, name: str, table: Table, tmp_path: Path) -> None:
    forms = ["2024-01-01T00:30:00Z", "2024-01-01T01:30:00.000+01:00", "2024-01-01T00:30:00.000000Z"]
    rows = [{"id": str(at), "created_time": form, "value": None} for at, form in enumerate(forms)]
    table.replace(delivery(tmp_path, [window(0)], rows), Policy())
    assert {row["created_time"] for row in place.rows(name).values()} == {at_minute(30)}
    canonical = [{**row, "created_time": at_minute(30)} for row in rows]
    assert table.replace(delivery(tmp_path, [window(0)], canonical, expected="1"), Policy()) == Changes()


NASTY = (
    *(
        None,
        "",
        '"',
        '""',
        'a"b',
        '5"',
        '"x',
        "\\.",
        "\\N",
        "NULL",
        "null",
        " ",
        "\t",
        ",",
        "\r",
        "\n",
        "\r\n",
        "a\n\\.\nb",
    ),
    *("\u2028", "\ufeff", "é", "e\u0301", "📝", "'", "\\", "=1+1", "-", "%s", "{}", "x" * 3_000_000, "\x01", "\x7f"),
)


def test_nasty_values_are_stored_as_they_are(place: Place, name: str, table: Table, tmp_path: Path) -> None:
    rows = [row(str(number), 0, value) for number, value in enumerate(NASTY)]
    for expected in (None, "1"):
        table.replace(delivery(tmp_path, [window(0)], rows, expected=expected), Policy())
        assert {id: row["value"] for id, row in place.rows(name).items()} == {row["id"]: row["value"] for row in rows}
        table.replace(delivery(tmp_path, [window(0)], [row("0", 1)], expected="1"), Policy(deleted="drop"))


def test_quotes_in_unquoted_cells_are_literal(place: Place, name: str, table: Table, tmp_path: Path) -> None:
    """As the csv module reads them, and a pull."""
    cells = [b'a"b', b'5"', b'a""b', b'"a""b"', b"'", b'x" y "z', b'"q,""\n"', b'\xc3\xa9"', b'last"']
    data = b"id,created_time,value\n"
    data += b"".join(b"%d,%s,%s\n" % (at, at_minute(at).encode(), cell) for at, cell in enumerate(cells))
    expected = {id: value for id, _, value in [*csv.reader(io.StringIO(data.decode(), newline=""))][1:]}
    for state in (None, "1"):
        table.replace(delivery(tmp_path, [window(0)], data, expected=state), Policy())
        assert {id: row["value"] for id, row in place.rows(name).items()} == expected


def test_invalid_utf_8_is_told_with_its_id(place: Place, name: str, table: Table, tmp_path: Path) -> None:
    data = b"id,created_time,value\n" + b"".join(
        b"%d,%s,%s\n" % (at, at_minute(at).encode(), value) for at, value in enumerate([b"a", b"\xff\xfe", b"c"])
    )
    with pytest.raises(FormatError, match=r"row 2 \(id 1\): value is not valid UTF-8"):
        table.replace(delivery(tmp_path, [window(0)], data), Policy())
    assert not place.rows(name)


def test_u_0000_is_stored_where_it_can_be(place: Place, name: str, table: Table, tmp_path: Path) -> None:
    rows = [row("a", 0, "x"), row("b", 1, 'n\0"u,l')]
    delivered = delivery(tmp_path, [window(0)], rows)
    if isinstance(place, PostgresPlace):
        with pytest.raises(FormatError, match=r"row 2 \(id b\): value contains U\+0000"):
            table.replace(delivered, Policy())
        table.replace(delivered, Policy(replace_nul='"?'))
        assert place.rows(name)["b"]["value"] == 'n"?"u,l'
    else:
        table.replace(delivered, Policy())
        assert place.rows(name)["b"]["value"] == 'n\0"u,l'


def test_two_syncs_do_not_write_at_once(place: Place, name: str, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bulkpull.tables.postgres.LOCK_WAIT_S", 0.05)
    second = place.table(name)
    with pytest.raises(OutputError, match=rf"another sync holds .*\b{os.getpid()} on .*: wait until it has ended"):
        second.open(create=True)
    other = place.table(place.new_name())
    other.open(create=True)
    other.close()
    table.close()
    second.open(create=True)
    second.close()
    second.close()


STATEMENT_COUNT = 40


def test_an_error_at_any_moment_changes_nothing(
    place: Place, name: str, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.replace(delivery(tmp_path, [window(0)], [row("a"), row("b")]), Policy(deleted="drop"))
    before = place.rows(name)
    changed = [row("a", 0, "new"), row("c")]
    second = delivery(tmp_path, [window(0)], changed, expected="1", state="2", changes=True)
    run = table.run  # type: ignore[attr-defined]
    failed = 0
    for moment in range(0, STATEMENT_COUNT, 6):
        statements = 0

        def fail(statement: str, moment: int = moment) -> int:
            nonlocal statements
            statements += 1
            if statements == moment + 1:
                disrupt(place, table)
            return int(run(statement))

        monkeypatch.setattr(table, "run", fail)
        try:
            table.replace(second, Policy(deleted="mark"))
        except OutputError as error:
            assert str(error).startswith(f"cannot replace rows of {table.name}")
            failed += 1
        else:
            break
        monkeypatch.setattr(table, "run", run)
        assert table.state() == "1"
        found = place.rows(name)
        for values in found.values():
            assert values.pop(DELETED_COLUMN, None) is None  # the column may have been added
        assert found == before
        assert not list(tmp_path.glob("*ndjson*"))
    assert failed > 3
    assert table.state() == "2"
    assert {id: row[DELETED_COLUMN] for id, row in place.rows(name).items()} == {"a": None, "b": AT, "c": None}


def disrupt(place: Place, table: Any) -> None:
    """End the server's process, or fail as a full disk does."""
    import sqlite3

    import duckdb
    import psycopg

    if isinstance(place, PostgresPlace):
        with psycopg.connect(place.where, autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(%s, 5000)", (table._connection.info.backend_pid,))
    elif isinstance(place, DuckDBPlace):
        raise duckdb.IOException("IO Error: no space left on device")
    else:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorname = "SQLITE_FULL"
        raise error


def test_after_a_kill_the_next_sync_goes_on(place: Place, name: str, tmp_path: Path) -> None:
    """The process is killed while it commits."""
    table = place.table(name)
    table.open(create=True)
    table.replace(delivery(tmp_path, [window(0)], [row("a")]), Policy())
    table.close()
    changed = delivery(tmp_path, [window(0)], [row("a", 0, "new"), row("b")], expected="1", state="2")
    victim = f"""
import os, signal
from pathlib import Path
from bulkpull.tables import Delivery, Policy, table_at
from tests.tables.places import COLUMNS, delivery, window
table = table_at({place.address(name)!r}, columns=COLUMNS, table={name!r})
run = table.run
def kill(statement):
    return os.kill(os.getpid(), signal.SIGKILL) if statement == "COMMIT" else run(statement)
table.open(create=True)
table.run = kill
data = Path({str(changed.rows)!r}).read_bytes()
table.replace(delivery(Path({str(tmp_path)!r}), [window(0)], data, expected="1", state="2"), Policy())
"""
    ended = subprocess.run([sys.executable, "-c", victim], cwd=Path(__file__).parents[2])  # noqa: S603
    assert ended.returncode == -signal.SIGKILL
    table.open(create=True)
    try:
        assert table.state() == "1"
        assert {id: row["value"] for id, row in place.rows(name).items()} == {"a": "v"}
        assert table.replace(changed, Policy()) == Changes(inserted=1, changed=1, rewritten=2)
    finally:
        table.close()


def test_addresses_that_are_no_database_are_refused() -> None:
    for address in ("mysql://user:secret@host/db", "duckdb://a.db", "sqlite:///", "sqlite:///a/", "duckdb:///a?x=1"):
        with pytest.raises(UsageError, match="destination") as raised:
            table_at(address, columns=COLUMNS)
        assert "secret" not in str(raised.value)
    with pytest.raises(UsageError, match="no schemas"):
        table_at("sqlite:///a.db", columns=COLUMNS, schema="main")
