"""Exports that end at a number of records and say nothing, beside counts of all kinds: on a clock that jumps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from bulkpull import ApiError, Result, pull
from bulkpull.pull import merge
from bulkpull.threads import in_thread
from tests.simulation.clock import simulated
from tests.simulation.schedule import memory
from tests.simulation.server import START, Model, Server, SimulatedClickwrap, evenly

DAYS = 3
END = START + timedelta(days=DAYS)
Count = Callable[[int], int]


@dataclass(slots=True)
class Limited(Server):
    """Its exports end at `records`."""

    records: int = 0

    def file(self, link: str) -> bytes:
        lines = Server.file(self, link).splitlines(keepends=True)
        return b"".join(lines[: 1 + self.records])


class Counting(SimulatedClickwrap):
    """Counts in its own way, and lists nothing."""

    def __init__(self, server: Server, counts: Count) -> None:
        super().__init__(server)
        self.counts = counts

    async def count(self, filter: str | None = None) -> int:
        await anyio.sleep(0.1)
        return self.counts(len(self.server.selected(filter or "")[2]))

    async def any_activity(self, filter: str | None = None) -> bool:
        raise ApiError("not here", status=400, undone=True)


def pulled(counts: Count, rows: int, records: int, window: str, **options: Any) -> Result:
    """The result of a pull of so many evenly spread rows."""
    server = Limited(Model(seconds=5.0), evenly(rows, START, END), records=records)

    async def main(out: Path) -> Result:
        return await pull(Counting(server, counts), start=START, end=END, window=window, out=out, **options)

    with memory() as directory:
        return simulated(1, partial(main, directory / "a.csv"), hours=100)


def refused(_rows: int) -> int:
    raise ApiError("this token may not count", status=403, undone=True)


@pytest.mark.parametrize("window", ["1d", "auto"])
@pytest.mark.parametrize(
    "counts",
    [
        lambda rows: rows,
        lambda rows: min(rows, 1000),  # the counts end where the exports do
        lambda _rows: 0,
        lambda rows: rows // 3,
        refused,
    ],
    ids=["right", "limited", "zero", "too few", "refused"],
)
def test_all_rows_come_though_exports_end_at_a_limit(counts: Count, window: str) -> None:
    result = pulled(counts, 6000, 1000, window)
    assert (result.rows, result.complete) == (6000, True)


@pytest.mark.parametrize("extra", [0, 2, 3])
def test_what_may_not_be_exported_again_is_told(extra: int) -> None:
    result = pulled(refused, 6000, 1000, "1d", max_extra_exports=extra)
    assert result.rows < 6000
    assert (result.complete, result.completeness) == (False, "short")
    assert result.short
    assert result.exports <= DAYS + extra


@pytest.mark.parametrize("spool", [2000, 60_000, 4_000_000_000])
def test_windows_that_are_merged_slowly_may_be_exported_again(monkeypatch: pytest.MonkeyPatch, spool: int) -> None:
    async def slowly(work: Callable[..., Any], *arguments: Any) -> Any:
        if getattr(work, "__name__", "") == "commit":
            await anyio.sleep(0.5)  # a slow disk: it is not told yet that the window is merged
        return await in_thread(work, *arguments)

    monkeypatch.setattr(merge, "in_thread", slowly)
    result = pulled(lambda rows: rows, 4900, 1000, "1d", spool=spool)
    assert (result.rows, result.complete) == (4900, True)


def test_a_count_that_goes_down_once_is_not_believed() -> None:
    answers = iter([1003, 733])  # the second is that of a backend that lags, and agrees with what was exported
    result = pulled(lambda rows: next(answers, rows), 1003, 733, "auto")
    assert (result.rows, result.complete) == (1003, True)
