"""A pull on a cluster: how throughput grows with workers whose work takes a fixed time, what the coordinator bears, and
what dividing and merging cost.

    python benchmarks/cluster.py [--workers 1,2,4,8,16] [--parts 96] [--seconds 1.0] [--tasks 2000] [--buckets 2,64]

Each task on a part, and on a bucket, sleeps for `--seconds` in addition to its real work on a small file: so two cores
show what many would do, as long as the real work of all workers together fits into them. Throughput counts the parts
from the first finished export until the last window is accepted. The coordinator's bound is measured with tasks that
return at once, handed out in the same way, with 32 in flight: tasks a second through coordinator and scheduler on this
machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
from data_set import make
from distributed import Client, LocalCluster
from measure import machine, table

import bulkpull.cluster.workers as coordinator
from bulkpull import Clickwrap, events, pull
from bulkpull.cluster.bucket import Bucket, BucketTask, merge_bucket
from bulkpull.cluster.divide import KEY_BYTES, divide
from bulkpull.cluster.plan import PlannedPart, write_plan
from bulkpull.cluster.scatter import scatter
from bulkpull.cluster.storage import Storage
from bulkpull.sandbox import Sandbox, SandboxConfig
from bulkpull.store import OPEN

ROWS_PER_FILE = 200
PARTS_PER_WINDOW = 8


def slowed(function: Callable[[Any], Any], seconds: float) -> Callable[[Any], Any]:
    """Return a task function that takes `seconds` longer."""

    def slow(task: Any) -> Any:
        time.sleep(seconds)
        return function(task)

    return slow


def nothing(task: object) -> int:
    """A task without work."""
    return 0


async def throughput(workers: int, parts: int, seconds: float) -> tuple[float, float]:
    """Return the parts a second while parts come in, and the buckets a second afterwards."""
    rows = parts * ROWS_PER_FILE * 95 // 100  # some occur twice
    config = SandboxConfig(rows=rows, rows_per_file=ROWS_PER_FILE, export_seconds=0.05, workers=32, file_latency=0.0)
    at: dict[str, list[float]] = {}

    def listen(event: events.Event) -> None:
        at.setdefault(type(event).__name__, []).append(time.perf_counter())

    for function in (scatter, merge_bucket):
        setattr(coordinator, function.__name__, slowed(function, seconds))
    cluster = LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=workers, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, asynchronous=True
    )
    client_of = Client(cluster, asynchronous=True, set_as_default=False)  # type: ignore[no-untyped-call]
    async with cluster, client_of as client:
        await client.wait_for_workers(workers)
        with tempfile.TemporaryDirectory() as directory:
            async with Sandbox(config) as sandbox, Clickwrap(config.token, base_url=sandbox.url) as clickwrap:
                await pull(
                    clickwrap,
                    start=config.start,
                    end=config.end,
                    rows_per_export=ROWS_PER_FILE * PARTS_PER_WINDOW,
                    out=Path(directory, "activity"),
                    cluster=client,
                    buckets=max(16, 2 * workers),
                    on_event=listen,
                )
    fetched, merged, buckets = at["PartFetched"], at["WindowMerged"], at["BucketMerged"]
    return len(fetched) / (merged[-1] - at["Exported"][0]), len(buckets) / (buckets[-1] - merged[-1])


async def tasks_per_second(tasks: int) -> float:
    """Return how many tasks without work a second go through the coordinator's code and the scheduler."""
    cluster = LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=2, threads_per_worker=8, host="127.0.0.1", dashboard_address=None, asynchronous=True
    )
    client_of = Client(cluster, asynchronous=True, set_as_default=False)  # type: ignore[no-untyped-call]
    async with cluster, client_of as client:
        await client.wait_for_workers(2)
        limiter, began = anyio.CapacityLimiter(32), time.perf_counter()

        async def one(number: int) -> None:
            async with limiter:
                future = client.submit(nothing, number, key=f"nothing-{number}", pure=False)
                await future.result()
                future.release()

        async with anyio.create_task_group() as group:
            for number in range(tasks):
                group.start_soon(one, number)
        return tasks / (time.perf_counter() - began)


def costs(buckets: int) -> tuple[object, ...]:
    """Divide and merge eight files in this process; return CPU rates, and sizes as shares of the CSV."""
    files = sorted(make("medium").glob("*.csv"))[:8]
    size, start, end = (
        sum(file.stat().st_size for file in files),
        "2000-01-01T00:00:00.000Z",
        "2100-01-01T00:00:00.000Z",
    )
    with tempfile.TemporaryDirectory() as directory:
        parts, output = Storage(Path(directory, "parts")), Storage(Path(directory, "files"))
        for storage in (parts, output):
            Path(str(storage)).mkdir()
        parts.write(OPEN, b"")
        planned: list[PlannedPart] = []
        began, rows, keys = time.process_time(), 0, 0
        for number, path in enumerate(files):
            with path.open("rb", buffering=0) as file:
                divided = divide(
                    file,
                    Path(directory, "parts", path.name),
                    name=path.name,
                    columns=Clickwrap.columns,
                    buckets=buckets,
                    window=(start.encode(), end.encode()),
                    memory=64_000_000,
                )
            planned.append(PlannedPart(path.name, number, start, end, divided.sizes))
            rows, keys = rows + int(divided.sizes.sum()), keys + KEY_BYTES * int(divided.ids.sum())
        divided_in = time.process_time() - began
        plans = write_plan(parts, "plan", planned, buckets)
        began, written = time.process_time(), 0
        for bucket in range(buckets):
            task = BucketTask(
                parts,
                plans[bucket],
                output,
                "",
                bucket,
                divided.columns,
                Clickwrap.columns,
                False,
                False,
                {},
                20_000_000,
                False,
                False,
            )
            merged = merge_bucket(task)
            assert isinstance(merged, Bucket), merged
            written += sum(file.bytes for file in merged.files)
        merged_in = time.process_time() - began
    rates = (f"{size / seconds / 1e6:.0f}" for seconds in (divided_in, merged_in))
    return (buckets, *rates, *(f"{part / size:.3f}" for part in (rows, keys, written)))


async def main(workers: list[int], parts: int, seconds: float, tasks: int, buckets: list[int]) -> None:
    """Print the tables."""
    print(machine())
    rows, first = [], None
    for number in workers:
        found, merged = await throughput(number, parts, seconds)
        first = first or (found / number, merged / number)
        rows.append(
            (
                str(number),
                f"{found:.2f}",
                f"{found / number / first[0]:.2f}",
                f"{merged:.2f}",
                f"{merged / number / first[1]:.2f}",
            )
        )
        print(rows[-1], flush=True)
    print(table(("workers", "parts/s", "of linear", "buckets/s", "of linear"), rows))
    print(f"coordinator: {await tasks_per_second(tasks):,.0f} tasks/s")
    header = ("buckets", "divide, MB/s of CPU", "merge, MB/s of CPU", "rows", "keys", "Parquet, share of the CSV")
    print(table(header, [costs(number) for number in buckets]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,2,4,8,16")
    parser.add_argument("--parts", type=int, default=96)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--buckets", default="2,64")
    given = parser.parse_args()
    workers, buckets = ([int(number) for number in text.split(",")] for text in (given.workers, given.buckets))
    anyio.run(main, workers, given.parts, given.seconds, given.tasks, buckets)
