"""CSV to Arrow with pyarrow: record batches, and the two formats of Arrow IPC.

Columns are strings, except the time, which is a UTC timestamp in milliseconds. Empty fields become null.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc

from bulkpull.rows.columns import Shape, columns_of
from bulkpull.rows.records import File
from bulkpull.rows.scan import read_merged
from bulkpull.source import Columns

INSTANTS = pa.timestamp("ms", "UTC")
BATCH_BYTES = 8 * 1024 * 1024  # of a file, in memory, approximately: about 30,000 rows
_FILE_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")  # like Feather files, which all readers decompress
_REMEDY = "keep times as text with --all-strings"


def read_batches(
    spans: Iterable[File], columns: Columns, *, all_strings: bool, instants_in: str, remedy: str
) -> tuple[Any, Generator[tuple[Any, int]]]:
    """Return the schema of a merged CSV, and its rows in record batches, each with the row number of its first.

    Args:
        spans: The file; see `read_merged`.
        columns: The columns that have a meaning.
        all_strings: Whether the time is kept as text.
        instants_in: What needs a time that is an instant, for messages.
        remedy: What to do if it is none.

    Raises:
        FormatError: text that is not valid UTF-8, or a time that is not an instant in whole milliseconds.
    """
    names, blocks = read_merged(spans, columns.key)
    time_at = None if all_strings or columns.time not in names else names.index(columns.time)
    schema = pa.schema([pa.field(name, INSTANTS if at == time_at else pa.string()) for at, name in enumerate(names)])
    shape = Shape(names, time_at, instants_in, remedy)

    def batches() -> Generator[tuple[Any, int]]:
        for block, row in blocks:
            arrays = []
            for field, column in zip(schema, columns_of(block, shape, row), strict=True):
                buffers = [None if buffer is None else pa.py_buffer(buffer) for buffer in column.buffers]
                arrays.append(pa.Array.from_buffers(field.type, column.rows, buffers, -1, column.first))
            yield pa.record_batch(arrays, schema=schema), row

    return schema, batches()


def write_arrow(file: File, path: Path, *, columns: Columns, all_strings: bool, checkpoint: Callable[[], None]) -> None:
    """Write the merged CSV in `file` to `path` as an Arrow IPC file (Feather V2). The same rows give the same bytes.

    `checkpoint` is called between blocks and may raise to stop. Raises FormatError, see `read_batches`, and OSError.
    """
    schema, batches = read_batches(
        (file,), columns, all_strings=all_strings, instants_in="Arrow timestamps", remedy=_REMEDY
    )
    with path.open("wb") as out, pa.ipc.new_file(out, schema, options=_FILE_OPTIONS) as writer:
        buffered: list[Any] = []
        size = 0
        for batch, _ in batches:
            checkpoint()
            buffered.append(batch)
            size += batch.nbytes
            if size >= BATCH_BYTES:
                writer.write_batch(_joined(buffered, schema))
                buffered, size = [], 0
                pa.default_memory_pool().release_unused()  # else the pool grows to a multiple of what is in use
        if buffered:
            writer.write_batch(_joined(buffered, schema))


def arrow_stream(spans: Iterable[File], *, columns: Columns, all_strings: bool) -> Generator[bytes]:
    """Yield a merged CSV as an Arrow IPC stream, with one or more record batches for each span, not compressed.

    Raises FormatError, see `read_batches`.
    """
    schema, batches = read_batches(
        spans, columns, all_strings=all_strings, instants_in="Arrow timestamps", remedy=_REMEDY
    )
    written = io.BytesIO()
    with pa.ipc.new_stream(written, schema) as writer:
        yield _taken_from(written)
        for batch, _ in batches:
            writer.write_batch(_joined([batch], schema))
            yield _taken_from(written)
    yield written.getvalue()


def _joined(batches: list[Any], schema: Any) -> Any:
    """Return one batch. Its buffers are copies that hold nothing else: those of a block share memory, which is written
    up to the next multiple of 64 bytes."""
    columns = [pa.concat_arrays([batch.column(at) for batch in batches]) for at in range(len(schema))]
    return pa.record_batch(columns, schema=schema)


def _taken_from(buffer: io.BytesIO) -> bytes:
    """Return what a buffer holds, and empty it."""
    data = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return data
