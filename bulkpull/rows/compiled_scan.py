"""The scan of a block with the compiled kernel: one pass over its bytes, without the GIL."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bulkpull.rows import _kernel
from bulkpull.rows.block import Block, Layout, Positions, is_outside
from bulkpull.rows.records import unquote

_BYTES_PER_FIELD, _BYTES_PER_RECORD = 4, 16  # at least, else a block takes less than its buffer
_WAY = -1  # of comparing bytes: the fastest that the processor has


class CompiledBuffer:
    """A buffer, and the records that are found in it. See `FastBuffer`."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self._separators = np.empty(size // _BYTES_PER_FIELD + 1, np.int32)
        self._keys = np.empty(size // _BYTES_PER_RECORD + 1, np.uint64)
        self._others = np.empty(len(self._keys), np.int32)
        self._reordered = np.empty(0, np.uint8)

    def scan(self, have: int, layout: Layout, start: bytes, end: bytes) -> tuple[Block | None, int, int]:
        """See `FastBuffer`."""
        time_at = -1 if layout.time_at is None else layout.time_at
        rows, width, used, size, outside, others = _kernel.scan(
            self.data,
            have,
            layout.width or 0,
            layout.key_at,
            time_at,
            start,
            end,
            self._separators,
            self._keys,
            self._others,
            _WAY,
        )
        if not rows:
            return None, 0, have
        separators = self._separators[: rows * width].reshape(rows, width)
        starts, ends = _bounds(separators)
        data = memoryview(self.data)[:size]
        if others:
            assert layout.time_at is not None
            rest = self._others[:others]
            firsts = separators[rest, layout.time_at - 1] + 1 if layout.time_at else starts[rest]
            lasts = separators[rest, layout.time_at]
            for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
                outside += is_outside(unquote(bytes(data[first:last])), start, end)
        return Block(data, starts, ends, separators, self._keys[:rows], outside, layout.key_at), used, have

    def reordered(self, block: Block, layout: Layout) -> Iterator[Block]:
        """See `FastBuffer`."""
        order = np.array(layout.order, np.int32)
        rows, width = block.separators.shape
        if len(self._reordered) < len(block.data) + rows * len(order):
            self._reordered = np.empty(len(block.data) + rows * len(order), np.uint8)
        separators = np.empty((rows, len(order)), np.int32)
        size = _kernel.reorder(block.data, block.separators, width, order, self._reordered, separators)
        starts, ends = _bounds(separators)
        data = self._reordered[:size].data
        yield Block(data, starts, ends, separators, block.keys, block.outside, layout.key_in_output)


def _bounds(separators: Positions) -> tuple[Positions, Positions]:
    """Return where the records start and end."""
    ends = separators[:, -1] + np.int64(1)
    starts = np.empty_like(ends)
    starts[0], starts[1:] = 0, ends[:-1]
    return starts, ends
