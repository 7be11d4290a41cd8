"""Data sets of Parquet files, by month or by bucket, read through their manifests."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from bulkpull.disk import disk_errors
from bulkpull.errors import OutputError, UsageError
from bulkpull.record import record
from bulkpull.store.address import ObjectUrl
from bulkpull.store.bucket import Bucket
from bulkpull.store.manifest import ManifestFile, manifest_path, read_manifest

MANIFEST = "_manifest.json"
_READ_BYTES = 8 * 1024 * 1024  # by each request


@record
class DataSetFile:
    """A file of a data set: its path within it, its size, and its SHA-256, if a manifest has it."""

    path: str
    rows: int
    bytes: int
    sha256: str | None

    @classmethod
    def of(cls, file: Path, path: str) -> DataSetFile:
        """Read a local Parquet file."""
        import pyarrow.parquet

        with disk_errors(f"read {file}"), file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
            return cls(path, pyarrow.parquet.read_metadata(file).num_rows, file.stat().st_size, digest)


class DataSet:
    """A data set. A library that takes Arrow streams reads it with any number of rows in bounded memory.

    `files` are those that make it up, `schema` is a `pyarrow.Schema`. All raise OutputError if a file cannot be read.
    """

    def __init__(self, place: Path | Bucket, files: tuple[DataSetFile, ...]) -> None:
        self._place = place
        self.files = files

    @cached_property
    def schema(self) -> Any:
        """The columns, as in the first file."""
        with self._opened(self.files[0]) as file:
            return file.schema_arrow

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        import pyarrow as pa

        reader = pa.RecordBatchReader.from_batches(self.schema, self._batches())
        return reader.__arrow_c_stream__(requested_schema)

    def _batches(self) -> Iterator[Any]:
        for one in self.files:
            with self._opened(one) as file:
                for group in range(file.num_row_groups):  # a reader of all groups would keep what it has read
                    for batch in file.iter_batches(row_groups=[group]):
                        yield batch.cast(self.schema) if batch.schema != self.schema else batch

    def _opened(self, file: DataSetFile) -> closing[Any]:
        import pyarrow as pa
        import pyarrow.parquet

        source: Any
        if isinstance(self._place, Path):
            place, source = str(self._place / file.path), self._place / file.path
        else:
            place = f"{self._place.url}/{file.path}"
            source = io.BufferedReader(self._place.open(f"{self._place.url.key}/{file.path}", file.bytes), _READ_BYTES)
        try:
            return closing(pyarrow.parquet.ParquetFile(source, pre_buffer=False))
        except (OSError, pa.ArrowInvalid):
            raise OutputError(f"cannot read {place}: it is missing or damaged") from None


def open_dataset(place: str | os.PathLike[str]) -> DataSet:
    """Open a data set, as `partition_by="month"` and pulls on a cluster write it, or as a sync keeps it up to date.

    Blocks, as all reading of the data set does.

    Args:
        place: Its directory, or its URL in object storage.

    Returns:
        The data set, which any library reads that takes Arrow streams (`__arrow_c_stream__`), such as
        `polars.DataFrame(...)`, `duckdb.from_arrow(...)` or `pyarrow.RecordBatchReader.from_stream(...)`. A pull that
        replaces the data set meanwhile removes the files that this one reads. A sync leaves them for a day.

    Raises:
        UsageError: pyarrow is missing, or `place` is not the URL of an object.
        OutputError: There is no data set, or it cannot be read.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise UsageError("reading Parquet needs pyarrow: pip install 'bulkpull[parquet]'") from None
    url = ObjectUrl.of(place)
    if url is not None:
        bucket = Bucket(url)
        manifest = bucket.read(f"{url.key}/{MANIFEST}")
        if manifest is None:
            raise OutputError(f"there is no data set at {url}")
        return DataSet(bucket, files_in_manifest(manifest, str(url)))
    directory = Path(place)
    with disk_errors(f"read {directory}"):
        if (within := directory / MANIFEST).exists():  # kept up to date by a sync
            return DataSet(directory, files_in_manifest(within.read_bytes(), str(directory)))
        if (beside := manifest_path(directory.resolve())).exists():
            return DataSet(directory, tuple(_in_directory(file) for file in read_manifest(beside).files))
        paths = sorted(
            {*directory.glob("month=*/*.parquet"), *directory.glob("bucket=*/*.parquet"), *directory.glob("*.parquet")}
        )  # no month: no rows
        if not paths:
            raise OutputError(f"there is no data set in {directory}")
        found = []
        for path in paths:
            rows = pyarrow.parquet.read_metadata(path).num_rows
            found.append(DataSetFile(path.relative_to(directory).as_posix(), rows, path.stat().st_size, None))
        return DataSet(directory, tuple(found))


def _in_directory(file: ManifestFile) -> DataSetFile:
    """The file as the data set names it: the directory may have another name now."""
    _, _, path = file.path.partition("/")
    return DataSetFile(path, file.rows, file.bytes, file.sha256)


def files_in_manifest(manifest: bytes, place: str) -> tuple[DataSetFile, ...]:
    """Return the files that a manifest names. Raises OutputError if it is not one of a data set."""
    try:
        entries = orjson.loads(manifest)["files"]
        files = tuple(
            DataSetFile(str(entry["path"]), int(entry["rows"]), int(entry["bytes"]), str(entry["sha256"]))
            for entry in entries
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        raise OutputError(f"the manifest of {place} is damaged, or not one of a data set") from None
    if not files or any(".." in Path(file.path).parts or Path(file.path).is_absolute() for file in files):
        raise OutputError(f"the manifest of {place} names no files, or files elsewhere")
    return files
