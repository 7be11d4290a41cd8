"""Batches of rows: from a merged CSV that still grows to columns in memory, which Arrow's C interface exports."""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import datetime
from typing import Any

from bulkpull.errors import UsageError
from bulkpull.record import record
from bulkpull.rows.columns import Column, Shape, columns_of
from bulkpull.rows.growing_file import GrowingFile
from bulkpull.rows.scan import read_merged
from bulkpull.source import Columns

MAX_ROWS = 65_536  # of a batch
MAX_BYTES = 16 * 1024 * 1024  # of CSV in a batch, unless a single row is longer
MAX_HOLD_S = 1.0  # that rows wait for more of them
_INTERVAL_S = 0.1  # between checks whether to stop, while there are no rows


@record
class Batch:
    """Consecutive rows. `end` is the byte of the merged CSV at which they end."""

    shape: Shape
    columns: list[Column]
    end: int

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return self.columns[0].rows

    def to_pylist(self) -> list[dict[str, str | datetime | None]]:
        """Return the rows as dicts. Takes about a microsecond for each value."""
        names = self.shape.names
        values = [column.to_list() for column in self.columns]
        return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]

    def __arrow_c_schema__(self) -> object:
        """Return the schema as a capsule of Arrow's C interface. Needs nanoarrow."""
        return arrow_schema(self.shape).__arrow_c_schema__()

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        """Return the schema and the rows as capsules of Arrow's C interface. Needs nanoarrow."""
        import nanoarrow

        schema = arrow_schema(self.shape)
        arrays = [
            nanoarrow.c_array_from_buffers(
                child, column.rows, column.buffers, -1 if column.validity is not None else 0, column.first
            )
            for child, column in zip(schema.children, self.columns, strict=True)
        ]
        array = nanoarrow.c_array_from_buffers(schema, self.num_rows, [None], 0, children=arrays)
        capsules: tuple[object, object] = array.__arrow_c_array__(requested_schema)
        return capsules


def arrow_schema(shape: Shape) -> Any:
    """Return the schema of batches, with `__arrow_c_schema__`. Raises UsageError if nanoarrow is missing."""
    try:
        import nanoarrow
    except ImportError:
        raise UsageError("Arrow batches need nanoarrow: pip install 'bulkpull[arrow]'") from None
    types = {
        name: nanoarrow.timestamp("ms", timezone="UTC") if at == shape.time_at else nanoarrow.string()
        for at, name in enumerate(shape.names)
    }
    return nanoarrow.c_schema(nanoarrow.struct(types, nullable=False))


def batches(
    merged: GrowingFile,
    start: int,
    columns: Columns,
    *,
    all_strings: bool,
    max_rows: int,
    on_header: Callable[[Shape], None],
    checkpoint: Callable[[], None],
) -> Generator[Batch]:
    """Yield the rows of a merged CSV from byte `start` on, as they appear; 0 stands for the first row.

    Rows that are there are not held back for longer than MAX_HOLD_S. Blocks until the end is known.

    Args:
        merged: The merged CSV.
        start: Where an earlier reader stopped.
        columns: The columns that have a meaning.
        all_strings: Whether times stay text.
        max_rows: The most rows in a batch.
        on_header: Called once, before the first batch.
        checkpoint: Called now and then; may raise to stop.

    Raises:
        FormatError: text that is not valid UTF-8, or a time that is not an instant in whole milliseconds.
        Superseded: see `GrowingFile`.
    """
    spans = merged.spans(checkpoint, _INTERVAL_S, enough_bytes=MAX_BYTES, max_hold_s=MAX_HOLD_S)
    names, blocks = read_merged(spans, columns.key, start=start, block_bytes=MAX_BYTES)
    offset = merged.tell()
    time_at = None if all_strings or columns.time not in names else names.index(columns.time)
    shape = Shape(names, time_at, "timestamps", "pass all_strings=True to keep times as text")
    on_header(shape)
    for block, row in blocks:
        checkpoint()
        for first in range(0, len(block), max_rows):
            last = min(first + max_rows, len(block))
            found = columns_of(block.part(first, last), shape, row + first)
            yield Batch(shape, found, offset + int(block.ends[last - 1]))
        offset += int(block.ends[-1])
