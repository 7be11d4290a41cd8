"""Skewed activity, 95 % of it in one week of two years: windows by volume compared with windows of a week.

    python benchmarks/skewed.py [--rows 1000000] [--export-seconds 10]

An export takes 0.5 to 1.5 times --export-seconds, and twice that with 100,000 rows; the sandbox processes eight at a
time. The outputs must have the same bytes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from measure import machine, run, sha256, table

from bulkpull.sandbox.process import sandbox_process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1000000")
    parser.add_argument("--export-seconds", default="10")
    options = parser.parse_args()
    rows: list[tuple[object, ...]] = []
    hashes = set()
    for window in ("auto", "7d"):
        served = ("--rows", options.rows, "--export-seconds", options.export_seconds, "--peak", "0.95")
        with tempfile.TemporaryDirectory() as directory, sandbox_process(*served) as sandbox:
            out = Path(directory) / "activity.csv"
            arguments = ["-m", "bulkpull", "pull", "--start", "2024-01-01", "--end", "2026-01-01", "--window", window]
            arguments += ["--fields", "event_type", "--out", str(out), "-q", "--json"]
            done = run(arguments, BULKPULL_BASE_URL=sandbox.url, BULKPULL_TOKEN=sandbox.token)
            result = json.loads(done.stdout)
            hashes.add(sha256(out))
        stats = sandbox.stats
        rows.append(
            (
                f"--window {window}",
                result["exports"],
                result["probes"],
                result["requests"],
                f"{done.wall:.1f}",
                f"{stats['longest']:.1f}",
                stats["peak_exports"],
                result["rows"],
                stats["throttled"],
            )
        )
    print(f"{machine()}; {int(options.rows):,} activities, 95 % of them in one week of two years\n")
    header = ("pull", "exports", "probes", "requests", "wall s", "longest export s", "peak in flight", "rows", "429")
    print(table(header, rows))
    if len(hashes) > 1:
        raise SystemExit("the outputs differ")


if __name__ == "__main__":
    main()
