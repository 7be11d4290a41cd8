"""Where tables can be, and how a reader of the place sees them."""

from __future__ import annotations

import csv
import io
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import orjson
import psycopg
import pyarrow as pa
import pyarrow.parquet

from bulkpull.source import Columns
from bulkpull.store import MANIFEST, open_dataset
from bulkpull.tables import DELETED_COLUMN, Delivery, Table, table_at
from bulkpull.window import Window, instant

COLUMNS = Columns(key="id", time="created_time", required=("id", "created_time"))
START = datetime(2024, 1, 1, tzinfo=UTC)
AT = "2025-01-01T00:00:00.000Z"
HOUR = timedelta(hours=1)

Row = Mapping[str, str | None]
_names = (f"activity_{number}" for number in count())


class Place:
    """Where tables can be."""

    needs_server: ClassVar[bool] = False

    def __init__(self, where: str) -> None:
        self.where = where

    def address(self, name: str) -> str:
        """Return the address of a table."""
        raise NotImplementedError

    def query(self, name: str) -> list[dict[str, Any]]:
        """Return all rows of a table, with times as they come; none if there is no table."""
        raise NotImplementedError

    def table(self, name: str, **options: Any) -> Table:
        """Return a table that is not open."""
        return table_at(self.address(name), columns=COLUMNS, table=name, **options)

    def new_name(self) -> str:
        """Return a name that no other table has."""
        return next(_names)

    def rows(self, name: str) -> dict[str, dict[str, str | None]]:
        """Return all rows of a table by id, with times as the API writes them."""
        found = self.query(name)
        for row in found:
            for column in ("created_time", DELETED_COLUMN):
                if isinstance(row.get(column), datetime):
                    row[column] = instant(row[column])
        by_id = {row["id"]: row for row in found}
        assert len(by_id) == len(found), "an id occurs twice"
        return by_id


class PostgresPlace(Place):
    needs_server = True

    def address(self, name: str) -> str:
        return self.where

    def query(self, name: str) -> list[dict[str, Any]]:
        with psycopg.connect(self.where, row_factory=psycopg.rows.dict_row) as connection:
            try:
                return connection.execute(f'SELECT * FROM public."{name}"'.encode()).fetchall()  # noqa: S608
            except psycopg.errors.UndefinedTable:
                return []


class DuckDBPlace(Place):
    @property
    def path(self) -> Path:
        return Path(self.where) / "a.db"

    def address(self, name: str) -> str:
        return f"duckdb:///{self.path}"

    def query(self, name: str) -> list[dict[str, Any]]:
        with duckdb.connect(str(self.path)) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            try:
                cursor = connection.execute(f'SELECT * FROM "{name}"')  # noqa: S608
            except duckdb.CatalogException:
                return []
            return [
                dict(zip([column[0] for column in cursor.description], row, strict=True)) for row in cursor.fetchall()
            ]


class SqlitePlace(Place):
    @property
    def path(self) -> Path:
        return Path(self.where) / "a.sqlite"

    def address(self, name: str) -> str:
        return f"sqlite:///{self.path}"

    def query(self, name: str) -> list[dict[str, Any]]:
        connection = sqlite3.connect(self.path)
        try:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(f'SELECT * FROM "{name}"')]  # noqa: S608
        except sqlite3.OperationalError as error:
            assert "no such table" in str(error)
            return []
        finally:
            connection.close()


class FilePlace(Place):
    """Where files and data sets can be."""

    def path(self, name: str) -> Path:
        """Return the file, or the directory."""
        raise NotImplementedError

    def read(self, path: Path) -> list[dict[str, Any]]:
        """Return the rows of a file or a data set that exists."""
        raise NotImplementedError

    def leftovers(self, name: str) -> list[Path]:
        """Return the files that belong neither to a table nor to its former version."""
        path = self.path(name)
        beside = [one for one in path.parent.glob(f"{path.name}*") if one not in (path, Path(f"{path}.sync.json"))]
        if not path.is_dir():
            return beside
        found = orjson.loads((path / MANIFEST).read_bytes())
        known = {path / one["path"] for part in ("files", "retired") for one in found[part]} | {path / MANIFEST}
        return beside + [one for one in path.rglob("*") if one.is_file() and one not in known]

    def address(self, name: str) -> str:
        return str(self.path(name))

    def query(self, name: str) -> list[dict[str, Any]]:
        """Names of columns are as in databases."""
        path = self.path(name)
        rows = self.read(path) if path.is_file() or (path / MANIFEST).exists() else []
        return [{column.replace(".", "_"): value for column, value in row.items()} for row in rows]


class DataSetPlace(FilePlace):
    def path(self, name: str) -> Path:
        return Path(self.where, name)

    def read(self, path: Path) -> list[dict[str, Any]]:
        return list(pa.RecordBatchReader.from_stream(open_dataset(path)).read_all().to_pylist())


class ParquetPlace(FilePlace):
    def path(self, name: str) -> Path:
        return Path(self.where, f"{name}.parquet")

    def read(self, path: Path) -> list[dict[str, Any]]:
        return list(pyarrow.parquet.read_table(path).to_pylist())


class CsvPlace(FilePlace):
    def path(self, name: str) -> Path:
        return Path(self.where, f"{name}.csv.zst")

    def read(self, path: Path) -> list[dict[str, Any]]:
        dialect: dict[str, Any] = {
            "header": True,
            "all_varchar": True,
            "delimiter": ",",
            "quotechar": '"',
            "escapechar": '"',
        }
        dialect |= {"max_line_size": 2**23, "buffer_size": 2**24}
        with duckdb.connect() as connection:
            found = connection.read_csv(str(path), **dialect, allow_quoted_nulls=False, parallel=False)
            return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


KINDS: dict[str, type[Place]] = {"postgres": PostgresPlace, "duckdb": DuckDBPlace, "sqlite": SqlitePlace}
FILE_KINDS: dict[str, type[FilePlace]] = {"dataset": DataSetPlace, "parquet": ParquetPlace, "csv": CsvPlace}


def window(first: int, last: int | None = None) -> Window:
    """Return the window of some hours, from hour `first` to hour `last`, which is the next one by default."""
    return Window(first, START + first * HOUR, START + (first + 1 if last is None else last) * HOUR)


def at_minute(minute: int) -> str:
    """Return the time of a minute after START."""
    return instant(START + timedelta(minutes=minute))


def csv_of(rows: Sequence[Row], columns: Sequence[str]) -> bytes:
    """Return the CSV of rows: an empty cell is null, a quoted empty one an empty string."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = []
        for column in columns:
            value = row.get(column)
            is_plain = value is None or (value and not set(value) & set(',"\r\n'))
            cells.append(value or "" if is_plain else '"' + str(value).replace('"', '""') + '"')
        text.write(",".join(cells) + "\n")
    return text.getvalue().encode()


def delivery(
    directory: Path,
    windows: Sequence[Window],
    rows: Sequence[Row] | bytes,
    *,
    expected: str | None = None,
    state: str | None = "1",
    columns: Sequence[str] = ("id", "created_time", "value"),
    changes: bool = False,
    at: str = AT,
) -> Delivery:
    """Return a delivery whose CSV is in a directory."""
    path = directory / "incoming.csv"
    path.write_bytes(rows if isinstance(rows, bytes) else csv_of(rows, columns))
    return Delivery(
        windows=tuple(windows),
        rows=path,
        columns=tuple(columns),
        expected=expected,
        state=state,
        at=at,
        changes=directory / "changes.ndjson" if changes else None,
    )
