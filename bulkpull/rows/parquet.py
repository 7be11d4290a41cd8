"""CSV to Parquet with pyarrow.

Columns are strings, except the time, which is a UTC timestamp in milliseconds. Empty fields become null. The output is
deterministic: the boundaries of row groups depend on the rows alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from bulkpull.errors import FormatError
from bulkpull.rows.arrow import read_batches
from bulkpull.rows.format import DATA_SET_FILE
from bulkpull.rows.records import File
from bulkpull.source import Columns

ROW_GROUP_BYTES = 16 * 1024 * 1024  # in memory, approximately: about 65,000 rows
_SAMPLE_ROWS = 8192  # the first of a file, from which is judged where a dictionary helps
MAX_PARTITIONS = 512  # files open at the same time: four decades of months
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"  # Hive's name for the partition of rows without a value
_NAT = np.iinfo(np.int64).min


def write_parquet(
    file: File,
    path: Path,
    *,
    columns: Columns,
    all_strings: bool,
    partition_by: str | None,
    provenance: Callable[[], Mapping[str, str]],
    checkpoint: Callable[[], None],
) -> None:
    """Write the merged CSV in `file` to `path`: a file, or with `partition_by` a directory with one file per month.

    `provenance` is called once all rows have been read; its result goes into the file metadata. `checkpoint` is called
    between blocks and may raise to stop. Raises FormatError for text that is not valid UTF-8 and for a time that is not
    an instant in whole milliseconds, and OSError.
    """
    remedy = "keep times as text with --all-strings" + (", without --partition-by" if partition_by else "")
    schema, batches = read_batches(
        (file,), columns, all_strings=all_strings, instants_in="Parquet timestamps", remedy=remedy
    )
    with _Files(path, schema, columns, partitioned=partition_by is not None) as files:
        for batch, row in batches:
            checkpoint()
            files.add(batch, row)
        files.finish(provenance())


def count_rows(path: Path) -> int:
    """Return the number of rows of a Parquet file, from its footer. Raises OSError."""
    return int(pyarrow.parquet.read_metadata(path).num_rows)


def parquet_writer(file: File, schema: Any, columns: Columns, first: Any) -> Any:
    """Return a `ParquetWriter` for a file whose first row group is given."""
    searched = (columns.key, columns.time)
    return pyarrow.parquet.ParquetWriter(
        file,
        schema,
        compression="zstd",
        use_dictionary=[name for name in schema.names if name not in searched and _is_repetitive(first[name])],
        write_statistics=[name for name in schema.names if name in searched],
    )


class _Files:
    """The files of one output, one or one per month, and the records buffered for the next row group of each."""

    def __init__(self, path: Path, schema: Any, columns: Columns, *, partitioned: bool) -> None:
        self._path = path
        self._columns = columns
        self._schema = schema
        self._partitioned = partitioned
        self._stack = ExitStack()
        self._writers: dict[str, Any] = {}
        self._buffered: dict[str, list[Any]] = {}
        self._sizes: dict[str, int] = {}
        self._encoder = ThreadPoolExecutor(1, "parquet")  # encodes a row group while the next records are read
        self._encoding: Future[None] | None = None

    def __enter__(self) -> Self:
        if self._partitioned:
            self._path.mkdir(exist_ok=True)
        return self

    def __exit__(self, *_error: object) -> None:
        self._encoder.shutdown()
        self._stack.close()

    def add(self, batch: Any, row: int) -> None:
        """Add records, the first of which is row number `row`. Raises FormatError if there are too many months."""
        if not self._partitioned:
            self._buffer("", batch)
            return
        months = _months(batch.column(self._columns.time))
        distinct = np.unique(months).tolist()
        if len(self._buffered.keys() | distinct) > MAX_PARTITIONS:
            id = batch.column(self._columns.key)[0].as_py()
            reason = f"month {MAX_PARTITIONS + 1} starts at about this row; the limit is {MAX_PARTITIONS} partitions"
            raise FormatError(row, id, f"{reason}: use a single file, without --partition-by")
        for month in distinct:
            of_month = batch if len(distinct) == 1 else batch.filter(pa.array(months == month))
            self._buffer(month, of_month)

    def finish(self, provenance: Mapping[str, str]) -> None:
        """Write the buffered records, the metadata and the footers."""
        for month in tuple(self._buffered) or ("",):
            writer = self._write(month)
            self._encoder.submit(
                writer.add_key_value_metadata, {f"bulkpull.{name}": text for name, text in provenance.items()}
            ).result()
            writer.close()
        if self._encoding:
            self._encoding.result()

    def _buffer(self, month: str, batch: Any) -> None:
        self._buffered.setdefault(month, []).append(batch)
        self._sizes[month] = self._sizes.get(month, 0) + batch.nbytes
        if sum(self._sizes.values()) >= ROW_GROUP_BYTES:
            self._write(max(self._sizes, key=self._sizes.__getitem__))

    def _open(self, month: str, first: Any) -> Any:
        """Return a new writer for a month, whose first row group is given."""
        path = self._path
        if self._partitioned:
            path = (path / f"month={month}" if month else path) / DATA_SET_FILE  # "" if there are no rows
            path.parent.mkdir(exist_ok=True)
        file = self._stack.enter_context(path.open("wb"))
        return self._stack.enter_context(parquet_writer(file, self._schema, self._columns, first))

    def _write(self, month: str) -> Any:
        """Write the buffered records of a month as a row group; return the month's writer."""
        if self._encoding:
            self._encoding.result()
        table = pa.Table.from_batches(self._buffered.get(month, ()), self._schema)
        self._buffered[month], self._sizes[month] = [], 0
        if month not in self._writers:
            self._writers[month] = self._open(month, table)
        if table.num_rows:
            self._encoding = self._encoder.submit(_encode, self._writers[month], table)
        return self._writers[month]


def _is_repetitive(column: Any) -> bool:
    """Whether values repeat so often that a dictionary makes a column smaller, and does not slow its encoding."""
    sample = column.slice(0, _SAMPLE_ROWS).to_pylist()  # pyarrow.compute takes 30 ms to import
    return 2 * len({*sample} - {None}) <= len(sample)


def _months(created: Any) -> Any:
    """Return the month of each instant, such as 2024-01."""
    milliseconds = created.view(pa.int64()).fill_null(_NAT).to_numpy()
    months, which = np.unique(milliseconds.astype("M8[ms]").astype("M8[M]"), return_inverse=True)
    return np.array([_NULL_PARTITION if np.isnat(month) else str(month) for month in months])[which]


def _encode(writer: Any, table: Any) -> None:
    writer.write_table(table)
    pa.default_memory_pool().release_unused()  # else the pool grows to a multiple of what is in use
