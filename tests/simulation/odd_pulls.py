"""Pulls with the real client from odd servers drawn from a seed, and the properties that must hold.

**The oracle.** A pull ends within its limits, in one of three ways:

- a result that is `complete`: the output holds every row of the site once, as delivered;
- a result that is not `complete`: the output holds only rows of the site, each once;
- a `BulkpullError`: there is no output.

No client can detect that an export withholds rows if everything else is consistent with it. A `complete` result with
missing rows is therefore accepted only if, for each missing row,

1. every successful export that covers its time withheld it: its files, or the links that were shown, lack the row, and
   no framing, length or truncated record reveals that; and
2. no response of the list route contradicts that. The last response for each requested time span counts: it contradicts
   the output if it gave a larger count than the output has rows in the span, or showed activity where the output has
   none, unless a later response for a narrower span around the missing row agrees with the output.

Everything else is a failure, in particular rows that no export covers.
"""

from __future__ import annotations

import csv
import random
import traceback
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aiohttp
import anyio

from bulkpull import BulkpullError, Clickwrap, Result, RetryPolicy, events, pull
from bulkpull.events import Event
from tests.simulation.clock import simulated
from tests.simulation.odd_files import HEADER, line_of
from tests.simulation.odd_server import OddServer
from tests.simulation.oddities import Oddities
from tests.simulation.schedule import memory
from tests.simulation.server import END, START, in_bursts
from tests.simulation.wire import API, TOKEN, Wire

TRACE = 60  # responses that a failure shows
FEW = 5  # the smallest limit on counts and exports here; that of real servers is larger


