"""The keys of all rows that were kept, and where each row stands: sorted runs, in memory as far as they may be, then
in a file.

Rows come in the order of their windows, and keys begin with their id's time, so that a run's range seldom overlaps
another's: most runs are passed over by their bounds alone. Where ids are in no order, every run is searched, each with
all the keys of a block at once.
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

from bulkpull.rows.scan import Keys, Positions

ROW = 16  # bytes that a row takes: its key and its place
_FENCE = 4096  # rows of a spilled run between two keys that stay in memory
_READ = 32 * _FENCE  # rows of a spilled run that are read at a time


@dataclass(frozen=True, slots=True)
class _Run:
    """Sorted keys, and where their rows stand."""

    keys: Keys
    places: Positions

    def __len__(self) -> int:
        return len(self.keys)

    def overlaps(self, first: np.uint64, last: np.uint64) -> bool:
        return bool(self.keys[0] <= last and first <= self.keys[-1])

    def between(self, _first: np.uint64, _last: np.uint64) -> Iterator[_Run]:
        yield self


@dataclass(frozen=True, slots=True)
class _SpilledRun:
    """A run in a file: all keys from `offset` on, all places behind them. `fences` are every so manieth key, and the
    last."""

    file: int
    offset: int
    size: int
    fences: Keys

    def __len__(self) -> int:
        return self.size

    def overlaps(self, first: np.uint64, last: np.uint64) -> bool:
        return bool(self.fences[0] <= last and first <= self.fences[-1])

    def between(self, first: np.uint64, last: np.uint64) -> Iterator[_Run]:
        """The run from one key to another, in pieces that fit into memory."""
        begin = max(0, int(np.searchsorted(self.fences[:-1], first, "left")) - 1) * _FENCE
        end = min(self.size, int(np.searchsorted(self.fences[:-1], last, "right")) * _FENCE)
        for at in range(begin, end, _READ):
            yield self._read(at, min(end, at + _READ))

    def _read(self, begin: int, end: int) -> _Run:
        keys = os.pread(self.file, 8 * (end - begin), self.offset + 8 * begin)
        places = os.pread(self.file, 8 * (end - begin), self.offset + 8 * (self.size + begin))
        return _Run(np.frombuffer(keys, np.uint64), np.frombuffer(places, np.int64))


class Seen:
    """What is known of the rows kept so far, in `memory` bytes or a little more; the rest is in a nameless file in
    `directory`.

    Rows are fresh until `keep` is called, and may be forgotten until then. Raises OSError.
    """

    def __init__(self, directory: Path, memory: int) -> None:
        self._directory = directory
        self._most = max(1, memory // ROW)
        self._kept: list[_Run | _SpilledRun] = []
        self._fresh: list[_Run | _SpilledRun] = []
        self._spill: IO[bytes] | None = None
        self._spilled = 0  # bytes

    def close(self) -> None:
        """Lets go of everything."""
        self._kept.clear()
        self._fresh.clear()
        if self._spill:
            self._spill.close()

    def find(self, keys: Keys) -> tuple[Positions, Positions]:
        """Of sorted `keys`, the index of each that was seen, and where its row stands; a key may have several rows."""
        hits, places = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for run in chain(self._kept, self._fresh):
            if not run.overlaps(keys[0], keys[-1]):
                continue
            for piece in run.between(keys[0], keys[-1]):
                low = int(np.searchsorted(keys, piece.keys[0], "left"))
                high = int(np.searchsorted(keys, piece.keys[-1], "right"))
                asked = np.arange(low, high)
                at = np.searchsorted(piece.keys, keys[low:high])
                while len(asked):
                    equal = piece.keys[np.minimum(at, len(piece) - 1)] == keys[asked]
                    equal &= at < len(piece)
                    asked, at = asked[equal], at[equal]
                    hits.append(asked)
                    places.append(piece.places[at])
                    at = at + 1
        return np.concatenate(hits), np.concatenate(places)

    def add(self, keys: Keys, places: Positions) -> None:
        """Rows with sorted `keys` stand at `places`."""
        if len(keys):
            self._fresh.append(_Run(keys, places))
            self._tidy(self._fresh)

    def keep(self) -> None:
        """The fresh rows stay."""
        self._kept += self._fresh
        self._fresh.clear()
        self._tidy(self._kept)

    def forget_fresh(self) -> None:
        """The fresh rows do not stay."""
        self._fresh.clear()

    def _tidy(self, runs: list[_Run | _SpilledRun]) -> None:
        """Joins runs, so that there are few: each is more than twice as long as the next."""
        while len(runs) > 1 and isinstance(last := runs[-1], _Run) and isinstance(before := runs[-2], _Run):
            if len(before) > 2 * len(last):
                break
            runs[-2:] = [_joined(before, last)]
        self._make_room()

    def _make_room(self) -> None:
        """Spills what there is no memory for, in runs as long as can be."""
        for runs in (self._kept, self._fresh):
            held = [run for run in runs if isinstance(run, _Run)]
            if 2 * sum(map(len, held)) > self._most:
                spilled = [run for run in runs if isinstance(run, _SpilledRun)]
                runs[:] = [*spilled, self._spilled_run(functools.reduce(_joined, held))]

    def _spilled_run(self, run: _Run) -> _SpilledRun:
        if self._spill is None:
            self._spill = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115
        file, offset = self._spill.fileno(), self._spilled
        for values in (run.keys, run.places):
            data = memoryview(values.tobytes())
            while data:
                written = os.pwrite(file, data, self._spilled)
                self._spilled += written
                data = data[written:]
        return _SpilledRun(file, offset, len(run), np.append(run.keys[::_FENCE], run.keys[-1:]))


def _joined(first: _Run, second: _Run) -> _Run:
    keys, places = np.concatenate((first.keys, second.keys)), np.concatenate((first.places, second.places))
    if first.keys[-1] <= second.keys[0]:
        return _Run(keys, places)
    order = np.argsort(keys, kind="stable")
    return _Run(keys[order], places[order])
