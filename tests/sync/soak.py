"""Soak test of syncs: hundreds of seeded histories for each kind of table, with runs that fail.

python -m tests.sync.soak [--seeds N] [--first SEED] [--kinds memory,sqlite,...]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import anyio
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bulkpull import patience
from tests.sync.survival import MemoryPlace, Survival, survive
from tests.tables.places import FILE_KINDS, KINDS, Place
from tests.tables.server import PostgresServer

AT_A_TIME = 4
LAG_S = 0.1  # the sandbox has no stale replicas
_OF_TABLES: dict[str, type[Place]] = {**KINDS, **FILE_KINDS}


async def soak(kinds: list[str], seeds: range) -> int:
    """Run all histories, and print a table; return the number of those that went wrong."""
    survivals: dict[str, list[Survival]] = {kind: [] for kind in kinds}
    wrong: Counter[str] = Counter()
    limiter = anyio.CapacityLimiter(AT_A_TIME)
    with ExitStack() as stack:
        made = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bulkpull-soak-")))
        progress = stack.enter_context(Progress(transient=True))
        bar = progress.add_task("histories", total=len(kinds) * len(seeds))
        server = PostgresServer() if "postgres" in kinds else None
        if server:
            stack.callback(server.remove)
            server.start()

        async def run(kind: str, seed: int) -> None:
            async with limiter:
                directory = made / kind / str(seed)
                directory.mkdir(parents=True)
                try:
                    survivals[kind].append(await survive(seed, _place(kind, server, directory), directory / "state"))
                except Exception:
                    wrong[kind] += 1
                    progress.console.print(f"[red]{kind}, seed {seed}: WRONG")
                    traceback.print_exc()
                progress.advance(bar)

        async with anyio.create_task_group() as group:
            for seed in seeds:
                for kind in kinds:
                    group.start_soon(run, kind, seed)
    report(survivals, wrong)
    return wrong.total()


def _place(kind: str, server: PostgresServer | None, directory: Path) -> Place:
    if kind == "memory":
        return MemoryPlace()
    made = _OF_TABLES[kind]
    return made(server.url if server and made.needs_server else str(directory))


def report(survivals: dict[str, list[Survival]], wrong: Counter[str]) -> None:
    """Print the table."""
    table = Table("", *survivals, box=None, title="Histories of a site and its syncs")
    lines: dict[str, Callable[[list[Survival]], int]] = {
        "equal to the site": len,
        "runs that were complete": lambda done: sum(one.ends["complete"] for one in done),
        "runs that were incomplete, and said so": lambda done: sum(one.ends["incomplete"] for one in done),
        "runs that were cancelled": lambda done: sum(one.ends["cancelled"] for one in done),
        "runs that the shrink guard ended": lambda done: sum(one.ends["shrinks"] for one in done),
        "runs that ended with another error": lambda done: sum(
            number
            for end, number in (+sum((one.ends for one in done), Counter[str]())).items()
            if end.endswith("Error")
        ),
        "exports": lambda done: sum(one.exports for one in done),
    }
    for line, of in lines.items():
        table.add_row(line, *(str(of(done)) for done in survivals.values()))
    table.add_row("wrong", *(str(wrong[kind]) for kind in survivals))
    Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(table)


def main() -> int:
    """Run the soak test; return 1 if any history went wrong."""
    every = ("memory", *_OF_TABLES)
    parser = argparse.ArgumentParser(description="Soak test of syncs.")
    parser.add_argument("--seeds", type=int, default=200, help="histories for each kind of table")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--kinds", default=",".join(every), help=f"{', '.join(every)}; joined by commas")
    asked = parser.parse_args()
    patience.LAG = LAG_S
    seeds = range(asked.first, asked.first + asked.seeds)
    return 1 if anyio.run(partial(soak, asked.kinds.split(","), seeds)) else 0


if __name__ == "__main__":
    sys.exit(main())
