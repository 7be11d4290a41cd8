"""A pull in a process of its own, to be killed."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import anyio

from bulkpull import Clickwrap, RetryPolicy, pull

# Processes that are forked from one which has imported all this start in no time.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.flows.victim"])


def run(url: str, token: str, out: Path, options: dict[str, Any]) -> None:
    """Pulls, with short patience."""

    async def main() -> None:
        retry = RetryPolicy(base=0.02, cap=0.2)
        async with Clickwrap(token, base_url=url, retry=retry, request_timeout=1.0, stall_timeout=1.0) as clickwrap:
            await pull(clickwrap, out=out, **options)

    anyio.run(main)
