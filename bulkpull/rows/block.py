"""Blocks: consecutive records of a CSV, and where their fields end; the keys of their ids."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from bulkpull.record import record
from bulkpull.rows.instants import nanoseconds
from bulkpull.rows.records import unquote
from bulkpull.source import Columns

LONG_ID_BYTES = 1024
_CANONICAL = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")  # the form in which the API writes instants

Positions = NDArray[np.signedinteger[Any]]
Keys = NDArray[np.uint64]
Bytes = NDArray[np.uint8]


@record
class Layout:
    """The position of the key and time columns in a file, and how its columns map to the output's.

    `order` holds for each of the output's columns its position in the file, or -1 if it is missing there; None means
    that the columns are the same. If `width` is None, records may have any number of fields.
    """

    width: int | None
    key_at: int
    time_at: int | None = None
    order: tuple[int, ...] | None = None

    @property
    def key_in_output(self) -> int:
        """The position of the id among the output's columns."""
        return self.key_at if self.order is None else self.order.index(self.key_at)


@record
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

    def part(self, first: int, last: int) -> Block:
        """Return the records from `first` on, without `last`; `outside` is 0."""
        begin, end = int(self.starts[first]), int(self.ends[last - 1])
        return Block(
            self.data[begin:end],
            self.starts[first:last] - begin,
            self.ends[first:last] - begin,
            self.separators[first:last] - begin,
            self.keys[first:last],
            0,
            self.key_at,
        )

    def id(self, row: int) -> bytes:
        """Return the id of a record, unquoted."""
        begin = int(self.separators[row, self.key_at - 1]) + 1 if self.key_at else int(self.starts[row])
        return unquote(bytes(self.data[begin : self.separators[row, self.key_at]]))


def compute_keys(ids: Bytes) -> Keys:
    """Return a 64-bit key for each row of `ids`, an array of ids of the same length; collisions are rare but possible.

    The upper half is the first eight bytes, read as hexadecimal digits: the timestamp of an ObjectId, so that ids of
    one time have keys of one range. The lower half is a hash of the whole id.
    """
    count, size = ids.shape
    if size > LONG_ID_BYTES:
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
