"""The rows of a delivery, as databases take them: as bytes of CSV, or as tuples."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bulkpull.disk import disk_errors
from bulkpull.errors import FormatError, OutputError
from bulkpull.rows.block import Block
from bulkpull.rows.cells import confirm_utf8
from bulkpull.rows.columns import Shape, columns_of
from bulkpull.rows.records import CsvError
from bulkpull.rows.scan import read_merged

_QUOTE = ord('"')

Row = tuple[str | None, ...]


def csv_chunks(path: Path, key: str, *, replace_nul: str | None) -> Generator[bytes]:
    """Yield the rows of a CSV in chunks of whole records, as PostgreSQL reads them.

    Chunks are the bytes of the file, unless they hold what PostgreSQL would not read as we do: U+0000, which it cannot
    store, or a quote inside an unquoted cell, which it takes for the start of a quoted part.

    Raises:
        FormatError: invalid UTF-8, or U+0000 without `replace_nul`.
        OutputError: the file cannot be read.
    """
    with _blocks(path, key) as (names, blocks):
        for block, row in blocks:
            confirm_utf8(block, names, row)
            data = bytes(block.data)
            has_nul = b"\0" in data
            if has_nul and replace_nul is None:
                raise _nul_error(block, names, row)
            yield _encoded(block, names, row, replace_nul or "") if has_nul or _has_stray_quote(block) else data


def csv_rows(path: Path, key: str) -> Generator[list[Row]]:
    """Yield the rows of a CSV, some thousands at a time: an empty cell is None. Raises like `csv_chunks`."""
    with _blocks(path, key) as (names, blocks):
        for block, row in blocks:
            yield _rows(block, names, row)


def _rows(block: Block, names: tuple[str, ...], row: int) -> list[Row]:
    columns = columns_of(block, Shape(names, None), row)
    return list(zip(*(column.to_list() for column in columns), strict=True))


@contextmanager
def _blocks(path: Path, key: str) -> Iterator[tuple[tuple[str, ...], Generator[tuple[Block, int]]]]:
    try:
        with disk_errors(f"read {path}"), path.open("rb", buffering=0) as file:
            yield read_merged((file,), key)
    except CsvError as error:
        raise OutputError(f"cannot read {path}: {error}") from error


def _has_stray_quote(block: Block) -> bool:
    """Whether an unquoted cell holds a quote."""
    data = np.frombuffer(block.data, np.uint8)
    quotes = np.flatnonzero(data == _QUOTE)
    ends = np.concatenate(([-1], block.separators.reshape(-1)))
    starts = ends[np.searchsorted(ends, quotes) - 1] + 1
    return bool((data[starts] != _QUOTE).any())


def _encoded(block: Block, names: tuple[str, ...], row: int, replace_nul: str) -> bytes:
    """Return the records of a block with all values in quotes."""

    def encoded(value: str | None) -> str:
        return "" if value is None else '"' + value.replace("\0", replace_nul).replace('"', '""') + '"'

    return "".join(",".join(map(encoded, values)) + "\n" for values in _rows(block, names, row)).encode()


def _nul_error(block: Block, names: tuple[str, ...], row: int) -> FormatError:
    at = bytes(block.data).index(b"\0")
    record, column = divmod(int(np.searchsorted(block.separators.reshape(-1), at)), len(names))
    return FormatError(
        row + record,
        block.id(record).decode(errors="replace"),
        f"{names[column]} contains U+0000, which PostgreSQL cannot store; --replace-nul replaces it",
    )
