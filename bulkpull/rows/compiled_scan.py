"""The scan of a block with the compiled kernel: one pass over its bytes, without the GIL."""

from __future__ import annotations

import numpy as np

from bulkpull.rows import _kernel
from bulkpull.rows.block import Block, Layout, is_outside
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
        ends = separators[:, -1] + np.int64(1)
        starts = np.empty_like(ends)
        starts[0], starts[1:] = 0, ends[:-1]
        data = memoryview(self.data)[:size]
        if others:
            assert layout.time_at is not None
            rest = self._others[:others]
            firsts = separators[rest, layout.time_at - 1] + 1 if layout.time_at else starts[rest]
            lasts = separators[rest, layout.time_at]
            for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
                outside += is_outside(unquote(bytes(data[first:last])), start, end)
        return Block(data, starts, ends, separators, self._keys[:rows], outside, layout.key_at), used, have
