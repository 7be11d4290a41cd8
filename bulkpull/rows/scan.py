"""A vectorized CSV scanner: reads a file in blocks of records.

There are two paths, which find the same records or raise the same error. The fast path locates a block's separators
(commas and newlines outside quotes) with NumPy; if every n-th one is a newline, where n is the number of columns, they
are the boundaries of all fields. The slow path is the parser in `records`. It takes over where a block has a quote
inside an unquoted value or inside an id, a bare carriage return, a blank line, a ragged row, or a record longer than a
block.
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
from bulkpull.rows.records import CsvError, File, read_chunks, read_columns, records, unquote
from bulkpull.source import Columns

BLOCK_BYTES = 2 * 1024 * 1024
_CHUNK_BYTES = 256 * 1024  # per pass: small enough that the next pass finds it in the processor's cache
_COPY_BYTES = 64 * 1024  # per copy: malloc maps fresh pages for larger ones each time
_SLOW_BLOCK_BYTES = 1024 * 1024
_REORDERED_FIELDS = 512 * 1024  # per call: bounds the memory that reordering columns takes
_LONG_ID_BYTES = 1024
_COMMA, _LF, _CR, _QUOTE = b',\n\r"'
_ZERO = ord("0")
_CANONICAL_FORM = np.frombuffer(b"0000-00-00T00:00:00.000Z", np.uint8)  # the form in which the API writes instants
_IS_DIGIT = _CANONICAL_FORM == _ZERO
_INSTANT_BYTES = len(_CANONICAL_FORM)
_CANONICAL = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

Positions = NDArray[np.int64]
Keys = NDArray[np.uint64]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Layout:
    """The position of the key and time columns in a file, and how its columns map to the output's.

    `order` holds for each of the output's columns its position in the file, or -1 if it is missing there; None means
    that the columns are the same. If `width` is None, records may have any number of fields.
    """

    width: int | None
    key_at: int
    time_at: int | None = None
    order: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive records in the output's column order, all with the same number of fields.

    Record i is `data[starts[i]:ends[i]]`, including its LF. `separators[i]` are the ends of its fields, `keys[i]` is
    a 64-bit key of its id (see `compute_keys`). `outside` is the number of records whose time is outside the window.
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

    def id(self, row: int) -> bytes:
        """Return the id of a record, unquoted."""
        begin = int(self.separators[row, self.key_at - 1]) + 1 if self.key_at else int(self.starts[row])
        return unquote(bytes(self.data[begin : self.separators[row, self.key_at]]))


class Prefetcher:
    """A thread that scans the next block while the caller processes one."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "scan")

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown()

    def blocks(self, scan: Generator[Block]) -> Generator[Block]:
        """Yield the blocks of `scan`. The generator must be closed before the file that `scan` reads."""
        pending = self._thread.submit(next, scan, None)
        try:
            while block := pending.result():
                pending = self._thread.submit(next, scan, None)
                yield block
        finally:
            wait((pending,))


