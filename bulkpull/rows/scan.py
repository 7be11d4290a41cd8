"""CSV bytes to blocks of records: by NumPy where the bytes are plain, by the record reader where they are not.

Both find the same records, or raise the same error. The fast way takes a block's separators (commas and newlines
outside quotes) in a few passes over the bytes; if the newlines stand where a table of the header's width has them, the
separators say where each record and each field is. It gives up, and leaves the block to the record reader, where
anything is out of the ordinary: a quote within an unquoted value or within an id, a bare carriage return, a blank line,
a ragged row, a record that is longer than a block.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from bulkpull.rows.instants import nanoseconds
from bulkpull.rows.records import CsvError, File, blocks, read_columns, records, value
from bulkpull.source import Columns

BLOCK = 2 * 1024 * 1024  # bytes that are looked at together
_CHUNK = 256 * 1024  # bytes of a pass: what it writes is still in the processor's cache when the next pass reads it
_PIECE = 64 * 1024  # bytes of a copy: larger ones are of new memory each time
_SLOW_BLOCK = 1024 * 1024
_ARRANGED = 512 * 1024  # fields that are put into another order together
_LONG_ID = 1024  # bytes
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
    """What a file's columns mean for the output's: `order` says where each of the output's stands, where that differs;
    -1 is nowhere.

    Without `width`, records of any width are taken.
    """

    width: int | None
    key_at: int
    time_at: int | None = None
    order: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """Records of the output, one behind the other in `data`, each with its LF, all of as many fields.

    `starts` and `ends` (behind the LF) are theirs; `separators` are where the fields of each end; `keys` come of their
    ids and tell almost all of them apart. `outside` rows have a time outside their window.
    """

    data: memoryview
    starts: Positions
    ends: Positions
    separators: Positions
    keys: Keys
    outside: int
    key_at: int

    def __len__(self) -> int:
        return len(self.starts)

    def begins(self, column: int) -> Positions:
        """Where the fields of a column begin."""
        return self.starts if column == 0 else self.separators[:, column - 1] + 1

    def id(self, row: int) -> bytes:
        """The id of a record, without quotes."""
        begin = int(self.separators[row, self.key_at - 1]) + 1 if self.key_at else int(self.starts[row])
        return value(bytes(self.data[begin : self.separators[row, self.key_at]]))


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

    def blocks(self, file: File, body: int, layout: Layout, start: bytes, end: bytes) -> Generator[Block]:
        """The records of an unbuffered `file` behind its header, from byte `body` on; those outside [start, end) are
        counted. Raises CsvError.

        A block may be gone when the one after the next is asked for.
        """
        file.seek(body)
        have, row = 0, 2
        while have := self._filled(file, have):
            have = self._with_plain_line_ends(have)
            if plain := self._plain(have, layout, start, end):
                block, used = plain
                yield from _arranged(block, layout)
                row += len(block)
                self._next_buffer[: have - used] = self._buffer[used:have]
                have -= used
                self._buffer, self._next_buffer = self._next_buffer, self._buffer
                self._bytes, self._next_bytes = self._next_bytes, self._bytes
            else:
                have, row = yield from self._careful(file, have, row, layout, start, end)

    def _filled(self, file: File, have: int) -> int:
        """Fills the buffer, which has `have` bytes, from the file; how many it has then."""
        with memoryview(self._buffer) as buffer:
            while have < BLOCK and (came := file.readinto(buffer[have:BLOCK])):
                have += came
        if 0 < have < BLOCK and self._buffer[have - 1] != _LF:
            self._buffer[have] = _LF
            have += 1
        return have

    def _careful(
        self, file: File, have: int, row: int, layout: Layout, start: bytes, end: bytes
    ) -> Generator[Block, None, tuple[int, int]]:
        """The records in the first `have` bytes, the first being record `row` of its file, and what the last of them
        has in the file behind. Returns how many bytes the buffer has then, and the number of the next record."""
        chunk, given, behind = bytes(self._buffer[:have]), 0, 0

        def chunks() -> Iterator[bytes]:
            nonlocal chunk, given
            while chunk:
                given += len(chunk)
                yield chunk
                chunk = file.read(BLOCK) or b""

        gathered = _Gathered(layout)
        for raw, fields, behind in records(chunks(), row):
            if gathered.is_full or gathered.width != len(fields):
                yield from gathered.blocks()
                gathered = _Gathered(layout)
            gathered.add(raw, fields, row, start, end)
            row += 1
            if behind >= have:
                break
        yield from gathered.blocks()
        left = chunk[len(chunk) - (given - behind) :] if behind < given else b""
        self._buffer[: len(left)] = left
        return len(left), row

    def _with_plain_line_ends(self, have: int) -> int:
        """Turns CRLF into LF in the first `have` bytes, where that is all that CR is used for; how many are left."""
        buffer = self._buffer
        if buffer.find(b"\r", 0, have) < 0:
            return have
        if buffer.find(b'"', 0, have) >= 0:
            return self._with_plain_line_ends_outside_quotes(have)
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

    def _with_plain_line_ends_outside_quotes(self, have: int) -> int:
        """The same where there are quotes: what stands within them stays."""
        data = self._bytes[:have]
        quotes, newlines = np.flatnonzero(data == _QUOTE), np.flatnonzero(data == _LF)
        newlines = newlines[np.searchsorted(quotes, newlines) % 2 == 0]
        before = newlines[newlines > 0] - 1
        returns = before[data[before] == _CR]
        if not len(returns) or (data[np.maximum(returns, 1) - 1] == _CR).any():
            return have
        quotes = quotes[quotes < newlines[-1]]
        plain = np.delete(data, returns)  # other ones outside quotes are still there to be found
        if not _usual_quotes(plain, quotes - np.searchsorted(returns, quotes)):
            return have
        self._bytes[: len(plain)] = plain
        return len(plain)

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
        if layout.key_at >= width:
            return None
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

        def values(column: int) -> tuple[Positions, Positions]:
            """Where the values of a column begin and end, within their quotes."""
            begins, behind = starts if column == 0 else fields[:, column - 1] + 1, fields[:, column]
            if quotes is None:
                return begins, behind
            is_quoted = data[begins] == _QUOTE
            return begins + is_quoted, behind - is_quoted

        id_starts, id_ends = values(layout.key_at)
        if (id_starts == id_ends).any():
            return None
        if quotes is not None and (np.searchsorted(quotes, id_starts) != np.searchsorted(quotes, id_ends)).any():
            return None
        outside = 0
        if layout.time_at is not None:
            outside = self._outside(*values(layout.time_at), have, start, end)
        found = self._keys(id_starts, id_ends, have)
        return Block(memoryview(self._buffer)[:used], starts, ends, fields, found, outside, layout.key_at), used

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
        digits = instants.view(np.uint8).reshape(-1, _INSTANT)
        usual = ((digits - _ZERO <= 9) == _IS_DIGIT).all(axis=1)
        usual &= (digits[:, ~_IS_DIGIT] == _FORM[~_IS_DIGIT]).all(axis=1)
        texts = instants[usual].view(f"S{_INSTANT}")
        count = int(np.count_nonzero((texts < start) | (texts >= end)))
        doubtful = np.concatenate((np.flatnonzero(~long), np.flatnonzero(long)[~usual])).tolist()
        buffer = self._buffer
        return count + sum(is_outside(bytes(buffer[starts[row] : ends[row]]), start, end) for row in doubtful)


class _Gathered:
    """Records of one width that become a block."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._data = bytearray()
        self._sizes: list[int] = []  # of the fields
        self._ids: list[bytes] = []
        self._outside = 0
        self.width: int | None = None

    @property
    def is_full(self) -> bool:
        return len(self._data) >= _SLOW_BLOCK

    def add(self, raw: bytes, fields: list[bytes], row: int, start: bytes, end: bytes) -> None:
        """Takes in record `row`. Raises CsvError."""
        layout = self._layout
        if layout.width is not None and len(fields) != layout.width:
            raise CsvError(row, f"{len(fields)} fields where the header has {layout.width}")
        if layout.key_at >= len(fields) or not (id := value(fields[layout.key_at])):
            raise CsvError(row, "the id is empty")
        self.width = len(fields)
        self._ids.append(id)
        if layout.time_at is not None:
            self._outside += is_outside(value(fields[layout.time_at]), start, end)
        if layout.order is not None:
            fields = [*fields, b""]
            fields = [fields[at] for at in layout.order]
            raw = b",".join(fields)
        self._data += raw
        self._data += b"\n"
        self._sizes.extend(map(len, fields))

    def blocks(self) -> Iterator[Block]:
        """The block; none without records."""
        if not self._ids:
            return
        sizes = np.fromiter(map(len, self._ids), np.int64, len(self._ids))
        found = np.empty(len(sizes), np.uint64)
        for size in np.unique(sizes).tolist():
            rows = np.flatnonzero(sizes == size)
            alike = b"".join([self._ids[row] for row in rows.tolist()])
            found[rows] = keys(np.frombuffer(alike, np.uint8).reshape(-1, size))
        separators = (np.cumsum(np.array(self._sizes, np.int64) + 1) - 1).reshape(len(sizes), -1)
        ends = separators[:, -1] + 1
        starts = np.concatenate(([0], ends[:-1]))
        yield Block(memoryview(self._data), starts, ends, separators, found, self._outside, _key_at(self._layout))


