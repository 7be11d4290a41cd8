"""The merge alone: local files to one deduplicated output, compared with a plain copy.

    python benchmarks/merge.py [--rows 1000000] [--runs 5]

A million rows in 20 files, in several shapes and formats; for the default shape also with Polars, DuckDB and the csv
module with a set, if installed. Runs are interleaved, each in a separate process, and timed without start-up. The ratio
is to `cat` of the same files.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

from measure import Run, machine, run, run_command, table
from peers import with_duckdb, with_polars, write_first_rows

PARTS = 20
MEMORY = 32_000_000  # bytes for the index of ids
START = datetime(2014, 1, 1, tzinfo=UTC)
AGENT = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML{} like Gecko) Version/17.4 Safari"


@dataclass(frozen=True, slots=True)
class Rows:
    """The shape of rows.

    `repeats` is the percentage of rows that repeat an earlier one of the same file, or if `far` of any file. `columns`
    is the number of columns after id and created_time; if `quoted`, the last one contains commas, newlines and quotes.
    """

    repeats: int = 2
    far: bool = False
    random_ids: bool = False
    columns: int = 6
    quoted: bool = False
    line_end: str = "\n"

    @property
    def header(self) -> str:
        return ",".join(("id", "created_time", *(f"custom_data.v{number}" for number in range(self.columns))))


DEFAULT = Rows()
SHAPES = {
    "2 % repeats": DEFAULT,
    "no repeats": replace(DEFAULT, repeats=0),
    "50 % repeats, in the same file": replace(DEFAULT, repeats=50),
    "50 % repeats, in any file": replace(DEFAULT, repeats=50, far=True),
    "random ids": replace(DEFAULT, random_ids=True),
    "narrow (2 columns)": replace(DEFAULT, columns=0),
    "wide (40 columns)": replace(DEFAULT, columns=38),
    "quoted text": replace(DEFAULT, quoted=True),
    "CRLF": replace(DEFAULT, line_end="\r\n"),
}
FORMATS = ("csv", "csv.zst", "csv.gz", "ndjson", "parquet")


def make(directory: Path, count: int, rows: Rows) -> None:
    """Write the files."""
    draw = random.Random(1)
    agents = [AGENT.format(";"), "curl/8.5.0"]
    if rows.quoted:
        agents = [f'"{AGENT.format(",")}"', '"Say ""yes""\nor no"']
    values = [[f"value {number}" for number in range(97)] for _ in range(rows.columns - 1)] + [agents]
    new = count * (100 - rows.repeats) // 100 // PARTS
    all_lines: list[str] = []
    number = 0
    for part in range(PARTS):
        lines = []
        for _ in range(new):
            at = START + timedelta(seconds=number * 3)
            second = draw.getrandbits(32) if rows.random_ids else int(at.timestamp())
            fields = [f"{second:08x}{draw.getrandbits(64):016x}", f"{at:%Y-%m-%dT%H:%M:%S}.000Z"]
            fields += [draw.choice(choices) for choices in values[: rows.columns]]
            lines.append(",".join(fields) + rows.line_end)
            number += 1
        again = new * rows.repeats // (100 - rows.repeats)
        if rows.far:
            all_lines += lines
        again_from = all_lines or lines
        lines += [again_from[draw.randrange(len(again_from))] for _ in range(again)]
        (directory / f"part-{part:02d}.csv").write_text(f"{rows.header}{rows.line_end}{''.join(lines)}", newline="")


# The tools: each merges the parts into `out`.


def with_bulkpull(parts: list[Path], out: Path) -> None:
    from bulkpull import Clickwrap
    from bulkpull.rows.compress import compressed
    from bulkpull.rows.dedup import Deduplicator
    from bulkpull.rows.ndjson import ndjson
    from bulkpull.rows.sink import CsvSink

    merged = out.with_name("merged")
    header = parts[0].open().readline().strip().split(",")
    sink = CsvSink(merged, header, fixed=True)
    with closing(sink), closing(Deduplicator(sink, MEMORY, Clickwrap.columns)) as deduplicator:
        for part in parts:
            deduplicator.add(part, b"2014-01-01T00:00:00.000Z", b"2026-01-01T00:00:00.000Z", lambda: None)
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
                written.writelines(ndjson(file, key="id", flat=False))
        elif out.suffix != ".csv":
            with out.open("wb") as written:
                pieces = iter(lambda: file.read(1 << 20), b"")
                written.writelines(compressed(pieces, out.suffix[1:]))


def with_csv_and_a_set(parts: list[Path], out: Path) -> None:
    with ExitStack() as stack:
        files = [stack.enter_context(part.open(encoding="utf-8", newline="")) for part in parts]
        write_first_rows(files, out)


TOOLS: dict[str, Callable[[list[Path], Path], None]] = {
    "bulkpull": with_bulkpull,
    "polars": with_polars,
    "duckdb": with_duckdb,
    "csv module and a set": with_csv_and_a_set,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    print(f"{machine()}; {options.rows:,} rows in {PARTS} files; medians of {options.runs} interleaved runs\n")
    lines = []
    for shape, rows in SHAPES.items():
        tools = [("bulkpull", "csv")]
        if rows == DEFAULT:
            tools += [("bulkpull", format) for format in FORMATS[1:] if format != "parquet" or find_spec("pyarrow")]
            tools += [(tool, "csv") for tool in ("polars", "duckdb") if find_spec(tool)]
            tools.append(("csv module and a set", "csv"))
        with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as made:
            # In a separate process, since children inherit its peak memory.
            run([__file__, "--make", shape, made, str(options.rows)])
            lines += compare(Path(made), shape, tools, options.runs)
    print(table(("rows", "tool", "MB", "s", "cat s", "s / cat s", "peak MB"), lines))


def compare(directory: Path, shape: str, tools: list[tuple[str, str]], runs: int) -> list[tuple[object, ...]]:
    parts = sorted(directory.glob("part-*.csv"))
    results: dict[tuple[str, str], list[Run]] = {tool: [] for tool in tools}
    copies = []
    for _ in range(runs):
        copies.append(run_command(["sh", "-c", f"cat {directory}/part-*.csv > {directory}/copy"]).wall)
        for tool, format in tools:
            results[tool, format].append(
                run([__file__, "--tool", tool, str(directory), str(directory / f"out.{format}")])
            )
    cat = statistics.median(copies)
    size = sum(part.stat().st_size for part in parts) / 1e6
    lines: list[tuple[object, ...]] = []
    for (tool, format), done in results.items():
        seconds = statistics.median(float(one.stdout) for one in done)
        name = f"{tool}, {format}" if tool == "bulkpull" else tool
        peak = max(one.peak for one in done)
        lines.append(
            (shape, name, f"{size:.0f}", f"{seconds:.2f}", f"{cat:.2f}", f"{seconds / cat:.1f}", f"{peak:.0f}")
        )
    return lines


def merge(tool: str, directory: Path, out: Path) -> None:
    for left in (*directory.glob("out.*"), *directory.glob("merged*")):
        left.unlink()
    if tool == "bulkpull":
        import bulkpull.pull.merge  # noqa: F401 - imports are not timed
    elif tool in ("polars", "duckdb"):
        __import__(tool)
    began = time.perf_counter()
    TOOLS[tool](sorted(directory.glob("part-*.csv")), out)
    print(time.perf_counter() - began)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--make"]:
        make(Path(sys.argv[3]), int(sys.argv[4]), SHAPES[sys.argv[2]])
    elif sys.argv[1:2] == ["--tool"]:
        merge(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        main()
