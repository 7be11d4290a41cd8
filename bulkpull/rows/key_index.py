"""An index from the keys of all rows in the output to their offsets: sorted runs, in memory and spilled to a file.

Usually rows arrive in the order of their windows, and a key starts with the timestamp of its id. Then the keys of a
block are above almost all keys so far: they are appended to a run, and no run is searched for them. If ids are in no
order, there are several runs, each at least about twice as large as the next, as in a log-structured merge tree.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bulkpull.rows.block import Keys, Positions
from bulkpull.rows.spill import PAGE_ROWS, SpilledRun, SpillFile, equal_keys, merge_spilled

ENTRY_BYTES = 16  # a key and an offset
_FILTER_BYTES = 1024  # a page, 16 bits a key; fewer when memory is short
_MIN_FILTER_BYTES = 8
_FILTER_SHARE = 0.75  # of the memory for filters, or of what is left of it, that a new one may take
_MERGED_PER_ADDED = 16  # spilled rows that are merged for each row that is added: merges are spread out


class _Run:
    """Sorted keys and the offsets of their rows in memory, in arrays with space to grow."""

    def __init__(self, keys: Keys, offsets: Positions) -> None:
        self._keys, self._offsets = keys, offsets
        self._size = len(keys)
        self.first, self.last = int(keys[0]), int(keys[-1])

    def __len__(self) -> int:
        return self._size

    @property
    def keys(self) -> Keys:
        return self._keys[: self._size]

    @property
    def offsets(self) -> Positions:
        return self._offsets[: self._size]

    def count_from(self, key: int) -> int:
        """Return how many keys are `key` or above."""
        return self._size - int(np.searchsorted(self.keys, np.uint64(key))) if key <= self.last else 0

    def merge(self, keys: Keys, offsets: Positions) -> None:
        """Add rows with sorted keys. Only rows whose keys are not below the first of them are moved."""
        start = self._size - self.count_from(int(keys[0]))
        end = self._size + len(keys)
        if start < self._size:
            keys = np.concatenate((self.keys[start:], keys))
            offsets = np.concatenate((self.offsets[start:], offsets))
            order = np.argsort(keys, kind="stable")
            keys, offsets = keys[order], offsets[order]
        if end > len(self._keys):
            self._keys = _grown(self._keys, start, 2 * end)
            self._offsets = _grown(self._offsets, start, 2 * end)
        self._keys[start:end], self._offsets[start:end] = keys, offsets
        self._size = end
        self.first, self.last = int(self._keys[0]), int(self._keys[end - 1])

    def select(self, chosen: Positions | slice) -> None:
        """Remove all rows but those at some indices, at least one and in order."""
        keys, offsets = self.keys[chosen], self.offsets[chosen]
        self._size = len(keys)
        self._keys[: self._size], self._offsets[: self._size] = keys, offsets
        self.first, self.last = int(keys[0]), int(keys[-1])


class KeyIndex:
    """A multimap from keys to row offsets that takes up to about six times `memory` bytes of memory.

    A third of it is for rows, sorting and merging them takes twice `memory`, and filters take 2.5 times. The other
    rows are spilled to an unnamed temporary file in `directory`. Rows are fresh until `keep` is called; until then they
    can be discarded. The offset of each row that is added must be above those of all rows kept. Methods raise OSError;
    after that, the index can only be closed.
    """

    def __init__(self, directory: Path, memory: int) -> None:
        self._directory = directory
        self._max_rows = max(1, memory // (3 * ENTRY_BYTES))
        self._filter_memory = 5 * memory // 2
        self._runs: list[_Run] = []
        self._file: SpillFile | None = None
        self._spilled: list[SpilledRun] = []
        self._merge: Generator[int] | None = None  # moves rows from some spilled runs to `_target`
        self._target: SpilledRun | None = None
        self._end = 0  # above all offsets
        self._kept_end = 0

    @property
    def spilled_bytes(self) -> int:
        """The size of the spill file."""
        return self._file.size if self._file else 0

    def close(self) -> None:
        """Free the memory and close the spill file."""
        self._runs.clear()
        self._spilled.clear()
        self._merge = None
        if self._file:
            self._file.close()

    def find(self, keys: Keys) -> tuple[Positions, Positions]:
        """Return the index in sorted `keys` and the row offset of each match; a key may match several rows."""
        hits, offsets = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        first, last = int(keys[0]), int(keys[-1])
        for run in self._runs:
            if run.first <= last and first <= run.last:
                low = int(np.searchsorted(keys, np.uint64(run.first), "left"))
                high = int(np.searchsorted(keys, np.uint64(run.last), "right"))
                for found, at in equal_keys(run.keys, keys[low:high]):
                    hits.append(low + found)
                    offsets.append(run.offsets[at])
        for spilled in self._spilled:
            if len(spilled) and spilled.first <= last and first <= spilled.last:
                if spilled.lacks_filter:
                    page_bytes = _page_bytes(spilled.pages, self._filter_memory)
                    _shrink_filters(self._spilled, self._filter_memory - spilled.pages * page_bytes)
                    spilled.add_filter(page_bytes)
                for found, at in spilled.find(keys):
                    hits.append(found)
                    offsets.append(at)
        return np.concatenate(hits), np.concatenate(offsets)

    def add(self, keys: Keys, offsets: Positions) -> None:
        """Add fresh rows, with sorted `keys`. The index takes over the arrays: the caller must not use them again."""
        if not len(keys):
            return
        self._end = max(self._end, int(offsets.max()) + 1)
        runs = self._runs
        runs.append(_Run(keys, offsets))
        while len(runs) > 1 and runs[-2].count_from(runs[-1].first) <= 2 * len(runs[-1]):
            last = runs.pop()
            runs[-1].merge(last.keys, last.offsets)
        if sum(map(len, runs)) > self._max_rows:
            self._spill()
        self._continue_merge(_MERGED_PER_ADDED * len(keys))

    def keep(self) -> None:
        """Keep the fresh rows."""
        self._kept_end = self._end

    def discard_fresh(self) -> None:
        """Discard the fresh rows: those at offsets above the kept ones."""
        self._end = self._kept_end
        for run in self._runs.copy():
            kept = np.flatnonzero(run.offsets < self._kept_end)
            if not len(kept):
                self._runs.remove(run)
            elif len(kept) < len(run):
                run.select(kept)
        for spilled in self._spilled:
            spilled.discard(self._kept_end)

    def _spill(self) -> None:
        """Spill the rows in memory, but those with the highest keys: the next ones may be below them."""
        runs = self._runs
        while len(runs) > 1:
            last = runs.pop()
            runs[-1].merge(last.keys, last.offsets)
        run = runs[0]
        count = len(run) - len(run) // 8
        target = self._run_to_append_to(run.first)
        _shrink_filters(self._spilled, self._filter_memory - (count // PAGE_ROWS + 1) * target.page_bytes)
        target.append(run.keys[:count], run.offsets[:count])
        if count < len(run):
            run.select(slice(count, None))
        else:
            runs.clear()

    def _run_to_append_to(self, first: int) -> SpilledRun:
        """Return a spilled run to which rows can be appended whose lowest key is `first`, or a new one."""
        for spilled in self._spilled:
            if spilled.can_append(first) and spilled is not self._target:
                return spilled
        if self._file is None:
            self._file = SpillFile(self._directory)
        self._spilled.append(SpilledRun(self._file))
        return self._spilled[-1]

    def _continue_merge(self, rows: int) -> None:
        """Merge spilled runs of similar size, if there are any, until about so many rows were moved."""
        while rows > 0:
            if self._merge is None and not self._start_merge():
                return
            assert self._merge is not None
            moved = next(self._merge, None)
            if moved is None:
                self._merge = self._target = None
            else:
                rows -= moved
            self._spilled = [spilled for spilled in self._spilled if len(spilled) or spilled is self._target]

    def _start_merge(self) -> bool:
        """Start to merge the smallest runs, each at most twice as large as the smaller ones together."""
        by_size = sorted(self._spilled, key=len)
        total = count = 0
        for spilled in by_size:
            if count and len(spilled) > 2 * total:
                break
            total += len(spilled)
            count += 1
        if count < 2 or self._file is None:
            return False
        merged = by_size[:count]
        pages = total // PAGE_ROWS + 1
        memory = self._filter_memory - sum(spilled.filter_bytes for spilled in by_size[count:])
        page_bytes = _page_bytes(pages, memory)
        _shrink_filters(merged, memory - pages * page_bytes)
        self._target = SpilledRun(self._file, page_bytes, total)
        self._spilled.append(self._target)
        self._merge = merge_spilled(merged, self._target)
        return True


def _page_bytes(pages: int, memory: int) -> int:
    """Return the bytes for each page of a filter, if all its pages may take most of `memory` bytes."""
    page_bytes = min(_FILTER_BYTES, int(_FILTER_SHARE * memory) // pages)
    return max(_MIN_FILTER_BYTES, page_bytes // _MIN_FILTER_BYTES * _MIN_FILTER_BYTES)


def _shrink_filters(runs: list[SpilledRun], memory: int) -> None:
    """Halve the largest filters until all take up to `memory` bytes, if that is possible."""
    while sum(run.filter_bytes for run in runs) > memory:
        run = max((run for run in runs if run.can_halve_filter), key=lambda run: run.filter_bytes, default=None)
        if run is None:
            return
        run.halve_filter()


def _grown(array: NDArray[Any], used: int, size: int) -> NDArray[Any]:
    """Return an array of `size` values that starts with the first `used` ones of `array`."""
    grown = np.empty(size, array.dtype)
    grown[:used] = array[:used]
    return grown
