"""CSV bytes to records, without changing a byte of any value.

What is a record is what Python's `csv` module reads in strict mode (RFC 4180, with quotes inside an unquoted field
taken literally), save that a bare carriage return outside quotes is an error and not a line end. Values stay raw,
quotes included, since an empty value and a quoted empty one differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from io import BufferedIOBase, RawIOBase

ID = "id"
MAX_RECORD = 16 * 1024 * 1024  # bytes; a record beyond it is taken for a broken quote
_BLOCK = 1024 * 1024
_LINE_OVERHEAD = 64  # bytes of memory that a line inside quotes takes beside its own
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

# A record: its raw bytes without the line end, and its fields, raw too. A bare tuple, since there are millions.
Record = tuple[bytes, list[bytes]]


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

    Raises CsvError for a stray quote, a bare carriage return, or an end inside quotes.
    """
    pending: list[bytes] = []  # its lines so far, if it is inside quotes
    pending_size = 0
    for line in _lines(chunks, at_start=row == 1):
        if pending:
            pending.append(line)
            pending_size += len(line) + _LINE_OVERHEAD
            if b'"' not in line or not _closes(line, row):
                if pending_size > MAX_RECORD:
                    raise CsvError(row, f"the record is longer than {MAX_RECORD} bytes: a quote is not closed")
                continue
            raw = b"\n".join(pending).removesuffix(b"\r")
            pending = []
            yield raw, _FIELDS.findall(raw)
        else:
            raw = line.removesuffix(b"\r")
            if not raw:
                continue
            if b'"' not in raw:
                if b"\r" in raw:
                    raise CsvError(row, "a bare carriage return outside quotes")
                yield raw, raw.split(b",")
            else:
                fields = _FIELDS.findall(raw)
                if b",".join(fields) != raw:  # there are bytes that belong to no whole field
                    if not _OPENING.match(line):
                        raise CsvError(row, "a stray quote or carriage return")
                    pending = [line]
                    pending_size = len(line)
                    continue
                yield raw, fields
        row += 1
    if pending:
        raise CsvError(row, "the file ends inside quotes: it was cut")


def read_columns(rows: Iterator[Record]) -> tuple[str, ...]:
    """The column names of a part: takes the header off `rows`.

    Raises CsvError for what is no header with an `id` column, such as an error page.
    """
    raw, fields = next(rows, (b"", []))
    try:
        columns = tuple(value(field).decode() for field in fields)
    except UnicodeDecodeError:
        raise CsvError(1, "the header is no UTF-8") from None
    if ID not in columns:
        raise CsvError(1, f"no CSV with an id column: it begins with {raw[:60]!r}" if raw else "the file is empty")
    if len(set(columns)) < len(columns):
        raise CsvError(1, f"a column name stands twice in the header {columns}")
    return columns


def _closes(line: bytes, row: int) -> bool:
    """Whether a line that begins inside quotes ends its record."""
    close = _CLOSE.match(line)
    if not close or _OPENING_REST.match(line, close.end()):
        return False
    if not _WHOLE_REST.match(line, close.end()):
        raise CsvError(row, "a stray quote or carriage return")
    return True


def _lines(chunks: Iterable[bytes], *, at_start: bool) -> Iterator[bytes]:
    """The bytes between newlines; the last may be without one."""
    tail: list[bytes] = [b""]  # pieces of a line that has not ended, joined once it has
    tail_size = 0
    for chunk in chunks:
        lines = chunk.split(b"\n")
        if len(lines) == 1 and not at_start:
            tail.append(chunk)
            tail_size += len(chunk)
            if tail_size > MAX_RECORD:
                raise CsvError(1, f"a line is longer than {MAX_RECORD} bytes")
            continue
        lines[0] = b"".join((*tail, lines[0]))
        if at_start:
            if len(lines) == 1 and len(lines[0]) < len(BOM):
                tail = [lines[0]]
                continue
            lines[0] = lines[0].removeprefix(BOM)
            at_start = False
        tail = [lines.pop()]
        tail_size = len(tail[0])
        yield from lines
    yield b"".join(tail)
