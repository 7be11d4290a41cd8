"""Where merged rows go: a CSV whose records can be read back while it grows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from bulkpull.rows.records import blocks, records

_READ_BACK = 16 * 1024
_BUFFER = 1024 * 1024


class CsvSink:
    """A CSV with one line end (LF) and one header: the columns given, or the union of those that come.

    `columns` are the header's first; with `fixed` they are all. Otherwise `adopt` appends what else comes, in the
    order it first appears, and `finish` fills the earlier rows up with empty values.
    `offset` is where the next record will stand; a file that was begun before is taken up there.
    """

    def __init__(self, path: Path, columns: Sequence[str], *, fixed: bool, offset: int = 0) -> None:
        self.columns = list(columns)
        self.offset = 0
        self._path = path
        self._fixed = fixed
        self._file: BinaryIO = path.open("r+b" if offset else "w+b", buffering=_BUFFER)
        self.cut(offset, columns)

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    def adopt(self, columns: Iterable[str]) -> None:
        """Takes new columns into the header, unless it is fixed; to be called before the first record."""
        new = [] if self._fixed else [column for column in columns if column not in self.columns]
        self.columns += new
        if not self.offset:
            self.write(header(self.columns))

    def write(self, record: bytes) -> None:
        """Appends one record, given without its line end."""
        self.offset += self._file.write(record + b"\n")

    def cut(self, offset: int, columns: Sequence[str]) -> None:
        """Goes back to an earlier `offset`, and the columns of then."""
        self._file.seek(offset)
        self._file.truncate()
        self.offset = offset
        self.columns = list(columns)

    def rows(self, checkpoint: Callable[[], None]) -> Iterator[tuple[int, list[bytes]]]:
        """The records below the header: where each stands, and its raw fields."""
        self.flush()
        with self._path.open("rb") as file:
            rows = records(blocks(file, checkpoint))
            offset = len(next(rows, (b"", []))[0]) + 1
            for raw, fields in rows:
                yield offset, fields
                offset += len(raw) + 1

    def sync(self) -> None:
        """Brings all that was written to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def flush(self) -> None:
        """Makes what was written readable by `stands_at` and `fields_at`."""
        self._file.flush()

    def stands_at(self, offset: int, record: bytes) -> bool:
        """Whether the record at `offset` is `record`, byte for byte."""
        return os.pread(self._file.fileno(), len(record) + 1, offset) == record + b"\n"

    def fields_at(self, offset: int) -> list[bytes]:
        """The raw fields of the flushed record that begins at `offset`."""
        return next(records(self._read_from(offset)))[1]

    def finish(self, checkpoint: Callable[[], None]) -> Path:
        """Brings all rows to the header's width, and all bytes to the disk; returns where the finished file is.

        The file that is at the sink's path stays as it is, so that a finish which was broken off can be repeated.
        `checkpoint` is called now and then, and may raise to stop.
        """
        self.adopt(())  # a header even where no part came
        self.sync()
        if self.stands_at(0, header(self.columns)):
            return self._path
        return self._widen(checkpoint)

    def _read_from(self, offset: int) -> Iterator[bytes]:
        while block := os.pread(self._file.fileno(), _READ_BACK, offset):
            yield block
            offset += len(block)

    def _widen(self, checkpoint: Callable[[], None]) -> Path:
        """A second file: the final header, and every record with as many fields."""
        wide_path = self._path.with_name(f"{self._path.name}.wide")
        with self._path.open("rb") as narrow, wide_path.open("wb", buffering=_BUFFER) as wide:
            rows = records(blocks(narrow, checkpoint))
            next(rows)
            wide.write(header(self.columns) + b"\n")
            for raw, fields in rows:
                wide.write(raw + b"," * (len(self.columns) - len(fields)) + b"\n")
            wide.flush()
            os.fsync(wide.fileno())
        return wide_path


def header(columns: Iterable[str]) -> bytes:
    """The header record of `columns`."""
    return b",".join(_quoted(column.encode()) for column in columns)


def _quoted(text: bytes) -> bytes:
    if any(byte in text for byte in b'",\r\n'):
        return b'"' + text.replace(b'"', b'""') + b'"'
    return text
