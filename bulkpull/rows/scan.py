"""CSV bytes to blocks of records: by NumPy where the bytes are plain, by the record reader where they are not.

Both find the same records, or raise the same error. The fast way takes a block's separators (commas and newlines
outside quotes) in a few passes over the bytes; if the newlines stand where a table of the header's width has them, the
separators say where each record and each field is. It gives up, and leaves the rest of the file to the record reader,
where anything is out of the ordinary: a quote within an unquoted value, a bare carriage return, a blank line, a ragged
row, a quoted id, columns that are not the output's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from bulkpull.rows.records import BOM, ID, CsvError, File, Record, blocks, read_columns, records, value

CREATED = "created_time"
BLOCK = 2 * 1024 * 1024  # bytes that are looked at together
_CHUNK = 256 * 1024  # bytes of a pass: what it writes is still in the processor's cache when the next pass reads it
_PIECE = 64 * 1024  # bytes of a copy: larger ones are of new memory each time
_SLOW_BLOCK = 1024 * 1024
_HEADER = 64 * 1024
_COMMA, _LF, _CR, _QUOTE = b',\n\r"'
_ZERO = ord("0")
_FORM = np.frombuffer(b"0000-00-00T00:00:00.000Z", np.uint8)  # of the usual instant
_IS_DIGIT = _FORM == _ZERO
_INSTANT = len(_FORM)
_USUAL = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

Positions = NDArray[np.int64]
Keys = NDArray[np.uint64]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Layout:
    """What a file's columns mean for the output's: `order` says where each of the output's stands, where that differs.

    Without `width`, records of any width are taken.
    """

    width: int | None
    id_at: int
    created_at: int | None = None
    order: list[int | None] | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """Records of the output, one behind the other in `data`, each with its LF.

    `starts` and `ends` (behind the LF) are theirs; `keys` come of their ids and tell almost all of them apart; `id`
    gives the id itself. `outside` rows have a created_time outside their window. `separators` are where the fields of
    each record end, or None where that takes reading them.
    """

    data: memoryview
    starts: Positions
    ends: Positions
    keys: Keys
    outside: int
    id: Callable[[int], bytes]
    separators: Positions | None = None


class Ahead:
    """A thread that finds the next block while one is worked on."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "scan")

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown()

    def blocks(self, found: Generator[Block]) -> Generator[Block]:
        """The same blocks. To be closed before what they are read from is."""
        coming = self._thread.submit(next, found, None)
        try:
            while block := coming.result():
                coming = self._thread.submit(next, found, None)
                yield block
        finally:
            wait((coming,))


