"""CSV to NDJSON: an object for each record, with strings, and null where there is nothing."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import orjson

from bulkpull.rows.cells import no_text
from bulkpull.rows.records import File, value
from bulkpull.rows.scan import Block, Layout, Scanner, read_header

_ROWS = 1024  # that are rendered together: in few calls, yet none that keeps other threads waiting for long
_DEEPEST = 100  # objects in objects: readers refuse some hundreds more
_EMPTY = b"\x00"  # stands for an empty string for a moment; no JSON holds it bare
_LF, _QUOTE, _BACKSLASH, _SPACE = b'\n"\\ '


def ndjson(file: File, *, key: str, flat: bool) -> Generator[bytes]:
    """The lines of a merged CSV, several at a time. Dotted names become objects in objects, as in the API's list route,
    unless `flat`; one that leads through another column stays as it is, and so does one of more than 100 names.

    Raises FormatError for text that is no UTF-8.
    """
    columns, body = read_header(file, lambda: None, key)
    shape = _Shape(columns, flat=flat)
    layout = Layout(width=len(columns), key_at=columns.index(key))
    row = 1
    for block in Scanner().blocks(file, body, layout, b"", b""):
        for first in range(0, len(block), _ROWS):
            last = min(len(block), first + _ROWS)
            try:
                fields = _fields(block, first, last)
            except UnicodeDecodeError as error:
                raise no_text(block, columns, int(block.starts[first]) + error.start, row) from None
            yield shape.lines(fields, last - first)
        row += len(block)


class _Shape:
    """What stands between the values of a line, and which column's value comes when."""

    def __init__(self, columns: tuple[str, ...], *, flat: bool) -> None:
        tree: dict[str, Any] = {}
        names = frozenset(columns)
        for at, column in enumerate(columns):
            path = column.split(".")
            upper = (".".join(path[:depth]) for depth in range(1, len(path)))
            if flat or "" in path or len(path) > _DEEPEST or not names.isdisjoint(upper):
                path = [column]
            node = tree
            for name in path[:-1]:
                node = node.setdefault(name, {})
            node[path[-1]] = at
        self._order: list[int] = []
        self._between = [b""]
        self._write(tree)
        self._between[-1] += b"\n"

    def _write(self, node: dict[str, Any]) -> None:
        self._between[-1] += b"{"
        for position, (name, child) in enumerate(node.items()):
            self._between[-1] += (b"," if position else b"") + orjson.dumps(name) + b":"
            if isinstance(child, dict):
                self._write(child)
            else:
                self._between[-1] += b'"'
                self._order.append(child)
                self._between.append(b'"')
        self._between[-1] += b"}"

    def lines(self, fields: list[bytes], count: int) -> bytes:
        """The lines of `count` records, whose `fields`, escaped and without quotes, stand one behind the other."""
        width = len(self._order)
        step = 2 * width + 1
        pieces = [b""] * (step * count)
        for position, between in enumerate(self._between):
            pieces[2 * position :: step] = [between] * count
        for position, column in enumerate(self._order):
            pieces[2 * position + 1 :: step] = fields[column::width]
        # A colon and two quotes: inside a string the first quote would be escaped.
        text = b"".join(pieces).replace(b':""', b":null")
        return text.replace(b':"' + _EMPTY + b'"', b':""')


def _fields(block: Block, first: int, last: int) -> list[bytes]:
    """The fields of some records as JSON has them between quotes; nothing at all for null."""
    begin, end = int(block.starts[first]), int(block.ends[last - 1])
    raw = bytes(block.data[begin:end])
    raw.decode()
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
    inner, behind = starts.copy(), ends.copy()
    inner[quoted] += 1
    behind[quoted] -= 1
    special[starts[quoted]] = special[behind[quoted]] = False
    fields = [raw[at:to] for at, to in zip(inner.tolist(), behind.tolist(), strict=True)]
    to_escape = np.searchsorted(ends, np.flatnonzero(special), "right")
    empty = quoted[inner[quoted] == behind[quoted]]
    for at in np.concatenate((np.unique(to_escape), empty)).tolist():
        fields[at] = _escaped(raw[starts[at] : ends[at]])
    return fields


def _escaped(field: bytes) -> bytes:
    return orjson.dumps(value(field).decode())[1:-1] or (_EMPTY if field else b"")
