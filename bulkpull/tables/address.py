"""Which table an address stands for."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from urllib.parse import unquote, urlsplit

from bulkpull.errors import UsageError
from bulkpull.source import Columns
from bulkpull.tables.table import Table

_POSTGRES = ("postgresql", "postgres")
_FILES = {"duckdb": "duckdb", "sqlite": "sqlite", "sqlite3": "sqlite"}
_KNOWN = "postgresql://HOST/DATABASE, duckdb:///PATH or sqlite:///PATH"


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
        to: `postgresql://HOST/DATABASE`, `duckdb:///PATH` or `sqlite:///PATH`. As with SQLAlchemy, `sqlite:///a.db` is
            relative to the current directory, and `sqlite:////srv/a.db` is absolute.
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
        raise UsageError(f"the destination {text!r} is not a database: it must look like {_KNOWN}")
    if scheme in _POSTGRES:
        from bulkpull.tables.postgres import PostgresTable

        return PostgresTable(text, columns, table=table, schema=schema, types=types)
    if _FILES.get(scheme) == "duckdb":
        from bulkpull.tables.duckdb import DuckDBTable

        return DuckDBTable(_path(text, scheme), columns, table=table, schema=schema, types=types)
    if _FILES.get(scheme) == "sqlite":
        from bulkpull.tables.sqlite import SqliteTable

        return SqliteTable(_path(text, scheme), columns, table=table, schema=schema, types=types)
    # The rest may hold a password, so that no message repeats it.
    raise UsageError(f"the destination is a {scheme} URL: it must look like {_KNOWN}")


def _path(url: str, scheme: str) -> Path:
    parts = urlsplit(url)
    path = unquote(parts.path.removeprefix("/"))
    if parts.netloc or parts.query or parts.fragment or not path or path.endswith("/"):
        raise UsageError(f"the destination is a {scheme} URL that names no file: it must look like {scheme}:///PATH")
    return Path(path)
