"""The CSV scanner: reads a file in blocks of records.

There are two paths, which find the same records or raise the same error. The fast path locates the ends of all fields
of a block, with the compiled kernel or, where that was not built, with NumPy. The slow path is the parser in `records`.
It takes over where a block has a quote inside an unquoted value or inside an id, a bare carriage return, a blank line,
a ragged row, or a record longer than a block.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import chain
from typing import Protocol

import numpy as np

from bulkpull.rows.arriving_file import ArrivingFile
from bulkpull.rows.block import Block, Layout, compute_keys, is_outside
from bulkpull.rows.numpy_scan import NumpyBuffer
from bulkpull.rows.records import CsvError, File, read_header, records, unquote

try:
    from bulkpull.rows.compiled_scan import CompiledBuffer
except ImportError:  # it was installed without a compiler
    FAST_BUFFER: type[FastBuffer] = NumpyBuffer
else:
    FAST_BUFFER = CompiledBuffer

BLOCK_BYTES = 2 * 1024 * 1024
_SLOW_BLOCK_BYTES = 1024 * 1024
_LF = ord("\n")


class FastBuffer(Protocol):
    """The fast path: a buffer, and the scan of what it holds."""

    data: bytearray

    def __init__(self, size: int) -> None: ...

    def scan(self, have: int, layout: Layout, start: bytes, end: bytes) -> tuple[Block | None, int, int]:
        """Find the records at the start of the first `have` bytes.

        Returns a block of those before the first that is incomplete or needs the slow path; None if that is the first
        of all. Then how many bytes they take, and how many bytes the buffer has now: line ends may have become LF.
        """
        ...

    def reordered(self, block: Block, layout: Layout) -> Iterator[Block]:
        """Yield the records of a block with the output's columns in the output's order, in one or more blocks."""
        ...


class Prefetcher:
    """A thread that scans the next block while the caller processes one."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "scan")

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown()

    def blocks(self, scan: Generator[Block | None]) -> Generator[Block]:
        """Yield the blocks of `scan`, to its end or to the first None.

        The generator must be closed before the file that `scan` reads.
        """
        pending = self._thread.submit(next, scan, None)
        try:
            while block := pending.result():
                pending = self._thread.submit(next, scan, None)
                yield block
        finally:
            wait((pending,))


class Scanner:
    """Reads files in blocks of up to `block_bytes`; the buffers are reused."""

    def __init__(self, block_bytes: int = 0) -> None:
        self._block_bytes = block_bytes or BLOCK_BYTES
        # Two buffers, used in turn. The extra byte is for a final newline, if the file lacks it.
        self._buffer, self._next_buffer = (FAST_BUFFER(self._block_bytes + 1) for _ in range(2))

    def blocks(self, file: File, body: int, layout: Layout, start: bytes, end: bytes) -> Generator[Block]:
        """Yield the records of an unbuffered `file` from byte `body` on, where its header ends.

        Counts the records outside [start, end). A block is valid until the second next one is requested, since its
        buffer is reused. Raises CsvError.
        """
        for block in self.blocks_so_far(file, body, layout, start, end):
            if block is not None:
                yield block

    def blocks_so_far(self, file: File, body: int, layout: Layout, start: bytes, end: bytes) -> Generator[Block | None]:
        """Yield the records of a file that may still be arriving. See `blocks`.

        Yields None while too few bytes have arrived for a block. Raises NotArrivedError for a record that is longer
        than what has.
        """
        file.seek(body)
        have, row = 0, 2
        while True:
            while isinstance(file, ArrivingFile) and not file.can_read(self._block_bytes + BLOCK_BYTES):
                yield None
            have = self._fill(file, have)
            if not have:
                return
            block, used, have = self._buffer.scan(have, layout, start, end)
            if block:
                yield from self._buffer.reordered(block, layout) if layout.order else (block,)
                row += len(block)
                self._next_buffer.data[: have - used] = memoryview(self._buffer.data)[used:have]
                have -= used
                self._buffer, self._next_buffer = self._next_buffer, self._buffer
            else:
                have, row = yield from self._scan_slowly(file, have, row, layout, start, end)

    def _fill(self, file: File, have: int) -> int:
        """Fill the buffer, which holds `have` bytes, from the file; return how many it holds then."""
        with memoryview(self._buffer.data) as buffer:
            while have < self._block_bytes and (count := file.readinto(buffer[have : self._block_bytes])):
                have += count
        if 0 < have < self._block_bytes and self._buffer.data[have - 1] != _LF:
            self._buffer.data[have] = _LF
            have += 1
        return have

    def _scan_slowly(
        self, file: File, have: int, row: int, layout: Layout, start: bytes, end: bytes
    ) -> Generator[Block, None, tuple[int, int]]:
        """Yield the records that start in the first `have` bytes, reading on to the end of the last one.

        The first is row number `row`. Returns the number of bytes left in the buffer, and the next row number.
        """
        chunk, given, parsed = bytes(memoryview(self._buffer.data)[:have]), 0, 0

        def chunks() -> Iterator[bytes]:
            nonlocal chunk, given
            while chunk:
                given += len(chunk)
                yield chunk
                chunk = file.read(BLOCK_BYTES) or b""

        builder = _BlockBuilder(layout)
        for raw, fields, parsed in records(chunks(), row):
            if builder.is_full or builder.width != len(fields):
                yield from builder.blocks()
                builder = _BlockBuilder(layout)
            builder.add(raw, fields, row, start, end)
            row += 1
            if parsed >= have:
                break
        yield from builder.blocks()
        left = chunk[len(chunk) - (given - parsed) :] if parsed < given else b""
        self._buffer.data[: len(left)] = left
        return len(left), row


