"""Comparison of rows, byte by byte: with the output, and within a block."""

from __future__ import annotations

import os
from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from bulkpull.rows import kernel
from bulkpull.rows.block import Positions

_READ_BYTES = 64 * 1024  # of the file, in one read


def equal_in_file(
    file: int, offsets: Positions, data: memoryview, starts: Positions, ends: Positions
) -> NDArray[np.bool_]:
    """Return for each row of `data` whether the file holds the same bytes at the offset. Raises OSError."""
    if kernel.KERNEL is not None:
        return _by_kernel(file, offsets, data, starts, ends)
    by_offset = np.argsort(offsets)
    ascending = offsets[by_offset].tolist()
    found: list[bool] = []
    begin, read = 0, b""
    for offset, start, end in zip(ascending, starts[by_offset].tolist(), ends[by_offset].tolist(), strict=True):
        size = end - start
        if offset + size > begin + len(read):
            # One read also covers the next rows, if they are close.
            near = bisect_left(ascending, offset + _READ_BYTES, lo=len(found))
            begin, read = offset, os.pread(file, max(size, ascending[near - 1] + size - offset), offset)
        found.append(read[offset - begin : offset - begin + size] == data[start:end])
    same = np.empty(len(offsets), np.bool_)
    same[by_offset] = found
    return same


def equal_in_block(others: Positions, data: memoryview, starts: Positions, ends: Positions) -> NDArray[np.bool_]:
    """Return for each row of `data` whether the same bytes start at the corresponding one of `others`."""
    if kernel.KERNEL is not None:
        return _by_kernel(-1, others, data, starts, ends)
    copied = bytes(data)
    spans = zip(others.tolist(), starts.tolist(), ends.tolist(), strict=True)
    equal = (copied[other : other + end - start] == copied[start:end] for other, start, end in spans)
    return np.fromiter(equal, np.bool_, len(starts))


def _by_kernel(
    file: int, offsets: Positions, data: memoryview, starts: Positions, ends: Positions
) -> NDArray[np.bool_]:
    found = np.empty(len(offsets), np.bool_)
    whole = [np.ascontiguousarray(numbers, np.int64) for numbers in (offsets, starts, ends)]
    kernel.KERNEL.equal(file, whole[0], data, whole[1], whole[2], found.view(np.uint8))
    return found
