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

from measure import Run, machine, run, run_command, table
from transfer import DATA, SIZES, TOKEN, command, make, serving

LIMITS = {"none": "0", "50 MB/s per connection": "50m"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    files, rows = SIZES["single"]
    directory = make("single")
    lines = []
    for limit, rate in LIMITS.items():
        with serving(directory, rows, rate=rate) as (url, api), tempfile.TemporaryDirectory(dir=DATA) as made:
            found: dict[str, list[Run]] = {"bulkpull --downloads 1": [], "bulkpull": [], "aria2 + cat": []}
            ids = set()
            for _ in range(runs):
                for way, done in found.items():
                    work = Path(made) / "work"
                    (work / "parts").mkdir(parents=True)
                    name, *more = way.split(" --")
                    steps = command(name, url, api, files, rows, work / "parts", work / "out.csv")
                    steps += [argument for option in more for argument in f"--{option}".split()]
                    done.append(run_command(steps, BULKPULL_TOKEN=TOKEN))
                    ids.add(
                        run([str(Path(__file__).with_name("transfer.py")), "--way", "ids", f"{work}/out.csv"]).stdout
                    )
                    shutil.rmtree(work)
        if len(ids) > 1:
            raise SystemExit(f"the ids differ: {ids}")
        for way, done in found.items():
            wall = statistics.median(one.wall for one in done)
            lines.append((limit, way, f"{wall:.1f}", f"{max(one.peak for one in done):.0f}"))
    size = (directory / "0000.csv").stat().st_size / 1e6
    print(f"{machine()}; one file of {size:,.0f} MB; medians of {runs} interleaved runs\n")
    print(table(("limit", "way", "wall s", "peak MB"), lines))


if __name__ == "__main__":
    main()
