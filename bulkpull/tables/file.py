"""A CSV or Parquet file that is kept up to date: rewritten as a whole, and replaced in one step. See Table.

The state is in a manifest beside the file, which names the checksum of the file that it belongs to. For a change, the
manifest is written first, with the new version of the file and the current one; the file follows. Of these two, the one
whose checksum the file has is in force, so that a kill between the two steps leaves the former version with its state.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import orjson

from bulkpull.disk import discard, disk_errors, replace_file, replacing, sync_directory, sync_file
from bulkpull.errors import OutputError, UsageError
from bulkpull.record import record
from bulkpull.rows.compress import compressed
from bulkpull.rows.records import CsvError, File
from bulkpull.rows.sink import header_record
from bulkpull.source import Columns
from bulkpull.tables.lock import LockFile
from bulkpull.tables.spool import (
    Rows,
    Spool,
    check_columns,
    checkpoint,
    confirm_installed,
    count_between,
)
from bulkpull.tables.table import DELETED_COLUMN, Changes, Delivery, Policy
from bulkpull.window import Window, instant

SUFFIX = ".sync.json"  # after the name of the file
FORMATS = {".csv": "", ".csv.gz": "gz", ".csv.zst": "zst", ".parquet": "", ".pq": ""}  # and how they are compressed
_FORMAT, _VERSION = "bulkpull synced file", 1
_COPIED_BYTES = 1024 * 1024


@record
class _Version:
    """A version of the file. `sha256` is empty if there is no file. `kept` are the ids of rows that are gone at the
    source, but not marked."""

    sha256: str = ""
    rows: int = 0
    columns: tuple[str, ...] = ()
    has_marks: bool = False
    state: str | None = None
    kept: tuple[str, ...] = ()


class FileTable:
    """A CSV or Parquet file. See Table.

    Args:
        path: The file. Its extension, one of FORMATS, is its format.
        columns: The columns that have a meaning.
    """

    def __init__(self, path: Path, columns: Columns) -> None:
        confirm_installed()
        extension = next((one for one in sorted(FORMATS, reverse=True) if path.name.lower().endswith(one)), None)
        if extension is None:
            raise UsageError(f"{path.name} cannot be kept up to date: use one of {', '.join(FORMATS)}, or a directory")
        self._path, self._columns = path, columns
        self._is_csv, self._compression = extension.startswith(".csv"), FORMATS[extension]
        self._manifest = path.with_name(f"{path.name}{SUFFIX}")
        self._drafts = path.with_name(f"{path.name}.drafts")
        self._lock = LockFile(path.with_name(f"{path.name}.lock"))
        self._current = _Version()
        self._damage = ""
        self._found: os.stat_result | None = None
        self._times: Any = None

    @property
    def name(self) -> str:
        return str(self._path)

    def open(self, *, create: bool) -> None:
        if not create and not self._path.parent.is_dir():
            return
        self._lock.claim(self.name)
        try:
            self._read()
        except BaseException:
            self._lock.release()
            raise

    def close(self) -> None:
        self._lock.release()

    def state(self) -> str | None:
        return self._intact().state

    def columns(self) -> tuple[str, ...]:
        return self._intact().columns

    def check(self, columns: Sequence[str]) -> None:
        check_columns(columns, self._columns, self.name)

    def count(self, windows: Sequence[Window]) -> list[int]:
        from bulkpull.tables.arrow import present_times

        current = self._intact()
        if self._times is None:
            batches = (batch for batch, _ in self._rows(keeps_text=False)) if current.rows else ()
            self._times = present_times(batches, self._columns, current.kept)
        return [count_between(self._times, instant(window.start), instant(window.end)) for window in windows]

    def replace(self, delivery: Delivery, policy: Policy) -> Changes:
        current = _Version() if delivery.rebuild else self._intact()
        delivery.confirm_state(current.state, self.name)
        self.check(delivery.columns)
        columns = current.columns + tuple(one for one in delivery.columns if one not in current.columns)
        work = delivery.rows.with_name(f"{delivery.rows.name}.spool")
        with (
            Spool(work, name=self.name, columns=self._columns, names=columns, keeps_text=self._is_csv) as spool,
            replacing(delivery.changes) if delivery.changes else nullcontext() as listed,
            self._drafting(),
        ):
            changes, after = self._replaced(spool, current, delivery, policy, columns)
            if listed:
                spool.write_changes(delivery, listed)
            self._switch(after)
        return changes

    # How a delivery is applied

    def _replaced(
        self, spool: Spool, current: _Version, delivery: Delivery, policy: Policy, columns: tuple[str, ...]
    ) -> tuple[Changes, _Version]:
        """Write the new file, if there must be one, as a draft. Return what changes, and the new version."""
        from bulkpull.tables.arrow import read_csv

        delivered = read_csv(lambda: delivery.rows.open("rb", buffering=0), self._columns, keeps_text=self._is_csv)
        spool.add_delivered(delivered)
        if current.rows:
            spool.add_file(0, self._rows(keeps_text=self._is_csv), current.kept)
        spool.judge(delivery, policy)
        changes, touched = spool.apply(delivery, policy)
        after = replace(
            current,
            columns=columns,
            has_marks=current.has_marks or policy.deleted == "mark",
            state=delivery.state,
            kept=tuple(spool.kept().get(0, ())),
        )
        has_same_columns = (after.columns, after.has_marks) == (current.columns, current.has_marks)
        if has_same_columns and current.sha256 and not (touched or changes.inserted or changes.changed):
            return changes, after
        with disk_errors(f"write to {self._drafts}", at=self._drafts):
            rows = self._write_csv(spool, after) if self._is_csv else self._write_parquet(spool, after)
            after = replace(after, rows=rows, sha256=_sha256(self._draft))
        return replace(changes, rewritten=changes.rewritten + rows), after

    def _write_csv(self, spool: Spool, version: _Version) -> int:
        body = self._drafts / "body"
        marks = (DELETED_COLUMN,) if version.has_marks else ()
        rows = spool.write_csv(body, version.columns, has_marks=version.has_marks)
        with body.open("rb") as file, self._draft.open("wb") as draft:
            pieces = _pieces(header_record((*version.columns, *marks)) + b"\n", file)
            draft.writelines(compressed(pieces, self._compression) if self._compression else pieces)
            draft.flush()
            sync_file(draft.fileno())
        return rows

    def _write_parquet(self, spool: Spool, version: _Version) -> int:
        from bulkpull.tables.arrow import ParquetFiles

        files = ParquetFiles(self._drafts, self._columns, version.columns, spool.values, has_marks=version.has_marks)
        written = [*files.write(spool.sorted_rows({0}), rows_per_file=sys.maxsize, by_month=False)] or [
            files.write_none()
        ]
        written[0].path.replace(self._draft)
        return written[0].rows

    # The file and its manifest

    @property
    def _draft(self) -> Path:
        return self._drafts / "rows"

    @contextmanager
    def _drafting(self) -> Iterator[None]:
        """Have an empty directory for drafts, on the file system of the file."""
        with disk_errors(f"write to {self._drafts}"):
            discard(self._drafts)
            self._drafts.mkdir()
        try:
            yield
        finally:
            with disk_errors(f"remove {self._drafts}"):
                discard(self._drafts)

    def _read(self) -> None:
        """Find out which version the file is. Raises OutputError if something else is where it should be."""
        self._current, self._damage, self._times = _Version(), "", None
        with disk_errors(f"read {self._path}"):
            if self._path.exists() and not self._path.is_file():
                raise OutputError(f"{self._path} is a directory or a device: choose another output")
            self._found = self._path.stat() if self._path.exists() else None
            if not self._manifest.exists():
                if self._found:
                    raise OutputError(f"{self._path} exists and was not written by a sync: choose another output")
                return
            found = _sha256(self._path) if self._found else ""
            versions = _versions(self._manifest)
        if found in versions:
            self._current = versions[found]
        elif self._found:
            self._damage = f"{self._path} was changed by another program since the last sync"
        else:
            self._damage = f"{self._path} was removed since the last sync"

    def _intact(self) -> _Version:
        """Return the current version. Raises OutputError if another program has changed the file."""
        if not self._damage and self._found:
            with disk_errors(f"read {self._path}"):
                found = self._path.stat()
            if (found.st_ino, found.st_size, found.st_mtime_ns) != (
                self._found.st_ino,
                self._found.st_size,
                self._found.st_mtime_ns,
            ):
                self._damage = f"{self._path} was changed by another program during the sync"
        if self._damage:
            raise OutputError(f"{self._damage}: restore it from a backup, or start over with --rebuild")
        return self._current

    def _switch(self, after: _Version) -> None:
        """Make the draft the file, if there is one, and the version the current one."""
        if self._draft.exists():
            self._write_manifest(after, self._current)
            with disk_errors(f"write {self._path}"):
                self._draft.replace(self._path)
                sync_directory(self._path.parent)
        self._write_manifest(after)
        self._current, self._damage, self._times = after, "", None
        with disk_errors(f"read {self._path}"):
            self._found = self._path.stat()

    def _write_manifest(self, *versions: _Version) -> None:
        found = {"format": _FORMAT, "version": _VERSION, "versions": [asdict(one) for one in versions]}
        data = orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        with disk_errors(f"write {self._manifest}", at=self._manifest):
            replace_file(self._manifest, data, self._drafts / "manifest")

    def _rows(self, *, keeps_text: bool) -> Rows:
        """Yield the rows of the file."""
        from bulkpull.tables.arrow import read_csv, read_parquet

        if not self._is_csv:
            with disk_errors(f"read {self._path}"):
                file = self._path.open("rb")
            yield from read_parquet(file, self.name, self._columns)
            return
        try:
            with disk_errors(f"read {self._path}"):
                yield from read_csv(self._opened, self._columns, keeps_text=keeps_text)
        except CsvError as error:
            raise OutputError(f"cannot read {self._path}: {error}") from error

    def _opened(self) -> File:
        if self._compression == "gz":
            return gzip.open(self._path)
        if self._compression == "zst":
            if sys.version_info >= (3, 14):
                from compression import zstd
            else:
                from backports import zstd
            return zstd.open(self._path)
        return self._path.open("rb", buffering=0)


def _versions(manifest: Path) -> dict[str, _Version]:
    """Return the versions that a manifest names, by checksum."""
    try:
        found = orjson.loads(manifest.read_bytes())
        if found["format"] != _FORMAT:
            raise OutputError(f"{manifest} is in the way, and is no manifest of a sync: move it away")
        if found["version"] != _VERSION:
            raise OutputError(
                f"{manifest} has version {found['version']!r}, and this version of bulkpull reads {_VERSION}: use the "
                "bulkpull that wrote it"
            )
        listed = [{**one, "columns": tuple(one["columns"]), "kept": tuple(one["kept"])} for one in found["versions"]]
        return {one["sha256"]: _Version(**one) for one in listed}
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise OutputError(f"{manifest} is damaged: restore it from a backup, or choose another output") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pieces(header: bytes, body: io.BufferedReader) -> Iterator[bytes]:
    yield header
    while piece := body.read(_COPIED_BYTES):
        checkpoint()
        yield piece
