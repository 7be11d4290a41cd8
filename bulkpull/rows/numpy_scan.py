"""The scan of a block with NumPy, where there is no compiled kernel: it finds the same records."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bulkpull.rows.block import Block, Bytes, Keys, Layout, Positions, compute_keys, is_outside

_CHUNK_BYTES = 256 * 1024  # per pass: small enough that the next pass finds it in the processor's cache
_REORDERED_FIELDS = 512 * 1024  # per call: bounds the memory that reordering columns takes
_COPY_BYTES = 64 * 1024  # per copy: malloc maps fresh pages for larger ones each time
_COMMA, _LF, _CR, _QUOTE = b',\n\r"'
_ZERO = ord("0")
_CANONICAL_FORM = np.frombuffer(b"0000-00-00T00:00:00.000Z", np.uint8)  # the form in which the API writes instants
_IS_DIGIT = _CANONICAL_FORM == _ZERO
_INSTANT_BYTES = len(_CANONICAL_FORM)


class NumpyBuffer:
    """A buffer, and the records that are found in it by several passes over its separators."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self._bytes = np.frombuffer(self.data, np.uint8)
        self._is_comma = np.empty(_CHUNK_BYTES, np.bool_)
        self._is_newline = np.empty(_CHUNK_BYTES, np.bool_)

    def scan(self, have: int, layout: Layout, start: bytes, end: bytes) -> tuple[Block | None, int, int]:
        """See `FastBuffer`."""
        have = self._normalize_line_ends(have)
        block, used = self._found(have, layout, start, end) or (None, 0)
        return block, used, have

    def _found(self, have: int, layout: Layout, start: bytes, end: bytes) -> tuple[Block, int] | None:
        """Return the complete records in the first `have` bytes and their size; None if the slow path must do it."""
        data, width = self._bytes[:have], layout.width
        separators = self._separators(data)
        quotes = np.flatnonzero(data == _QUOTE) if self.data.find(b'"', 0, have) >= 0 else None
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
        if self.data.find(b"\r", 0, used) >= 0:
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
        return Block(memoryview(self.data)[:used], starts, ends, fields, found, outside, layout.key_at), used

    def reordered(self, block: Block, layout: Layout) -> Iterator[Block]:
        """See `FastBuffer`."""
        assert layout.order
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
            yield Block(reordered.data, starts, ends, separators, found, outside, layout.key_in_output)
            outside = 0

    def _normalize_line_ends(self, have: int) -> int:
        """Replace CRLF by LF in the first `have` bytes, unless there are other CRs; return how many bytes are left."""
        buffer = self.data
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
        return np.ndarray((have - size + 1,), f"V{size}", self.data, strides=(1,))

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
        buffer = self.data
        return count + sum(is_outside(bytes(buffer[starts[row] : ends[row]]), start, end) for row in others)


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
