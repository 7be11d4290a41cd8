"""CSV to NDJSON: one object per record. Values are strings; empty fields become null."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

import numpy as np
import orjson

from bulkpull.rows import kernel
from bulkpull.rows.block import Block
from bulkpull.rows.cells import PADDING, confirm_utf8
from bulkpull.rows.records import File, unquote
from bulkpull.rows.scan import read_merged

_PIECE_BYTES = 1024 * 1024  # of lines that the kernel writes in one call; more if a single one may not fit
_ROWS_PER_CALL = 1024  # enough to need few calls, few enough that no call holds the GIL for long
_MAX_DEPTH = 100  # of nested objects: many JSON readers refuse a few hundred
_EMPTY_STRING = b"\x00"  # a placeholder for an empty string: JSON cannot contain this byte unescaped
_LF, _QUOTE, _BACKSLASH, _SPACE = b'\n"\\ '


def ndjson(spans: Iterable[File], *, key: str, flat: bool) -> Generator[bytes]:
    """Yield the lines of a merged CSV, several at a time; `spans` are those of `read_merged`.

    Dotted names become nested objects, as in the API's list route, unless `flat`. A name stays flat if a prefix of it
    is a column too, or if it has more than 100 components. Raises FormatError for text that is not valid UTF-8.
    """
    columns, blocks = read_merged(spans, key)
    template = _LineTemplate(columns, flat=flat)
    for block, row in blocks:
        confirm_utf8(block, columns, row)
        yield from template.lines(block) if kernel.KERNEL is None else template.lines_by_kernel(block)


class _LineTemplate:
    """The constant text of a line, and the order of the columns whose values go in between."""

    def __init__(self, columns: tuple[str, ...], *, flat: bool) -> None:
        tree: dict[str, Any] = {}
        names = frozenset(columns)
        for at, column in enumerate(columns):
            path = column.split(".")
            upper = (".".join(path[:depth]) for depth in range(1, len(path)))
            if flat or "" in path or len(path) > _MAX_DEPTH or not names.isdisjoint(upper):
                path = [column]
            node = tree
            for name in path[:-1]:
                node = node.setdefault(name, {})
            node[path[-1]] = at
        self._order: list[int] = []
        self._between = [b""]
        self._write(tree)
        self._between[-1] += b"\n"
        self._out = np.empty(0, np.uint8)

    def _write(self, node: dict[str, Any]) -> None:
        self._between[-1] += b"{"
        for position, (name, child) in enumerate(node.items()):
            self._between[-1] += (b"," if position else b"") + orjson.dumps(name) + b":"
            if isinstance(child, dict):
                self._write(child)
            else:
                self._order.append(child)
                self._between.append(b"")
        self._between[-1] += b"}"

    def lines_by_kernel(self, block: Block) -> Generator[bytes]:
        """Yield the lines of a block's records."""
        separators = np.ascontiguousarray(block.separators, np.int32)
        order, between_ends = np.array(self._order, np.int32), np.cumsum([*map(len, self._between)], dtype=np.int32)
        between = b"".join(self._between) + bytes(PADDING)
        row = 0
        while row < len(block):
            first = row
            row, size = kernel.KERNEL.json_lines(
                block.data, separators, separators.shape[1], row, order, between, between_ends, self._out
            )
            if row == first:  # the next line may not fit
                self._out = np.empty(max(_PIECE_BYTES, 2 * len(self._out)), np.uint8)
            else:
                yield self._out[:size].tobytes()

    def lines(self, block: Block) -> Generator[bytes]:
        """Yield the lines of a block's records."""
        for first in range(0, len(block), _ROWS_PER_CALL):
            last = min(len(block), first + _ROWS_PER_CALL)
            yield self._join(_fields(block, first, last), last - first)

    def _join(self, fields: list[bytes], count: int) -> bytes:
        """Return the lines of `count` records, given all their `fields` in row order, escaped and unquoted."""
        width = len(self._order)
        step = 2 * width + 1
        pieces = [b""] * (step * count)
        for position, between in enumerate(self._between):
            opening, closing = b'"' if position < width else b"", b'"' if position else b""
            pieces[2 * position :: step] = [closing + between + opening] * count
        for position, column in enumerate(self._order):
            pieces[2 * position + 1 :: step] = fields[column::width]
        # `:""` cannot occur inside a string, where a quote is escaped.
        text = b"".join(pieces).replace(b':""', b":null")
        return text.replace(b':"' + _EMPTY_STRING + b'"', b':""')


def _fields(block: Block, first: int, last: int) -> list[bytes]:
    """Return the fields of the records as JSON string contents; null is an empty one."""
    begin, end = int(block.starts[first]), int(block.ends[last - 1])
    raw = bytes(block.data[begin:end])
    width = block.separators.shape[1]
    data = np.frombuffer(raw, np.uint8)
    special = (data == _QUOTE) | (data == _BACKSLASH) | (data < _SPACE)
    ends = block.separators[first:last].reshape(-1) - begin
    special[ends[width - 1 :: width]] = False
    if not special.any():
        fields = raw.replace(b"\n", b",").split(b",")
        fields.pop()
        return fields
    starts = np.empty_like(ends)
    starts[0], starts[1:] = 0, ends[:-1] + 1
    quoted = np.flatnonzero(data[starts] == _QUOTE)
    inner_starts, inner_ends = starts.copy(), ends.copy()
    inner_starts[quoted] += 1
    inner_ends[quoted] -= 1
    special[starts[quoted]] = special[inner_ends[quoted]] = False
    fields = [raw[start:end] for start, end in zip(inner_starts.tolist(), inner_ends.tolist(), strict=True)]
    to_escape = np.searchsorted(ends, np.flatnonzero(special), "right")
    empty = quoted[inner_starts[quoted] == inner_ends[quoted]]
    for at in np.concatenate((np.unique(to_escape), empty)).tolist():
        fields[at] = _escaped(raw[starts[at] : ends[at]])
    return fields


def _escaped(field: bytes) -> bytes:
    return orjson.dumps(unquote(field).decode())[1:-1] or (_EMPTY_STRING if field else b"")
