"""Merging a bucket on a worker: its rows of all parts, deduplicated in the order of the merge, become Parquet files."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
from xxhash import xxh3_128

from bulkpull.cluster.divide import CHECKSUM_BYTES, checksum_of_records
from bulkpull.cluster.plan import BucketPlan, Section, read_plan
from bulkpull.cluster.run import Failure, directory_of_task, failures, put, worker
from bulkpull.cluster.storage import DamagedError, Storage
from bulkpull.errors import FormatError
from bulkpull.journal import Figures
from bulkpull.record import record
from bulkpull.rows.dedup import Deduplicator
from bulkpull.rows.parquet import write_parquet
from bulkpull.rows.records import read_chunks
from bulkpull.rows.sink import CsvSink
from bulkpull.rows.zstandard import zstd
from bulkpull.source import Columns
from bulkpull.store import DataSetFile

_READ_AHEAD = 8  # sections that are read while one is merged
_PIECE_BYTES = 1024 * 1024


@record
class BucketTask:
    """A bucket to be merged.

    `parts` is the storage of the scattered parts, `plan` where the plan of the bucket is there, `output` the storage of
    the files, whose names end with `suffix`. `columns` are those of the output. `memory` are bytes for ids. If the
    bucket `writes_empty`, it writes a file even if it has no rows. If it `collects_conflicts`, it writes them, too.
    """

    parts: Storage
    plan: BucketPlan
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
    collects_conflicts: bool


@record
class StoredConflicts:
    """The conflicts of a bucket, as an object with a line of JSON for each, in the order of the merge and by id: the
    place of the part in the merge, the index of the window, the id, and the two rows."""

    name: str
    size: int
    checksum: str

    @classmethod
    def of(cls, file: Path, bucket: int) -> StoredConflicts:
        """Describe a file before it is stored."""
        checksum = xxh3_128()
        with file.open("rb") as opened:
            for data in read_chunks(opened, lambda: None):
                checksum.update(data)
        return cls(f"conflicts-{bucket:04d}-{uuid4().hex}", file.stat().st_size, checksum.hexdigest())

    def read(self, storage: Storage) -> Iterator[tuple[int, int, str, dict[str, Any], dict[str, Any]]]:
        """Yield the conflicts. Raises OutputError, perhaps at the end only."""
        checksum, rest = xxh3_128(), b""
        for data in storage.pieces(self.name, 0, self.size):
            checksum.update(data)
            *lines, rest = (rest + data).split(b"\n")
            try:
                yield from map(orjson.loads, lines)
            except orjson.JSONDecodeError:
                raise DamagedError(storage, self.name) from None
        if checksum.hexdigest() != self.checksum:
            raise DamagedError(storage, self.name)


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
    conflicts: StoredConflicts | None = None


@record
class CheckTask:
    """The files of a bucket that an earlier run has merged, which are compared with their checksums."""

    output: Storage
    files: tuple[DataSetFile, ...]


def check_bucket(task: CheckTask) -> bool | Failure:
    """Return whether the files of a bucket are as they were written."""
    failed: list[Failure] = []
    with failures(failed):
        for file in task.files:
            digest = sha256()
            if task.output.size(file.path) != file.bytes:
                return False
            for data in task.output.pieces(file.path, 0, file.bytes):
                digest.update(data)
            if digest.hexdigest() != file.sha256:
                return False
        return True
    return failed[0]


def merge_bucket(task: BucketTask) -> Bucket | Failure:
    """Merge a bucket, and write its files to the storage."""
    failed: list[Failure] = []
    began = time.monotonic()
    with failures(failed), directory_of_task() as directory:
        sections = read_plan(task.parts, task.plan, task.bucket)
        figures, filled = _deduplicate(task, sections, directory)
        rendered = directory / "rendered"
        with (directory / "merged").open("rb", buffering=0) as merged:
            try:
                write_parquet(
                    merged,
                    rendered,
                    columns=task.meaning,
                    all_strings=task.all_strings,
                    partition_by="month" if task.by_month else None,
                    provenance=lambda: task.provenance,
                    checkpoint=lambda: None,
                )
            except FormatError as error:
                where = f"row of bucket {task.bucket}, from window {_window_of(error.row, figures) + 1}"
                raise FormatError(error.row, error.id, f"{error.reason} ({where})") from None
        files = dict(_named(task, rendered, figures))
        objects = [(task.output, name, path) for name, path in files.items()]
        conflicts = None
        if any(found.conflicts for found in figures.values()) and task.collects_conflicts:
            conflicts = StoredConflicts.of(directory / "conflicts", task.bucket)
            objects.append((task.parts, conflicts.name, directory / "conflicts"))
        put(task.parts, *objects)
        found = tuple(DataSetFile.of(path, name) for name, path in files.items())
        return Bucket(task.bucket, found, figures, filled, worker(), time.monotonic() - began, conflicts)
    return failed[0]


def _deduplicate(
    task: BucketTask, sections: list[Section], directory: Path
) -> tuple[dict[int, Figures], tuple[str, ...]]:
    figures: dict[int, Figures] = {}
    sink = CsvSink(directory / "merged", task.columns, fixed=True, is_durable=False)
    sink.add_columns(())
    deduplicator = Deduplicator(sink, task.memory, task.meaning, collects_conflicts=task.collects_conflicts)
    with closing(sink), closing(deduplicator), (directory / "conflicts").open("wb") as conflicts:
        for section, path in _read_ahead(task.parts, sections, directory):
            came = deduplicator.add(path, section.start.encode(), section.end.encode(), lambda: None)
            deduplicator.keep()
            path.unlink()
            for kept, other in came.conflicting:
                line = (section.place, section.window, kept[task.meaning.key], kept, other)
                conflicts.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
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
    left = section.size - CHECKSUM_BYTES
    checksum, expected = checksum_of_records(section.name, section.bucket), b""
    decompressor = zstd.ZstdDecompressor()
    try:
        with path.open("wb") as file:
            for data in storage.pieces(section.name, section.offset, section.size):
                piece, expected = data[:left], expected + data[left:]
                left -= len(piece)
                checksum.update(piece)
                while piece or not (decompressor.needs_input or decompressor.eof):
                    if decompressor.eof:  # the next frame
                        decompressor = zstd.ZstdDecompressor()
                    file.write(decompressor.decompress(piece, _PIECE_BYTES))
                    piece = decompressor.unused_data if decompressor.eof else b""
    except zstd.ZstdError:
        raise DamagedError(storage, section.name) from None
    if checksum.digest() != expected:
        raise DamagedError(storage, section.name)
    return path


def _window_of(row: int, figures: Mapping[int, Figures]) -> int:
    """Return the index of the window that a row of the bucket, from 1, is from."""
    for window, found in figures.items():  # in the order of the merge
        if row <= found.rows:
            return window
        row -= found.rows
    raise AssertionError("no window has this row")


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
