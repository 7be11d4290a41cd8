"""Dividing a part: its records go to buckets by a hash of their ids, in one file with a section for each bucket.

First come the records of each bucket, a CSV with a header of its own, compressed (Zstandard), and a checksum; empty
buckets take no bytes. Behind them come the keys of each bucket: those of its distinct ids, sorted, 8 bytes each. So all
rows of one id are in one bucket, whatever part they are in, and one request reads a bucket's records of a part.

Checksums include the name of the object and the number of the bucket: another object in its place is found, too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128

from bulkpull.record import record
from bulkpull.rows.block import Block, Keys, Layout
from bulkpull.rows.records import File, read_header
from bulkpull.rows.scan import Scanner
from bulkpull.rows.sink import header_record
from bulkpull.rows.zstandard import zstd
from bulkpull.source import Columns

_OPTIONS: dict[int, int] = {  # read once, and soon
    zstd.CompressionParameter.compression_level: 1,
}
KEY_BYTES = 8
CHECKSUM_BYTES = 16
Sizes = NDArray[np.uint64]


@record
class Divided:
    """What is known of a divided part.

    `columns` are those of its header; none if it is empty. `records` is the number of records, `outside` that of those
    whose time is outside the window. `sizes` are the bytes of each bucket's records, `ids` how many keys it has.
    `checksum` is that of the keys.
    """

    columns: tuple[str, ...]
    records: int
    outside: int
    sizes: Sizes
    ids: Sizes
    checksum: str


def checksum_of_records(name: str, bucket: int) -> xxh3_128:
    """Return the beginning of the checksum of a bucket's records in the object `name`."""
    return xxh3_128(f"{name} {bucket} ".encode())


def checksum_of_keys(name: str) -> xxh3_128:
    """Return the beginning of the checksum of all keys in the object `name`."""
    return xxh3_128(f"{name} keys ".encode())


def bucket_of(keys: Keys, buckets: int) -> NDArray[np.uint64]:
    """Return the bucket, from 0, of each key: the lower half of a key is a hash of the whole id."""
    found: NDArray[np.uint64] = (keys & np.uint64(0xFFFFFFFF)) * np.uint64(buckets) >> np.uint64(32)
    return found


def divide(
    source: File,
    path: Path,
    *,
    name: str,
    columns: Columns,
    buckets: int,
    window: tuple[bytes, bytes],
    memory: int,
    checkpoint: Callable[[], None] = lambda: None,
) -> Divided:
    """Divide a CSV.

    Args:
        source: The CSV, unbuffered.
        path: The file that is written; others are written beside it meanwhile.
        name: That of the object which it becomes.
        columns: The columns that have a meaning.
        buckets: How many buckets there are.
        window: The bounds of the window as instants.
        memory: Bytes of records to be held in memory, approximately.
        checkpoint: Called between blocks; may raise to stop.

    Raises:
        CsvError: The file is not a CSV with the key column, or has ragged rows.
        OSError: The disk failed.
    """
    names, body = read_header(source, checkpoint, columns.key)
    if not names:
        path.write_bytes(b"")
        empty = np.zeros(buckets, np.uint64)
        return Divided((), 0, 0, empty, empty, checksum_of_keys(name).hexdigest())
    layout = Layout(
        width=len(names),
        key_at=names.index(columns.key),
        time_at=names.index(columns.time) if columns.time in names else None,
    )
    records = outside = 0
    with _Sections(path, name, buckets, header_record(list(names)) + b"\n", memory) as sections:
        for block in Scanner().blocks(source, body, layout, *window):
            checkpoint()
            records += len(block)
            outside += block.outside
            sections.add(block)
        sizes, ids, checksum = sections.write()
    return Divided(names, records, outside, sizes, ids, checksum)


