"""Soak test against third-party file servers, with seeded networks, lifetimes of links and interruptions.

python -m tests.servers.soak [--pulls N] [--seed S]
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import traceback
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import anyio
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bulkpull import Clickwrap, pull
from bulkpull.sandbox import Sandbox
from tests.servers.proxy import proxied
from tests.servers.pulls import CONFIG, ENDS_WITHIN, OPTIONS, RETRY, WINDOWS, pulled
from tests.servers.running import SERVERS, FileServer, installed

HOLD_SECONDS = 3.5


@dataclass(slots=True)
class Tally:
    """The outcomes of all pulls from one server."""

    same: int = 0
    wrong: int = 0
    interruptions: int = 0
    connections: int = 0
    cuts: int = 0
    partial: int = 0
    expired: int = 0
    slowest: float = 0.0


async def endure(server: FileServer, seed: int, out: Path, expected: bytes, tally: Tally) -> None:
    """Pull over a bad network drawn from the seed, with interruptions; assert that the output is as expected."""
    draw = random.Random(seed)
    began = anyio.current_time()
    link_seconds = draw.choice((2, 3, 300))
    network = {
        "seed": seed,
        "cut_within": draw.choice((0, 200_000, 800_000, 3_000_000)),
        "held": draw.sample(range(1, 40), draw.randrange(5)),
        "hold_seconds": HOLD_SECONDS,
        "bytes_per_second": draw.choice((0, 0, 300_000)),
    }
    patience = draw.choice((0.5, 2.0, ENDS_WITHIN))
    interruptions = 0
    async with proxied(server.port, **network) as proxy:
        config = replace(
            CONFIG,
            store=server.store(proxy.url),
            link_seconds=link_seconds,
            rows_per_file=draw.choice((1_000, 4_000, 100_000)),
        )
        async with Sandbox(config) as sandbox, Clickwrap(CONFIG.token, base_url=sandbox.url, retry=RETRY) as clickwrap:
            with anyio.fail_after(ENDS_WITHIN):
                while True:
                    with anyio.move_on_after(patience):
                        await pull(clickwrap, out=out, **OPTIONS)
                    if out.exists():
                        break
                    interruptions += 1
                    patience *= 1.5
            exports = sandbox.stats.exports
    assert out.read_bytes() == expected
    assert sorted(path.name for path in out.parent.iterdir()) == [out.name, f"{out.name}.manifest.json"]
    assert WINDOWS <= exports <= WINDOWS + interruptions
    tally.same += 1
    tally.interruptions += interruptions
    tally.connections += proxy.connections
    tally.cuts += proxy.cuts
    tally.partial += proxy.statuses[206]
    tally.expired += proxy.statuses[403] + proxy.statuses[410]
    tally.slowest = max(tally.slowest, anyio.current_time() - began)


async def soak(first: int, pulls: int) -> int:
    """Run `pulls` pulls from each server and print a table; return the number of wrong ones."""
    names = [name for name in SERVERS if name != "nginx" or installed("nginx")]
    tallies = {name: Tally() for name in names}
    with tempfile.TemporaryDirectory(prefix="bulkpull-soak-") as made, Progress(transient=True) as progress:
        (Path(made) / "undisturbed").mkdir()
        expected, _ = await pulled(Path(made) / "undisturbed" / "activity.csv")
        bar = progress.add_task("pulls", total=len(names) * pulls)

        async def run(name: str) -> None:
            with SERVERS[name]() as server:
                for seed in range(first, first + pulls):
                    out = Path(made) / name / str(seed) / "activity.csv"
                    out.parent.mkdir(parents=True)
                    try:
                        await endure(server, seed, out, expected, tallies[name])
                    except Exception:
                        tallies[name].wrong += 1
                        progress.console.print(f"[red]{name}, seed {seed}: WRONG")
                        traceback.print_exc()
                    progress.advance(bar)

        async with anyio.create_task_group() as group:
            for name in names:
                group.start_soon(run, name)
    report(tallies)
    return sum(tally.wrong for tally in tallies.values())


def report(tallies: dict[str, Tally]) -> None:
    """Print the table."""
    table = Table("", *tallies, box=None, title=f"Pulls of {CONFIG.rows:,} rows from other servers")
    lines = {
        "same bytes as from the sandbox's own host": "same",
        "wrong": "wrong",
        "interruptions of pulls": "interruptions",
        "connections": "connections",
        "cut off": "cuts",
        "responses with a part of a file": "partial",
        "requests with an expired link": "expired",
    }
    for line, of in lines.items():
        table.add_row(line, *(str(getattr(tally, of)) for tally in tallies.values()))
    table.add_row("slowest, s", *(f"{tally.slowest:.1f}" for tally in tallies.values()))
    Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(table)


def main() -> int:
    """Run the soak test; return 1 if any pull went wrong."""
    parser = argparse.ArgumentParser(description="Soak test of pulls from third-party file servers.")
    parser.add_argument("--pulls", type=int, default=20, help="pulls from each server")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    asked = parser.parse_args()
    return 1 if anyio.run(partial(soak, asked.seed, asked.pulls)) else 0


if __name__ == "__main__":
    sys.exit(main())