class Scanner:
    """Reads files block by block; the buffers are reused."""

    def __init__(self) -> None:
        # Two buffers, used in turn. The extra byte is for a final newline, if the file lacks it.
        self._buffer, self._next_buffer = (bytearray(BLOCK_BYTES + 1) for _ in range(2))
        self._bytes, self._next_bytes = (np.frombuffer(data, np.uint8) for data in (self._buffer, self._next_buffer))
        self._is_comma = np.empty(_CHUNK_BYTES, np.bool_)
        self._is_newline = np.empty(_CHUNK_BYTES, np.bool_)

    def blocks(self, file: File, body: int, layout: Layout, start: bytes, end: bytes) -> Generator[Block]:
        """Yield the records of an unbuffered `file` from byte `body` on, where its header ends.

        Counts the records outside [start, end). A block is valid until the second next one is requested, since its
        buffer is reused. Raises CsvError.
        """
        file.seek(body)
        have, row = 0, 2
        while have := self._fill(file, have):
            have = self._normalize_line_ends(have)
            if fast := self._scan_fast(have, layout, start, end):
                block, used = fast
                yield from _reordered(block, layout)
                row += len(block)
                self._next_buffer[: have - used] = self._buffer[used:have]
                have -= used
                self._buffer, self._next_buffer = self._next_buffer, self._buffer
                self._bytes, self._next_bytes = self._next_bytes, self._bytes
            else:
                have, row = yield from self._scan_slowly(file, have, row, layout, start, end)

    def _fill(self, file: File, have: int) -> int:
        """Fill the buffer, which holds `have` bytes, from the file; return how many it holds then."""
        with memoryview(self._buffer) as buffer:
            while have < BLOCK_BYTES and (count := file.readinto(buffer[have:BLOCK_BYTES])):
                have += count
        if 0 < have < BLOCK_BYTES and self._buffer[have - 1] != _LF:
            self._buffer[have] = _LF
            have += 1
        return have

    def _scan_slowly(
        self, file: File, have: int, row: int, layout: Layout, start: bytes, end: bytes
    ) -> Generator[Block, None, tuple[int, int]]:
        """Yield the records that start in the first `have` bytes, reading on to the end of the last one.

        The first is row number `row`. Returns the number of bytes left in the buffer, and the next row number.
        """
        chunk, given, parsed = bytes(self._buffer[:have]), 0, 0

        def chunks() -> Iterator[bytes]:
            nonlocal chunk, given
            while chunk:
                given += len(chunk)
                yield chunk
                chunk = file.read(BLOCK_BYTES) or b""

        builder = _BlockBuilder(layout)
        for raw, fields, parsed in records(chunks(), row):
            if builder.is_full or builder.width != len(fields):
                yield from builder.blocks()
                builder = _BlockBuilder(layout)
            builder.add(raw, fields, row, start, end)
            row += 1
            if parsed >= have:
                break
        yield from builder.blocks()
        left = chunk[len(chunk) - (given - parsed) :] if parsed < given else b""
        self._buffer[: len(left)] = left
        return len(left), row

    def _normalize_line_ends(self, have: int) -> int:
        """Replace CRLF by LF in the first `have` bytes, unless there are other CRs; return how many bytes are left."""
        buffer = self._buffer
        if buffer.find(b"\r", 0, have) < 0:
            return have
        if buffer.find(b'"', 0, have) >= 0:
            return self._normalize_line_ends_outside_quotes(have)
        whole = buffer.rfind(b"\n", 0, have) + 1
        data = self._bytes[:whole]
        if (data[1 + np.flatnonzero(data[:-1] == _CR)] != _LF).any():
            return have
        left = 0
        for at in range(0, whole, _COPY_BYTES):
            piece = buffer[at : min(at + _COPY_BYTES, whole)].translate(None, b"\r")
            buffer[left : left + len(piece)] = piece
            left += len(piece)
        rest = buffer[whole:have]
        buffer[left : left + len(rest)] = rest
        return left + len(rest)

    def _normalize_line_ends_outside_quotes(self, have: int) -> int:
        """Do the same for bytes with quotes, and leave quoted values unchanged."""
        data = self._bytes[:have]
        quotes, newlines = np.flatnonzero(data == _QUOTE), np.flatnonzero(data == _LF)
        newlines = newlines[np.searchsorted(quotes, newlines) % 2 == 0]
        before = newlines[newlines > 0] - 1
        returns = before[data[before] == _CR]
        if not len(returns) or (data[np.maximum(returns, 1) - 1] == _CR).any():
            return have
        quotes = quotes[quotes < newlines[-1]]
        plain = np.delete(data, returns)  # bare CRs outside quotes remain, and are found later
        if not _are_quotes_regular(plain, quotes - np.searchsorted(returns, quotes)):
            return have
        self._bytes[: len(plain)] = plain
        return len(plain)

    def _scan_fast(self, have: int, layout: Layout, start: bytes, end: bytes) -> tuple[Block, int] | None:
        """Return the complete records in the first `have` bytes and their size; None if the slow path must do it."""
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
        if quotes is not None and not _are_quotes_regular(data, quotes[quotes < used]):
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
            """Return where the values of a column start and end, without their quotes."""
            first, last = starts if column == 0 else fields[:, column - 1] + 1, fields[:, column]
            if quotes is None:
                return first, last
            is_quoted = data[first] == _QUOTE
            return first + is_quoted, last - is_quoted

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
        """Return the positions of all commas and newlines, also those inside quotes."""
        found = []
        for at in range(0, len(data), _CHUNK_BYTES):
            chunk = data[at : at + _CHUNK_BYTES]
            is_comma, is_newline = self._is_comma[: len(chunk)], self._is_newline[: len(chunk)]
            np.equal(chunk, _COMMA, out=is_comma)
            np.equal(chunk, _LF, out=is_newline)
            np.logical_or(is_comma, is_newline, out=is_comma)
            positions = np.flatnonzero(is_comma)
            positions += at
            found.append(positions)
        return np.concatenate(found)

    def _sliding_views(self, size: int, have: int) -> NDArray[np.void]:
        """Return a view of every run of `size` bytes in the buffer: indexing it by start positions copies fields."""
        return np.ndarray((have - size + 1,), f"V{size}", self._buffer, strides=(1,))

    def _keys(self, starts: Positions, ends: Positions, have: int) -> Keys:
        sizes = ends - starts
        size = int(sizes[0])
        if (sizes == size).all():
            return compute_keys(self._sliding_views(size, have)[starts].view(np.uint8).reshape(-1, size))
        found = np.empty(len(starts), np.uint64)
        for size in np.unique(sizes).tolist():
            rows = np.flatnonzero(sizes == size)
            found[rows] = compute_keys(self._sliding_views(size, have)[starts[rows]].view(np.uint8).reshape(-1, size))
        return found

    def _outside(self, starts: Positions, ends: Positions, have: int, start: bytes, end: bytes) -> int:
        """Count the instants outside [start, end): those in canonical form by NumPy, the others one by one."""
        is_full = ends - starts == _INSTANT_BYTES
        instants = self._sliding_views(_INSTANT_BYTES, max(have, _INSTANT_BYTES))[starts[is_full]]
        digits = instants.view(np.uint8).reshape(-1, _INSTANT_BYTES)
        is_canonical = ((digits - _ZERO <= 9) == _IS_DIGIT).all(axis=1)
        is_canonical &= (digits[:, ~_IS_DIGIT] == _CANONICAL_FORM[~_IS_DIGIT]).all(axis=1)
        texts = instants[is_canonical].view(f"S{_INSTANT_BYTES}")
        count = int(np.count_nonzero((texts < start) | (texts >= end)))
        others = np.concatenate((np.flatnonzero(~is_full), np.flatnonzero(is_full)[~is_canonical])).tolist()
        buffer = self._buffer
        return count + sum(is_outside(bytes(buffer[starts[row] : ends[row]]), start, end) for row in others)


