"""What the cells of a block hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bulkpull.errors import FormatError
from bulkpull.rows.scan import Block, Bytes, Positions

_QUOTE = ord('"')


@dataclass(frozen=True, slots=True)
class Values:
    """The values of all cells of a block, record by record: where each begins and ends in `data`, and which of them are
    nothing at all, not even quotes."""

    data: Bytes
    begins: Positions
    ends: Positions
    nothing: NDArray[np.bool_]


def values(block: Block) -> Values:
    """The values of a block's cells, without the quotes around them and those that double others."""
    data = np.frombuffer(block.data, np.uint8)
    separators = block.separators.reshape(-1)
    begins = np.empty_like(separators)
    begins[0], begins[1:] = 0, separators[:-1] + 1
    nothing = begins == separators
    is_quoted = data[begins] == _QUOTE  # in other values quotes are literal
    begins += is_quoted
    ends = separators - is_quoted
    if is_quoted.any():
        quotes = np.flatnonzero(data == _QUOTE)
        if (np.diff(quotes) == 1).any():
            cells = np.searchsorted(separators, quotes)
            inner = quotes[is_quoted[cells] & (quotes >= begins[cells]) & (quotes < ends[cells])]
            doubles = inner[1::2]
            data = np.delete(data, doubles)
            begins -= np.searchsorted(doubles, begins)
            ends -= np.searchsorted(doubles, ends)
    return Values(data, begins, ends, nothing)


def has_value(block: Block, columns: Positions) -> NDArray[np.bool_]:
    """For each cell of some columns, record by record, whether there is anything in it, be it quoted or not."""
    separators = block.separators
    begins = np.where(columns > 0, separators[:, columns - 1] + 1, block.starts[:, np.newaxis])
    sizes = separators[:, columns] - begins
    found: NDArray[np.bool_] = sizes > 0
    quoted = sizes == 2
    found[quoted] = np.frombuffer(block.data, np.uint8)[begins[quoted]] != _QUOTE
    return found


def no_text(block: Block, columns: tuple[str, ...], at: int, row: int) -> FormatError:
    """The error that names the cell in which byte `at` of a block stands, which is no UTF-8; `row` is the number of the
    block's first record."""
    record, column = divmod(int(np.searchsorted(block.separators.reshape(-1), at)), len(columns))
    return FormatError(row + record, block.id(record).decode(errors="replace"), f"{columns[column]} is no UTF-8")
