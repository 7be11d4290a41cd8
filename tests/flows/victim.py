"""A pull in a separate process, which can be killed."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path
from typing import Any

import anyio

from bulkpull import BulkpullError, Clickwrap, RetryPolicy, patience, pull
from tests.fork_server import IMPORTED

FAILED = 4
SHORT_LAG = 0.3  # seconds: the sandbox has no stale replicas, and a killed pull should make progress
KILLED = frozenset({-9, 255})  # 255 if the fork server missed the exit status

# Processes that are forked from one which has imported all this start in no time.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([*IMPORTED, "pyarrow.parquet", "tests.flows.victim"])


def run(url: str, token: str, out: Path, options: dict[str, Any], retry: RetryPolicy, timeouts: dict[str, Any]) -> None:
    """Pull; exit with FAILED after a BulkpullError."""
    patience.LAG = SHORT_LAG

    async def main() -> None:
        async with Clickwrap(token, base_url=url, retry=retry, **timeouts) as clickwrap:
            await pull(clickwrap, out=out, **options)

    try:
        anyio.run(main)
    except BulkpullError as error:
        print(error, file=sys.stderr)
        sys.exit(FAILED)
