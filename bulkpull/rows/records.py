"""CSV bytes to records, without changing a byte of any value.

What is a record is what Python's `csv` module reads in strict mode (RFC 4180, with quotes inside an unquoted field
taken literally), save that a bare carriage return outside quotes is an error and not a line end. Values stay raw,
quotes included, since an empty value and a quoted empty one differ.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from io import BufferedIOBase, RawIOBase

MAX_RECORD = 64 * 1024 * 1024  # bytes, its line end aside; a record beyond it is taken for a broken quote
_BLOCK = 1024 * 1024
BOM = b"\xef\xbb\xbf"

_UNQUOTED = rb'[^",\r\n][^,\r\n]*+'
_INSIDE_QUOTES = rb'[^"]*+(?:""[^"]*+)*+'
_QUOTED = rb'"' + _INSIDE_QUOTES + rb'"'
_FIELD = rb"(?:" + _UNQUOTED + rb"|" + _QUOTED + rb"|)"
_END = rb"\r?\Z"
_OPEN = rb'"' + _INSIDE_QUOTES + rb"\Z"

_FIELDS = re.compile(rb"(?:\A|,)(" + _FIELD + rb")")
# A line at the start of a record that ends inside a quoted field.
_OPENING = re.compile(rb"(?:" + _FIELD + rb",)*+" + _OPEN)
# A line that begins inside a quoted field: what closes it, and how the record may go on.
_CLOSE = re.compile(_INSIDE_QUOTES + rb'"')
_WHOLE_REST = re.compile(rb"(?:," + _FIELD + rb")*+" + _END)
_OPENING_REST = re.compile(rb"(?:," + _FIELD + rb")*," + _OPEN)


class CsvError(Exception):
    """Bytes that are no CSV. `row` counts records from 1, the header being the first."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(f"row {row}: {reason}")
        self.row = row
        self.reason = reason


File = RawIOBase | BufferedIOBase  # opened to read bytes

# A record: its raw bytes without the line end, its fields, raw too, and how many bytes of the chunks end with its line
# end. A bare tuple, since there are millions.
Record = tuple[bytes, list[bytes], int]


def value(field: bytes) -> bytes:
    """What a raw field stands for."""
    return field[1:-1].replace(b'""', b'"') if field.startswith(b'"') else field


def blocks(file: File, checkpoint: Callable[[], None]) -> Iterator[bytes]:
    """The bytes of `file` from where it stands; before each block `checkpoint` is called, and may raise to stop."""
    while block := file.read(_BLOCK):
        checkpoint()
        yield block


def records(chunks: Iterable[bytes], row: int = 1) -> Iterator[Record]:
    """The records in `chunks` of bytes, cut anywhere, of which the first is number `row` of its file. Blank lines are
    passed over, and so is a BOM at the file's beginning.

    Raises CsvError for a stray quote, a bare carriage return, an end inside quotes, or a record above MAX_RECORD.
    """
    pending = bytearray()  # what came of the record so far, if that is inside quotes
    behind = 0
    at_start = row == 1
    for line in _lines(chunks, pending):
        behind += len(line) + 1
        if at_start:
            line = line.removeprefix(BOM)
            at_start = False
        if pending:
            pending += b"\n"
            pending += line
            if len(pending) - pending.endswith(b"\r") > MAX_RECORD:
                raise too_long(row)
            if b'"' not in line or not _closes(line, row):
                continue
            raw = bytes(pending).removesuffix(b"\r")
            pending.clear()
            yield raw, _FIELDS.findall(raw), behind
        else:
            raw = line.removesuffix(b"\r")
            if not raw:
                continue
            if len(raw) > MAX_RECORD:
                raise too_long(row)
            if b'"' not in raw:
                if b"\r" in raw:
                    raise CsvError(row, "a bare carriage return outside quotes")
                yield raw, raw.split(b","), behind
            else:
                fields = _FIELDS.findall(raw)
                if b",".join(fields) != raw:  # there are bytes that belong to no whole field
                    if not _OPENING.match(line):
                        raise CsvError(row, "a stray quote or carriage return")
                    pending += line
                    continue
                yield raw, fields, behind
        row += 1
    if pending:
        raise CsvError(row, "the file ends inside quotes: it was cut")


def too_long(row: int) -> CsvError:
    """The error that stands for a record above MAX_RECORD."""
    return CsvError(row, f"the record is longer than {MAX_RECORD:,} bytes: a quote is not closed, or this is no CSV")


def read_columns(rows: Iterator[Record], key: str) -> tuple[str, ...]:
    """The column names of a part: takes the header off `rows`. None, in an empty part: one without any byte but line
    ends and a BOM.

    Raises CsvError for what is no header with the column `key`, such as an error page.
    """
    raw, fields, _ = next(rows, (b"", [], 0))
    if not raw:
        return ()
    try:
        columns = tuple(value(field).decode() for field in fields)
    except UnicodeDecodeError:
        raise CsvError(1, "the header is no UTF-8") from None
    if key not in columns:
        raise CsvError(1, f"no CSV with the column {key}: it begins with {raw[:60]!r}")
    if len(set(columns)) < len(columns):
        twice = next(column for column, count in Counter(columns).items() if count > 1)
        raise CsvError(1, f"the column {twice[:60]!r} stands twice in the header")
    return columns


def _closes(line: bytes, row: int) -> bool:
    """Whether a line that begins inside quotes ends its record."""
    close = _CLOSE.match(line)
    if not close or _OPENING_REST.match(line, close.end()):
        return False
    if not _WHOLE_REST.match(line, close.end()):
        raise CsvError(row, "a stray quote or carriage return")
    return True


def _lines(chunks: Iterable[bytes], pending: bytearray) -> Iterator[bytes]:
    """The bytes between newlines; the last may be without one. Where a record is `pending` inside quotes, lines without
    a quote may come as one. A line that is longer than any record is the last: it ends where that is certain."""
    tail: list[bytes] = []  # pieces of a line that has not ended, joined once it has
    tail_size, has_quote = 0, False
    for chunk in chunks:
        if pending and not has_quote and b'"' not in chunk:
            text, newline, last = chunk.rpartition(b"\n")
            lines = [text] if newline else []
        else:
            lines = chunk.split(b"\n")
            last = lines.pop()
        if lines:
            lines[0] = b"".join((*tail, lines[0]))
            tail, tail_size, has_quote = [], 0, False
            yield from lines
        tail.append(last)
        tail_size += len(last)
        has_quote = has_quote or b'"' in last
        if tail_size > MAX_RECORD + len(BOM) + 1:  # of a carriage return
            break
    yield b"".join(tail)