class Scanner:
    """Reads files block by block, into the same memory again and again."""

    def __init__(self) -> None:
        # Two that are used in turn, each with room for a newline that a file lacks.
        self._buffer, self._next_buffer = (bytearray(BLOCK + 1) for _ in range(2))
        self._bytes, self._next_bytes = (np.frombuffer(data, np.uint8) for data in (self._buffer, self._next_buffer))
        self._is_comma = np.empty(_CHUNK, np.bool_)
        self._is_newline = np.empty(_CHUNK, np.bool_)

    def blocks(self, file: File, body: int | None, layout: Layout, start: bytes, end: bytes) -> Generator[Block]:
        """The records of an unbuffered `file` behind its header, from `body` on, where that is known; those outside
        [start, end) are counted. Raises CsvError.

        A block may be gone when the one after the next is asked for.
        """
        if body is None or layout.order:
            file.seek(0)
            rows = records(blocks(file, _go_on))
            next(rows)
            yield from _slow(rows, 2, layout, start, end)
            return
        file.seek(body)
        have, row = 0, 2
        while True:
            with memoryview(self._buffer) as buffer:
                while have < BLOCK and (came := file.readinto(buffer[have:BLOCK])):
                    have += came
            at_end = have < BLOCK
            if at_end and have and self._buffer[have - 1] != _LF:
                self._buffer[have] = _LF
                have += 1
            if not have:
                return
            have = self._with_plain_line_ends(have)
            plain = self._plain(have, layout, start, end)
            if plain:
                block, used = plain
                yield block
                row += len(block.starts)
                self._next_buffer[: have - used] = self._buffer[used:have]
                have -= used
                self._buffer, self._next_buffer = self._next_buffer, self._buffer
                self._bytes, self._next_bytes = self._next_bytes, self._bytes
            if at_end and not have:
                return
            if at_end or not plain:
                rest = chain((bytes(self._buffer[:have]),), blocks(file, _go_on))
                yield from _slow(records(rest, row), row, layout, start, end)
                return

    def _with_plain_line_ends(self, have: int) -> int:
        """Turns CRLF into LF in the first `have` bytes, where that is all that CR is used for; how many are left."""
        buffer = self._buffer
        if buffer.find(b"\r", 0, have) < 0 or buffer.find(b'"', 0, have) >= 0:
            return have
        whole = buffer.rfind(b"\n", 0, have) + 1
        data = self._bytes[:whole]
        if (data[1 + np.flatnonzero(data[:-1] == _CR)] != _LF).any():
            return have
        left = 0
        for at in range(0, whole, _PIECE):
            piece = buffer[at : min(at + _PIECE, whole)].translate(None, b"\r")
            buffer[left : left + len(piece)] = piece
            left += len(piece)
        rest = buffer[whole:have]
        buffer[left : left + len(rest)] = rest
        return left + len(rest)

    def _plain(self, have: int, layout: Layout, start: bytes, end: bytes) -> tuple[Block, int] | None:
        """The whole records in the first `have` bytes, and how many bytes they are; None where it takes more care."""
        data, width = self._bytes[:have], layout.width
        separators = self._separators(data)
        quotes = np.flatnonzero(data == _QUOTE) if self._buffer.find(b'"', 0, have) >= 0 else None
        if quotes is not None:
            separators = separators[_parity(separators, quotes) == 0]
        kinds = data[separators]
        newlines = np.flatnonzero(kinds == _LF)
        if not len(newlines):
            return None
        width = width or int(newlines[0]) + 1
        used = int(separators[newlines[-1]]) + 1
        if quotes is not None and not _usual_quotes(data, quotes[quotes < used]):
            return None
        if self._buffer.find(b"\r", 0, used) >= 0:
            returns = np.flatnonzero(data[:used] == _CR)
            if quotes is None or (np.searchsorted(quotes, returns) % 2 == 0).any():
                return None
        if (newlines[-1] + 1) != len(newlines) * width:
            return None
        fields = separators[: newlines[-1] + 1].reshape(-1, width)
        if (kinds[width - 1 : newlines[-1] + 1 : width] != _LF).any():
            return None
        ends = fields[:, -1] + 1
        starts = np.empty_like(ends)
        starts[0], starts[1:] = 0, ends[:-1]
        id_starts = starts if layout.id_at == 0 else fields[:, layout.id_at - 1] + 1
        id_ends = fields[:, layout.id_at]
        if (id_starts == id_ends).any() or (quotes is not None and (data[id_starts] == _QUOTE).any()):
            return None
        outside = 0
        if layout.created_at is not None:
            created = starts if layout.created_at == 0 else fields[:, layout.created_at - 1] + 1
            outside = self._outside(created, fields[:, layout.created_at], have, start, end)
        buffer = self._buffer
        block = Block(
            data=memoryview(buffer)[:used],
            starts=starts,
            ends=ends,
            keys=self._keys(id_starts, id_ends, have),
            outside=outside,
            id=lambda row: bytes(buffer[id_starts[row] : id_ends[row]]),
            separators=fields,
        )
        return block, used

    def _separators(self, data: Bytes) -> Positions:
        """Where commas and newlines stand, those inside quotes included."""
        found = []
        for at in range(0, len(data), _CHUNK):
            chunk = data[at : at + _CHUNK]
            is_comma, is_newline = self._is_comma[: len(chunk)], self._is_newline[: len(chunk)]
            np.equal(chunk, _COMMA, out=is_comma)
            np.equal(chunk, _LF, out=is_newline)
            np.logical_or(is_comma, is_newline, out=is_comma)
            positions = np.flatnonzero(is_comma)
            positions += at
            found.append(positions)
        return np.concatenate(found)

    def _windows(self, size: int, have: int) -> NDArray[np.void]:
        """All runs of `size` bytes, each beginning one byte further: indexing takes fields out of it."""
        return np.ndarray((have - size + 1,), f"V{size}", self._buffer, strides=(1,))

    def _keys(self, starts: Positions, ends: Positions, have: int) -> Keys:
        sizes = ends - starts
        size = int(sizes[0])
        if (sizes == size).all():
            return keys(self._windows(size, have)[starts].view(np.uint8).reshape(-1, size))
        found = np.empty(len(starts), np.uint64)
        for size in np.unique(sizes).tolist():
            rows = np.flatnonzero(sizes == size)
            found[rows] = keys(self._windows(size, have)[starts[rows]].view(np.uint8).reshape(-1, size))
        return found

    def _outside(self, starts: Positions, ends: Positions, have: int, start: bytes, end: bytes) -> int:
        """How many instants lie outside [start, end)."""
        long = ends - starts == _INSTANT
        instants = self._windows(_INSTANT, max(have, _INSTANT))[starts[long]]
        texts = instants.view(f"S{_INSTANT}")
        outside = (texts < start) | (texts >= end)
        instants = instants[outside].view(np.uint8).reshape(-1, _INSTANT)
        usual = ((instants - _ZERO <= 9) == _IS_DIGIT).all(axis=1)
        usual &= (instants[:, ~_IS_DIGIT] == _FORM[~_IS_DIGIT]).all(axis=1)
        count = int(np.count_nonzero(usual))
        doubtful = np.concatenate((np.flatnonzero(~long), np.flatnonzero(long)[outside][~usual])).tolist()
        buffer = self._buffer
        return count + sum(is_outside(bytes(buffer[starts[row] : ends[row]]), start, end) for row in doubtful)


