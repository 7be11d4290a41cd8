"""Soak test: hundreds of seeded schedules of faults, kills and odd servers, with tables of the outcomes.

The suite runs a few of them: 12 with kills, 14 with faults, 4 with both. Of the pulls on a simulated clock it runs 100
of each kind, and `make soak` 1000.

python -m tests.soak [--faults N] [--kills N] [--both N] [--odd N] [--seed S]
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import anyio
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bulkpull import patience
from tests.flows.odd import ENDLESS, LAG, OUTCOMES, SAME, WRONG, Odd, survive_odd
from tests.flows.survival import WINDOWS, Survival, survive_faults, survive_kills, undisturbed

AT_A_TIME = 6

Schedule = Callable[[int, Path, bytes], Awaitable[Survival]]


async def both(seed: int, out: Path, expected: bytes) -> Survival:
    """Kills and faults."""
    return await survive_kills(seed, out, expected, faults=f"everything:{seed}")


async def soak(groups: dict[str, tuple[Schedule, range]], odd_seeds: range) -> int:
    """Run all groups of schedules; return the number of those that went wrong or did not end."""
    survivals: dict[str, list[Survival]] = {name: [] for name in groups}
    odds: list[Odd] = []
    wrong: Counter[str] = Counter()
    limiter = anyio.CapacityLimiter(AT_A_TIME)
    with tempfile.TemporaryDirectory(prefix="bulkpull-soak-") as made, Progress(transient=True) as progress:
        directory = Path(made)
        expected = await undisturbed(directory / "undisturbed.csv")
        bar = progress.add_task("schedules", total=len(odd_seeds) + sum(len(seeds) for _, seeds in groups.values()))

        async def run(name: str, schedule: Schedule, seed: int) -> None:
            async with limiter:
                out = directory / name / str(seed) / "a.csv"
                out.parent.mkdir(parents=True)
                try:
                    survivals[name].append(await schedule(seed, out, expected))
                except Exception:
                    wrong[name] += 1
                    progress.console.print(f"[red]{name}, seed {seed}: WRONG")
                    traceback.print_exc()
                progress.advance(bar)

        async def run_odd(seed: int) -> None:
            async with limiter:
                out = directory / "odd" / str(seed) / "a.csv"
                out.parent.mkdir(parents=True)
                try:
                    odd = await survive_odd(seed, out, expected)
                except Exception as error:
                    odd = Odd(seed, WRONG, repr(error))
                    traceback.print_exc()
                odds.append(odd)
                if odd.outcome != SAME:
                    progress.console.print(f"odd, seed {seed} ({', '.join(odd.modes)}): {odd.outcome}: {odd.reason}")
                progress.advance(bar)

        async with anyio.create_task_group() as group:
            for name, (schedule, seeds) in groups.items():
                for seed in seeds:
                    group.start_soon(run, name, schedule, seed)
            for seed in odd_seeds:
                group.start_soon(run_odd, seed)
    report(survivals, wrong)
    report_odd(odds)
    faults = {name: [survival.faults for survival in done] for name, done in survivals.items()}
    faults["odd"] = [odd.faults for odd in odds]
    report_faults({name: sum(counters, Counter()) for name, counters in faults.items() if counters})
    return wrong.total() + sum(odd.outcome in (WRONG, ENDLESS) for odd in odds)


def report(survivals: dict[str, list[Survival]], wrong: Counter[str]) -> None:
    """Print the outcomes of the schedules of faults and kills."""
    names = [name for name in survivals if survivals[name] or wrong[name]]
    if not names:
        return
    outcomes = Table("", *names, box=None, title=f"Schedules, of pulls of {len(WINDOWS)} windows")
    columns = []
    for name in names:
        done = survivals[name]
        slowest = max(done, key=lambda survival: survival.seconds, default=Survival(0))
        columns.append(
            {
                "schedules": len(done) + wrong[name],
                "same bytes as undisturbed": sum(not survival.impossible for survival in done),
                "an error that names a window which always fails": sum(survival.impossible for survival in done),
                "wrong": wrong[name],
                "kills": sum(survival.kills for survival in done),
                "runs that ended with an error": sum(survival.failed for survival in done),
                "exports launched": sum(survival.exports for survival in done),
                "slowest, s (seed)": f"{slowest.seconds:.1f} ({slowest.seed})",
            }
        )
    for line in columns[0]:
        outcomes.add_row(line, *(str(column[line]) for column in columns))
    console().print(outcomes)


def report_odd(odds: list[Odd]) -> None:
    """Print the outcomes of the schedules of odd servers, by mode and in total."""
    if not odds:
        return
    met = [outcome for outcome in OUTCOMES if any(odd.outcome == outcome for odd in odds)]
    table = Table("mode", *met, "exports", "slowest, s (seed)", box=None, title="\nSchedules of odd servers")
    by_mode: dict[str, list[Odd]] = {}
    for odd in odds:
        for mode in odd.modes:
            by_mode.setdefault(mode, []).append(odd)
    for name, some in (*sorted(by_mode.items()), ("all", odds)):
        slowest = max(some, key=lambda odd: odd.seconds)
        outcomes = Counter(odd.outcome for odd in some)
        exports = sum(odd.exports for odd in some)
        figures = (*(outcomes[outcome] for outcome in met), exports, f"{slowest.seconds:.1f} ({slowest.seed})")
        table.add_row(name, *map(str, figures))
    console().print(table)


def report_faults(faults: dict[str, Counter[str]]) -> None:
    """Print the injected faults, by group of schedules."""
    table = Table("fault", *faults, box=None, title="\nFaults injected")
    for kind in sorted({kind for counter in faults.values() for kind in counter}):
        table.add_row(kind, *(str(counter[kind]) for counter in faults.values()))
    table.add_row("all", *(str(counter.total()) for counter in faults.values()))
    console().print(table)


def console() -> Console:
    """Return a console as wide as the terminal, or as the tables need."""
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def main() -> int:
    """Run the soak test; return 1 if any schedule went wrong."""
    parser = argparse.ArgumentParser(description="Soak test of pulls under schedules of faults, kills and odd servers.")
    parser.add_argument("--faults", type=int, default=140, help="schedules of faults (profile everything)")
    parser.add_argument("--kills", type=int, default=80, help="schedules of kill -9")
    parser.add_argument("--both", type=int, default=40, help="schedules of both")
    parser.add_argument("--odd", type=int, default=120, help="schedules of odd servers (profile odd)")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    asked = parser.parse_args()
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # it logs requests reset by the sandbox
    patience.LAG = LAG
    first = asked.seed
    groups: dict[str, tuple[Schedule, range]] = {
        "faults": (survive_faults, range(first, first + asked.faults)),
        "kills": (survive_kills, range(first, first + asked.kills)),
        "both": (both, range(first, first + asked.both)),
    }
    return 1 if anyio.run(partial(soak, groups, range(first, first + asked.odd))) else 0


if __name__ == "__main__":
    sys.exit(main())
