"""Ready exports to one deduplicated file: bulkpull compared with other tools.

    python benchmarks/transfer.py [--size small|medium|narrow|wide|large] [--runs 5] [--only NAME,NAME] [--work DIR]

The files are generated once in benchmarks/data, and served by nginx on loopback; bulkpull gets their links from a mock
API whose exports finish at once. Runs are interleaved (A B C A B C), each in separate processes, which work in --work:
on a disk or on a RAM disk. All outputs must have the same ids. Needs nginx (apt-get install nginx-light) and, for the
methods named after them, aria2, curl, polars, duckdb and dlt; methods with missing tools are skipped. `small` only
compares the ids, without timing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from data_set import DATA, SIZES, START, make, stats
from measure import Run, file_system, machine, run, run_command, table
from peers import PARALLEL, versions
from serving import TOKEN, serving, span

PEERS = str(Path(__file__).with_name("peers.py"))
IDS = str(Path(__file__).with_name("ids.py"))


@dataclass(frozen=True, slots=True)
class Method:
    """A way to the output.

    Args:
        tools: The commands and packages that it needs.
        download: `aria2` or `curl`; if empty, the tool reads the links.
        tool: A tool of peers.py, `cat` or `bulkpull`.
        suffix: The format of the output.
        unique: Whether the output has each id once.
    """

    tools: tuple[str, ...]
    tool: str
    download: str = ""
    suffix: str = "csv"
    unique: bool = True


METHODS = {
    "bulkpull": Method((), "bulkpull"),
    "polars from links": Method(("polars",), "polars"),
    "aria2 + polars": Method(("aria2c", "polars"), "polars", "aria2"),
    "aria2 + duckdb": Method(("aria2c", "duckdb"), "duckdb", "aria2"),
    "aria2 + cat": Method(("aria2c",), "cat", "aria2", unique=False),
    "curl + cat": Method(("curl",), "cat", "curl", unique=False),
    "script": Method(("aiohttp",), "script"),
    "dlt": Method(("dlt", "duckdb"), "dlt"),
    "bulkpull to parquet": Method(("pyarrow",), "bulkpull", suffix="parquet"),
    "aria2 + polars unique to parquet": Method(("aria2c", "polars"), "polars", "aria2", "parquet"),
    "polars from links to parquet": Method(("polars",), "polars-all-rows", suffix="parquet", unique=False),
}
SLOW = ("script", "dlt")  # take minutes, or gigabytes of memory, of the large size


def can_run(method: Method) -> bool:
    """Return whether the tools of a method are installed."""
    return all(shutil.which(tool) or find_spec(tool) for tool in method.tools)


def command(method: Method, size: str, url: str, api: str, work: Path) -> list[str]:
    """Return the command of a method, which writes `out` with its suffix in `work` from the files at `url`."""
    out = work / f"out.{method.suffix}"
    if method.tool == "bulkpull":
        end, window = span(size)
        steps = [sys.executable, "-m", "bulkpull", "pull", "--start", f"{START:%Y-%m-%d}", "--end", end.isoformat()]
        return [*steps, "--window", window, "--out", str(out), "--base-url", api, "-q"]
    links = [f"{url}/{number:04d}.csv" for number in range(SIZES[size].files)]
    if not method.download:
        return [sys.executable, PEERS, method.tool, str(out), *links]
    parts = work / "parts"
    parts.mkdir()
    first = {"aria2": aria2, "curl": curl}[method.download](links, parts)
    merge = f"cat {parts}/*.csv >" if method.tool == "cat" else f"{sys.executable} {PEERS} {method.tool}"
    sources = "" if method.tool == "cat" else f"{parts}/*.csv"
    return ["sh", "-ec", f"{first}; {merge} {out} {sources}"]


def aria2(links: Sequence[str], parts: Path) -> str:
    (parts / "list").write_text("\n".join(links))
    trust = f"--ca-certificate={os.environ['SSL_CERT_FILE']}" if links[0].startswith("https") else ""
    return f"aria2c --quiet --no-conf {trust} -j {PARALLEL} -x 4 --file-allocation=none -d {parts} -i {parts}/list"


def curl(links: Sequence[str], parts: Path) -> str:
    trust = f"--cacert {os.environ['SSL_CERT_FILE']}" if links[0].startswith("https") else ""
    options = f"--no-progress-meter --parallel --parallel-max {PARALLEL} --remote-name-all --output-dir {parts}"
    return f"curl {options} {trust} {' '.join(links)}"


def ids(out: Path, *, unique: bool) -> str:
    """Return the number of distinct ids in an output and a hash of them; each must occur once if `unique`."""
    rows, distinct, digest = run([IDS, str(out)]).stdout.split()
    if unique and rows != distinct:
        raise SystemExit(f"{out} has {rows} rows with {distinct} ids")
    return f"{distinct} {digest}"


def compare(size: str, runs: int, names: Sequence[str], directory: Path, *, tls: bool) -> None:
    names = [name for name in names if can_run(METHODS[name])]
    results: dict[str, list[Run]] = {name: [] for name in names}
    found = {}
    with serving(size, tls=tls) as (url, api), tempfile.TemporaryDirectory(dir=directory) as made:
        for _ in range(1 if size == "small" else runs):
            for name in names:
                work = Path(made) / "work"
                work.mkdir()
                method = METHODS[name]
                results[name].append(run_command(command(method, size, url, api, work), BULKPULL_TOKEN=TOKEN))
                if name not in found:
                    found[name] = ids(work / f"out.{method.suffix}", unique=method.unique)
                shutil.rmtree(work)
        where = file_system(Path(made))
    if len(set(found.values())) > 1:
        raise SystemExit(f"the ids differ: {found}")
    count = f"{int(found[names[0]].split()[0]):,} ids"
    if size == "small":
        print(f"{', '.join(found)}: all agree on the {count}")
        return
    files, _, shape = SIZES[size]
    rows = f"{files} files, {len(shape.columns)} columns, {stats(make(size))}; {count}{' over TLS' if tls else ''}"
    print(f"{machine()}; {rows}; work on {where}; median of {runs} interleaved runs")
    tools = dict.fromkeys(("nginx", *(tool for name in names for tool in METHODS[name].tools)))
    print(f"{versions(tools)}\n")
    median = {name: statistics.median(one.wall for one in results[name]) for name in names}
    lines = [
        (
            name,
            f"{median[name]:.2f}",
            f"{min(one.wall for one in results[name]):.2f} - {max(one.wall for one in results[name]):.2f}",
            f"{statistics.median(one.cpu for one in results[name]):.2f}",
            f"{max(one.peak for one in results[name]):.0f}",
            f"{median[names[0]] / median[name]:.2f}",
        )
        for name in names
    ]
    print(table(("method", "wall s", "min - max", "CPU s", "peak MB", f"{names[0]} / method"), lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="medium")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tls", action="store_true", help="serve files over https")
    parser.add_argument("--only", help="methods, separated by commas")
    parser.add_argument("--work", type=Path, default=DATA, help="where outputs are written, such as /dev/shm")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(METHODS)
    if options.size == "large" and not options.only:
        names = [name for name in names if name not in SLOW]
    DATA.mkdir(exist_ok=True)
    compare(options.size, options.runs, names, options.work, tls=options.tls)


if __name__ == "__main__":
    main()
