"""The same pull on one machine and on a cluster, and whether they agree."""

from __future__ import annotations

import csv
import io
import random
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import dask
import orjson
import pyarrow as pa
import pyarrow.parquet
from distributed import Client, Scheduler, Worker

import bulkpull
from bulkpull import BulkpullError, Clickwrap, Result, RetryPolicy
from bulkpull.sandbox import Sandbox, SandboxConfig, SandboxStats
from bulkpull.sandbox.exports import Exports, File

CONFIG = SandboxConfig(
    rows=3000,
    start=datetime(2024, 1, 1, tzinfo=UTC),
    end=datetime(2024, 7, 1, tzinfo=UTC),
    export_seconds=0.02,
    rows_per_file=200,
    file_latency=0.0,
    fault_seconds=0.3,
)
OPTIONS: dict[str, Any] = {"start": "2024-01-01", "end": "2024-07-01", "window": "1mo", "exports": 4}
RETRY = RetryPolicy(base=0.02, cap=0.2, seconds=20.0)
# What both must agree on. Others count requests or seconds.
FIGURES = (
    *("rows", "duplicates", "conflicts", "outside", "windows", "parts", "bytes", "completeness", "counted"),
    *("skipped", "short", "over", "empty_columns", "splits"),
)
dask.config.set({"distributed.worker.profile.enabled": False})  # on Python 3.11 it can deadlock
NO_DASHBOARD: dict[str, Any] = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
_ODD_CELLS = ('say "no"', "two\nlines", "two\r\nlines", "a,b", "é 漢字 🙂", '{"a": [1, "b"]}', " ", "'", "\t", "", "x")


@dataclass(slots=True)
class Came:
    """The outcome of a pull: what it returned or raised, its output, and what the sandbox has seen."""

    stats: SandboxStats
    result: Result | None = None
    error: BulkpullError | None = None
    table: pa.Table | None = None
    manifest: dict[str, Any] | None = None

    def figures(self) -> dict[str, Any]:
        """The figures that both must agree on."""
        return {name: getattr(self.result, name) for name in FIGURES}


@asynccontextmanager
async def client_of_threads(workers: int = 2) -> AsyncIterator[Client]:
    """A client of a cluster within this process, which starts in no time."""
    async with AsyncExitStack() as stack:
        scheduler = await stack.enter_async_context(Scheduler(protocol="inproc", **NO_DASHBOARD))
        for _ in range(workers):
            directory = stack.enter_context(TemporaryDirectory())
            worker = Worker(scheduler.address, nthreads=1, local_directory=directory, memory_limit=0, **NO_DASHBOARD)
            await stack.enter_async_context(worker)
        client = await stack.enter_async_context(
            Client(scheduler.address, asynchronous=True, set_as_default=False)  # type: ignore[no-untyped-call]
        )
        yield client


async def pulled(out: Path, config: SandboxConfig = CONFIG, *, retry: RetryPolicy = RETRY, **options: Any) -> Came:
    """Pull from a sandbox of its own."""
    async with Sandbox(config) as sandbox:
        return await pull_from(sandbox, out, retry=retry, **options)


async def pull_from(sandbox: Sandbox, out: Path | str, *, retry: RetryPolicy = RETRY, **options: Any) -> Came:
    """Pull from a sandbox."""
    came = Came(sandbox.stats)
    try:
        async with Clickwrap(sandbox.config.token, base_url=sandbox.url, retry=retry) as clickwrap:
            came.result = await bulkpull.pull(clickwrap, out=out, **(OPTIONS | options))
    except BulkpullError as error:
        came.error = error
    came.stats = sandbox.stats
    if came.error:
        return came
    came.table = read(out)
    if isinstance(out, Path):
        came.manifest = orjson.loads(out.with_name(f"{out.name}.manifest.json").read_bytes())
    return came


def read(out: Path | str) -> pa.Table:
    """Return the rows of a Parquet file or a data set, by id."""
    if isinstance(out, Path) and out.is_file():
        found = pa.parquet.read_table(out)
    else:
        found = pa.RecordBatchReader.from_stream(bulkpull.open_dataset(out)).read_all()
    return found.sort_by("id")


