"""Rows of CSV and Parquet files as record batches, each with the times of its rows; and Parquet files of such rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from bulkpull.disk import sync_file
from bulkpull.errors import OutputError
from bulkpull.record import record
from bulkpull.rows.arrow import INSTANTS, read_batches
from bulkpull.rows.parquet import ROW_GROUP_BYTES, parquet_writer
from bulkpull.rows.records import File
from bulkpull.source import Columns
from bulkpull.tables.table import DELETED_COLUMN

MOMENTS = pa.timestamp("ms")
_REMEDY = "correct it at the source, or leave its window out"


def read_csv(opened: Callable[[], File], columns: Columns, *, keeps_text: bool) -> Iterator[tuple[Any, Any]]:
    """Yield the rows of a CSV, with the times as text if `keeps_text`.

    Raises FormatError for text that is not valid UTF-8, and for a time that is not an instant in whole milliseconds.
    """
    with ExitStack() as stack:

        def batches(*, all_strings: bool) -> Iterator[Any]:
            file = stack.enter_context(closing(opened()))
            what = "tables that are kept up to date"
            _, found = read_batches((file,), columns, all_strings=all_strings, instants_in=what, remedy=_REMEDY)
            return (batch for batch, _ in found)

        instants = batches(all_strings=False)
        if not keeps_text:
            yield from ((batch, batch.column(columns.time).cast(MOMENTS)) for batch in instants)
            return
        # Both readers split the file at the same rows.
        for texts, others in zip(batches(all_strings=True), instants, strict=True):
            yield texts, others.column(columns.time).cast(MOMENTS)


def read_parquet(file: Any, place: str, columns: Columns) -> Iterator[tuple[Any, Any]]:
    """Yield the rows of a Parquet file."""
    for batch in read_columns(file, place, None):
        yield batch, batch.column(columns.time).cast(MOMENTS)


def read_columns(file: Any, place: str, names: list[str] | None) -> Iterator[Any]:
    """Yield some or all columns of a Parquet file. Raises OutputError, with its `place`, if it is damaged."""
    try:
        with closing(file), closing(pyarrow.parquet.ParquetFile(file, pre_buffer=False)) as parquet:
            for group in range(parquet.num_row_groups):  # a reader of all groups would keep what it has read
                yield from parquet.iter_batches(row_groups=[group], columns=names)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise OutputError(f"cannot read {place}: it is damaged, or was changed by another program ({error})") from None


def present_times(batches: Iterable[Any], columns: Columns, kept: Iterable[str]) -> Any:
    """Return the sorted times, as milliseconds in NumPy, of the rows that are still at the source."""
    hidden = pa.array(sorted(kept), pa.string())
    found = [np.empty(0, np.int64)]
    for batch in batches:
        is_there = pa.compute.invert(pa.compute.is_in(batch.column(columns.key), hidden))
        if DELETED_COLUMN in batch.schema.names:
            is_there = pa.compute.and_(is_there, batch.column(DELETED_COLUMN).is_null())
        times = batch.column(columns.time).cast(MOMENTS).filter(is_there)
        found.append(times.cast(pa.int64()).drop_null().to_numpy())
    return np.sort(np.concatenate(found))


@record(frozen=False)
class Written:
    """A file with rows that were written in order of time."""

    path: Path
    rows: int = 0
    gone: int = 0
    first_time: str | None = None
    last_time: str | None = None
    first_id: str | None = None
    last_id: str | None = None
    kept: list[str] = field(default_factory=list)

    def add(self, batch: Any) -> None:
        """Take note of rows of a spool that are written."""
        ids, moments, kept = batch.column("id"), batch.column("moment"), batch.column("kept")
        found = pa.compute.min_max(ids).as_py()
        self.first_id = found["min"] if self.first_id is None else min(found["min"], self.first_id)
        self.last_id = found["max"] if self.last_id is None else max(found["max"], self.last_id)
        self.first_time = self.first_time or _instant(moments[0])
        self.last_time = _instant(moments[-1])
        self.kept += ids.filter(kept).to_pylist()
        self.rows += len(batch)
        self.gone += pa.compute.or_(kept, batch.column("deleted_at").is_valid()).true_count


class ParquetFiles:
    """Parquet files with rows of a spool.

    Args:
        directory: Where to.
        columns: The columns that have a meaning.
        names: All columns of the source, in the order of the files.
        values: Those that have positions in the spool.
        has_marks: Whether the files have the column that marks rows which are gone.
    """

    def __init__(
        self, directory: Path, columns: Columns, names: Iterable[str], values: Sequence[str], *, has_marks: bool
    ) -> None:
        self.directory, self._columns, self._values = directory, columns, values
        fields = [pa.field(name, INSTANTS if name == columns.time else pa.string()) for name in names]
        self._schema = pa.schema([*fields, *([pa.field(DELETED_COLUMN, INSTANTS)] if has_marks else [])])
        self._files = 0

    def write(self, batches: Iterable[Any], *, rows_per_file: int, by_month: bool) -> Iterator[Written]:
        """Write rows in order of time, and yield the files; none if there are no rows. Raises OSError.

        Args:
            batches: The rows, as a spool yields them.
            rows_per_file: How many rows a file may have.
            by_month: Whether all rows of a file must be of one month.
        """
        file: _OpenFile | None = None
        try:
            for batch in batches:
                for some in _of_each_month(batch) if by_month else (batch,):
                    month = _instant(some["moment"][0])[:7]
                    start = 0
                    while start < len(some):
                        if file and (file.written.rows == rows_per_file or (by_month and file.month != month)):
                            file.finish()
                            yield file.written
                            file = None
                        file = file or self._new(month)
                        piece = some.slice(start, rows_per_file - file.written.rows)
                        start += len(piece)
                        file.written.add(piece)
                        file.add(self._named(piece))
            if file:
                file.finish()
                yield file.written
        finally:
            if file:
                file.close()

    def write_none(self) -> Written:
        """Write a file without rows. Raises OSError."""
        file = self._new("")
        file.finish()
        return file.written

    def _new(self, month: str) -> _OpenFile:
        self._files += 1
        return _OpenFile(Written(self.directory / f"{self._files}.parquet"), month, self._schema, self._columns)

    def _named(self, batch: Any) -> Any:
        """Return a batch of a spool with the columns of the files."""
        arrays = {name: batch.column(f"c{at}") for at, name in enumerate(self._values)}
        arrays |= {self._columns.key: batch.column("id"), self._columns.time: batch.column("moment").cast(INSTANTS)}
        arrays[DELETED_COLUMN] = batch.column("deleted_at").cast(INSTANTS)
        return pa.record_batch([arrays[name] for name in self._schema.names], schema=self._schema)


class _OpenFile:
    """A Parquet file that is being written, and the rows buffered for its next row group."""

    def __init__(self, written: Written, month: str, schema: Any, columns: Columns) -> None:
        self.written, self.month = written, month
        self._schema, self._columns = schema, columns
        self._buffered: list[Any] = []
        self._size = 0
        self._stack = ExitStack()
        self._writer: Any = None

    def add(self, batch: Any) -> None:
        self._buffered.append(batch)
        self._size += batch.nbytes
        if self._size >= ROW_GROUP_BYTES:
            self._flush()

    def finish(self) -> None:
        """Write the rest and the footer, and sync the file."""
        if self._buffered or self._writer is None:
            self._flush()
        self.close()
        with self.written.path.open("rb") as file:
            sync_file(file.fileno())

    def close(self) -> None:
        self._stack.close()

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._buffered, self._schema)
        self._buffered, self._size = [], 0
        if self._writer is None:
            file = self._stack.enter_context(self.written.path.open("wb"))
            self._writer = self._stack.enter_context(parquet_writer(file, self._schema, self._columns, table))
        if table.num_rows:
            self._writer.write_table(table)
        pa.default_memory_pool().release_unused()  # else the pool grows to a multiple of what is in use


def _of_each_month(batch: Any) -> Iterator[Any]:
    """Yield the rows of each month of a batch, which are in order of time."""
    months = batch.column("moment").to_numpy(zero_copy_only=False).astype("M8[M]")
    bounds = [0, *(np.flatnonzero(months[1:] != months[:-1]) + 1).tolist(), len(batch)]
    for start, end in pairwise(bounds):
        if end > start:
            yield batch.slice(start, end - start)


def _instant(moment: Any) -> str:
    return f"{np.datetime_as_string(np.datetime64(moment.value, 'ms'), unit='ms')}Z"
