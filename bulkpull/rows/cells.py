"""The values in the cells of a block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bulkpull.errors import FormatError
from bulkpull.record import record
from bulkpull.rows import kernel
from bulkpull.rows.block import Block, Bytes, Positions

PADDING = 16  # bytes that the kernel needs after each column of texts, and after the constant text of a line
_QUOTE = ord('"')


@record
class CellValues:
    """The values of all cells of a block, in row order.

    Each is `data[start:end]`. A cell without any character is null; a quoted empty one is an empty string.
    """

    data: Bytes
    starts: Positions
    ends: Positions
    is_null: NDArray[np.bool_]


def cell_values(block: Block) -> CellValues:
    """Return the values of a block's cells, with enclosing quotes removed and doubled quotes reduced to one."""
    data = np.frombuffer(block.data, np.uint8)
    separators = block.separators.reshape(-1)
    starts = np.empty_like(separators)
    starts[0], starts[1:] = 0, separators[:-1] + 1
    is_null = starts == separators
    is_quoted = data[starts] == _QUOTE  # a quote inside an unquoted value is literal
    starts += is_quoted
    ends = separators - is_quoted
    if is_quoted.any():
        quotes = np.flatnonzero(data == _QUOTE)
        if (np.diff(quotes) == 1).any():
            cells = np.searchsorted(separators, quotes)
            inner = quotes[is_quoted[cells] & (quotes >= starts[cells]) & (quotes < ends[cells])]
            doubles = inner[1::2]
            data = np.delete(data, doubles)
            starts -= np.searchsorted(doubles, starts)
            ends -= np.searchsorted(doubles, ends)
    return CellValues(data, starts, ends, is_null)


def has_value(block: Block, columns: Positions) -> NDArray[np.bool_]:
    """Return for each record and each of `columns` whether the cell is neither empty nor a quoted empty string."""
    separators = block.separators
    starts = np.where(columns > 0, separators[:, columns - 1] + 1, block.starts[:, np.newaxis])
    sizes = separators[:, columns] - starts
    found: NDArray[np.bool_] = sizes > 0
    quoted = sizes == 2
    found[quoted] = np.frombuffer(block.data, np.uint8)[starts[quoted]] != _QUOTE
    return found


def confirm_utf8(block: Block, columns: tuple[str, ...], row: int) -> None:
    """Raise FormatError if a block is not valid UTF-8; it names the cell. The first record is row number `row`."""
    if kernel.KERNEL is not None:
        at = kernel.KERNEL.invalid_utf8(block.data)
        if at < 0:
            return
    else:
        try:
            str(block.data, "utf-8")
            return
        except UnicodeDecodeError as error:
            at = error.start
    record, column = divmod(int(np.searchsorted(block.separators.reshape(-1), at)), len(columns))
    raise FormatError(row + record, block.id(record).decode(errors="replace"), f"{columns[column]} is not valid UTF-8")
