"""Merging a bucket on a worker: its rows of all parts, deduplicated in the order of the merge, become Parquet files."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from uuid import uuid4

from bulkpull.cluster.plan import Section, read_plan
from bulkpull.cluster.run import DamagedError, Failure, directory_of_task, failures, put, worker
from bulkpull.cluster.storage import Storage
from bulkpull.journal import Figures
from bulkpull.record import record
from bulkpull.rows.dedup import Deduplicator
from bulkpull.rows.parquet import write_parquet
from bulkpull.rows.sink import CsvSink
from bulkpull.rows.zstandard import zstd
from bulkpull.source import Columns
from bulkpull.store import DataSetFile

_READ_AHEAD = 8  # sections that are read while one is merged
_PIECE_BYTES = 1024 * 1024


@record
class BucketTask:
    """A bucket to be merged.

    `parts` is the storage of the scattered parts, `plan` the name of the plan there, `output` the storage of the files,
    whose names end with `suffix`. `columns` are those of the output. `memory` are bytes for ids. If the bucket
    `writes_empty`, it writes a file even if it has no rows.
    """

    parts: Storage
    plan: str
    output: Storage
    suffix: str
    bucket: int
    columns: tuple[str, ...]
    meaning: Columns
    all_strings: bool
    by_month: bool
    provenance: Mapping[str, str]
    memory: int
    writes_empty: bool


@record
class Bucket:
    """A bucket whose files are in the storage. `filled` are the columns that have values, `figures` are by window. It
    was merged by a `worker` in `seconds`."""

    bucket: int
    files: tuple[DataSetFile, ...]
    figures: Mapping[int, Figures]
    filled: tuple[str, ...]
    worker: str
    seconds: float


def merge_bucket(task: BucketTask) -> Bucket | Failure:
    """Merge a bucket, and write its files to the storage."""
    failed: list[Failure] = []
    began = time.monotonic()
    with failures(failed), directory_of_task() as directory:
        sections = read_plan(task.parts, task.plan, task.bucket)
        figures, filled = _deduplicate(task, sections, directory)
        rendered = directory / "rendered"
        with (directory / "merged").open("rb", buffering=0) as merged:
            write_parquet(
                merged,
                rendered,
                columns=task.meaning,
                all_strings=task.all_strings,
                partition_by="month" if task.by_month else None,
                provenance=lambda: task.provenance,
                checkpoint=lambda: None,
            )
        files = dict(_named(task, rendered, figures))
        put(task.parts, task.output, files)
        found = tuple(DataSetFile.of(path, name) for name, path in files.items())
        return Bucket(task.bucket, found, figures, filled, worker(), time.monotonic() - began)
    return failed[0]


def _deduplicate(
    task: BucketTask, sections: list[Section], directory: Path
) -> tuple[dict[int, Figures], tuple[str, ...]]:
    figures: dict[int, Figures] = {}
    sink = CsvSink(directory / "merged", task.columns, fixed=True, is_durable=False)
    sink.add_columns(())
    deduplicator = Deduplicator(sink, task.memory, task.meaning)
    with closing(sink), closing(deduplicator):
        for section, path in _read_ahead(task.parts, sections, directory):
            came = deduplicator.add(path, section.start.encode(), section.end.encode(), lambda: None)
            deduplicator.keep()
            path.unlink()
            found = Figures(0, came.rows, came.duplicates, came.conflicts, came.outside)
            figures[section.window] = figures.get(section.window, Figures()) + found
        empty = deduplicator.empty_columns()
        has_rows = any(found.rows for found in figures.values())
    filled = tuple(column for column in task.columns if has_rows and column not in empty)
    return figures, filled


def _read_ahead(storage: Storage, sections: list[Section], directory: Path) -> Iterator[tuple[Section, Path]]:
    """Yield the records of each section as a CSV file, while those of the next ones are read."""
    waiting = deque(enumerate(sections))
    reading: deque[tuple[Section, Future[Path]]] = deque()
    with ThreadPoolExecutor(_READ_AHEAD // 2, "read") as pool:
        try:
            while waiting or reading:
                while waiting and len(reading) < _READ_AHEAD:
                    place, section = waiting.popleft()
                    reading.append((section, pool.submit(_read, storage, section, directory / f"section-{place}")))
                section, future = reading.popleft()
                yield section, future.result()
        finally:
            for _, future in reading:
                future.cancel()


def _read(storage: Storage, section: Section, path: Path) -> Path:
    """Read the records of a section into a file. Raises OutputError."""
    left = section.size
    decompressor = zstd.ZstdDecompressor()
    try:
        with path.open("wb") as file:
            for piece in storage.pieces(section.name, section.offset, section.size):
                left -= len(piece)
                while piece or not (decompressor.needs_input or decompressor.eof):
                    if decompressor.eof:  # the next frame
                        decompressor = zstd.ZstdDecompressor()
                    file.write(decompressor.decompress(piece, _PIECE_BYTES))
                    piece = decompressor.unused_data if decompressor.eof else b""
    except zstd.ZstdError:
        raise DamagedError(f"{storage}/{section.name}") from None
    if left or not decompressor.eof:
        raise DamagedError(f"{storage}/{section.name}")
    return path


def _named(task: BucketTask, rendered: Path, figures: Mapping[int, Figures]) -> Iterator[tuple[str, Path]]:
    """Yield the name in the data set of each file; a bucket without rows has none."""
    if not (task.writes_empty or any(found.rows for found in figures.values())):
        return
    ending = f"-{uuid4().hex}{task.suffix}.parquet"
    if not task.by_month:
        yield f"bucket={task.bucket:04d}/activity{ending}", rendered
        return
    for path in sorted(rendered.rglob("*.parquet")):
        partition = f"{path.parent.name}/" if path.parent != rendered else ""  # no month: no rows
        yield f"{partition}bucket-{task.bucket:04d}{ending}", path