def read_merged(
    spans: Iterable[File], key: str, *, start: int = 0, block_bytes: int = 0
) -> tuple[tuple[str, ...], Generator[tuple[Block, int]]]:
    """Return the columns of a merged CSV, and its rows in blocks, each with the row number of its first, from 1.

    Args:
        spans: The file, once or repeatedly: each time, reads end at the end of a record, and later ones continue there.
        key: The column of the ids.
        start: The byte to start from, at the end of a record; 0 stands for the first row.
        block_bytes: See `Scanner`.
    """
    rest = iter(spans)
    first = next(rest)
    columns, body = read_header(first, lambda: None, key)
    first.seek(start or body)
    layout = Layout(width=len(columns), key_at=columns.index(key))

    def blocks() -> Generator[tuple[Block, int]]:
        scanner, row = Scanner(block_bytes), 1
        for span in chain((first,), rest):
            for block in scanner.blocks(span, span.tell(), layout, b"", b""):
                yield block, row
                row += len(block)

    return columns, blocks()


class _BlockBuilder:
    """Collects records with the same number of fields into a block."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._data = bytearray()
        self._sizes: list[int] = []  # of the fields
        self._ids: list[bytes] = []
        self._outside = 0
        self.width: int | None = None

    @property
    def is_full(self) -> bool:
        return len(self._data) >= _SLOW_BLOCK_BYTES

    def add(self, raw: bytes, fields: list[bytes], row: int, start: bytes, end: bytes) -> None:
        """Add row number `row`. Raises CsvError for a ragged row and an empty id."""
        layout = self._layout
        if layout.width is not None and len(fields) != layout.width:
            raise CsvError(row, f"{len(fields)} fields where the header has {layout.width}")
        if layout.key_at >= len(fields) or not (id := unquote(fields[layout.key_at])):
            raise CsvError(row, "the id is empty")
        self.width = len(fields)
        self._ids.append(id)
        if layout.time_at is not None:
            self._outside += is_outside(unquote(fields[layout.time_at]), start, end)
        if layout.order is not None:
            fields = [*fields, b""]
            fields = [fields[at] for at in layout.order]
            raw = b",".join(fields)
        self._data += raw
        self._data += b"\n"
        self._sizes.extend(map(len, fields))

    def blocks(self) -> Iterator[Block]:
        """Yield the block; nothing if there are no records."""
        if not self._ids:
            return
        sizes = np.fromiter(map(len, self._ids), np.int64, len(self._ids))
        found = np.empty(len(sizes), np.uint64)
        for size in np.unique(sizes).tolist():
            rows = np.flatnonzero(sizes == size)
            same_size = b"".join([self._ids[row] for row in rows.tolist()])
            found[rows] = compute_keys(np.frombuffer(same_size, np.uint8).reshape(-1, size))
        separators = (np.cumsum(np.array(self._sizes, np.int64) + 1) - 1).reshape(len(sizes), -1)
        ends = separators[:, -1] + 1
        starts = np.concatenate(([0], ends[:-1]))
        yield Block(memoryview(self._data), starts, ends, separators, found, self._outside, self._layout.key_in_output)
