"""The rows of a delivery beside those of the files that it may change, compared in a DuckDB database on disk."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np
from anyio import NoEventLoopError, from_thread

from bulkpull.disk import discard, disk_errors
from bulkpull.errors import OutputError, UsageError
from bulkpull.source import Columns
from bulkpull.tables.sql import CHANGES, INCOMING, Diff, change_lines, judge, literal, write_changes
from bulkpull.tables.table import DELETED_COLUMN, Changes, Delivery, Policy

Rows = Iterable[tuple[Any, Any]]  # record batches, each with the times of its rows as `timestamp("ms")`

_MEMORY_LIMIT = "300MB"  # beyond it, DuckDB writes to the disk
_THREADS = 2
_OUTPUT_ROWS = 16_384  # of a batch
_CURRENT, _KEPT = "current_rows", "kept"


def confirm_installed() -> None:
    """Raise UsageError if a library is missing that keeps files and data sets up to date."""
    missing = [extra for extra, library in (("duckdb", "duckdb"), ("parquet", "pyarrow")) if find_spec(library) is None]
    if missing:
        raise UsageError(
            f"keeping files up to date needs DuckDB and pyarrow: pip install 'bulkpull[{','.join(missing)}]'"
        )


class Spool:
    """A temporary database at `path`, a directory, which `close` removes.

    It holds the delivered rows, and the rows of files, each of which has a number. `apply` makes the rows in the
    delivered windows the delivered ones, and finds out which files that touches. Memory is bounded; the disk holds the
    rest.

    Args:
        path: The directory; it is removed if it exists.
        name: How messages call the table.
        columns: The columns that have a meaning.
        names: All columns of the source.
        keeps_text: Whether the time is also kept as the text that the source delivers.
    """

    def __init__(
        self, path: Path, *, name: str, columns: Columns, names: Sequence[str], keeps_text: bool = False
    ) -> None:
        import duckdb

        self.path, self._name, self._columns = path, name, columns
        self._values = [one for one in names if one != columns.key and (keeps_text or one != columns.time)]
        with disk_errors(f"write to {path}", at=path):
            discard(path)
            path.mkdir()
        with self._errors():
            config: dict[str, str | bool | int | float | list[str]] = {
                "memory_limit": _MEMORY_LIMIT,
                "threads": _THREADS,
                "temp_directory": str(path / "spilled"),
            }
            self._database = duckdb.connect(config=config)
            self._database.execute("SET preserve_insertion_order = false")
            values = "".join(f", {self._column(at)} VARCHAR" for at in range(len(self._values)))
            row = f"id VARCHAR, moment TIMESTAMP_MS{values}, deleted_at TIMESTAMP_MS"
            self.run(f"CREATE TABLE {INCOMING} ({row})")
            self.run(f"CREATE TABLE {_CURRENT} ({row}, file INTEGER)")
            self.run(f"CREATE TABLE {_KEPT} (id VARCHAR)")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._database.close()
        with suppress(OSError):  # the next run removes it
            discard(self.path)

    def run(self, statement: str) -> int:
        """Execute a statement; return the number of rows that it changed. See `bulkpull.tables.sql.Connection`."""
        checkpoint()
        with self._errors():
            found = self._database.execute(statement).fetchall()
        return int(found[0][0]) if found and isinstance(found[0][0], int) else 0

    def rows(self, query: str) -> Iterable[tuple[Any, ...]]:
        """Yield the rows of a query."""
        with self._errors():
            found = self._database.execute(query)
            while some := found.fetchmany(10_000):
                checkpoint()
                yield from some

    def add_delivered(self, rows: Rows) -> None:
        """Add delivered rows."""
        for batch, moments in rows:
            if moments.null_count:
                id = batch.column(self._columns.key).filter(moments.is_null())[0].as_py()
                raise OutputError(f"the row with id {id} has no {self._columns.time}: nothing was changed")
            self._add(INCOMING, "", batch, moments)

    def add_file(self, number: int, rows: Rows, kept: Collection[str]) -> None:
        """Add the rows of a file; `kept` are the ids of those that are gone at the source, but not marked."""
        for batch, moments in rows:
            self._add(_CURRENT, f", {number}", batch, moments)
        if kept:
            with self._errors():
                self._database.executemany(f"INSERT INTO {_KEPT} VALUES (?)", [[id] for id in kept])  # noqa: S608

    def find_unknown(self) -> None:
        """Find the delivered ids that none of the added files has."""
        self.run(
            f"CREATE TABLE unknown AS SELECT id FROM {INCOMING} n "  # noqa: S608
            f"WHERE NOT EXISTS (SELECT 1 FROM {_CURRENT} c WHERE c.id = n.id)"
        )

    def has_unknown(self, first: str, last: str) -> bool:
        """Return whether there are such ids from `first` to `last`."""
        with self._errors():
            query = "SELECT 1 FROM unknown WHERE id BETWEEN ? AND ? LIMIT 1"
            return bool(self._database.execute(query, [first, last]).fetchall())

    def has_any(self, batches: Iterable[Any]) -> bool:
        """Return whether any of the ids in the first column of record batches is such an id."""
        import pyarrow as pa

        for batch in batches:
            checkpoint()
            with self._errors(), self._registered(pa.table([batch.column(0)], names=["id"])):
                if self._database.execute("SELECT 1 FROM batch JOIN unknown USING (id) LIMIT 1").fetchall():
                    return True
        return False

    def judge(self, delivery: Delivery, policy: Policy) -> None:
        """Confirm that the delivery may be applied. Raises OutputError and ShrinkError; see `bulkpull.tables.sql`."""
        judge(self, self._diff, delivery.windows, policy, self._name)

    def apply(self, delivery: Delivery, policy: Policy) -> tuple[Changes, set[int]]:
        """Change the rows as is delivered.

        Returns:
            What has changed, with the number of rows that were removed as `rewritten`; and the numbers of the files
            with rows that were changed or removed.
        """
        diff = self._diff
        for statement in diff.find_changes:
            self.run(statement)
        counts = {str(change): int(number) for change, number in self.rows(diff.counts)}
        written = f"SELECT id FROM {CHANGES} WHERE change <> 'deleted'"  # noqa: S608
        gone = {
            "keep": "false",
            "mark": f"c.id IN ({diff.gone}) AND c.deleted_at IS NULL",
            "drop": f"c.id IN ({diff.gone})",
        }
        touched = self.rows(
            f"SELECT DISTINCT c.file FROM {_CURRENT} c WHERE c.id IN ({written}) OR {gone[policy.deleted]}"  # noqa: S608
        )
        files = {int(file) for (file,) in touched}
        self.run(f"DELETE FROM {_CURRENT} WHERE id IN ({written})")  # noqa: S608
        removed = 0
        if policy.deleted == "drop":
            removed = self.run(diff.drop)
        elif policy.deleted == "mark":
            self.run(diff.marked(delivery.at.removesuffix("Z")))
        self.run(f"DELETE FROM {_KEPT} WHERE id IN (SELECT id FROM {INCOMING})")  # noqa: S608
        if policy.deleted == "keep":
            self.run(f"INSERT INTO {_KEPT} SELECT id FROM {CHANGES} WHERE change = 'deleted'")  # noqa: S608
        else:
            self.run(f"DELETE FROM {_KEPT} WHERE id IN ({diff.gone})")  # noqa: S608
        self.run(f"DELETE FROM {INCOMING} WHERE id NOT IN ({written})")  # noqa: S608
        changes = Changes(counts.get("inserted", 0), counts.get("changed", 0), counts.get("deleted", 0), removed)
        return changes, files

    def write_changes(self, delivery: Delivery, path: Path) -> None:
        """Write the list of changes to a file."""
        with disk_errors(f"write {path}", at=path):
            write_changes(change_lines(self.rows(self._diff.listed_changes), delivery.windows), path)

    def kept(self) -> dict[int, list[str]]:
        """Return the ids of the rows in each file that are gone at the source, but not marked."""
        found: dict[int, list[str]] = {}
        query = f"SELECT c.file, c.id FROM {_CURRENT} c JOIN {_KEPT} k USING (id) ORDER BY c.id"  # noqa: S608
        for file, id in self.rows(query):
            found.setdefault(file, []).append(id)
        return found

    def months(self, files: Collection[int]) -> list[str]:
        """Return the months of the rows that are to be written: those of some files, and those that were delivered."""
        month = "strftime(moment, '%Y-%m')"
        query = f"SELECT DISTINCT {month} FROM ({self._output(files)}) ORDER BY 1"  # noqa: S608
        return [str(month) for (month,) in self.rows(query)]

    def sorted_rows(self, files: Collection[int]) -> Iterator[Any]:
        """Yield the rows that are to be written, in order of time and id.

        The columns of the record batches are `id`, `moment`, those of `values` by their positions, `deleted_at`, and
        `kept`.
        """
        query = (
            f"SELECT o.*, o.id IN (SELECT id FROM {_KEPT}) AS kept FROM ({self._output(files)}) o "  # noqa: S608
            "ORDER BY moment, id"
        )
        with self._errors(), self._database.sql(query).to_arrow_reader(_OUTPUT_ROWS) as reader:
            for batch in reader:
                checkpoint()
                yield batch

    def write_csv(self, path: Path, names: Sequence[str], *, has_marks: bool) -> int:
        """Write all rows to a CSV without a header, in order of time and id; return their number."""
        cells = ["id" if name == self._columns.key else self._column(self._values.index(name)) for name in names]
        if has_marks:
            cells.append("strftime(deleted_at, '%Y-%m-%dT%H:%M:%S.%gZ')")
        query = f"SELECT {', '.join(cells)} FROM ({self._output({0})}) ORDER BY moment, id"  # noqa: S608
        return self.run(f"COPY ({query}) TO {literal(str(path))} (FORMAT csv, HEADER false, NULLSTR '')")

    @property
    def values(self) -> list[str]:
        """The columns of the source that are kept as text."""
        return self._values

    def _output(self, files: Collection[int]) -> str:
        row = ", ".join(["id", "moment", *map(self._column, range(len(self._values))), "deleted_at"])
        some = ", ".join(map(str, sorted(files))) or "NULL"
        return f"SELECT {row} FROM {_CURRENT} WHERE file IN ({some}) UNION ALL SELECT {row} FROM {INCOMING}"  # noqa: S608

    @property
    def _diff(self) -> Diff:
        return Diff(
            target=_CURRENT,
            key="id",
            time="moment",
            columns=("id", "moment", *map(self._column, range(len(self._values)))),
            missing=frozenset(),
            mark="deleted_at",
            kept=f"SELECT id FROM {_KEPT}",  # noqa: S608
            time_type="TIMESTAMP_MS",
            bound="{}",
            text_of_time="strftime({}, '%Y-%m-%dT%H:%M:%S.%g')",
        )

    def _add(self, table: str, more: str, batch: Any, moments: Any) -> None:
        import pyarrow as pa

        checkpoint()
        nothing = pa.nulls(len(batch), pa.string())
        names = set(batch.schema.names)
        arrays = {"id": batch.column(self._columns.key), "moment": moments}
        for at, name in enumerate(self._values):
            arrays[self._column(at)] = batch.column(name) if name in names else nothing
        arrays["deleted_at"] = batch.column(DELETED_COLUMN) if DELETED_COLUMN in names else nothing
        if pa.types.is_timestamp(arrays["deleted_at"].type):
            arrays["deleted_at"] = arrays["deleted_at"].cast(pa.timestamp("ms"))
        with self._errors(), self._registered(pa.table(arrays)):
            self._database.execute(f"INSERT INTO {table} SELECT *{more} FROM batch")  # noqa: S608

    @contextmanager
    def _registered(self, table: Any) -> Iterator[None]:
        self._database.register("batch", table)
        try:
            yield
        finally:
            self._database.unregister("batch")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise DuckDB's errors as OutputError."""
        import duckdb

        try:
            yield
        except duckdb.Error as error:
            reason = str(error).partition("\n")[0]
            raise OutputError(f"cannot compare the rows of {self._name} in {self.path}: {reason}") from error

    @staticmethod
    def _column(at: int) -> str:
        """The column of a value: names of the source may differ by case only, which DuckDB ignores."""
        return f"c{at}"


def check_columns(names: Sequence[str], columns: Columns, table: str) -> None:
    """Raise OutputError if rows with these columns cannot be stored."""
    missing = [name for name in (columns.key, columns.time) if name not in names]
    if missing:
        raise OutputError(f"rows without {missing[0]} cannot be written to {table}: add it to --fields")
    if DELETED_COLUMN in names:
        raise OutputError(f"a column cannot be called {DELETED_COLUMN} in {table}: leave it out with --fields")
    if len(set(names)) < len(names):
        raise OutputError(f"two columns have the same name, which {table} cannot hold: leave one out with --fields")


def count_between(times: Any, start: str, end: str) -> int:
    """Count sorted times, in milliseconds, from one instant to another."""
    first, last = times.searchsorted([_milliseconds(start), _milliseconds(end)])
    return int(last - first)


def _milliseconds(moment: str) -> int:
    return int(np.datetime64(moment.removesuffix("Z"), "ms").astype(np.int64))


def checkpoint() -> None:
    """Raise if the task that waits for this thread is cancelled. A no-op in other threads."""
    with suppress(NoEventLoopError):
        from_thread.check_cancelled()
