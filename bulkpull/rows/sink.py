"""Where merged rows go: a CSV whose records can be read back while it grows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import FileIO
from pathlib import Path

from bulkpull.disk import sync_file
from bulkpull.rows.records import blocks, records

_READ_BACK = 16 * 1024
_BUFFER = 1024 * 1024
_CACHED = 16 * 1024 * 1024  # bytes behind the last that stay in the page cache
_PAGE = 1024 * 1024
_MOST_MISSES = 1000  # reads from what is not cached any more, after which it stays cached
_AT_ONCE = os.sysconf("SC_IOV_MAX")  # pieces in one call


class CsvSink:
    """A CSV with one line end (LF) and one header: the columns given, or the union of those that come.

    `columns` are the header's first; with `fixed` they are all. Otherwise `adopt` appends what else comes, in the
    order it first appears, and `finish` fills the earlier rows up with empty values.
    `offset` is where the next record will stand; a file that was begun before is taken up there.
    """

    def __init__(self, path: Path, columns: Sequence[str], *, fixed: bool, offset: int = 0) -> None:
        self.columns = list(columns)
        self.offset = 0
        self.path = path
        self._fixed = fixed
        self._uncached = self._misses = 0  # bytes that the page cache forgot, and how often they were asked for
        self._file = path.open("r+b" if offset else "w+b", buffering=0)
        self.cut(offset, columns)

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    def adopt(self, columns: Iterable[str]) -> None:
        """Takes new columns into the header, unless it is fixed; to be called before the first record."""
        if not self._fixed:
            known = frozenset(self.columns)
            self.columns += [column for column in columns if column not in known]
        if not self.offset:
            self.append([header(self.columns) + b"\n"])

    def append(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Appends whole records, each with its LF, in `pieces` cut anywhere."""
        self.offset += write_all(self._file.fileno(), pieces)

    def cut(self, offset: int, columns: Sequence[str]) -> None:
        """Goes back to an earlier `offset`, and the columns of then."""
        self._file.seek(offset)
        self._file.truncate()
        self.offset = offset
        self._uncached = min(self._uncached, offset)
        self.columns = list(columns)

    def reader(self) -> FileIO:
        """A handle to read what was written; to be closed."""
        return self.path.open("rb", buffering=0)

    def sync(self, needed: int | None = None) -> None:
        """Brings all that was written to the disk, and lets the page cache forget what is unlikely to be read back,
        which is not what stands from byte `needed` on: a cache that grows with the output costs more than the rest of
        the writing, above all on virtual machines."""
        written = self.offset
        sync_file(self._file.fileno())
        behind = (min(written - _CACHED, written if needed is None else needed)) // _PAGE * _PAGE
        if behind > self._uncached and self._misses < _MOST_MISSES and hasattr(os, "posix_fadvise"):
            advice = os.POSIX_FADV_DONTNEED
            os.posix_fadvise(self._file.fileno(), self._uncached, behind - self._uncached, advice)
            self._uncached = behind

    def read(self, offset: int, size: int) -> bytes:
        """The bytes that stand at `offset`, at most `size`."""
        self._misses += offset < self._uncached
        return os.pread(self._file.fileno(), size, offset)

    def stands_at(self, offset: int, record: bytes) -> bool:
        """Whether the record at `offset` is `record`, byte for byte, LF included."""
        return self.read(offset, len(record)) == record

    def fields_at(self, offset: int) -> list[bytes]:
        """The raw fields of the record that begins at `offset`."""
        return next(records(self._read_from(offset), 2))[1]

    def finish(self, checkpoint: Callable[[], None]) -> Path:
        """Brings all rows to the header's width, and all bytes to the disk; returns where the finished file is.

        The file that is at the sink's path stays as it is, so that a finish which was broken off can be repeated.
        `checkpoint` is called now and then, and may raise to stop.
        """
        self.adopt(())  # a header even where no part came
        self.sync()
        if self.stands_at(0, header(self.columns) + b"\n"):
            return self.path
        return self._widen(checkpoint)

    def _read_from(self, offset: int) -> Iterator[bytes]:
        while block := os.pread(self._file.fileno(), _READ_BACK, offset):
            yield block
            offset += len(block)

    def _widen(self, checkpoint: Callable[[], None]) -> Path:
        """A second file: the final header, and every record with as many fields."""
        wide_path = self.path.with_name(f"{self.path.name}.wide")
        with self.path.open("rb") as narrow, wide_path.open("wb", buffering=_BUFFER) as wide:
            rows = records(blocks(narrow, checkpoint))
            next(rows)
            wide.write(header(self.columns) + b"\n")
            for raw, fields, _ in rows:
                wide.write(raw + b"," * (len(self.columns) - len(fields)) + b"\n")
            wide.flush()
            sync_file(wide.fileno())
        return wide_path


def write_all(file: int, pieces: Sequence[bytes | memoryview]) -> int:
    """Writes all `pieces` to a file descriptor; returns their bytes. Raises OSError."""
    size = 0
    for at in range(0, len(pieces), _AT_ONCE):
        some = pieces[at : at + _AT_ONCE]
        left = sum(map(len, some))
        size += left
        left -= os.writev(file, some)
        if left:  # a signal, or a disk that is about to be full
            rest = memoryview(b"".join(some))[-left:]
            while rest:
                rest = rest[os.write(file, rest) :]
    return size


def header(columns: Iterable[str]) -> bytes:
    """The header record of `columns`."""
    return b",".join(_quoted(column.encode()) for column in columns)


def _quoted(text: bytes) -> bytes:
    if any(byte in text for byte in b'",\r\n'):
        return b'"' + text.replace(b'"', b'""') + b'"'
    return text
