"""A thousand windows of one row each, against the API's real limit of 2000 requests a minute.

    python benchmarks/quota.py

Takes a minute or two: that is the quota. There must be no 429.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from measure import machine, run, table

from bulkpull.sandbox.process import sandbox_process


def main() -> None:
    # 1000 rows, evenly spread over 1000 hours.
    span = ["--start", "2024-01-01", "--end", "2024-02-11T16:00Z"]
    with (
        tempfile.TemporaryDirectory() as directory,
        sandbox_process("--rows", "1000", "--export-seconds", "0.01", "--workers", "64", *span) as sandbox,
    ):
        arguments = ["-m", "bulkpull", "pull", *span, "--window", "1h", "--out", str(Path(directory) / "a.csv")]
        done = run(
            [*arguments, "--exports", "64", "--json"], BULKPULL_BASE_URL=sandbox.url, BULKPULL_TOKEN=sandbox.token
        )
    result, seen = json.loads(done.stdout), sandbox.seen
    print(f"\n{machine()}\n")
    print(
        table(
            ("windows", "rows", "wall s", "requests", "429", "peak exports at once"),
            [
                (
                    result["windows"],
                    result["rows"],
                    f"{done.wall:.1f}",
                    sum(seen["requests"].values()),
                    seen["throttled"],
                    seen["peak_exports"],
                )
            ],
        )
    )
    if seen["throttled"] or result["rows"] != 1000:
        raise SystemExit("there was a 429, or rows are missing")


if __name__ == "__main__":
    main()
