"""Exports that are silently limited to a number of records, with all kinds of counts, on a virtual clock."""

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
    """A server whose exports are limited to `records`."""

    records: int = 0

    def file(self, link: str) -> bytes:
        lines = Server.file(self, link).splitlines(keepends=True)
        return b"".join(lines[: 1 + self.records])


class Counting(SimulatedClickwrap):
    """A client with other counts, whose list route fails."""

    def __init__(self, server: Server, counts: Count) -> None:
        super().__init__(server)
        self.counts = counts

    async def count(self, filter: str | None = None) -> int:
        await anyio.sleep(0.1)
        return self.counts(len(self.server.selected(filter or "")[2]))

    async def any_activity(self, filter: str | None = None) -> bool:
        raise ApiError("not here", status=400, undone=True)


def pulled(counts: Count, rows: int, records: int, window: str, **options: Any) -> Result:
    """Return the result of a pull of `rows` evenly distributed rows."""
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
        lambda rows: min(rows, 1000),  # counts have the same limit as exports
        lambda _rows: 0,
        lambda rows: rows // 3,
        refused,
    ],
    ids=["right", "limited", "zero", "too few", "refused"],
)
def test_pulls_all_rows_although_exports_are_silently_limited(counts: Count, window: str) -> None:
    result = pulled(counts, 6000, 1000, window)
    assert (result.rows, result.complete) == (6000, True)


@pytest.mark.parametrize("extra", [0, 2, 3])
def test_reports_windows_that_may_not_be_exported_again(extra: int) -> None:
    result = pulled(refused, 6000, 1000, "1d", max_extra_exports=extra)
    assert result.rows < 6000
    assert (result.complete, result.completeness) == (False, "short")
    assert result.short
    assert result.exports <= DAYS + extra


@pytest.mark.parametrize("spool", [2000, 60_000, 4_000_000_000])
def test_reexports_windows_that_are_merged_slowly(monkeypatch: pytest.MonkeyPatch, spool: int) -> None:
    async def slowly(work: Callable[..., Any], *arguments: Any) -> Any:
        if getattr(work, "__name__", "") == "commit":
            await anyio.sleep(0.5)  # a slow disk: the merge of the window is not announced yet
        return await in_thread(work, *arguments)

    monkeypatch.setattr(merge, "in_thread", slowly)
    result = pulled(lambda rows: rows, 4900, 1000, "1d", spool=spool)
    assert (result.rows, result.complete) == (4900, True)


def test_a_count_that_goes_down_once_is_not_believed() -> None:
    answers = iter([1003, 733])  # the second is that of a backend that lags, and agrees with what was exported
    result = pulled(lambda rows: next(answers, rows), 1003, 733, "auto")
    assert (result.rows, result.complete) == (1003, True)
