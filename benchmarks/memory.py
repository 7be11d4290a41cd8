"""Resident memory of a pull over time, for inputs of several sizes, and stalls of its event loop.

    python benchmarks/memory.py [--sizes medium,large] [--plot results/memory.svg]

The pull runs in a separate process against nginx and a mock API (see serving.py). A task in the same event loop
wakes every 5 ms and records its delay. The plot needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio
from data_set import DATA, START, make, stats
from measure import machine, run, table
from serving import TOKEN, serving, span

import bulkpull

TICK_S = 0.005
PAGE_BYTES = 4096
STATM = Path("/proc/self/statm")


def resident_megabytes() -> float:
    return int(STATM.read_text().split()[1]) * PAGE_BYTES / 1e6


async def pull(size: str, api: str, out: str) -> dict[str, Any]:
    """Run one pull; return its resident memory in MB over time, and the delays of the task in milliseconds."""
    end, window = span(size)
    resident: list[tuple[float, float]] = []
    late: list[float] = []
    began = time.perf_counter()

    async def tick() -> None:
        while True:
            slept = time.perf_counter()
            await anyio.sleep(TICK_S)
            now = time.perf_counter()
            late.append((now - slept - TICK_S) * 1000)
            if not resident or now - began - resident[-1][0] > 0.05:
                resident.append((now - began, resident_megabytes()))

    async with bulkpull.Clickwrap(TOKEN, base_url=api) as clickwrap, anyio.create_task_group() as group:
        group.start_soon(tick)
        result = await bulkpull.pull(
            clickwrap,
            start=START,
            end=end,
            window=window,
            out=out,
        )
        group.cancel_scope.cancel()
    return {"rows": result.rows, "bytes": result.bytes, "resident": resident, "late": sorted(late)}


def measured(size: str, format: str) -> tuple[dict[str, Any], float]:
    with serving(size) as (_, api), tempfile.TemporaryDirectory(dir=DATA) as made:
        done = run([__file__, "--pull", size, api, f"{made}/out.{format}"])
    return json.loads(done.stdout), done.peak


def plot(resident: dict[str, list[tuple[float, float]]], path: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    for name, points in resident.items():
        axes.plot(*zip(*points, strict=True), label=name)
    axes.axhline(256, color="grey", linestyle=":", label="256 MB")
    axes.set(xlabel="seconds", ylabel="resident MB", ylim=(0, None), title="Resident memory of a pull")
    axes.legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="small,medium,large")
    parser.add_argument("--formats", default="csv,parquet")
    parser.add_argument("--plot", type=Path, help="an SVG or PNG to write")
    options = parser.parse_args()
    lines, resident = [], {}
    for format in options.formats.split(","):
        for size in options.sizes.split(","):
            figures, peak = measured(size, format)
            late = figures["late"]
            name = f"{figures['rows']:,} rows to {format}"
            resident[name] = figures["resident"]
            lines.append(
                (
                    name,
                    str(stats(make(size))),
                    f"{peak:.0f}",
                    f"{late[len(late) // 2]:.1f}",
                    f"{late[int(len(late) * 0.999)]:.1f}",
                    f"{late[-1]:.1f}",
                    f"{len(late):,}",
                )
            )
    print(f"{machine()}\n")
    print(table(("pull", "received", "peak MB", "stall ms, p50", "p99.9", "max", "samples"), lines))
    if options.plot:
        plot(resident, options.plot)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--pull"]:
        size, api, out = sys.argv[2:5]
        print(json.dumps(anyio.run(pull, size, api, out)))
    else:
        main()
