"""An index from the keys of all rows in the output to their offsets: sorted runs, in memory and spilled to a file.

Rows arrive in the order of their windows, and a key starts with the timestamp of its id, so the ranges of two runs
seldom overlap: most runs are skipped by their bounds alone. If ids are in no order, every run is searched with all the
keys of a block at once.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np

from bulkpull.rows.block import Keys, Positions

ENTRY_BYTES = 16  # a key and an offset
_FENCE_INTERVAL = 4096  # every 4096th key of a spilled run stays in memory: a sparse index
_READ_ROWS = 32 * _FENCE_INTERVAL  # of a spilled run, in one read


@dataclass(frozen=True, slots=True)
class _Run:
    """Sorted keys, and the offsets of their rows in the output."""

    keys: Keys
    offsets: Positions

    def __len__(self) -> int:
        return len(self.keys)

    def overlaps(self, first: np.uint64, last: np.uint64) -> bool:
        return bool(self.keys[0] <= last and first <= self.keys[-1])

    def between(self, _first: np.uint64, _last: np.uint64) -> Iterator[_Run]:
        yield self


@dataclass(frozen=True, slots=True)
class _SpilledRun:
    """A run in a file: all keys from byte `position` on, then all offsets.

    `fences` is a sparse index: every 4096th key, and the last.
    """

    file: int
    position: int
    size: int
    fences: Keys

    def __len__(self) -> int:
        return self.size

    def overlaps(self, first: np.uint64, last: np.uint64) -> bool:
        return bool(self.fences[0] <= last and first <= self.fences[-1])

    def between(self, first: np.uint64, last: np.uint64) -> Iterator[_Run]:
        """Yield the part of the run that holds the keys from `first` to `last`, in pieces of bounded size."""
        start = max(0, int(np.searchsorted(self.fences[:-1], first, "left")) - 1) * _FENCE_INTERVAL
        end = min(self.size, int(np.searchsorted(self.fences[:-1], last, "right")) * _FENCE_INTERVAL)
        for at in range(start, end, _READ_ROWS):
            yield self._read(at, min(end, at + _READ_ROWS))

    def _read(self, start: int, end: int) -> _Run:
        keys = os.pread(self.file, 8 * (end - start), self.position + 8 * start)
        offsets = os.pread(self.file, 8 * (end - start), self.position + 8 * (self.size + start))
        return _Run(np.frombuffer(keys, np.uint64), np.frombuffer(offsets, np.int64))


class KeyIndex:
    """A multimap from keys to row offsets that takes about `memory` bytes of memory.

    The rest is spilled to an unnamed temporary file in `directory`. Rows are fresh until `keep` is called; until then
    they can be discarded. Methods raise OSError.
    """

    def __init__(self, directory: Path, memory: int) -> None:
        self._directory = directory
        self._max_entries = max(1, memory // ENTRY_BYTES)
        self._kept: list[_Run | _SpilledRun] = []
        self._fresh: list[_Run | _SpilledRun] = []
        self._spill: IO[bytes] | None = None
        self._spilled = 0  # bytes

    def close(self) -> None:
        """Free the memory and close the spill file."""
        self._kept.clear()
        self._fresh.clear()
        if self._spill:
            self._spill.close()

    def find(self, keys: Keys) -> tuple[Positions, Positions]:
        """Return the index in sorted `keys` and the row offset of each match; a key may match several rows."""
        hits, offsets = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for run in chain(self._kept, self._fresh):
            if not run.overlaps(keys[0], keys[-1]):
                continue
            for piece in run.between(keys[0], keys[-1]):
                low = int(np.searchsorted(keys, piece.keys[0], "left"))
                high = int(np.searchsorted(keys, piece.keys[-1], "right"))
                queries = np.arange(low, high)
                at = np.searchsorted(piece.keys, keys[low:high])
                while len(queries):
                    equal = piece.keys[np.minimum(at, len(piece) - 1)] == keys[queries]
                    equal &= at < len(piece)
                    queries, at = queries[equal], at[equal]
                    hits.append(queries)
                    offsets.append(piece.offsets[at])
                    at = at + 1
        return np.concatenate(hits), np.concatenate(offsets)

    def add(self, keys: Keys, offsets: Positions) -> None:
        """Add fresh rows, with sorted `keys`."""
        if len(keys):
            self._fresh.append(_Run(keys, offsets))
            self._compact(self._fresh)

    def keep(self) -> None:
        """Keep the fresh rows."""
        self._kept += self._fresh
        self._fresh.clear()
        self._compact(self._kept)

    def discard_fresh(self) -> None:
        """Discard the fresh rows."""
        self._fresh.clear()

    def _compact(self, runs: list[_Run | _SpilledRun]) -> None:
        """Merge runs until each is more than twice as long as the next, so that there are few."""
        while len(runs) > 1 and isinstance(last := runs[-1], _Run) and isinstance(before := runs[-2], _Run):
            if len(before) > 2 * len(last):
                break
            runs[-2:] = [_merge_runs(before, last)]
        self._spill_excess()

    def _spill_excess(self) -> None:
        """Spill the runs in memory, merged into one, if they exceed half the limit."""
        for runs in (self._kept, self._fresh):
            in_memory = [run for run in runs if isinstance(run, _Run)]
            if 2 * sum(map(len, in_memory)) > self._max_entries:
                spilled = [run for run in runs if isinstance(run, _SpilledRun)]
                runs[:] = [*spilled, self._write_run(functools.reduce(_merge_runs, in_memory))]

    def _write_run(self, run: _Run) -> _SpilledRun:
        if self._spill is None:
            self._spill = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115
        file, position = self._spill.fileno(), self._spilled
        for values in (run.keys, run.offsets):
            data = memoryview(values.tobytes())
            while data:
                written = os.pwrite(file, data, self._spilled)
                self._spilled += written
                data = data[written:]
        return _SpilledRun(file, position, len(run), np.append(run.keys[::_FENCE_INTERVAL], run.keys[-1:]))


def _merge_runs(first: _Run, second: _Run) -> _Run:
    keys, offsets = np.concatenate((first.keys, second.keys)), np.concatenate((first.offsets, second.offsets))
    if first.keys[-1] <= second.keys[0]:
        return _Run(keys, offsets)
    order = np.argsort(keys, kind="stable")
    return _Run(keys[order], offsets[order])