class _BlockBuilder:
    """Collects records with the same number of fields into a block."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._data = bytearray()
        self._sizes: list[int] = []  # of the fields
        self._ids: list[bytes] = []
        self._outside = 0
        self.width: int | None = None

    @property
    def is_full(self) -> bool:
        return len(self._data) >= _SLOW_BLOCK_BYTES

    def add(self, raw: bytes, fields: list[bytes], row: int, start: bytes, end: bytes) -> None:
        """Add row number `row`. Raises CsvError for a ragged row and an empty id."""
        layout = self._layout
        if layout.width is not None and len(fields) != layout.width:
            raise CsvError(row, f"{len(fields)} fields where the header has {layout.width}")
        if layout.key_at >= len(fields) or not (id := unquote(fields[layout.key_at])):
            raise CsvError(row, "the id is empty")
        self.width = len(fields)
        self._ids.append(id)
        if layout.time_at is not None:
            self._outside += is_outside(unquote(fields[layout.time_at]), start, end)
        if layout.order is not None:
            fields = [*fields, b""]
            fields = [fields[at] for at in layout.order]
            raw = b",".join(fields)
        self._data += raw
        self._data += b"\n"
        self._sizes.extend(map(len, fields))

    def blocks(self) -> Iterator[Block]:
        """Yield the block; nothing if there are no records."""
        if not self._ids:
            return
        sizes = np.fromiter(map(len, self._ids), np.int64, len(self._ids))
        found = np.empty(len(sizes), np.uint64)
        for size in np.unique(sizes).tolist():
            rows = np.flatnonzero(sizes == size)
            same_size = b"".join([self._ids[row] for row in rows.tolist()])
            found[rows] = compute_keys(np.frombuffer(same_size, np.uint8).reshape(-1, size))
        separators = (np.cumsum(np.array(self._sizes, np.int64) + 1) - 1).reshape(len(sizes), -1)
        ends = separators[:, -1] + 1
        starts = np.concatenate(([0], ends[:-1]))
        yield Block(memoryview(self._data), starts, ends, separators, found, self._outside, _key_at(self._layout))


def _reordered(block: Block, layout: Layout) -> Iterator[Block]:
    """Yield the records of a block with the output's columns in the output's order, in one or more blocks."""
    if layout.order is None:
        yield block
        return
    data = np.frombuffer(block.data, np.uint8)
    order = np.array(layout.order)
    outside = block.outside
    step = max(1, _REORDERED_FIELDS // len(order))
    for first in range(0, len(block), step):
        fields = block.separators[first : first + step]
        begins = np.empty_like(fields)
        begins[:, 0], begins[:, 1:] = block.starts[first : first + step], fields[:, :-1] + 1
        begins, sizes = begins[:, order], (fields + 1 - begins)[:, order]  # including the separator
        sizes[:, order < 0] = 1
        field_ends = np.cumsum(sizes).reshape(sizes.shape)
        sources = np.repeat((begins - (field_ends - sizes)).reshape(-1), sizes.reshape(-1))
        sources += np.arange(len(sources))
        reordered = data[sources]
        separators = field_ends - 1
        reordered[separators] = _COMMA
        reordered[separators[:, -1]] = _LF
        ends = field_ends[:, -1]
        starts = np.concatenate(([0], ends[:-1]))
        found = block.keys[first : first + step]
        yield Block(reordered.data, starts, ends, separators, found, outside, _key_at(layout))
        outside = 0


def _key_at(layout: Layout) -> int:
    """Return the position of the id among the output's columns."""
    return layout.key_at if layout.order is None else layout.order.index(layout.key_at)


