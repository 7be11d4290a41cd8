"""The merge alone: local files to one deduplicated output, compared with a plain copy.

    python benchmarks/merge.py [--rows 1000000] [--runs 5] [--formats csv,parquet] [--work DIR]

A million rows in 20 files, in several shapes (see data_set.py) and formats; for the default shape also with Polars,
DuckDB and the csv module with a set, if installed. Runs are interleaved, each in a separate process, and timed without
start-up. CPU seconds are those of all threads. The ratio is to `cat` of the same files.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from importlib.util import find_spec
from pathlib import Path

from data_set import DATA, NARROW, WIDE, Shape, records, stats
from measure import Run, file_system, machine, run, run_command, table
from peers import with_duckdb, with_polars, write_first_rows

PARTS = 20
MEMORY = 32_000_000  # bytes for the index of ids
DEFAULT = "default"
ANY_FILE = "50 % repeats, in any file"
SHAPES = {
    DEFAULT: Shape(),
    "narrow (3 columns)": Shape(NARROW),
    "wide (25 columns)": Shape(WIDE),
    "no repeats": Shape(repeats=0),
    "50 % repeats, in the same file": Shape(repeats=100),
    ANY_FILE: Shape(repeats=100),
    "random ids": Shape(random_ids=True),
    "JSON in each row": Shape(all_json=True),
    "CRLF": Shape(line_end="\r\n"),
}
FORMATS = ("csv", "csv.zst", "csv.gz", "ndjson", "parquet")


def make(directory: Path, count: int, name: str) -> None:
    """Write the files of a shape, `count` rows in all."""
    shape = SHAPES[name]
    draw = random.Random(1)
    new = count * 100 // (100 + shape.repeats) // PARTS
    candidates: list[str] = []
    for part in range(PARTS):
        lines = records(part * new, new, shape)
        candidates = candidates + lines if name == ANY_FILE else lines
        lines += draw.choices(candidates, k=new * shape.repeats // 100)
        (directory / f"part-{part:02d}.csv").write_text(shape.header + "".join(lines), encoding="utf-8", newline="")
    stats(directory)


# The tools: each merges the parts into `out`.


def with_bulkpull(parts: Sequence[str], out: Path) -> None:
    from bulkpull import Clickwrap
    from bulkpull.rows.compress import compressed
    from bulkpull.rows.dedup import Deduplicator
    from bulkpull.rows.ndjson import ndjson
    from bulkpull.rows.sink import CsvSink

    merged = out.with_name("merged")
    with Path(parts[0]).open(encoding="utf-8") as first:
        header = first.readline().strip().split(",")
    sink = CsvSink(merged, header, fixed=True)
    with closing(sink), closing(Deduplicator(sink, MEMORY, Clickwrap.columns)) as deduplicator:
        for part in parts:
            deduplicator.add(Path(part), b"2014-01-01T00:00:00.000Z", b"2026-01-01T00:00:00.000Z", lambda: None)
            deduplicator.keep()
        sink.finish(lambda: None)
    with merged.open("rb", buffering=0) as file:
        if out.suffix == ".parquet":
            from bulkpull.rows.parquet import write_parquet

            write_parquet(
                file,
                out,
                columns=Clickwrap.columns,
                all_strings=False,
                partition_by=None,
                provenance=dict,
                checkpoint=lambda: None,
            )
        elif out.suffix == ".ndjson":
            with out.open("wb") as written:
                written.writelines(ndjson([file], key="id", flat=False))
        elif out.suffix != ".csv":
            with out.open("wb") as written:
                pieces = iter(lambda: file.read(1 << 20), b"")
                written.writelines(compressed(pieces, out.suffix[1:]))


def with_csv_and_a_set(parts: Sequence[str], out: Path) -> None:
    with ExitStack() as stack:
        files = [stack.enter_context(Path(part).open(encoding="utf-8", newline="")) for part in parts]
        write_first_rows(files, out)


TOOLS: dict[str, Callable[[Sequence[str], Path], None]] = {
    "bulkpull": with_bulkpull,
    "polars": with_polars,
    "duckdb": with_duckdb,
    "csv module and a set": with_csv_and_a_set,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--formats", default=",".join(FORMATS), help="formats of the default shape")
    parser.add_argument("--work", type=Path, default=DATA, help="where files are, such as /dev/shm")
    options = parser.parse_args()
    DATA.mkdir(exist_ok=True)
    where = file_system(options.work)
    rows = f"{options.rows:,} rows in {PARTS} files on {where}"
    print(f"{machine()}; {rows}; medians of {options.runs} interleaved runs\n")
    formats = [name for name in options.formats.split(",") if name != "parquet" or find_spec("pyarrow")]
    lines = []
    for shape in SHAPES:
        tools = [("bulkpull", "csv")]
        if shape == DEFAULT:
            tools = [("bulkpull", format) for format in formats]
            tools += [(tool, "csv") for tool in ("polars", "duckdb") if find_spec(tool)]
            tools.append(("csv module and a set", "csv"))
        with tempfile.TemporaryDirectory(dir=options.work) as made:
            # In a separate process, since children inherit its peak memory.
            run([__file__, "--make", shape, made, str(options.rows)])
            lines += compare(Path(made), shape, tools, options.runs)
    print(table(("rows", "quoted", "tool", "MB", "s", "CPU s", "MB/s", "cat s", "s / cat s", "peak MB"), lines))


def compare(directory: Path, shape: str, tools: list[tuple[str, str]], runs: int) -> list[tuple[object, ...]]:
    results: dict[tuple[str, str], list[Run]] = {tool: [] for tool in tools}
    copies = []
    for _ in range(runs):
        copies.append(run_command(["sh", "-c", f"cat {directory}/part-*.csv > {directory}/copy"]).wall)
        for tool, format in tools:
            results[tool, format].append(
                run([__file__, "--tool", tool, str(directory), str(directory / f"out.{format}")])
            )
    cat = statistics.median(copies)
    size, quoted = stats(directory)
    lines: list[tuple[object, ...]] = []
    for (tool, format), done in results.items():
        seconds, cpu = (statistics.median(float(one.stdout.split()[at]) for one in done) for at in range(2))
        lines.append(
            (
                shape,
                f"{quoted / size:.0%}",
                f"{tool}, {format}" if tool == "bulkpull" else tool,
                f"{size / 1e6:.0f}",
                f"{seconds:.2f}",
                f"{cpu:.2f}",
                f"{size / 1e6 / seconds:.0f}",
                f"{cat:.2f}",
                f"{seconds / cat:.1f}",
                f"{max(one.peak for one in done):.0f}",
            )
        )
    return lines


def merge(tool: str, directory: Path, out: Path) -> None:
    for left in (*directory.glob("out.*"), *directory.glob("merged*")):
        left.unlink()
    if tool == "bulkpull":
        import bulkpull.pull.merge  # noqa: F401 - imports are not timed
    elif tool in ("polars", "duckdb"):
        __import__(tool)
    parts = sorted(map(str, directory.glob("part-*.csv")))
    began, cpu = time.perf_counter(), time.process_time()
    TOOLS[tool](parts, out)
    print(time.perf_counter() - began, time.process_time() - cpu)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--make"]:
        make(Path(sys.argv[3]), int(sys.argv[4]), sys.argv[2])
    elif sys.argv[1:2] == ["--tool"]:
        merge(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        main()
