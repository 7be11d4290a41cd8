"""Seeded schedules: a server, a pull, kills, and the properties that must always hold."""

from __future__ import annotations

import csv
import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from bulkpull import BulkpullError, Result, Window, events, pull
from bulkpull.events import Event
from tests.simulation.clock import simulated
from tests.simulation.server import END, START, Model, Server, SimulatedClickwrap, in_bursts

MAX_RUNS = 30
SEEDS = int(os.environ.get("BULKPULL_SEEDS", "7"))  # number of pulls with kills, and of pulls without
AT_ONCE = 20


@dataclass(slots=True)
class Outcome:
    """The events and exports of all runs of a pull; `result` is None if no run can succeed."""

    seed: int
    server: Server
    options: dict[str, Any]
    log: list[Event] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    kills: int = 0
    result: Result | None = None
    rows: list[str] = field(default_factory=list)
    peak: int = 0


@contextmanager
def memory() -> Iterator[Path]:
    """A directory in memory if possible, where syncs are free."""
    shared = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as directory:
        yield Path(directory)


def drawn(seed: int, *, killed: bool) -> tuple[Server, dict[str, Any], list[float]]:
    """Draw a server, the options of a pull, and the seconds after which its first runs are killed, if any."""
    draw = random.Random(seed)
    moments = in_bursts(draw.randint(0, 90), START, END, seed)
    troubled = draw.random() < 0.7
    model = Model(
        workers=draw.choice((1, 2, 4, 9)),
        seconds=draw.choice((0.1, 5.0, 120.0, 1800.0)),
        seconds_per_row=draw.choice((0.0, 0.5)),
        sigma=draw.choice((0.0, 0.6)),
        tells=draw.random() < 0.7,
        failing=draw.choice((0.0, 0.3)) if troubled else 0.0,
        trouble=draw.choice((0.02, 0.15)) if troubled else 0.0,
        too_large=draw.choice((3, 8, 30)) if draw.random() < 0.3 else float("inf"),
        poisoned=(draw.choice(moments),) if moments and draw.random() < 0.1 else (),
        counting=draw.random() < 0.9,
        # A small quota, which one poll per second would exceed.
        requests_per_minute=draw.choice((40, 2000)),
    )
    options: dict[str, Any] = {
        "start": START,
        "end": END,
        "window": draw.choice(("auto", "auto", "auto", "1mo", "3mo")),
        "rows_per_export": draw.choice((4, 9, 40)),
        "exports": draw.choice((None, None, 1, 5)),
        "max_exports": draw.choice((3, 128)),
        "downloads": draw.choice((1, 8)),
        "spool": draw.choice((200, 4_000_000_000)),
        "export_timeout": 40_000.0,
        "skip_failed": draw.random() < 0.5,
        "max_extra_exports": 100_000,
    }
    kills = [draw.expovariate(1 / 200) for _ in range(draw.choice((1, 1, 4)))] if killed else []
    return Server(model, moments, seed), options, kills


def followed(seed: int, *, killed: bool = False) -> Outcome:
    """Pull, repeatedly after kills and errors, until the pull succeeds or no run can succeed."""
    server, options, kills = drawn(seed, killed=killed)
    outcome = Outcome(seed, server, options)
    with memory() as directory:
        simulated(seed, partial(_runs, outcome, directory / "a.csv", kills))
        left = sorted(path.name for path in directory.iterdir())
        assert left == (["a.csv", "a.csv.manifest.json"] if outcome.result else ["a.csv.bulkpull"])
        if outcome.result:
            with (directory / "a.csv").open(newline="") as file:
                outcome.rows = [row[0] for row in csv.reader(file)][1:]
    return outcome