def _parity(separators: Positions, quotes: Positions) -> Positions:
    """For each separator, 1 where it stands behind an odd number of quotes, so inside some."""
    before = np.bincount(np.searchsorted(separators, quotes), minlength=len(separators) + 1)
    return np.cumsum(before[: len(separators)]) & 1


def _usual_quotes(data: Bytes, quotes: Positions) -> bool:
    """Whether quotes open where a field begins, close where it ends, and are doubled in between."""
    opening, closing = quotes[0::2], quotes[1::2]
    before, behind = data[np.maximum(opening, 1) - 1], data[closing + 1]
    opens = (before == _COMMA) | (before == _LF) | (before == _QUOTE) | (opening == 0)
    closes = (behind == _COMMA) | (behind == _LF) | (behind == _QUOTE)
    return bool(opens.all() and closes.all())


def _go_on() -> None:
    """The scanner's thread is not the one that may be told to stop."""


def read_header(file: File, checkpoint: Callable[[], None]) -> tuple[tuple[str, ...], int | None]:
    """A file's columns, and where its records begin if the header is plain; raises CsvError where it has no header with
    an id."""
    head = file.read(_HEADER) or b""
    line, newline, _ = head.partition(b"\n")
    names = line.removeprefix(BOM).removesuffix(b"\r")
    if newline and names and b'"' not in names and b"\r" not in names:
        return read_columns(records([line])), len(line) + 1
    file.seek(0)
    return read_columns(records(blocks(file, checkpoint))), None