class _Sections:
    """The sections of a file that is written at the end. What does not fit into memory goes to a draft beside it."""

    def __init__(self, path: Path, name: str, buckets: int, header: bytes, memory: int) -> None:
        self._path = path
        self._name = name
        self._header = header
        self._memory = memory
        self._buckets = buckets
        self._rows: list[list[bytes]] = [[] for _ in range(buckets)]
        self._keys: list[list[Keys]] = [[] for _ in range(buckets)]
        self._held = 0
        self._drafts = [path.with_name(f"{path.name}.{kind}") for kind in ("rows", "keys")]
        self._frames: list[list[tuple[int, int]]] = [[] for _ in range(buckets)]  # offset and size in the draft
        self._runs: list[list[tuple[int, int]]] = [[] for _ in range(buckets)]
        self._files: list[BinaryIO] = []

    def __enter__(self) -> _Sections:
        self._files = [draft.open("w+b") for draft in self._drafts]
        return self

    def __exit__(self, *_error: object) -> None:
        for file, draft in zip(self._files, self._drafts, strict=True):
            file.close()
            draft.unlink(missing_ok=True)

    def add(self, block: Block) -> None:
        """Add the records of a block."""
        which = bucket_of(block.keys, self._buckets)
        order = np.argsort(which, kind="stable")
        found, first = np.unique(which[order], return_index=True)
        starts, ends = block.starts[order].tolist(), block.ends[order].tolist()
        keys, data = block.keys[order], block.data
        bounds = [*first.tolist(), len(order)]
        for bucket, begin, end in zip(found.tolist(), bounds, bounds[1:], strict=False):
            rows = b"".join([data[at:to] for at, to in zip(starts[begin:end], ends[begin:end], strict=True)])
            self._rows[bucket].append(rows)
            self._keys[bucket].append(keys[begin:end].copy())
        self._held += len(data) + keys.nbytes
        if self._held >= self._memory:
            self._spill()

    def write(self) -> tuple[Sizes, Sizes, str]:
        """Write the file; return the bytes of each bucket's records, the number of its ids, and the checksum of all
        keys."""
        sizes, ids = [], []
        rows, keys = self._files
        with self._path.open("wb") as file:
            for bucket in range(self._buckets):
                begin, checksum = file.tell(), checksum_of_records(self._name, bucket)
                for offset, size in self._frames[bucket]:
                    rows.seek(offset)
                    frame = rows.read(size)
                    checksum.update(frame)
                    file.write(frame)
                if left := self._rows[bucket]:
                    frame = self._compressed(bucket, left)
                    checksum.update(frame)
                    file.write(frame)
                if file.tell() > begin:
                    file.write(checksum.digest())
                sizes.append(file.tell() - begin)
            checksum = checksum_of_keys(self._name)
            for bucket in range(self._buckets):
                runs = self._keys[bucket]
                for offset, size in self._runs[bucket]:
                    keys.seek(offset)
                    runs.append(np.frombuffer(keys.read(size), np.uint64))
                distinct = np.unique(np.concatenate(runs)) if runs else np.zeros(0, np.uint64)
                stored = distinct.astype("<u8").tobytes()
                checksum.update(stored)
                file.write(stored)
                ids.append(len(distinct))
        return np.array(sizes, np.uint64), np.array(ids, np.uint64), checksum.hexdigest()

    def _spill(self) -> None:
        rows, keys = self._files
        for bucket in range(self._buckets):
            if not self._rows[bucket]:
                continue
            frame = self._compressed(bucket, self._rows[bucket])
            run = np.unique(np.concatenate(self._keys[bucket])).tobytes()
            self._frames[bucket].append((rows.tell(), rows.write(frame)))
            self._runs[bucket].append((keys.tell(), keys.write(run)))
            self._rows[bucket], self._keys[bucket] = [], []
        self._held = 0

    def _compressed(self, bucket: int, rows: list[bytes]) -> bytes:
        header = () if self._frames[bucket] else (self._header,)
        return zstd.compress(b"".join((*header, *rows)), options=_OPTIONS)
