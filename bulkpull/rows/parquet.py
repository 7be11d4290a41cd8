"""CSV to Parquet, by pyarrow: strings, created_time as a UTC timestamp in milliseconds, null where there is nothing.

What comes of the same CSV is the same, byte for byte: where row groups end depends on the rows alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from bulkpull.errors import FormatError
from bulkpull.rows.cells import no_text, values
from bulkpull.rows.format import DATA_SET_FILE
from bulkpull.rows.instants import nanoseconds
from bulkpull.rows.records import File
from bulkpull.rows.scan import Block, Layout, Scanner, read_header
from bulkpull.source import Columns

ROW_GROUP = 16 * 1024 * 1024  # bytes of values, about: some 65,000 rows
MAX_PARTITIONS = 512  # files that are open at a time: four decades of months
_INSTANTS = pa.timestamp("ms", "UTC")
_FIRST, _LAST = -62_135_596_800_000, 253_402_300_799_999  # milliseconds: the years 1 to 9999, which readers know
_NO_MONTH = "__HIVE_DEFAULT_PARTITION__"  # Hive's name, which readers know, for rows without a value
_NO_INSTANT = np.iinfo(np.int64).min


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
    """Writes the merged CSV in `file` to `path`; with `partition_by` that becomes a directory of files by the month of
    its time. `provenance` is asked for once all has been read, and goes into the metadata. `checkpoint` is called
    now and then, and may raise to stop.

    Raises FormatError for a value that is no UTF-8 text or no instant of milliseconds, and OSError.
    """
    names, body = read_header(file, checkpoint, columns.key)
    schema = pa.schema(
        [pa.field(name, _INSTANTS if name == columns.time and not all_strings else pa.string()) for name in names]
    )
    layout = Layout(width=len(names), key_at=names.index(columns.key))
    way_out = "keep it as text with --all-strings" + (", without --partition-by" if partition_by else "")
    with _Tables(path, schema, columns, partitioned=partition_by is not None) as tables:
        row = 1
        for block in Scanner().blocks(file, body, layout, b"", b""):
            checkpoint()
            tables.add(_batch(block, schema, row, way_out), row)
            row += len(block)
        tables.finish(provenance())


def _batch(block: Block, schema: Any, row: int, way_out: str) -> Any:
    """The records of a block with the schema's types; the first is number `row`."""
    try:
        str(block.data, "utf-8")
    except UnicodeDecodeError as error:
        raise no_text(block, tuple(schema.names), error.start, row) from None
    cells = values(block)
    # Arrow's strings stand one behind the other: every other one is what lies between two values.
    offsets = np.full(2 * len(cells.ends) + 1, len(cells.data), np.int32)
    offsets[0:-1:2], offsets[1::2] = cells.begins, cells.ends
    is_there = np.ones(2 * len(cells.ends), np.bool_)
    is_there[0::2] = ~cells.nothing
    buffers = [np.packbits(is_there, bitorder="little"), offsets, cells.data]
    texts = pa.Array.from_buffers(pa.string(), len(is_there), [pa.py_buffer(buffer) for buffer in buffers])
    by_column = np.arange(0, len(is_there), 2).reshape(len(block), -1).T.reshape(-1)
    texts = texts.take(pa.array(by_column))
    columns = [texts.slice(at, len(block)) for at in range(0, len(texts), len(block))]
    for at, field in enumerate(schema):
        if field.type == _INSTANTS:
            columns[at] = _instants(columns[at], block, field.name, row, way_out)
    return pa.record_batch(columns, schema=schema)


def _instants(texts: Any, block: Block, column: str, row: int, way_out: str) -> Any:
    """Texts as instants. Raises FormatError, which names the first that is none, or none that milliseconds can tell."""
    try:
        instants = pyarrow.compute.cast(texts, _INSTANTS)  # fast, and stricter than ISO 8601
        ends = pyarrow.compute.min_max(instants)
        if ends["min"].value is None or (ends["min"].value >= _FIRST and ends["max"].value <= _LAST):
            return instants
    except pa.ArrowInvalid:
        pass
    found: list[int | None] = []
    for at, text in enumerate(texts.to_pylist()):
        moment = None if text is None else nanoseconds(text.encode())
        if text is not None and moment is None:
            raise _no_instant(block, at, column, row, text, "is no instant: a date, a time and an offset", way_out)
        milliseconds, finer = divmod(moment or 0, 1_000_000)
        if finer:
            raise _no_instant(block, at, column, row, text, "is no instant of whole milliseconds", way_out)
        if not _FIRST <= milliseconds <= _LAST:
            raise _no_instant(block, at, column, row, text, "is not within the years 1 to 9999 in UTC", way_out)
        found.append(None if moment is None else milliseconds)
    return pa.array(found, pa.int64()).view(_INSTANTS)