@dataclass(slots=True)
class Outcome:
    """The outcome of one seed: a result or an error; with neither, the pull did not end as required."""

    seed: int
    server: OddServer
    options: dict[str, Any]
    retry: RetryPolicy
    result: Result | None = None
    error: BulkpullError | None = None
    wrong: str = ""
    log: list[Event] = field(default_factory=list)
    lines: list[str] | None = None  # of the output
    left: list[str] = field(default_factory=list)  # the files in its directory
    seconds: float = 0.0  # of simulated time

    def __str__(self) -> str:
        ended = self.wrong or (repr(self.error) if self.error else f"{self.result}")
        log = self.server.log
        if len(log) > TRACE:
            log = [*log[: TRACE // 2], "...", *log[-TRACE // 2 :]]
        return "\n".join((
            f"seed {self.seed}: {self.server.oddities}",
            f"{self.options}, {self.retry}",
            *log,
            f"{self.seconds:.1f} s, {self.server.asked} launches asked for, {self.server.launches} made: {ended}",
        ))  # fmt: skip


def drawn(seed: int, only: Collection[str] | None = None, *, tolerable: bool = False) -> Outcome:
    """Draw a server and the options of a pull."""
    draw = random.Random(f"pull {seed}")
    moments = in_bursts(draw.choice((0, 1, 6, 12, 20, 30)), START, END, seed)
    if moments and draw.random() < 0.2 and not tolerable:  # many at one instant
        middle = moments[len(moments) // 2]
        moments = sorted(moments[: len(moments) // 3] + [middle] * (2 * len(moments) // 3))
    server = OddServer(
        seed,
        moments,
        Oddities(seed, only, tolerable),
        seconds=draw.choice((0.5, 5.0, 60.0)),
        workers=draw.choice((1, 3)),
        quota=draw.choice((50, 2000)),
    )
    options: dict[str, Any] = {
        "start": START,
        "end": END,
        "window": draw.choice(("auto", "auto", "auto", "6mo")),
        "rows_per_export": draw.choice((6, 15)),
        "exports": draw.choice((None, None, 1, 4)),
        "downloads": draw.choice((1, 4)),
        "export_timeout": draw.choice((300.0, 1800.0)),
        "max_extra_exports": draw.choice((6, 40)),
        "skip_failed": draw.random() < 0.2,
    }
    retry = RetryPolicy(seconds=draw.choice((60.0, 60.0, 300.0, 900.0)))
    if tolerable:
        retry = RetryPolicy(seconds=900.0)
        options |= {"export_timeout": 1800.0, "max_extra_exports": 100, "skip_failed": False}
    return Outcome(seed, server, options, retry)


def followed(seed: int, only: Collection[str] | None = None, *, tolerable: bool = False) -> Outcome:
    """Run the pull of a seed; with `only`, with these oddities alone; with `tolerable`, with tolerable oddities."""
    return run(drawn(seed, only, tolerable=tolerable))


def run(outcome: Outcome) -> Outcome:
    """Run the pull that was drawn."""
    few = patch.multiple("bulkpull.planning.volume", _MIN_LIMIT=FEW), patch("bulkpull.pull.doubts._ROUND_RECORDS", FEW)
    with memory() as directory, few[0], few[1]:
        try:
            simulated(outcome.seed, partial(_pulled, outcome, directory / "a.csv"), hours=limit(outcome) / 3600)
        except TimeoutError:
            outcome.wrong = f"the pull did not end within {limit(outcome):.0f} s"
        except Exception:
            outcome.wrong = traceback.format_exc(limit=-8)
        outcome.left = sorted(path.name for path in directory.iterdir())
        if outcome.result and "a.csv" in outcome.left:
            with (directory / "a.csv").open(newline="") as file:
                outcome.lines = [",".join(record) for record in csv.reader(file)]
    return outcome


async def _pulled(outcome: Outcome, out: Path) -> None:
    server = outcome.server
    try:
        with anyio.CancelScope() as scope:
            server.give_up = scope.cancel
            async with (
                aiohttp.ClientSession(connector=Wire(server.serve), cookie_jar=aiohttp.DummyCookieJar()) as session,
                Clickwrap(
                    TOKEN,
                    base_url=API,
                    session=session,
                    retry=outcome.retry,
                    requests_per_minute=server.quota * 9 // 10,
                ) as clickwrap,
            ):
                outcome.result = await pull(clickwrap, out=out, on_event=outcome.log.append, **outcome.options)
            outcome.seconds = anyio.current_time()
        if scope.cancelled_caught:
            outcome.wrong = f"the pull did not end within {server.requests} requests"
    except BulkpullError as error:
        outcome.error = error
    outcome.seconds = anyio.current_time()


def limit(outcome: Outcome) -> float:
    """Return the seconds within which a pull with these options must end.

    Its exports may run one after another, and for each the launch, the export and the file may take as long as the
    retry policy and a few timeouts allow.
    """
    one: float = 3 * (outcome.retry.seconds + 600.0) + 2 * outcome.options["export_timeout"]
    return one * (8 + int(outcome.options["max_extra_exports"]))


def is_complete(result: Result) -> bool:
    """Return whether a result claims to be complete."""
    return result.complete


def check(outcome: Outcome) -> None:
    """Check the properties that must always hold. Raises AssertionError with the trace."""
    problems = list(_problems(outcome))
    tolerable = ", tolerable=True" if outcome.server.oddities.tolerable else ""
    assert not problems, "\n".join((f"check(followed({outcome.seed}{tolerable})):", *problems, str(outcome)))


def _problems(outcome: Outcome) -> list[str]:
    server = outcome.server
    found = list(dict.fromkeys(server.wrongs))
    if outcome.wrong:
        return [*found, outcome.wrong]
    if server.throttled:
        found.append(f"{server.throttled} requests beyond the quota")
    windows = next((len(event.windows) for event in outcome.log if isinstance(event, events.Planned)), 0)
    most = windows + outcome.options["max_extra_exports"]
    if server.launches - server.lost > most:
        found.append(f"{server.launches} exports, {server.lost} of them lost, for {windows} windows")
    if server.oddities.tolerable and not found:
        found += _incomplete(outcome)
    if outcome.error:
        if "a.csv" in outcome.left:
            found.append("there is an error, but also an output")
        return found
    assert outcome.result
    if outcome.left != ["a.csv", "a.csv.manifest.json"]:
        return [*found, f"the directory contains {outcome.left}"]
    header, *rows = outcome.lines or [""]
    if header != HEADER:
        found.append(f"the header is {header!r}")
    site = {line_of(server, number): number for number in range(len(server.moments))}
    unknown = [row for row in rows if row not in site]
    if unknown:
        found.append(f"{len(unknown)} rows that the site does not have, such as {unknown[0]!r}")
    if len(rows) != len(set(rows)):
        found.append("a row is repeated")
    if outcome.result.rows != len(rows):
        found.append(f"the result says {outcome.result.rows} rows, the output has {len(rows)}")
    came = {site[row] for row in rows if row in site}
    if is_complete(outcome.result):
        found += _undetected(server, came)
    return found


def _incomplete(outcome: Outcome) -> list[str]:
    """Return why a pull that should have all rows does not. Withheld rows can only be detected by counts."""
    drawn = outcome.server.oddities.drawn
    counts = set(drawn["count"].values if "count" in drawn else ())
    if "cap" in drawn and outcome.options["window"] != "auto":
        return []
    if drawn.keys() & {"cap", "emptied"} and not counts <= {"string", "float"}:
        return []
    if outcome.error:
        return [f"the pull should be complete, but failed: {outcome.error!r}"]
    assert outcome.result
    server, rows = outcome.server, outcome.lines or [""]
    if len(rows) - 1 != len(server.moments):
        return [f"the pull should be complete, but has {len(rows) - 1} of {len(server.moments)} rows"]
    if not is_complete(outcome.result) and not counts & {"off", "rounded"}:
        return ["the pull is complete, but its result says that it is not"]
    return []


def _undetected(server: OddServer, came: set[int]) -> list[str]:
    """Return the missing rows that a result which claims to be complete should have detected."""
    found = []
    moments = server.moments
    missing = [number for number in range(len(moments)) if number not in came]
    for number in missing:
        tasks = [task for task in server.tasks.values() if number in task.rows and task.failure is None]
        shown = [task for task in tasks if task.polls_done]
        if not shown:
            found.append(f"row {number} ({moments[number]}) is missing: no finished export covers it")
        elif not all(number in task.withheld for task in shown):
            found.append(f"row {number} is missing, though an export delivers it")
        elif why := _contradiction(server, came, moments[number]):
            found.append(f"row {number} is missing: {why}")
    return [*found[:3], *([f"and {len(found) - 3} more"] if len(found) > 3 else [])]


def _contradiction(server: OddServer, came: set[int], moment: datetime) -> str:
    """Return the response of the list route that contradicts the output around a moment, if any."""
    around = [(end - start, start, end, told) for (start, end), told in server.told.items() if start <= moment < end]
    agreed = -1  # the position of the last response for a narrower span that agrees
    for _, start, end, told in sorted(around, key=lambda span: span[0]):
        delivered = sum(start <= server.moments[number] < end for number in came)
        if told.counted is not None and told.counted > delivered and told.place > agreed:
            return f"[{start}, {end}) counts {told.counted}, {delivered} came"
        if told.showed and not delivered and told.place > agreed:
            return f"[{start}, {end}) shows activity, none came"
        if told.counted is not None:
            agreed = max(agreed, told.place)
    return ""


def fewest(seed: int, *, tolerable: bool = False) -> list[str]:
    """Return the oddities of a seed that are necessary for its failure."""
    names = list(drawn(seed, tolerable=tolerable).server.oddities.drawn)
    for name in list(names):
        fewer = [other for other in names if other != name]
        if _problems(followed(seed, fewer, tolerable=tolerable)):
            names = fewer
    return names
