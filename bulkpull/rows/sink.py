"""The merged CSV: append-only, with random access to earlier records."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bulkpull.disk import sync_file, write_all
from bulkpull.rows.block import Positions
from bulkpull.rows.compare import equal_in_file
from bulkpull.rows.growing_file import GrowingFile
from bulkpull.rows.records import read_chunks, records

_READ_BACK_BYTES = 16 * 1024
_BUFFER_BYTES = 1024 * 1024
_CACHED_BYTES = 16 * 1024 * 1024  # at the end of the file, that stay in the page cache
_SUBMITTED_BYTES = 16 * 1024 * 1024  # at a time
_PAGE_BYTES = 1024 * 1024
_MAX_MISSES = 1000  # reads of evicted bytes, after which nothing is evicted any more


class CsvSink:
    """A CSV with LF line ends and one header for all rows.

    The header starts with `columns`; if `fixed`, these are all. Otherwise `add_columns` appends further ones in the
    order of their first appearance, and `finish` pads earlier rows with empty fields. `offset` is the position of the
    next record; if it is not 0, the existing file is continued there. It is flushed to disk if it `is_durable`. A
    reader that has `followed` it is told of all bytes, which may be removed again.
    """

    def __init__(
        self,
        path: Path,
        columns: Sequence[str],
        *,
        fixed: bool,
        offset: int = 0,
        is_durable: bool = True,
        followed: GrowingFile | None = None,
    ) -> None:
        self.columns = list(columns)
        self._followed = followed
        self.offset = 0
        self.path = path
        self._fixed = fixed
        self._is_durable = is_durable
        self._submitted = 0  # bytes whose writing has started
        self._uncached = self._misses = 0  # bytes evicted from the page cache, and reads of them
        self._file = path.open("r+b" if offset else "w+b", buffering=0)
        self.truncate(offset, columns)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def add_columns(self, columns: Iterable[str]) -> None:
        """Append new columns to the header, unless it is fixed. Must be called before the first record."""
        if not self._fixed:
            known = frozenset(self.columns)
            self.columns += [column for column in columns if column not in known]
        if not self.offset:
            self.append([header_record(self.columns) + b"\n"])

    def append(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Append complete records, each with its LF; `pieces` may be split anywhere."""
        self.offset += write_all(self._file.fileno(), pieces)
        if self._is_durable and self.offset - self._submitted >= _SUBMITTED_BYTES:
            self._submit()
        if self._followed:
            self._followed.append(self.offset)

    def truncate(self, offset: int, columns: Sequence[str]) -> None:
        """Truncate the file to an earlier `offset`, and restore the columns of that time."""
        if self._followed:
            self._followed.remove(offset)
        self._file.seek(offset)
        self._file.truncate()
        self.offset = self._submitted = offset
        self._uncached = min(self._uncached, offset)
        self.columns = list(columns)

    def reader(self) -> FileIO:
        """Open the file for reading. The caller closes it."""
        return self.path.open("rb", buffering=0)

    def sync(self, needed: int | None = None) -> None:
        """Flush the file to disk, and evict bytes from the page cache that are unlikely to be read back.

        Bytes from `needed` on stay cached. Letting the cache grow with the output would cost more than the writing
        itself, above all on virtual machines.
        """
        written = self.offset
        if self._is_durable:
            sync_file(self._file.fileno())
        end = (min(written - _CACHED_BYTES, written if needed is None else needed)) // _PAGE_BYTES * _PAGE_BYTES
        if end > self._uncached and self._misses < _MAX_MISSES and hasattr(os, "posix_fadvise"):
            advice = os.POSIX_FADV_DONTNEED
            os.posix_fadvise(self._file.fileno(), self._uncached, end - self._uncached, advice)
            self._uncached = end

    def _submit(self) -> None:
        """Let the disk start to write the bytes since the last call, without waiting: little is left for `sync`.

        Pages that are not written yet stay in the page cache.
        """
        if hasattr(os, "posix_fadvise"):
            size = self.offset - self._submitted
            os.posix_fadvise(self._file.fileno(), self._submitted, size, os.POSIX_FADV_DONTNEED)
        self._submitted = self.offset

    def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset` on."""
        self._misses += offset < self._uncached
        return os.pread(self._file.fileno(), size, offset)

    def equals(self, offsets: Positions, data: memoryview, starts: Positions, ends: Positions) -> NDArray[np.bool_]:
        """Return for each row of `data` whether the file holds the same bytes at the corresponding offset."""
        self._misses += int(np.count_nonzero(offsets < self._uncached))
        return equal_in_file(self._file.fileno(), offsets, data, starts, ends)

    def has_record_at(self, offset: int, record: bytes) -> bool:
        """Return whether the file holds exactly `record`, including its LF, at `offset`."""
        return self.read(offset, len(record)) == record

    def fields_at(self, offset: int) -> list[bytes]:
        """Return the raw fields of the record at `offset`."""
        return next(records(self._read_from(offset), 2))[1]

    def finish(self, checkpoint: Callable[[], None]) -> Path:
        """Pad all rows to the header's width and flush to disk; return the path of the finished file.

        The file at the sink's own path is not changed, so that an interrupted `finish` can be repeated. `checkpoint` is
        called between chunks and may raise to stop.
        """
        self.add_columns(())  # writes the header if there was no part
        self.sync()
        if self.has_record_at(0, header_record(self.columns) + b"\n"):
            return self.path
        return self._widen(checkpoint)

    def _read_from(self, offset: int) -> Iterator[bytes]:
        while block := os.pread(self._file.fileno(), _READ_BACK_BYTES, offset):
            yield block
            offset += len(block)

    def _widen(self, checkpoint: Callable[[], None]) -> Path:
        """Write a second file with the final header and padded records; return its path."""
        wide_path = self.path.with_name(f"{self.path.name}.wide")
        with self.path.open("rb") as narrow, wide_path.open("wb", buffering=_BUFFER_BYTES) as wide:
            rows = records(read_chunks(narrow, checkpoint))
            next(rows)
            wide.write(header_record(self.columns) + b"\n")
            for raw, fields, _ in rows:
                wide.write(raw + b"," * (len(self.columns) - len(fields)) + b"\n")
            wide.flush()
            if self._is_durable:
                sync_file(wide.fileno())
        return wide_path


def header_record(columns: Iterable[str]) -> bytes:
    """Return the header record of `columns`, without a line end."""
    return b",".join(_quoted(column.encode()) for column in columns)


def _quoted(text: bytes) -> bytes:
    if any(byte in text for byte in b'",\r\n'):
        return b'"' + text.replace(b'"', b'""') + b'"'
    return text