def _no_instant(block: Block, at: int, column: str, row: int, text: str, reason: str, way_out: str) -> FormatError:
    id = block.id(at).decode(errors="replace")
    return FormatError(row + at, id, f"{column} {text[:100]!r} {reason}, as Parquet is to have it; {way_out}")


class _Tables:
    """The files of one output, one or one a month, each with records that wait until they make a row group."""

    def __init__(self, path: Path, schema: Any, columns: Columns, *, partitioned: bool) -> None:
        self._path = path
        self._columns = columns
        self._schema = schema
        self._partitioned = partitioned
        self._stack = ExitStack()
        self._writers: dict[str, Any] = {}
        self._waiting: dict[str, list[Any]] = {}
        self._sizes: dict[str, int] = {}
        self._encoder = ThreadPoolExecutor(1, "parquet")  # encodes a row group while the records of others are read
        self._encoded: Future[None] | None = None

    def __enter__(self) -> Self:
        if self._partitioned:
            self._path.mkdir(exist_ok=True)
        return self

    def __exit__(self, *_error: object) -> None:
        self._encoder.shutdown()
        self._stack.close()

    def add(self, batch: Any, row: int) -> None:
        """Takes in records, the first of which is number `row`. Raises FormatError."""
        if not self._partitioned:
            self._wait("", batch)
            return
        months = _months(batch.column(self._columns.time))
        distinct = np.unique(months).tolist()
        if len(self._writers.keys() | distinct) > MAX_PARTITIONS:
            id = batch.column(self._columns.key)[0].as_py()
            raise FormatError(row, id, f"here, or soon after, comes month {MAX_PARTITIONS + 1}: do without partitions")
        for month in distinct:
            mine = batch if len(distinct) == 1 else batch.filter(pa.array(months == month))
            self._wait(month, mine)

    def finish(self, provenance: Mapping[str, str]) -> None:
        """Writes what waits, and how the files end."""
        if not self._writers:
            self._open("")
        for month, writer in self._writers.items():
            self._write(month)
            self._encoder.submit(
                writer.add_key_value_metadata, {f"bulkpull.{name}": text for name, text in provenance.items()}
            ).result()
            writer.close()
        if self._encoded:
            self._encoded.result()

    def _wait(self, month: str, batch: Any) -> None:
        if month not in self._writers:
            self._open(month)
        self._waiting[month].append(batch)
        self._sizes[month] += batch.nbytes
        if sum(self._sizes.values()) >= ROW_GROUP:
            self._write(max(self._sizes, key=self._sizes.__getitem__))

    def _open(self, month: str) -> None:
        path = self._path
        if self._partitioned:
            path = (path / f"month={month}" if month else path) / DATA_SET_FILE  # without rows, without a month
            path.parent.mkdir(exist_ok=True)
        self._waiting[month], self._sizes[month] = [], 0
        searched = (self._columns.key, self._columns.time)
        writer = pyarrow.parquet.ParquetWriter(
            self._stack.enter_context(path.open("wb")),
            self._schema,
            compression="zstd",
            use_dictionary=[name for name in self._schema.names if name not in searched],
            write_statistics=[name for name in self._schema.names if name in searched],
        )
        self._writers[month] = self._stack.enter_context(writer)

    def _write(self, month: str) -> None:
        """The records that wait, as a row group."""
        if self._encoded:
            self._encoded.result()
        table = pa.Table.from_batches(self._waiting[month], self._schema)
        self._waiting[month], self._sizes[month] = [], 0
        if table.num_rows:
            self._encoded = self._encoder.submit(_encode, self._writers[month], table)


def _months(created: Any) -> Any:
    """The month of each instant, as in 2024-01."""
    milliseconds = created.view(pa.int64()).fill_null(_NO_INSTANT).to_numpy()
    months, which = np.unique(milliseconds.astype("M8[ms]").astype("M8[M]"), return_inverse=True)
    return np.array([_NO_MONTH if np.isnat(month) else str(month) for month in months])[which]


def _encode(writer: Any, table: Any) -> None:
    writer.write_table(table)
    pa.default_memory_pool().release_unused()  # or it grows to some times of what it holds
