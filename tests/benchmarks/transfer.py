"""The benchmark runs, and what it compares agrees."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_smallest_transfer() -> None:
    ways = "bulkpull,curl + cat,script,bulkpull to parquet"  # those for which there is a tool
    done = subprocess.run(  # noqa: S603
        [sys.executable, BENCHMARKS / "transfer.py", "--size", "small", "--only", ways],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search("^bulkpull, .*script.*: all agree on the 20,000 ids$", done.stdout, re.MULTILINE), done.stdout
