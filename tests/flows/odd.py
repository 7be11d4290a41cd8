"""Seeded schedules of odd servers (fault profile `odd`), and the outcome of a pull from each."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio

from bulkpull import ApiError, BulkpullError, Clickwrap, PartError, Result, patience, pull
from bulkpull.sandbox import Sandbox
from tests.flows.survival import CONFIG, OPTIONS, RETRY, TIMEOUTS

BY_VOLUME: dict[str, Any] = OPTIONS | {"window": "auto", "rows_per_export": 500}
LAG = 1.0  # seconds to wait for stale replicas
TIME_LIMIT = 120.0  # seconds; a schedule that takes longer counts as endless
MAX_RUNS = 12  # of a pull that keeps failing
SAME, REORDERED, ERROR = (
    "the same bytes",
    "the same rows in another order",
    "an error that names a window which always fails",
)
SHORT, WRONG, ENDLESS = "incomplete, and reported so", "wrong", "endless"
OUTCOMES = (SAME, REORDERED, ERROR, SHORT, WRONG, ENDLESS)
_WINDOW = re.compile(r"window \d+ \[")


@dataclass(slots=True)
class Odd:
    """The outcome of a schedule, and the reason if it is not SAME."""

    seed: int
    outcome: str = ENDLESS
    reason: str = ""
    modes: tuple[str, ...] = ()
    failed: int = 0  # runs
    exports: int = 0
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)


async def survive_odd(seed: int, out: Path, expected: bytes) -> Odd:
    """Pull under the profile `odd`, repeatedly after errors, until the pull succeeds or MAX_RUNS is reached."""
    odd = Odd(seed)
    began = anyio.current_time()
    patience.LAG = LAG
    async with Sandbox(replace(CONFIG, faults=f"odd:{seed}")) as sandbox:
        odd.modes = sandbox.faults.modes
        with anyio.move_on_after(TIME_LIMIT):
            await _pull(odd, sandbox, out, expected)
        stats = sandbox.stats
    if odd.outcome == ENDLESS:
        odd.reason = f"not done after {TIME_LIMIT:.0f} s"
    if stats.leaks:
        odd.outcome, odd.reason = WRONG, "the token reached the file host"
    odd.exports, odd.seconds = stats.exports, anyio.current_time() - began
    odd.faults.update(stats.faults)
    return odd


async def _pull(odd: Odd, sandbox: Sandbox, out: Path, expected: bytes) -> None:
    while True:
        try:
            async with Clickwrap(CONFIG.token, base_url=sandbox.url, retry=RETRY, **TIMEOUTS) as clickwrap:
                result = await pull(clickwrap, out=out, **BY_VOLUME)
        except BulkpullError as error:
            odd.failed += 1
            if out.exists() or not isinstance(error, ApiError | PartError) or not _WINDOW.search(str(error)):
                odd.outcome, odd.reason = WRONG, repr(error)
                return
            if odd.failed == MAX_RUNS:
                doomed = sandbox.stats.faults.get("export-always-fails")
                odd.outcome, odd.reason = (ERROR if doomed else WRONG), str(error)
                return
        else:
            odd.outcome, odd.reason = judged(out.read_bytes(), expected, result)
            return


def judged(output: bytes, expected: bytes, result: Result) -> tuple[str, str]:
    """Return the outcome of a pull that ended without an error, and what is wrong with it."""
    if output == expected and result.complete:
        return SAME, ""
    rows, right = _rows(output), _rows(expected)
    if len(rows) != len(set(rows)):
        return WRONG, "some rows are repeated"
    if strange := len(set(rows) - set(right)):
        return WRONG, f"{strange} rows do not exist in the site"
    missing = len(right) - len(rows)
    if not result.complete:
        return SHORT, f"{missing} rows are missing; {result.completeness}, {len(result.short)} windows are short"
    return (WRONG, f"{missing} rows are missing, but the result says complete") if missing else (REORDERED, "")


def _rows(output: bytes) -> list[tuple[str, ...]]:
    return [tuple(row) for row in csv.reader(io.StringIO(output.decode(), newline=""), strict=True)]
