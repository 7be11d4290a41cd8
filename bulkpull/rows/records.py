"""A CSV parser that keeps the raw bytes of every field.

It parses like Python's `csv` module in strict mode (RFC 4180; quotes inside an unquoted field are literal), except that
a bare carriage return outside quotes is an error instead of a line end. Fields keep their quotes, since an empty field
and a quoted empty one differ.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from io import BufferedIOBase, RawIOBase

MAX_RECORD_BYTES = 64 * 1024 * 1024  # without the line end; a longer record is taken for an unclosed quote
_CHUNK_BYTES = 1024 * 1024
_HEADER_CHUNK_BYTES = 16 * 1024
BOM = b"\xef\xbb\xbf"

_UNQUOTED = rb'[^",\r\n][^,\r\n]*+'
_INSIDE_QUOTES = rb'[^"]*+(?:""[^"]*+)*+'
_QUOTED = rb'"' + _INSIDE_QUOTES + rb'"'
_FIELD = rb"(?:" + _UNQUOTED + rb"|" + _QUOTED + rb"|)"
_END = rb"\r?\Z"
_OPEN = rb'"' + _INSIDE_QUOTES + rb"\Z"

_FIELDS = re.compile(rb"(?:\A|,)(" + _FIELD + rb")")
# The first line of a record that ends inside a quoted field.
_OPENING = re.compile(rb"(?:" + _FIELD + rb",)*+" + _OPEN)
# A line that starts inside a quoted field: the end of that field, and how the record may continue.
_CLOSE = re.compile(_INSIDE_QUOTES + rb'"')
_WHOLE_REST = re.compile(rb"(?:," + _FIELD + rb")*+" + _END)
_OPENING_REST = re.compile(rb"(?:," + _FIELD + rb")*," + _OPEN)


class CsvError(Exception):
    """Invalid CSV. `row` is the number of the record, counted from 1; the header is the first."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(f"row {row}: {reason}")
        self.row = row
        self.reason = reason


File = RawIOBase | BufferedIOBase  # opened for reading bytes

# A record: its raw bytes without the line end, its raw fields, and the offset of the next record from the first chunk's
# start. A plain tuple for speed, since there are millions.
Record = tuple[bytes, list[bytes], int]


def unquote(field: bytes) -> bytes:
    """Return the value of a raw field: without enclosing quotes, doubled quotes reduced to one."""
    return field[1:-1].replace(b'""', b'"') if field.startswith(b'"') else field


def read_chunks(file: File, checkpoint: Callable[[], None], size: int = _CHUNK_BYTES) -> Iterator[bytes]:
    """Yield the rest of `file` in chunks of up to `size` bytes; `checkpoint` is called before each one and may raise to
    stop."""
    while chunk := file.read(size):
        checkpoint()
        yield chunk


def read_header(file: File, checkpoint: Callable[[], None], key: str) -> tuple[tuple[str, ...], int]:
    """Return a file's columns and the offset of its first record; no columns if it is empty.

    Raises CsvError if it has no header with the column `key`.
    """
    rows = records(read_chunks(file, checkpoint, _HEADER_CHUNK_BYTES))
    first = next(rows, None)
    return read_columns(iter([first] if first else []), key), first[2] if first else 0


def records(chunks: Iterable[bytes], row: int = 1) -> Iterator[Record]:
    """Yield the records in `chunks`, which may be split anywhere; the first is row number `row` of its file.

    Skips blank lines, and a BOM at the start of the file. Raises CsvError for a stray quote, a bare carriage return,
    an end inside quotes, and a record longer than MAX_RECORD_BYTES.
    """
    pending = bytearray()  # the lines of an unfinished record, whose last one ends inside quotes
    end = 0
    at_start = row == 1
    for line in _lines(chunks, pending):
        end += len(line) + 1
        if at_start:
            line = line.removeprefix(BOM)
            at_start = False
        if pending:
            pending += b"\n"
            pending += line
            if len(pending) - pending.endswith(b"\r") > MAX_RECORD_BYTES:
                raise too_long(row)
            if b'"' not in line or not _closes(line, row):
                continue
            raw = bytes(pending).removesuffix(b"\r")
            pending.clear()
            yield raw, _FIELDS.findall(raw), end
        else:
            raw = line.removesuffix(b"\r")
            if not raw:
                continue
            if len(raw) > MAX_RECORD_BYTES:
                raise too_long(row)
            if b'"' not in raw:
                if b"\r" in raw:
                    raise CsvError(row, "a bare carriage return outside quotes")
                yield raw, raw.split(b","), end
            else:
                fields = _FIELDS.findall(raw)
                if b",".join(fields) != raw:  # some bytes belong to no complete field
                    if not _OPENING.match(line):
                        raise CsvError(row, "a stray quote or carriage return")
                    pending += line
                    continue
                yield raw, fields, end
        row += 1
    if pending:
        raise CsvError(row, "the file ends inside quotes: it is truncated")


def too_long(row: int) -> CsvError:
    """Return the error for a record longer than MAX_RECORD_BYTES."""
    reason = "a quote is not closed, or this is not a CSV file"
    return CsvError(row, f"the record is longer than {MAX_RECORD_BYTES:,} bytes: {reason}")


def read_columns(rows: Iterator[Record], key: str) -> tuple[str, ...]:
    """Consume the header of `rows` and return the column names; none for a part without any bytes but line ends or BOM.

    Raises CsvError if the first record is not a header with the column `key`, as in an error page.
    """
    raw, fields, _ = next(rows, (b"", [], 0))
    if not raw:
        return ()
    try:
        columns = tuple(unquote(field).decode() for field in fields)
    except UnicodeDecodeError:
        raise CsvError(1, "the header is not valid UTF-8") from None
    if key not in columns:
        raise CsvError(1, f"not a CSV file with the column {key}: it begins with {raw[:60]!r}")
    if len(set(columns)) < len(columns):
        twice = next(column for column, count in Counter(columns).items() if count > 1)
        raise CsvError(1, f"the header contains the column {twice[:60]!r} twice")
    return columns


def _closes(line: bytes, row: int) -> bool:
    """Return whether a line that starts inside quotes ends its record."""
    close = _CLOSE.match(line)
    if not close or _OPENING_REST.match(line, close.end()):
        return False
    if not _WHOLE_REST.match(line, close.end()):
        raise CsvError(row, "a stray quote or carriage return")
    return True


def _lines(chunks: Iterable[bytes], pending: bytearray) -> Iterator[bytes]:
    """Yield the lines of `chunks`; the last one need not end with a newline.

    While a record is `pending` inside quotes, several lines without a quote may be yielded as one. Stops after a line
    that is longer than any record, without reading to its end.
    """
    tail: list[bytes] = []  # pieces of an unfinished line
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
        if tail_size > MAX_RECORD_BYTES + len(BOM) + 1:  # the carriage return
            break
    yield b"".join(tail)
