"""Reading an output of a pull again, whatever its format: its ids, and those that occur more than once."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import orjson

from bulkpull.rows.block import Block, Layout
from bulkpull.rows.format import Format
from bulkpull.rows.key_index import KeyIndex
from bulkpull.rows.records import CsvError, File, read_header
from bulkpull.rows.scan import Scanner

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_REPEATED_KEYS = 10_000  # that are remembered
_IDS_PER_CHUNK = 4096


class RepeatedIds:
    """Finds ids that occur more than once, in bounded memory.

    The first pass over all blocks, `add`, finds the keys that occur more than once, up to MAX_REPEATED_KEYS of them.
    Different ids may have the same key, so a second pass, `repeated`, yields the ids that have these keys.

    The index takes about six times `memory` bytes; more keys go to an unnamed temporary file in `directory`. Methods
    raise OSError.
    """

    def __init__(self, directory: Path, memory: int) -> None:
        self._index = KeyIndex(directory, memory)
        self._rows = 0
        self.keys: set[int] = set()

    def close(self) -> None:
        """Free the memory and close the temporary file."""
        self._index.close()

    def add(self, blocks: Iterable[Block]) -> int:
        """Add the ids of blocks; return how many there are."""
        before = self._rows
        for block in blocks:
            order = np.argsort(block.keys, kind="stable")
            keys = block.keys[order]
            hits, _ = self._index.find(keys)
            for again in (keys[hits], keys[1:][keys[1:] == keys[:-1]]):
                self.keys.update(again[: MAX_REPEATED_KEYS - len(self.keys)].tolist())
            self._index.add(keys, order + self._rows)
            self._rows += len(keys)
        return self._rows - before

    def repeated(self, blocks: Iterable[Block]) -> Iterator[bytes]:
        """Yield the ids in blocks whose keys occur more than once, as often as they occur."""
        keys = np.fromiter(self.keys, np.uint64, len(self.keys))
        for block in blocks:
            for row in np.flatnonzero(np.isin(block.keys, keys)).tolist():
                yield block.id(row)


def id_blocks(path: Path, format: Format, key: str, checkpoint: Callable[[], None]) -> Generator[Block]:
    """Yield blocks of records with the ids of a file, which is what a pull writes in a format.

    `checkpoint` is called between blocks and may raise to stop.

    Raises:
        ValueError: The file is not one in this format, or a row has no id.
        OSError: The file cannot be read.
    """
    damages: tuple[type[Exception], ...] = (CsvError, EOFError, *_decompression_errors())
    with _opened(path, format) as file:
        if format.name == "csv":
            blocks = _csv_blocks(file, key, checkpoint)
        else:
            ids = _ndjson_ids(file, key) if format.name == "ndjson" else _arrow_ids(file, key, format.name)
            blocks = Scanner().blocks(_Column(ids), 0, Layout(width=1, key_at=0), b"", b"")
        try:
            with closing(blocks):
                for block in blocks:
                    checkpoint()
                    yield block
        except damages as error:
            raise ValueError(str(error)) from error


def _csv_blocks(file: File, key: str, checkpoint: Callable[[], None]) -> Generator[Block]:
    columns, body = read_header(file, checkpoint, key)
    if not columns:
        raise CsvError(1, "the header is missing")
    yield from Scanner().blocks(file, body, Layout(width=len(columns), key_at=columns.index(key)), b"", b"")


@contextmanager
def _opened(path: Path, format: Format) -> Iterator[Any]:
    """Open a file for reading its text; Parquet, as it is."""
    with path.open("rb", buffering=0 if format.is_merged_already else -1) as file:
        if format.compression == "gz":
            with gzip.open(file) as text:
                yield text
        elif format.compression == "zst":
            from bulkpull.rows.zstandard import zstd

            with zstd.open(file) as text:
                yield text
        else:
            yield file


def _decompression_errors() -> tuple[type[Exception], ...]:
    from zlib import error

    from bulkpull.rows.zstandard import zstd

    return gzip.BadGzipFile, error, zstd.ZstdError


def _ndjson_ids(file: BinaryIO, key: str) -> Iterator[object]:
    for line in file:
        row = orjson.loads(line)
        if not isinstance(row, dict):
            raise ValueError("a line is not an object")
        yield _at(row, key)


def _at(row: dict[str, Any], key: str) -> object:
    """The value of a dotted name, which may be nested."""
    if key in row:
        return row[key]
    name, _, rest = key.partition(".")
    inner = row.get(name)
    return _at(inner, rest) if rest and isinstance(inner, dict) else None


def _arrow_ids(file: BinaryIO, key: str, format: str) -> Iterator[object]:
    """Yield the ids of a Parquet or an Arrow file."""
    import pyarrow
    import pyarrow.ipc
    import pyarrow.parquet

    batches: Iterable[Any]
    try:
        if format == "parquet":
            batches = pyarrow.parquet.ParquetFile(file).iter_batches(_IDS_PER_CHUNK, columns=[key])
        else:
            reader = pyarrow.ipc.open_file(file)
            batches = map(reader.get_batch, range(reader.num_record_batches))
        for batch in batches:
            ids = batch.column(key)
            ids.validate(full=True)  # reading does not: offsets of a damaged file may lead anywhere in memory
            yield from ids.to_pylist()
    except (pyarrow.ArrowException, OSError, KeyError) as error:  # an OSError, too, where bytes are wrong
        if getattr(error, "errno", None) is not None:
            raise
        raise ValueError(str(error)) from error


class _Column(io.RawIOBase):
    """A CSV of one column without a header, made from values while it is read."""

    def __init__(self, values: Iterator[object]) -> None:
        self._values = values
        self._row = 0
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if (offset, whence, self._row) != (0, io.SEEK_SET, 0):
            raise io.UnsupportedOperation("a column can only be read from its start")
        return 0

    def readinto(self, buffer: WriteableBuffer) -> int:
        if not self._left:
            self._left = memoryview(b"".join(map(self._record, islice(self._values, _IDS_PER_CHUNK))))
        with memoryview(buffer) as view:
            size = min(len(self._left), len(view))
            view[:size] = self._left[:size]
        self._left = self._left[size:]
        return size

    def _record(self, value: object) -> bytes:
        self._row += 1
        if not isinstance(value, str) or not value:
            raise ValueError(f"row {self._row:,} has no id")
        if any(character in value for character in '",\r\n'):
            value = '"' + value.replace('"', '""') + '"'
        return value.encode() + b"\n"