def _slow(rows: Iterator[Record], row: int, layout: Layout, start: bytes, end: bytes) -> Generator[Block]:
    """Blocks of what the record reader finds, the first being record `row` of its file."""
    data, starts, ids, outside = bytearray(), [0], list[bytes](), 0
    for number, (raw, fields) in enumerate(rows, start=row):
        if layout.width is not None and len(fields) != layout.width:
            raise CsvError(number, f"{len(fields)} fields where the header has {layout.width}")
        id = value(fields[layout.id_at])
        if not id:
            raise CsvError(number, "the id is empty")
        ids.append(id)
        if layout.created_at is not None:
            outside += is_outside(fields[layout.created_at], start, end)
        if layout.order is not None:
            raw = b",".join([b"" if at is None else fields[at] for at in layout.order])
        data += raw
        data += b"\n"
        starts.append(len(data))
        if len(data) >= _SLOW_BLOCK:
            yield _slow_block(data, starts, ids, outside)
            data, starts, ids, outside = bytearray(), [0], [], 0
    if ids:
        yield _slow_block(data, starts, ids, outside)


def _slow_block(data: bytearray, starts: list[int], ids: list[bytes], outside: int) -> Block:
    sizes = np.fromiter(map(len, ids), np.int64, len(ids))
    found = np.empty(len(ids), np.uint64)
    for size in np.unique(sizes).tolist():
        rows = np.flatnonzero(sizes == size)
        alike = b"".join([ids[row] for row in rows.tolist()])
        found[rows] = keys(np.frombuffer(alike, np.uint8).reshape(-1, size))
    edges = np.array(starts, np.int64)
    return Block(memoryview(data), edges[:-1], edges[1:], found, outside, ids.__getitem__)


def keys(ids: Bytes) -> Keys:
    """A 64-bit key for each row of `ids`, an array of equally long ids; other ids have other keys, almost always.

    The upper half are the first eight bytes, read as hexadecimal digits: the second of an ObjectId, so that ids of one
    time have keys of one range. The lower half is a hash of all.
    """
    count, size = ids.shape
    padded = -(-size // 8) * 8
    if padded != size:
        ids, unpadded = np.zeros((count, padded), np.uint8), ids
        ids[:, :size] = unpadded
    words = np.ascontiguousarray(ids).view("<u8").reshape(count, -1)
    hashed = np.full(count, size, np.uint64)
    for column in words.T:
        hashed ^= column
        hashed *= np.uint64(0x9E3779B97F4A7C15)
        hashed ^= hashed >> np.uint64(32)
    digits = words[:, 0].byteswap()
    letters = digits >> np.uint64(6) & np.uint64(0x0101010101010101)
    digits = (digits + letters * np.uint64(9)) & np.uint64(0x0F0F0F0F0F0F0F0F)
    for shift, mask in ((4, 0x00FF00FF00FF00FF), (8, 0x0000FFFF0000FFFF), (16, 0x00000000FFFFFFFF)):
        digits = (digits | digits >> np.uint64(shift)) & np.uint64(mask)
    found: Keys = digits << np.uint64(32) | hashed & np.uint64(0xFFFFFFFF)
    return found


def is_outside(created: bytes, start: bytes, end: bytes) -> bool:
    """Whether an instant, however written, lies outside [start, end), two of the usual form, in which instants are
    compared as text; what is no instant counts as inside."""
    if _USUAL.fullmatch(created):
        return not start <= created < end
    try:
        first, moment, last = (datetime.fromisoformat(value(text).decode()) for text in (start, created, end))
    except ValueError:
        return False
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return not first <= moment < last


def layout_of(columns: tuple[str, ...], wanted: list[str]) -> Layout:
    """How a file with `columns` is laid out, for an output with the columns `wanted`."""
    order = [columns.index(column) if column in columns else None for column in wanted]
    return Layout(
        width=len(columns),
        id_at=columns.index(ID),
        created_at=columns.index(CREATED) if CREATED in columns else None,
        order=None if list(columns) == wanted else order,
    )
