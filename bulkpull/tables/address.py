"""Which table an address stands for."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from urllib.parse import unquote, urlsplit

from bulkpull.errors import UsageError
from bulkpull.source import Columns
from bulkpull.store import SCHEMES, ObjectUrl, resolved
from bulkpull.tables.table import Table

_POSTGRES = ("postgresql", "postgres")
_FILES = {"duckdb": "duckdb", "sqlite": "sqlite", "sqlite3": "sqlite"}
_KNOWN = (
    "postgresql://HOST/DATABASE, duckdb:///PATH, sqlite:///PATH, a directory, s3://BUCKET/DIRECTORY, or a file such as "
    "activity.csv"
)


def table_at(
    to: str | os.PathLike[str],
    *,
    columns: Columns,
    table: str = "activity",
    schema: str | None = None,
    types: Mapping[str, str] | None = None,
) -> Table:
    """Return the table that an address stands for. Neither connects nor writes.

    Args:
        to: `postgresql://HOST/DATABASE`, `duckdb:///PATH` or `sqlite:///PATH`; a directory or a URL of object storage,
            which becomes a data set by month; or a file `.csv`, `.csv.gz`, `.csv.zst` or `.parquet`. As with
            SQLAlchemy, `sqlite:///a.db` is relative to the current directory, and `sqlite:////srv/a.db` is absolute.
        columns: The columns that have a meaning.
        table: The name of the table in a database.
        schema: The name of the schema in a database; None for its default.
        types: The types of columns in a database, by the source's name, such as `{"custom_data.seats": "bigint"}`.

    Raises:
        UsageError: the address is none of these, or a library is missing.
    """
    text = os.fspath(to)
    scheme, separator, _ = text.partition("://")
    scheme = scheme.lower()
    if isinstance(to, PurePath) or not separator or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
        return _at_path(to, columns)
    if scheme in _POSTGRES:
        from bulkpull.tables.postgres import PostgresTable

        return PostgresTable(text, columns, table=table, schema=schema, types=types)
    if _FILES.get(scheme) == "duckdb":
        from bulkpull.tables.duckdb import DuckDBTable

        return DuckDBTable(_path(text, scheme), columns, table=table, schema=schema, types=types)
    if _FILES.get(scheme) == "sqlite":
        from bulkpull.tables.sqlite import SqliteTable

        return SqliteTable(_path(text, scheme), columns, table=table, schema=schema, types=types)
    if scheme in SCHEMES:
        return _at_url(text, columns)
    # The rest may hold a password, so that no message repeats it.
    raise UsageError(f"the destination is a {scheme} URL: it must look like {_KNOWN}")


def _at_path(to: str | os.PathLike[str], columns: Columns) -> Table:
    path = resolved(to)
    if "." in path.name.strip(".") and not os.fspath(to).endswith("/"):
        from bulkpull.tables.file import FileTable

        return FileTable(path, columns)
    from bulkpull.tables.dataset import DataSetTable
    from bulkpull.tables.place import LocalPlace

    return DataSetTable(LocalPlace(path), columns)


def _at_url(to: str, columns: Columns) -> Table:
    from bulkpull.tables.dataset import DataSetTable
    from bulkpull.tables.file import FORMATS
    from bulkpull.tables.place import RemotePlace

    url = ObjectUrl.of(to)
    assert url
    if url.name.lower().endswith(tuple(FORMATS)):
        raise UsageError(f"{to} would be a single file, which object storage cannot keep up to date: use a directory")
    return DataSetTable(RemotePlace(url), columns)


def _path(url: str, scheme: str) -> Path:
    parts = urlsplit(url)
    path = unquote(parts.path.removeprefix("/"))
    if parts.netloc or parts.query or parts.fragment or not path or path.endswith("/"):
        raise UsageError(f"the destination is a {scheme} URL that names no file: it must look like {scheme}:///PATH")
    return Path(path)