def _arranged(block: Block, layout: Layout) -> Iterator[Block]:
    """The records of a block with the output's columns in the output's order, in one or several blocks."""
    if layout.order is None:
        yield block
        return
    data = np.frombuffer(block.data, np.uint8)
    order = np.array(layout.order)
    outside = block.outside
    step = max(1, _ARRANGED // len(order))
    for first in range(0, len(block), step):
        fields = block.separators[first : first + step]
        begins = np.empty_like(fields)
        begins[:, 0], begins[:, 1:] = block.starts[first : first + step], fields[:, :-1] + 1
        begins, sizes = begins[:, order], (fields + 1 - begins)[:, order]  # with a byte for the separator
        sizes[:, order < 0] = 1
        behind = np.cumsum(sizes).reshape(sizes.shape)
        from_to = np.repeat((begins - (behind - sizes)).reshape(-1), sizes.reshape(-1))
        from_to += np.arange(len(from_to))
        arranged = data[from_to]
        separators = behind - 1
        arranged[separators] = _COMMA
        arranged[separators[:, -1]] = _LF
        ends = behind[:, -1]
        starts = np.concatenate(([0], ends[:-1]))
        found = block.keys[first : first + step]
        yield Block(arranged.data, starts, ends, separators, found, outside, _key_at(layout))
        outside = 0


def _key_at(layout: Layout) -> int:
    """Which of the output's columns is the id."""
    return layout.key_at if layout.order is None else layout.order.index(layout.key_at)


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


def read_header(file: File, checkpoint: Callable[[], None], key: str) -> tuple[tuple[str, ...], int]:
    """A file's columns, and the byte at which its records begin; no columns where it is empty. Raises CsvError where it
    has no header with the column `key`."""
    rows = records(blocks(file, checkpoint))
    first = next(rows, None)
    return read_columns(iter([first] if first else []), key), first[2] if first else 0


def keys(ids: Bytes) -> Keys:
    """A 64-bit key for each row of `ids`, an array of equally long ids; other ids have other keys, almost always.

    The upper half are the first eight bytes, read as hexadecimal digits: the second of an ObjectId, so that ids of one
    time have keys of one range. The lower half is a hash of all.
    """
    count, size = ids.shape
    if size > _LONG_ID:
        return np.fromiter((xxh3_64_intdigest(id.tobytes()) for id in ids), np.uint64, count)
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
    compared as text; without an offset it is one of UTC. What is no instant counts as inside."""
    if _USUAL.fullmatch(created):
        return not start <= created < end
    first, moment, last = (nanoseconds(text, zone=b"Z") for text in (start, created, end))
    return moment is not None and first is not None and last is not None and not first <= moment < last


def layout_of(columns: tuple[str, ...], wanted: list[str], meaning: Columns) -> Layout:
    """Return how a file with `columns` is laid out, for an output with the columns `wanted`."""
    places = {column: at for at, column in enumerate(columns)}
    return Layout(
        width=len(columns),
        key_at=places[meaning.key],
        time_at=places.get(meaning.time),
        order=None if list(columns) == wanted else tuple(places.get(column, -1) for column in wanted),
    )
