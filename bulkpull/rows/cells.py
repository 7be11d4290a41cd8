"""What the cells of a block hold: their values, packed one behind the other for Arrow, and those that are no text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bulkpull.errors import FormatError
from bulkpull.rows.scan import Block, Bytes, Positions

_QUOTE = ord('"')


def packed(block: Block) -> tuple[Bytes, Positions, NDArray[np.bool_]]:
    """The values of all cells of a block, record by record: their bytes, where each ends, and which are nothing at all.

    Quotes around a value and those that double others are left out.
    """
    data = np.frombuffer(block.data, np.uint8)
    separators = block.separators.reshape(-1)
    begins = np.empty_like(separators)
    begins[0], begins[1:] = 0, separators[:-1] + 1
    kept = np.ones(len(data), np.bool_)
    kept[separators] = False
    ends = separators - np.arange(len(separators))
    quotes = np.flatnonzero(data == _QUOTE)
    if len(quotes):
        cells = np.searchsorted(separators, quotes)
        quotes = quotes[data[begins[cells]] == _QUOTE]  # in other values they are literal
        # A value's first and last quotes surround it; the others come in pairs, one of which stays.
        is_second = np.zeros(len(quotes), np.bool_)
        is_second[2::2] = quotes[2::2] == quotes[1:-1:2] + 1
        left_out = quotes[~is_second]
        kept[left_out] = False
        ends -= np.searchsorted(left_out, separators)
    return data[kept], ends, begins == separators


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
