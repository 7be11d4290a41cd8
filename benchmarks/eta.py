"""How well the time that is left is estimated, on simulated servers with a virtual clock.

    python benchmarks/eta.py [--seeds 5] [--processes 2] [--drawn 40]

Each server runs a whole pull, whose progress is read about 50 times. "shown" is the share of these moments,
from 20 % of the run on, at which there is an estimate; "in range" the share of those at which the true remaining time
lies in it; "error" the median error of its middle, and "width" the median ratio of its bounds. `--drawn` adds servers
that are drawn at random, which nothing was tuned to.
"""

from __future__ import annotations

import argparse
import os
import random
from concurrent.futures import ProcessPoolExecutor
from statistics import median

from measure import machine, table
from orchestration import CASES, ROWS, Case

from tests.simulation.estimates import Judged, figures, judge
from tests.simulation.server import Model


def drawn_case(seed: int) -> Case:
    """Draw a server at random."""
    draw = random.Random(f"eta {seed}")
    model = Model(
        workers=draw.choice((1, 3, 6, 12, 40)),
        seconds=draw.choice((4.0, 30.0, 200.0, 1500.0)),
        seconds_per_row=draw.choice((0.0, 0.0, 5.0)),
        sigma=draw.choice((0.0, 0.2, 0.5, 0.8)),
        tells=draw.random() < 0.7,
        failing=draw.choice((0.0, 0.0, 0.1)),
        requests_per_minute=draw.choice((200, 2000)),
    )
    return Case(f"drawn {seed}", model, draw.choice((3, 8, 25)), bursts=draw.random() < 0.4)


def _job(job: tuple[Case, int]) -> Judged:
    case, seed = job
    return judge(case.server(seed), ROWS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--drawn", type=int, default=40)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    jobs = [(case, seed) for case in CASES for seed in range(options.seeds)]
    jobs += [(drawn_case(seed), seed) for seed in range(options.drawn)]
    with ProcessPoolExecutor(options.processes) as processes:
        judged = list(processes.map(_job, jobs))
    by_case: dict[str, list[Judged]] = {}
    for (case, _), one in zip(jobs, judged, strict=True):
        by_case.setdefault("drawn at random" if case.name.startswith("drawn") else case.name, []).append(one)
    rows = []
    for name, runs in by_case.items():
        shown, inside, error, width = figures(runs)
        makespan = f"{median(run.makespan for run in runs):.0f}"
        rows.append((name, makespan, f"{shown:.0%}", f"{inside:.0%}", f"{error:.0%}", f"{width:.2f}"))
    shown, inside, error, width = figures(judged)
    rows.append(("all", "", f"{shown:.0%}", f"{inside:.0%}", f"{error:.0%}", f"{width:.2f}"))
    print(f"{machine()}; {options.seeds} seeds\n")
    print(table(("server", "makespan s", "shown", "in range", "error", "width"), rows))


if __name__ == "__main__":
    main()