async def _runs(outcome: Outcome, out: Path, kills: list[float]) -> None:
    clickwrap = SimulatedClickwrap(outcome.server, outcome.server.model.requests_per_minute * 9 // 10)
    in_flight: set[int] = set()

    def listen(event: Event) -> None:
        outcome.log.append(event)
        match event:
            case events.Polled(state="succeeded" | "failed"):
                in_flight.discard(event.window.index)
            case events.Launched() | events.Polled():
                in_flight.add(event.window.index)
                outcome.peak = max(outcome.peak, len(in_flight))
            case events.Exported() | events.ExportFailed():
                in_flight.discard(event.window.index)

    while outcome.result is None and len(outcome.errors) < MAX_RUNS:
        in_flight.clear()
        with anyio.move_on_after(kills.pop(0) if kills else float("inf")) as killed:
            try:
                outcome.result = await pull(clickwrap, out=out, on_event=listen, **outcome.options)
            except BulkpullError as error:
                outcome.errors.append(str(error))
                if _is_hopeless(outcome):
                    return
        outcome.kills += killed.cancelled_caught


def _is_hopeless(outcome: Outcome) -> bool:
    """Return whether the window named in the last error can never be exported."""
    windows = {str(window): window for window in _windows(outcome)}
    [named] = [window for name, window in windows.items() if f"{name}:" in outcome.errors[-1]]
    model = outcome.server.model
    rows = sum(named.start <= moment < named.end for moment in outcome.server.moments)
    return _holds(named, model.poisoned) or rows > model.too_large


def _windows(outcome: Outcome) -> list[Window]:
    found = [window for event in outcome.log if isinstance(event, events.Planned) for window in event.windows]
    return found + [piece for event in outcome.log if isinstance(event, events.Split) for piece in event.pieces]


def _holds(window: Window, moments: tuple[datetime, ...]) -> bool:
    return any(window.start <= moment < window.end for moment in moments)


def check_seeds(first: int, *, killed: bool) -> None:
    """Run and check AT_ONCE seeds; errors name the seed."""
    for seed in range(first, first + AT_ONCE):
        try:
            check(followed(seed, killed=killed))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


def check_tiling(outcome: Outcome) -> None:
    """Check that every instant of the range is in exactly one window, in each plan and after each split."""
    tiles: dict[int, Window] = {}
    for event in outcome.log:
        match event:
            case events.Planned():
                tiles = {window.index: window for window in event.windows}
            case events.Split():
                del tiles[event.window.index]
                tiles |= {piece.index: piece for piece in event.pieces}
            case _:
                continue
        edges = sorted((window.start, window.end) for window in tiles.values())
        assert [start for start, _ in edges] == [START, *(end for _, end in edges[:-1])]
        assert edges[-1][1] == END


def check(outcome: Outcome) -> None:
    """Check the properties that must always hold."""
    check_tiling(outcome)
    server, options = outcome.server, outcome.options
    assert server.throttled == 0
    assert server.peak_downloads <= options["downloads"]
    # Exports left in flight by an earlier run are polled immediately.
    assert outcome.peak <= (options["exports"] or options["max_exports"])
    merged = [event.window for event in outcome.log if isinstance(event, events.WindowMerged)]
    assert merged == sorted(merged, key=lambda window: window.start)
    assert len({window.index for window in merged}) == len(merged)
    failures = sum(isinstance(event, events.ExportFailed) for event in outcome.log)
    result = outcome.result
    if result is None:
        assert not options["skip_failed"] or not outcome.errors or _is_hopeless(outcome)
        return
    assert not options["skip_failed"] or not outcome.errors
    split = {event.window.index for event in outcome.log if isinstance(event, events.Split)}
    assert result.splits == len(split)
    left_out = [moment for moment in server.moments if any(_holds(window, (moment,)) for window in result.skipped)]
    came = [moment for moment in server.moments if moment not in set(left_out)]
    assert outcome.rows == [f"{number:024x}" for number, moment in enumerate(server.moments) if moment in set(came)]
    assert result.rows == len(outcome.rows)
    assert len(merged) + len(result.skipped) == result.windows
    # A run that ends early may lose the response to a launch.
    assert len(server.tasks) <= len(merged) + failures + server.lost + outcome.kills + len(outcome.errors)
    assert not result.short