def _parity(separators: Positions, quotes: Positions) -> Positions:
    """Return for each separator 1 if an odd number of quotes precedes it, so that it is inside quotes, else 0."""
    before = np.bincount(np.searchsorted(separators, quotes), minlength=len(separators) + 1)
    return np.cumsum(before[: len(separators)]) & 1


def _are_quotes_regular(data: Bytes, quotes: Positions) -> bool:
    """Return whether all quotes enclose a whole field or are doubled inside one."""
    opening, closing = quotes[0::2], quotes[1::2]
    before, after = data[np.maximum(opening, 1) - 1], data[closing + 1]
    opens = (before == _COMMA) | (before == _LF) | (before == _QUOTE) | (opening == 0)
    closes = (after == _COMMA) | (after == _LF) | (after == _QUOTE)
    return bool(opens.all() and closes.all())


def read_header(file: File, checkpoint: Callable[[], None], key: str) -> tuple[tuple[str, ...], int]:
    """Return a file's columns and the offset of its first record; no columns if it is empty.

    Raises CsvError if it has no header with the column `key`.
    """
    rows = records(read_chunks(file, checkpoint))
    first = next(rows, None)
    return read_columns(iter([first] if first else []), key), first[2] if first else 0


def compute_keys(ids: Bytes) -> Keys:
    """Return a 64-bit key for each row of `ids`, an array of ids of the same length; collisions are rare but possible.

    The upper half is the first eight bytes, read as hexadecimal digits: the timestamp of an ObjectId, so that ids of
    one time have keys of one range. The lower half is a hash of the whole id.
    """
    count, size = ids.shape
    if size > _LONG_ID_BYTES:
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
    """Return whether an instant in any ISO 8601 form is outside [start, end), two instants in canonical form.

    An instant without an offset is taken as UTC. Text that is not an instant counts as inside.
    """
    if _CANONICAL.fullmatch(created):
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
