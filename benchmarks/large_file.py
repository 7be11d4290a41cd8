"""One file of a gigabyte: the effect of parallel segments, with and without a bandwidth limit per connection.

    python benchmarks/large_file.py [--runs 3]

nginx serves the file without a limit, then with 50 MB/s per connection, like object storage. With --downloads 1,
bulkpull uses a single connection.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path

from data_set import DATA, make, stats
from measure import Run, machine, run_command, table
from serving import TOKEN, serving
from transfer import METHODS, command, ids

LIMITS = {"none": "0", "50 MB/s per connection": "50m"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    size = "single"
    lines = []
    for limit, rate in LIMITS.items():
        with serving(size, rate=rate) as (url, api), tempfile.TemporaryDirectory(dir=DATA) as made:
            found: dict[str, list[Run]] = {"bulkpull --downloads 1": [], "bulkpull": [], "aria2 + cat": []}
            seen = set()
            for _ in range(runs):
                for way, done in found.items():
                    work = Path(made) / "work"
                    work.mkdir()
                    name, *more = way.split(" --")
                    steps = command(METHODS[name], size, url, api, work)
                    steps += [argument for option in more for argument in f"--{option}".split()]
                    done.append(run_command(steps, BULKPULL_TOKEN=TOKEN))
                    seen.add(ids(work / "out.csv", unique=METHODS[name].unique))
                    shutil.rmtree(work)
        if len(seen) > 1:
            raise SystemExit(f"the ids differ: {seen}")
        for way, done in found.items():
            wall = statistics.median(one.wall for one in done)
            lines.append((limit, way, f"{wall:.1f}", f"{max(one.peak for one in done):.0f}"))
    print(f"{machine()}; one file, {stats(make(size))}; medians of {runs} interleaved runs\n")
    print(table(("limit", "way", "wall s", "peak MB"), lines))


if __name__ == "__main__":
    main()
