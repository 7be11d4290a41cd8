"""Sorted runs of keys and row offsets in a temporary file, with a sparse index and a filter of each in memory.

A lookup reads only pages that may hold a key by the sparse index and by the filter, so that it takes about as long in
a run of a million pages as in one of a thousand. A run in which hardly any key is looked up needs no filter.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bulkpull.rows.block import Keys, Positions

PAGE_ROWS = 512  # 4 KiB of keys; the offsets of their rows are in another 4 KiB
SLOT_PAGES = 128
_READ_PAGES = 1024  # in memory at once during a lookup
_FOLDED_PAGES = 512  # at once while a filter is halved
_HASH_SHIFTS = (0, 16)  # of a key's bits that select the bits of the filter
_ALWAYS = 2**63 - 1


class SpillFile:
    """An unnamed file, allocated in slots so that runs can grow and the space of merged runs is reused.

    A slot holds SLOT_PAGES pages of keys, then as many of offsets. Methods raise OSError.
    """

    def __init__(self, directory: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115
        self._free: list[int] = []
        self._slots = 0

    @property
    def size(self) -> int:
        """The size of all slots in bytes."""
        return self._slots * SLOT_PAGES * PAGE_ROWS * 16

    def close(self) -> None:
        """Close the file, which deletes it."""
        self._file.close()

    def allocate(self) -> int:
        """Return a slot that is not in use."""
        if self._free:
            return self._free.pop()
        self._slots += 1
        return self._slots - 1

    def release(self, slot: int) -> None:
        """Allow the slot to be allocated again."""
        self._free.append(slot)

    def write(self, values: NDArray[Any], position: int) -> None:
        """Write an array at byte `position`."""
        data = np.ascontiguousarray(values).data.cast("B")
        while data:
            written = os.pwrite(self._file.fileno(), data, position)
            position += written
            data = data[written:]

    def read(self, buffer: memoryview, position: int) -> None:
        """Fill the buffer from byte `position` on."""
        while buffer:
            size = os.preadv(self._file.fileno(), [buffer], position)
            if not size:
                raise OSError("the temporary file of ids was truncated")
            position += size
            buffer = buffer[size:]

    def read_spans(self, buffer: memoryview, spans: Iterable[tuple[int, int, int]]) -> None:
        """Fill spans of the buffer: each its begin and end there, and the byte in the file from which it is read."""
        file, read = self._file.fileno(), os.preadv
        for begin, end, position in spans:
            span = buffer[begin:end]
            if read(file, [span], position) != end - begin:
                self.read(span, position)


class SpilledRun:
    """Sorted keys and the offsets of their rows, in slots of a file.

    Rows are appended at the end and taken from the start. `first` and `last` are the lowest and the highest key. The
    filter takes `page_bytes` bytes a page, with space for `expected_rows` from the start; there is none if it is 0.
    """

    def __init__(self, file: SpillFile, page_bytes: int = 0, expected_rows: int = 0) -> None:
        self._file = file
        self._slots: list[int] = []  # those before `_start` were released
        self._start = self._end = 0  # rows taken, and rows appended, since the run was created
        self._limit = _ALWAYS  # rows at this offset and above were discarded
        self._head: tuple[Keys, Positions] | None = None  # the next rows to take
        pages = -(-expected_rows // PAGE_ROWS)
        self._fences = np.empty(pages, np.uint64)  # the first key of each page: a sparse index
        # A Bloom filter for each page: two bits are set for each key, selected by its lower half, which is a hash.
        self._filter = np.zeros((pages, page_bytes), np.uint8)
        self._unfiltered = 0  # lookups without a filter
        self.first = self.last = 0

    def __len__(self) -> int:
        return self._end - self._start

    @property
    def filter_bytes(self) -> int:
        """The size of the filter."""
        return self._filter.size

    @property
    def page_bytes(self) -> int:
        """The size of the filter of a page; 0 if there is none."""
        return int(self._filter.shape[1])

    @property
    def pages(self) -> int:
        """The number of pages since the run was created."""
        return -(-self._end // PAGE_ROWS)

    @property
    def lacks_filter(self) -> bool:
        """Whether a filter would have saved more reads than it takes to make it, which reads every page."""
        return self._unfiltered > self.pages

    def add_filter(self, page_bytes: int) -> None:
        """Make a filter of `page_bytes` bytes a page."""
        self._filter = np.zeros((len(self._fences), page_bytes), np.uint8)
        self._unfiltered = 0
        for page in range(self._start // PAGE_ROWS, self.pages, _READ_PAGES):
            pages = np.arange(page, min(self.pages, page + _READ_PAGES))
            self._add_bits(self._read(pages, np.uint64), page * PAGE_ROWS)

    @property
    def can_halve_filter(self) -> bool:
        """Whether the filter can be any smaller."""
        return self._filter.size > 0 and self.page_bytes % 2 == 0

    def halve_filter(self) -> None:
        """Halve the filter in place: each two adjacent bits become one, as if there had been half as many."""
        pages, width = self.pages, self.page_bytes
        flat, half = self._filter.reshape(-1), width // 2
        for at in range(0, pages, _FOLDED_PAGES):
            bits = np.unpackbits(self._filter[at : min(pages, at + _FOLDED_PAGES)], bitorder="little")
            folded = np.packbits(bits[0::2] | bits[1::2], bitorder="little")
            flat[at * half : at * half + len(folded)] = folded
        flat[pages * half : pages * width] = 0
        self._filter.resize((len(self._filter), half), refcheck=False)

    def discard(self, limit: int) -> None:
        """Discard the rows at offset `limit` and above."""
        self._limit = min(self._limit, limit)

    def can_append(self, first: int) -> bool:
        """Return whether rows can be appended whose lowest key is `first`: not if any are being taken or discarded."""
        return self.last <= first and self._limit == _ALWAYS and not self._start and self._head is None

    def append(self, keys: Keys, offsets: Positions) -> None:
        """Append rows whose sorted keys are not below `last`."""
        slot_rows = SLOT_PAGES * PAGE_ROWS
        at = 0
        while at < len(keys):
            row = self._end % slot_rows
            if not row:
                self._slots.append(self._file.allocate())
            stop = min(len(keys), at + slot_rows - row)
            position = 8 * (2 * slot_rows * self._slots[-1] + row)
            self._file.write(keys[at:stop], position)
            self._file.write(offsets[at:stop], position + 8 * slot_rows)
            self._index(keys[at:stop])
            at = stop

    def _index(self, keys: Keys) -> None:
        """Add keys that were appended to the sparse index and the filter."""
        page, row = divmod(self._end, PAGE_ROWS)
        if not len(self):
            self.first = int(keys[0])
        self.last = int(keys[-1])
        self._end += len(keys)
        width = self.page_bytes
        if self.pages > len(self._fences):
            grown = max(self.pages, len(self._fences) * 5 // 4)
            self._fences.resize(grown, refcheck=False)
            self._filter.resize((grown, width), refcheck=False)
        self._fences[page + (row > 0) : self.pages] = keys[-row % PAGE_ROWS :: PAGE_ROWS]
        if width:
            self._add_bits(keys, self._end - len(keys))

    def _add_bits(self, keys: Keys, start: int) -> None:
        """Add the keys of the rows from `start` on to the filter."""
        page, row = divmod(start, PAGE_ROWS)
        width, end = self.page_bytes, -(-(start + len(keys)) // PAGE_ROWS)
        bits = np.zeros((end - page) * width * 8, np.bool_)
        first_bits = np.arange(row, row + len(keys)) // PAGE_ROWS * (width * 8)
        for shift in _HASH_SHIFTS:
            bits[first_bits + _hash_bits(keys, shift, width)] = True
        self._filter[page:end] |= np.packbits(bits, bitorder="little").reshape(-1, width)

    def find(self, keys: Keys) -> Generator[tuple[Positions, Positions]]:
        """Yield indices in sorted `keys`, and the offsets of the rows with these keys."""
        low = int(np.searchsorted(keys, np.uint64(self.first), "left"))
        high = int(np.searchsorted(keys, np.uint64(self.last), "right"))
        queries, pages = self._candidates(keys[low:high])
        distinct = distinct_values(pages)
        for at in range(0, len(distinct), _READ_PAGES):
            some = distinct[at : at + _READ_PAGES]
            # Each page is read once, and all keys that may be in one of these pages are looked up in all of them.
            asked = low + distinct_values(queries[(pages >= some[0]) & (pages <= some[-1])])
            for hits, found in equal_keys(self._read(some, np.uint64), keys[asked]):
                rows = some[found // PAGE_ROWS] * PAGE_ROWS + found % PAGE_ROWS
                offsets = self._offsets(rows)
                is_valid = offsets < self._limit
                yield asked[hits[is_valid]], offsets[is_valid]

    def _candidates(self, keys: Keys) -> tuple[Positions, Positions]:
        """Return which keys may be in which pages: the index of the key and the page, for each such pair."""
        fences = self._fences[: self.pages]
        pages = np.searchsorted(fences, keys, "right") - 1
        queries = np.arange(len(keys))
        tied = np.flatnonzero(fences[pages] == keys)
        if len(tied):  # a key that starts a page may also be in the pages before it
            before = np.maximum(np.searchsorted(fences, keys[tied], "left") - 1, self._start // PAGE_ROWS)
            counts = np.maximum(pages[tied] - before, 0)
            queries = np.concatenate((queries, np.repeat(tied, counts)))
            steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            pages = np.concatenate((pages, np.repeat(before, counts) + steps))
        width = self.page_bytes
        if not width:
            self._unfiltered += len(queries)
            return queries, pages
        filters = self._filter.reshape(-1)
        for shift in _HASH_SHIFTS:
            bits = _hash_bits(keys[queries], shift, width)
            is_set = filters[pages * width + (bits >> 3)] & (1 << (bits & 7)) != 0
            queries, pages = queries[is_set], pages[is_set]
        return queries, pages

    def _offsets(self, rows: Positions) -> Positions:
        if not len(rows):
            return np.empty(0, np.int64)
        pages = rows // PAGE_ROWS
        offsets = np.empty(len(rows), np.int64)
        distinct = distinct_values(pages)
        for at in range(0, len(distinct), _READ_PAGES):
            some = distinct[at : at + _READ_PAGES]
            here = np.flatnonzero((pages >= some[0]) & (pages <= some[-1]))
            found = self._read(some, np.int64)
            offsets[here] = found[np.searchsorted(some, pages[here]) * PAGE_ROWS + rows[here] % PAGE_ROWS]
        return offsets

    def _read(self, pages: Positions, kind: type[np.uint64] | type[np.int64]) -> NDArray[Any]:
        """Return the keys or the offsets in some pages, given in order; adjacent ones are read at once."""
        missing = max(0, (int(pages[-1]) + 1) * PAGE_ROWS - self._end)  # in the last page of the run
        values = np.empty(len(pages) * PAGE_ROWS - missing, kind)
        slots = np.array(self._slots)[pages // SLOT_PAGES]
        at_page = 2 * SLOT_PAGES * slots + pages % SLOT_PAGES + SLOT_PAGES * (kind is np.int64)
        starts = np.flatnonzero(np.diff(at_page, prepend=-2) != 1)
        buffer, page_bytes = values.data.cast("B"), 8 * PAGE_ROWS
        begins = (starts * page_bytes).tolist()
        ends = [*begins[1:], len(buffer)]
        self._file.read_spans(buffer, zip(begins, ends, (at_page[starts] * page_bytes).tolist(), strict=True))
        return values

    def head(self) -> Keys:
        """Return the keys that can be taken next: those up to the end of the first slot."""
        return self._load_head()[0]

    def take(self, count: int) -> tuple[Keys, Positions]:
        """Take the first `count` rows of the head, without those that were discarded."""
        slot_rows = SLOT_PAGES * PAGE_ROWS
        keys, offsets = self._load_head()
        self._start += count
        self._head = (keys[count:], offsets[count:])
        if count == len(keys):
            self._file.release(self._slots[(self._start - 1) // slot_rows])
            self._head = None
        if len(self):
            self.first = int(self._fences[self._start // PAGE_ROWS] if self._head is None else keys[count])
        is_valid = offsets[:count] < self._limit
        return keys[:count][is_valid], offsets[:count][is_valid]

    def _load_head(self) -> tuple[Keys, Positions]:
        if self._head is None:
            slot_rows = SLOT_PAGES * PAGE_ROWS
            slot, row = divmod(self._start, slot_rows)
            size = min(len(self), slot_rows - row)
            keys, offsets = np.empty(size, np.uint64), np.empty(size, np.int64)
            position = 8 * (2 * slot_rows * self._slots[slot] + row)
            self._file.read(keys.data.cast("B"), position)
            self._file.read(offsets.data.cast("B"), position + 8 * slot_rows)
            self._head = (keys, offsets)
        return self._head


def merge_spilled(runs: list[SpilledRun], merged: SpilledRun) -> Generator[int]:
    """Move all rows of `runs` to `merged`, in small steps; yield the number of rows moved in each.

    After each step every row is in exactly one run. A run that is empty is removed from `runs`.
    """
    while runs:
        heads = [run.head() for run in runs]
        quota = max(1, SLOT_PAGES * PAGE_ROWS // len(runs))  # bounds the memory of a step
        limit = min(keys[min(len(keys), quota) - 1] for keys in heads)
        taken = [run.take(int(np.searchsorted(keys, limit, "right"))) for run, keys in zip(runs, heads, strict=True)]
        keys, offsets = (np.concatenate(column) for column in zip(*taken, strict=True))
        order = np.argsort(keys, kind="stable")
        merged.append(keys[order], offsets[order])
        runs[:] = [run for run in runs if len(run)]
        yield len(keys)


def equal_keys(run: Keys, keys: Keys) -> Generator[tuple[Positions, Positions]]:
    """Yield indices in `keys` and in the sorted `run` at which both have the same key."""
    hits, at = np.arange(len(keys)), np.searchsorted(run, keys)
    while len(hits):
        equal = run[np.minimum(at, len(run) - 1)] == keys[hits]
        equal &= at < len(run)
        hits, at = hits[equal], at[equal]
        if len(hits):
            yield hits, at
        at = at + 1


def distinct_values(values: Positions) -> Positions:
    """Return the values in order, each once."""
    ordered = np.sort(values, kind="stable")  # they are nearly sorted
    distinct: Positions = ordered[np.diff(ordered, prepend=-1) != 0]
    return distinct


def _hash_bits(keys: Keys, shift: int, width: int) -> Positions:
    """Return the bit that 16 bits of each key select in a bitmap of `width` bytes."""
    return ((keys >> np.uint64(shift) & np.uint64(0xFFFF)) * np.uint64(8 * width) >> np.uint64(16)).astype(np.int64)
