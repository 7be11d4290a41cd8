"""Where rows go: a local file, a consumer of batches, and an object of S3.

    python benchmarks/doors.py [--size small|medium|large] [--runs 3] [--only NAME,NAME] [--work DIR]

The same files as in transfer.py, from nginx and a mock API whose exports finish at once. `stream` is a consumer that
drops the batches; `stream, Arrow` hands each to pyarrow, and `stream, slow` waits 100 ms after each. `S3` uploads to
SeaweedFS, which writes to --work. Runs are interleaved, each in a separate process; a task in its event loop wakes
every 5 ms and records its delay. `first batch` is the time until the consumer has it, from the start of the pull.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
from data_set import DATA, SIZES, START, make, stats
from measure import Run, file_system, machine, run, table
from serving import TOKEN, serving, span

import bulkpull
from tests.servers.running import KEY, SECRET, seaweedfs

DOORS = ("CSV file", "stream", "stream, Arrow", "stream, slow", "S3")
BUCKET = "benchmark"
TICK_S = 0.005
SLOW_S = 0.1


async def pull(door: str, size: str, api: str, out: str) -> dict[str, float]:
    """Run one pull; return its rows, seconds, the seconds until the first batch, and the delays of the task in ms."""
    end, window = span(size)
    options: dict[str, Any] = {"start": START, "end": end, "window": window}
    late: list[float] = []
    first = 0.0

    async def tick() -> None:
        while True:
            slept = time.perf_counter()
            await anyio.sleep(TICK_S)
            late.append((time.perf_counter() - slept - TICK_S) * 1000)

    async with bulkpull.Clickwrap(TOKEN, base_url=api) as clickwrap, anyio.create_task_group() as group:
        group.start_soon(tick)
        began = time.perf_counter()
        if door in ("CSV file", "S3"):
            result = await bulkpull.pull(
                clickwrap,
                out=out,
                overwrite=True,
                state=os.environ["BENCHMARK_STATE"] if door == "S3" else None,
                **options,
            )
        else:
            async with bulkpull.stream(clickwrap, **options) as rows:
                async for batch in rows:
                    first = first or time.perf_counter() - began
                    if door == "stream, Arrow":
                        import pyarrow

                        pyarrow.record_batch(batch)
                    elif door == "stream, slow":
                        await anyio.sleep(SLOW_S)
            result = rows.result
        seconds = time.perf_counter() - began
        group.cancel_scope.cancel()
    late.sort()
    figures = {"rows": result.rows, "seconds": seconds, "first": first}
    return figures | {"p99.9": late[int(len(late) * 0.999)], "max": late[-1]}


@contextmanager
def outputs(work: Path, doors: list[str], size: str) -> Iterator[dict[str, str]]:
    """The output of each door. SeaweedFS runs meanwhile if one needs it."""
    with tempfile.TemporaryDirectory(dir=work) as made:
        os.environ |= {"BENCHMARK_STATE": made, "TMPDIR": made}
        tempfile.tempdir = made
        places = dict.fromkeys(doors, "") | {"CSV file": f"{made}/out.csv"}
        if "S3" not in doors:
            yield places
            return
        import boto3

        os.environ |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}
        with seaweedfs(volumes=300) as server:
            os.environ["AWS_ENDPOINT_URL"] = server.url
            client = boto3.client("s3", endpoint_url=server.url, region_name="us-east-1")
            deadline = time.monotonic() + 60
            while True:  # it listens before it can store
                try:
                    client.create_bucket(Bucket=BUCKET)
                    client.put_object(Bucket=BUCKET, Key="first", Body=b"")
                    break
                except client.exceptions.ClientError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.2)
            yield places | {"S3": f"s3://{BUCKET}/out.csv"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="medium")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", help="doors, separated by semicolons")
    parser.add_argument("--work", type=Path, default=DATA, help="where outputs are written, such as /dev/shm")
    options = parser.parse_args()
    doors = options.only.split(";") if options.only else list(DOORS)
    found: dict[str, list[tuple[Run, dict[str, float]]]] = {door: [] for door in doors}
    with outputs(options.work, doors, options.size) as places, serving(options.size) as (_, api):
        for _ in range(options.runs):
            for door in doors:
                done = run([__file__, "--pull", door, options.size, api, places[door]])
                found[door].append((done, json.loads(done.stdout)))
    [rows] = {figures["rows"] for runs in found.values() for _, figures in runs}
    print(
        f"{machine()}; {stats(make(options.size))}; {int(rows):,} rows; work on {file_system(options.work)}; median of "
        f"{options.runs} interleaved runs\n"
    )
    reference = median(found[doors[0]], "seconds")
    lines = []
    for door, runs in found.items():
        seconds = [figures["seconds"] for _, figures in runs]
        lines.append(
            (
                door,
                f"{statistics.median(seconds):.2f}",
                f"{min(seconds):.2f} - {max(seconds):.2f}",
                f"{statistics.median(seconds) / reference:.2f}",
                f"{statistics.median(done.cpu for done, _ in runs):.2f}",
                f"{statistics.median(done.peak for done, _ in runs):.0f}",
                f"{median(runs, 'first'):.2f}" if door.startswith("stream") else "",
                f"{median(runs, 'p99.9'):.1f}",
                f"{median(runs, 'max'):.1f}",
            )
        )
    header = ("door", "s", "min - max", f"/ {doors[0]}", "CPU s", "peak MB", "first batch s", "stall ms, p99.9", "max")
    print(table(header, lines))


def median(runs: list[tuple[Run, dict[str, float]]], name: str) -> float:
    return statistics.median(figures[name] for _, figures in runs)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--pull"]:
        door, size, api, out = sys.argv[2:6]
        print(json.dumps(anyio.run(pull, door, size, api, out)))
    else:
        main()