async def agree(
    client: Client,
    directory: Path,
    config: SandboxConfig = CONFIG,
    *,
    buckets: int = 7,
    ignored: Sequence[str] = (),
    **options: Any,
) -> tuple[Came, Came]:
    """Assert that a pull gives the same on one machine and on a cluster, but for `ignored` figures; return both
    outcomes."""
    partition = {"partition_by": options.pop("partition_by")} if "partition_by" in options else {}
    reports = [directory / "here.ndjson", directory / "there.ndjson"]
    here = await pulled(directory / "here.parquet", config, conflicts=reports[0], **options)
    options |= {"conflicts": reports[1], "cluster": client, "buckets": buckets}
    there = await pulled(directory / "there", config, **options, **partition)
    assert type(here.error) is type(there.error), (here.error, there.error)
    if here.error:
        assert sorted(path.name for path in directory.iterdir() if path.suffix != ".bulkpull") == []
        return here, there
    assert here.table is not None and there.table is not None
    assert there.table.schema == here.table.schema
    assert there.table == here.table
    different = {name: (value, there.figures()[name]) for name, value in here.figures().items()}
    different = {name: pair for name, pair in different.items() if pair[0] != pair[1] and name not in ignored}
    assert not different, different
    assert here.manifest and there.manifest
    assert windows(there.manifest) == windows(here.manifest)
    assert sorted(path.name for path in directory.iterdir()) == [
        *("here.ndjson", "here.parquet", "here.parquet.manifest.json", "there", "there.manifest.json", "there.ndjson")
    ]
    assert reports[1].read_bytes() == reports[0].read_bytes()
    assert reports[0].read_bytes().count(b"\n") == here.figures()["conflicts"]
    return here, there


def windows(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the figures of the windows, without the ids of their exports."""
    return [{name: value for name, value in one.items() if name != "exports"} for one in manifest["windows"]]


@contextmanager
def odd_files(seed: int) -> Iterator[None]:
    """Let the files of all sandboxes be odd ones, the same for the same rows: other styles, columns and cells, rows
    twice, conflicts, and rows of other windows."""
    write = Exports._write_file

    def write_oddly(self: Exports, name: str, content: str) -> File:
        draw = random.Random(seed ^ zlib.crc32(content.encode()))
        return write(self, name, _odd(content, draw) if "\n" in content else content)

    with patch.object(Exports, "_write_file", write_oddly):
        yield


def _odd(content: str, draw: random.Random) -> str:
    header, *rows = list(csv.reader(io.StringIO(content, newline="")))
    for row in rows:
        if len(row) > 3 and draw.random() < 0.3:
            row[draw.randrange(3, len(row))] = draw.choice(_ODD_CELLS)
    for row in draw.sample(rows, min(len(rows), draw.randrange(4))):
        rows.insert(draw.randrange(len(rows) + 1), list(row))  # a row twice
    for row in draw.sample(rows, min(len(rows), draw.randrange(3))):
        rows.append([*row[:-1], f"other {draw.random()}"])  # a conflict
    for other in range(draw.randrange(3)):  # the same in several windows, or in none of the range
        moment = f"202{draw.randrange(3, 6)}-0{draw.randrange(1, 9)}-01T00:00:00.000Z"
        named = {"id": f"{draw.randrange(6):024x}", "created_time": moment}
        rows.append([named.get(name, f"outside {other}") for name in header])
    if draw.random() < 0.2:
        at = draw.randrange(3, len(header)) if len(header) > 3 else 0
        if at:  # a column less
            header, rows = [*header[:at], *header[at + 1 :]], [[*row[:at], *row[at + 1 :]] for row in rows]
    if draw.random() < 0.2:
        extra = draw.choice(("late", 'odd "name"', "ü"))
        header, rows = [*header, extra], [[*row, draw.choice(_ODD_CELLS)] for row in rows]
    if draw.random() < 0.1:
        rows = []
    written = io.StringIO(newline="")
    end = draw.choice(("\n", "\n", "\r\n"))
    quoting: Any = draw.choice((csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC))
    csv.writer(written, lineterminator=end, quoting=quoting).writerows([header, *rows])
    text = written.getvalue()
    if draw.random() < 0.2:
        text = text.removesuffix(end)
    return f"\ufeff{text}" if draw.random() < 0.2 else text
