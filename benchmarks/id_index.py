"""Deduplication of ids alone: the index that a pull keeps, compared with a set and with databases.

    python benchmarks/id_index.py [--ids 20e6] [--order random] [--memory-mb 256] [--peers]

Ids are 64-bit keys in blocks of 8,000, each looked up and then added, as a pull does with each block of rows. In order
of time, a thousand ids share a second and blocks of a second overlap; one id in a thousand is a repeat. A peer gets the
ids as strings of 24 hexadecimal digits, and stops when the process takes more than --limit-mb.
"""

from __future__ import annotations

import argparse
import resource
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measure import machine, run, table
from numpy.typing import NDArray

from bulkpull.pull.memory import divided
from bulkpull.rows.block import Keys, Positions
from bulkpull.rows.format import Format
from bulkpull.rows.key_index import KeyIndex

BLOCK_IDS = 8000
REPEATED_EVERY = 1000
RECENT_IDS = 100_000
IDS_PER_SECOND = 1000
MEASURED_IDS = 1_000_000  # at the start and at the end


@dataclass
class Clock:
    """Wall and CPU seconds of a part of the work."""

    wall: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: Clock) -> Clock:
        return Clock(self.wall + other.wall, self.cpu + other.cpu)


def keys_of(numbers: NDArray[np.uint64], order: str) -> Keys:
    """Return the keys of the ids with these numbers: a mix of their bits that maps no two numbers to the same key."""
    keys = numbers * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        keys = (keys ^ keys >> np.uint64(shift)) * np.uint64(factor)
    if order == "random":
        return keys
    seconds = numbers // np.uint64(IDS_PER_SECOND) + np.uint64(1_700_000_000)
    return seconds << np.uint64(32) | keys & np.uint64(0xFFFFFFFF)


def blocks(count: int, order: str) -> Iterator[Keys]:
    """Yield unsorted blocks of keys; one in REPEATED_EVERY repeats an earlier one (in order of time, a recent one)."""
    random = np.random.default_rng(1)
    for start in range(0, count, BLOCK_IDS):
        numbers = np.arange(start, min(count, start + BLOCK_IDS), dtype=np.uint64)
        if start:
            since = max(0, start - RECENT_IDS) if order == "time" else 0
            numbers[::REPEATED_EVERY] = random.integers(since, start, len(numbers[::REPEATED_EVERY]), np.uint64)
        yield keys_of(numbers, order)


def measure_index(keys_in_blocks: Iterator[Keys], directory: Path, memory: int) -> Iterator[tuple[Clock, int, float]]:
    """Yield for each block its time, how many ids were known, and how many MB are spilled."""
    index = KeyIndex(directory, memory)
    end = 0
    for block in keys_in_blocks:
        order: Positions = np.argsort(block, kind="stable")  # not measured: a pull sorts the rows of a block anyway
        keys = block[order]
        cpu, wall = time.thread_time(), time.perf_counter()
        hits, _offsets = index.find(keys)
        is_new = np.ones(len(keys), np.bool_)
        is_new[hits] = False
        index.add(keys[is_new], order[is_new] + end)
        index.keep()
        clock = Clock(time.perf_counter() - wall, time.thread_time() - cpu)
        end += len(keys)
        yield clock, len(keys) - int(np.count_nonzero(is_new)), getattr(index, "spilled_bytes", 0) / 1e6
    index.close()


def measure_text(
    keys_in_blocks: Iterator[Keys], add: Callable[[list[str]], int], size: Callable[[], float]
) -> Iterator[tuple[Clock, int, float]]:
    """Yield the same for a peer, whose `add` returns how many ids it knew."""
    for block in keys_in_blocks:
        ids = [f"{key:016x}c0ffee00" for key in block.tolist()]
        cpu, wall = time.thread_time(), time.perf_counter()
        known = add(ids)
        yield Clock(time.perf_counter() - wall, time.thread_time() - cpu), known, size()


