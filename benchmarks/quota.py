"""A thousand windows of one row each, against the API's real limit of 2000 requests a minute.

    python benchmarks/quota.py

Takes one to two minutes because of the quota. There must be no 429 response.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from measure import machine, run, table

from bulkpull.sandbox.process import sandbox_process


def main() -> None:
    # 1000 rows, evenly distributed over 1000 hours.
    span = ["--start", "2024-01-01", "--end", "2024-02-11T16:00Z"]
    with (
        tempfile.TemporaryDirectory() as directory,
        sandbox_process("--rows", "1000", "--export-seconds", "0.01", "--workers", "64", *span) as sandbox,
    ):
        arguments = ["-m", "bulkpull", "pull", *span, "--window", "1h", "--out", str(Path(directory) / "a.csv")]
        done = run(
            [*arguments, "--exports", "64", "--json"], BULKPULL_BASE_URL=sandbox.url, BULKPULL_TOKEN=sandbox.token
        )
    result, stats = json.loads(done.stdout), sandbox.stats
    print(f"\n{machine()}\n")
    print(
        table(
            ("windows", "rows", "wall s", "requests", "429", "peak exports in flight"),
            [
                (
                    result["windows"],
                    result["rows"],
                    f"{done.wall:.1f}",
                    sum(stats["requests"].values()),
                    stats["throttled"],
                    stats["peak_exports"],
                )
            ],
        )
    )
    if stats["throttled"] or result["rows"] != 1000:
        raise SystemExit("there were 429 responses, or rows are missing")


if __name__ == "__main__":
    main()
