"""What the terminal, logs and metrics cost a pull whose exports are ready: time, and stalls of the event loop.

    python benchmarks/watching.py [--size long] [--runs 3] [--only NAME,NAME] [--work DIR]

Each pull runs in a process of its own, with a pseudo-terminal as its standard error. Runs are interleaved. Stalls are
how much later than asked a task wakes up that sleeps for 5 ms. Needs nginx, as transfer.py does.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import anyio
from data_set import DATA, SIZES, START
from measure import Run, file_system, machine, run, table
from serving import TOKEN, serving, span

TICK_S = 0.005
WATCHERS = {
    "nothing": (),
    "terminal": ("terminal",),
    "log file": ("log",),
    "metrics file": ("metrics",),
    "all": ("terminal", "log", "metrics"),
}


async def watched(watchers: tuple[str, ...], size: str, api: str, out: Path) -> dict[str, float]:
    """Pull with some watchers; return the rows, the seconds and the stalls in milliseconds."""
    import bulkpull
    from bulkpull.cli.log import logging_to
    from bulkpull.cli.metrics import Metrics, MetricsFile
    from bulkpull.cli.progress import progress
    from bulkpull.progress import Progress

    late: list[float] = []

    async def tick() -> None:
        while True:
            slept = time.perf_counter()
            await anyio.sleep(TICK_S)
            late.append((time.perf_counter() - slept - TICK_S) * 1000)

    async def write(file: MetricsFile) -> None:
        while True:
            await anyio.sleep(15)
            await anyio.to_thread.run_sync(file.write)

    figures = Progress()
    end, window = span(size)
    with ExitStack() as stack:
        listeners: list[bulkpull.events.OnEvent] = []
        if "terminal" in watchers:
            listeners.append(stack.enter_context(progress(verbose=False, requests_per_minute=1800, figures=figures)))
        elif "metrics" in watchers:
            listeners.append(figures)
        if "log" in watchers:
            log = logging_to(out.with_suffix(".log"), "json", is_verbose=False, max_bytes=10_000_000, kept_files=5)
            stack.enter_context(log)
        async with bulkpull.Clickwrap(TOKEN, base_url=api) as clickwrap, anyio.create_task_group() as group:
            group.start_soon(tick)
            if "metrics" in watchers:
                metrics = Metrics(figures, "pull", 1800)
                listeners.append(metrics)
                group.start_soon(write, MetricsFile(out.with_suffix(".prom"), metrics))

            def listen(event: bulkpull.Event) -> None:
                for listener in listeners:
                    listener(event)

            began = time.perf_counter()
            result = await bulkpull.pull(
                clickwrap, start=START, end=end, window=window, out=out, overwrite=True, on_event=listen
            )
            seconds = time.perf_counter() - began
            group.cancel_scope.cancel()
    late.sort()
    return {"rows": result.rows, "seconds": seconds, "p99.9": late[int(len(late) * 0.999)], "max": late[-1]}


@contextmanager
def terminal() -> Iterator[None]:
    """Let standard error be a terminal whose other side is read and dropped."""
    ours, its = pty.openpty()
    former = os.dup(2)

    def drain() -> None:
        with suppress(OSError):
            while os.read(ours, 65536):
                pass

    reader = threading.Thread(target=drain, daemon=True)
    reader.start()
    os.dup2(its, 2)
    try:
        yield
    finally:
        os.dup2(former, 2)
        os.close(its)
        reader.join(5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="long")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default=",".join(WATCHERS), metavar="NAME,NAME")
    parser.add_argument("--work", type=Path, default=DATA)
    options = parser.parse_args()
    names = options.only.split(",")
    runs: dict[str, list[tuple[Run, dict[str, float]]]] = {name: [] for name in names}
    with serving(options.size) as (_, api), tempfile.TemporaryDirectory(dir=options.work) as made, terminal():
        for _ in range(options.runs):
            for name in names:
                arguments = [__file__, "child", name, options.size, api, f"{made}/out.csv"]
                done = run(arguments, TERM="xterm-256color", COLUMNS="80")
                runs[name].append((done, json.loads(done.stdout)))
        where = file_system(Path(made))
    [rows] = {found["rows"] for of_name in runs.values() for _, found in of_name}
    print(f"{machine()}; {rows:,} rows; work on {where}; median of {options.runs} interleaved runs\n")

    def line(name: str) -> tuple[str, ...]:
        processes = [done for done, _ in runs[name]]
        found = [figures for _, figures in runs[name]]
        return (
            name,
            f"{statistics.median(one['seconds'] for one in found):.2f}",
            f"{min(one['seconds'] for one in found):.2f} - {max(one['seconds'] for one in found):.2f}",
            f"{statistics.median(one.cpu for one in processes):.2f}",
            f"{min(one.cpu for one in processes):.2f} - {max(one.cpu for one in processes):.2f}",
            f"{statistics.median(one['p99.9'] for one in found):.1f}",
            f"{max(one['max'] for one in found):.1f}",
        )

    header = ("watched by", "s", "min - max", "CPU s", "min - max", "stall ms, p99.9", "max")
    print(table(header, [line(name) for name in names]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        _, _, name, size, api, out = sys.argv
        print(json.dumps(anyio.run(watched, WATCHERS[name], size, api, Path(out))))
    else:
        main()
