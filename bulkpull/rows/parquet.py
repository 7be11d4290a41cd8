"""CSV to Parquet, by pyarrow: strings, created_time as a UTC timestamp in milliseconds, null where there is nothing.

What comes of the same CSV is the same, byte for byte: where row groups end depends on the rows alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from bulkpull.errors import FormatError
from bulkpull.rows.format import DATA_SET_FILE
from bulkpull.rows.records import ID, MAX_RECORD, File
from bulkpull.rows.scan import CREATED, read_header

ROW_GROUP = 16 * 1024 * 1024  # bytes of values, about: some 65,000 rows
MAX_PARTITIONS = 512  # files that are open at a time: four decades of months
_BLOCK = 1024 * 1024  # bytes that are parsed together, unless a record is longer
_LONG_BLOCK = 2 * MAX_RECORD
_INSTANTS = pa.timestamp("ms", "UTC")
_NO_MONTH = "__HIVE_DEFAULT_PARTITION__"  # Hive's name, which readers know, for rows without a value


def write_parquet(
    file: File,
    path: Path,
    *,
    all_strings: bool,
    partition_by: str | None,
    provenance: Callable[[], Mapping[str, str]],
    checkpoint: Callable[[], None],
) -> None:
    """Writes the merged CSV in `file` to `path`; with `partition_by` that becomes a directory of files by the month of
    created_time. `provenance` is asked for once all has been read, and goes into the metadata. `checkpoint` is called
    now and then, and may raise to stop.

    Raises FormatError for a value that is no UTF-8 text or no instant, and OSError.
    """
    columns, _ = read_header(file, checkpoint)
    schema = pa.schema(
        [pa.field(name, _INSTANTS if name == CREATED and not all_strings else pa.string()) for name in columns]
    )
    block = _BLOCK
    while True:
        with _Tables(path, schema, partitioned=partition_by is not None) as tables:
            row = 1
            try:
                for raw in _batches(file, columns, block):
                    checkpoint()
                    tables.add(_typed(raw, schema, row), row)
                    row += raw.num_rows
            except pa.ArrowInvalid as error:
                if block == _LONG_BLOCK or "straddling" not in str(error):
                    raise
                block = _LONG_BLOCK  # a record was too long
            else:
                tables.finish(provenance())
                return


def _batches(file: File, columns: tuple[str, ...], block: int) -> Iterator[Any]:
    """The records, as raw bytes."""
    file.seek(0)
    yield from pyarrow.csv.open_csv(
        pa.PythonFile(file, mode="r"),
        read_options=pyarrow.csv.ReadOptions(block_size=block, use_threads=False),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.binary()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def _typed(raw: Any, schema: Any, row: int) -> Any:
    """The records with the schema's types; the first is number `row`."""
    arrays = []
    for field, values in zip(schema, raw.columns, strict=True):
        texts = _cast(raw, values, pa.string(), row, f"{field.name} is no UTF-8")
        reason = f"{field.name} {{}} is no instant of milliseconds, as Parquet is to have it; keep it as text"
        arrays.append(texts if field.type == pa.string() else _cast(raw, texts, field.type, row, reason))
    return pa.record_batch(arrays, schema=schema)


def _cast(raw: Any, values: Any, kind: Any, row: int, reason: str) -> Any:
    """The values as another type; raises FormatError, which names the first that cannot be that."""
    try:
        return pyarrow.compute.cast(values, kind)
    except pa.ArrowInvalid:
        for at in range(len(values)):
            try:
                pyarrow.compute.cast(values.slice(at, 1), kind)
            except pa.ArrowInvalid:
                id = raw.column(ID)[at].as_py().decode(errors="replace")
                raise FormatError(row + at, id, reason.format(repr(values[at].as_py()))) from None
        raise


class _Tables:
    """The files of one output, one or one a month, each with records that wait until they make a row group."""

    def __init__(self, path: Path, schema: Any, *, partitioned: bool) -> None:
        self._path = path
        self._schema = schema
        self._partitioned = partitioned
        self._stack = ExitStack()
        self._writers: dict[str, Any] = {}
        self._waiting: dict[str, list[Any]] = {}
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
        created = batch.column(CREATED)
        ends = pyarrow.compute.min_max(created)
        months = _months(pa.array([ends["min"].as_py(), ends["max"].as_py()], _INSTANTS))
        if created.null_count or months[0] != months[1]:
            months = _months(created)
        distinct = list(dict.fromkeys(months))
        if len(self._writers.keys() | distinct) > MAX_PARTITIONS:
            id = batch.column(ID)[0].as_py()
            raise FormatError(row, id, f"here, or soon after, comes month {MAX_PARTITIONS + 1}: do without partitions")
        for month in distinct:
            mine = batch if len(distinct) == 1 else batch.filter(pa.array([each == month for each in months]))
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
        sizes = {month: sum(batch.nbytes for batch in waiting) for month, waiting in self._waiting.items()}
        if sum(sizes.values()) >= ROW_GROUP:
            self._write(max(sizes, key=sizes.__getitem__))

    def _open(self, month: str) -> None:
        path = self._path
        if self._partitioned:
            path = (path / f"month={month}" if month else path) / DATA_SET_FILE  # without rows, without a month
            path.parent.mkdir(exist_ok=True)
        self._waiting[month] = []
        writer = pyarrow.parquet.ParquetWriter(
            self._stack.enter_context(path.open("wb")),
            self._schema,
            compression="zstd",
            use_dictionary=[name for name in self._schema.names if name not in (ID, CREATED)],
            write_statistics=[name for name in self._schema.names if name in (ID, CREATED)],  # what is searched by
        )
        self._writers[month] = self._stack.enter_context(writer)

    def _write(self, month: str) -> None:
        """The records that wait, as a row group."""
        if self._encoded:
            self._encoded.result()
        table = pa.Table.from_batches(self._waiting[month], self._schema)
        self._waiting[month] = []
        if table.num_rows:
            self._encoded = self._encoder.submit(_encode, self._writers[month], table)


def _months(created: Any) -> list[str]:
    """The month of each instant, as in 2024-01."""
    months = pyarrow.compute.strftime(created, format="%Y-%m")
    return [_NO_MONTH if month is None else month for month in months.to_pylist()]


def _encode(writer: Any, table: Any) -> None:
    writer.write_table(table)
    pa.default_memory_pool().release_unused()  # or it grows to some times of what it holds