def measure_set(keys_in_blocks: Iterator[Keys], _directory: Path, _memory: int) -> Iterator[tuple[Clock, int, float]]:
    seen: set[str] = set()

    def add(ids: list[str]) -> int:
        before = len(seen)
        seen.update(ids)
        return len(ids) - (len(seen) - before)

    return measure_text(keys_in_blocks, add, lambda: 0.0)


def measure_sqlite(keys_in_blocks: Iterator[Keys], directory: Path, memory: int) -> Iterator[tuple[Clock, int, float]]:
    path = directory / "ids.sqlite"
    database = sqlite3.connect(path, isolation_level=None)
    database.executescript(f"""
        PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -{6 * memory // 1024};
        CREATE TABLE ids (id TEXT PRIMARY KEY) WITHOUT ROWID;
    """)

    def add(ids: list[str]) -> int:
        before = database.total_changes
        database.execute("BEGIN")
        database.executemany("INSERT OR IGNORE INTO ids VALUES (?)", ((id,) for id in ids))
        database.execute("COMMIT")
        return len(ids) - (database.total_changes - before)

    return measure_text(keys_in_blocks, add, lambda: path.stat().st_size / 1e6)


MEASURES = {"bulkpull": measure_index, "set": measure_set, "SQLite": measure_sqlite}


def peak_mb() -> float:
    """Return the peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def measure_one(name: str, count: int, order: str, memory: int, limit_mb: float, seconds: float) -> None:
    """Print the cells of one row of the table, one a line."""
    base = peak_mb()
    began = time.perf_counter()
    first, last, total = Clock(), Clock(), Clock()
    done = known = 0
    spilled = slowest = 0.0
    recent: list[tuple[int, Clock]] = []
    end = ""
    with tempfile.TemporaryDirectory() as directory:
        for clock, repeats, size in MEASURES[name](blocks(count, order), Path(directory), memory):
            spilled = size
            done += min(BLOCK_IDS, count - done)
            known += repeats
            total += clock
            slowest = max(slowest, clock.wall)
            if done <= MEASURED_IDS:
                first += clock
            recent.append((done, clock))
            if recent[0][0] <= done - MEASURED_IDS:
                recent.pop(0)
            if peak_mb() > limit_mb or time.perf_counter() - began > seconds:
                end = ", stopped" if done < count else ""
                break
    for _, clock in recent:
        last += clock
    measured = min(done, MEASURED_IDS)
    cells = (
        name,
        f"{done:,}{end}",
        f"{known:,}",
        f"{total.wall:.1f}",
        f"{total.cpu:.1f}",
        *(f"{1e9 * value / measured:,.0f}" for clock in (first, last) for value in (clock.wall, clock.cpu)),
        f"{1e3 * slowest:,.0f}",
        f"{peak_mb() - base:.0f}",
        f"{spilled:,.0f}",
    )
    print("\n".join(cells))


HEADER = (
    *("index", "ids", "repeats", "wall s", "CPU s"),
    *("first million: wall ns an id", "CPU", "last million: wall ns an id", "CPU"),
    *("slowest block ms", "peak MB above start", "spilled MB"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=float, default=20e6)
    parser.add_argument("--order", choices=("random", "time"), default="random")
    parser.add_argument("--memory-mb", type=float, default=256)
    parser.add_argument("--limit-mb", type=float, default=4000)
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--one", choices=MEASURES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        memory = divided(int(options.memory_mb * 1e6), Format()).ids
        measure_one(options.one, int(options.ids), options.order, memory, options.limit_mb, options.seconds)
        return
    rows = []
    for name in MEASURES if options.peers else ("bulkpull",):
        done = run([__file__, *sys.argv[1:], "--one", name])
        rows.append(done.stdout.splitlines())
    print(f"{machine()}; ids in order: {options.order}\n")
    print(table(HEADER, rows))


if __name__ == "__main__":
    main()
