"""The merge alone: files on the disk to one deduplicated CSV, beside the csv module with a set, and a plain copy.

    python benchmarks/merge.py [--rows 500000]

Each runs as a process of its own on the same files, 20 of them, with about 1 % repeats; the ratios are to the copy.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
import tempfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from measure import machine, run, table

from bulkpull.rows.dedup import Deduplicator
from bulkpull.rows.sink import CsvSink
from bulkpull.sandbox.data import FIELDS, Activities

PARTS = 20
MEMORY = 32_000_000  # bytes for ids
START, END = datetime(2024, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)


def make(directory: Path, rows: int) -> int:
    """Writes the parts; returns their bytes."""
    activities = Activities(rows, START, END)
    size = 0
    for part in range(PARTS):
        path = directory / f"part-{part:02d}.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            file.write(",".join(FIELDS) + "\n")
            numbers = range(rows * part // PARTS, rows * (part + 1) // PARTS)
            file.writelines(",".join(row) + "\n" for row in activities.delivered(numbers, None))
        size += path.stat().st_size
    return size


def with_bulkpull(parts: list[Path], out: Path) -> None:
    sink = CsvSink(out, FIELDS, fixed=True)
    with closing(sink), closing(Deduplicator(sink, MEMORY)) as deduplicator:
        for part in parts:
            deduplicator.add(part, b"2024-01-01T00:00:00.000Z", b"2026-01-01T00:00:00.000Z", lambda: None)
            deduplicator.keep()
        sink.finish(lambda: None)


def with_csv_and_a_set(parts: list[Path], out: Path) -> None:
    seen: set[str] = set()
    with out.open("w", encoding="utf-8", newline="") as written:
        writer = csv.writer(written, lineterminator="\n")
        writer.writerow(FIELDS)
        for part in parts:
            with part.open(encoding="utf-8", newline="") as file:
                rows = csv.reader(file)
                next(rows)
                for row in rows:
                    if row[0] not in seen:
                        seen.add(row[0])
                        writer.writerow(row)


def with_a_copy(parts: list[Path], out: Path) -> None:
    with out.open("wb") as written:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, written, 1 << 20)


WAYS = {"bulkpull": with_bulkpull, "csv module and a set": with_csv_and_a_set, "copy": with_a_copy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as directory:
        size = make(Path(directory), rows)
        best = {
            way: min((run([__file__, "--way", way, directory]) for _ in range(3)), key=lambda done: done.wall)
            for way in WAYS
        }
    copy = best["copy"].wall
    print(f"{machine()}; {rows:,} rows, {size / 1e6:.0f} MB in {PARTS} files; the best of 3\n")
    print(
        table(
            ("what", "wall s", "CPU s", "peak MB", "wall / copy"),
            [
                (way, f"{done.wall:.2f}", f"{done.cpu:.2f}", f"{done.peak:.0f}", f"{done.wall / copy:.1f}")
                for way, done in best.items()
            ],
        )
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--way"]:
        files = Path(sys.argv[3])
        WAYS[sys.argv[2]](sorted(files.glob("part-*.csv")), files / "out.csv")
    else:
        main()
