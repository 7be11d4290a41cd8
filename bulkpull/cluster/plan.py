"""The plan of the buckets: which scattered parts there are, in the order of the merge, and where a bucket's rows are.

It is written to the storage once, so that no task carries it: a table of the parts, and for each bucket a row of
offsets and sizes, of which a task reads its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import orjson
from numpy.typing import NDArray

from bulkpull.cluster.storage import Storage
from bulkpull.record import record

_CELL_BYTES = 8


@record
class PlannedPart:
    """A scattered part: the name of its object, the index of its window, the window's bounds as instants, and the bytes
    of each bucket's records."""

    name: str
    window: int
    start: str
    end: str
    sizes: NDArray[np.uint64]


@record
class Section:
    """The records of one bucket in a part."""

    name: str
    window: int
    start: str
    end: str
    offset: int
    size: int


def write_plan(storage: Storage, name: str, parts: Sequence[PlannedPart]) -> None:
    """Write the plan under a name. Blocks. Raises OutputError."""
    table = [(part.name, part.window, part.start, part.end) for part in parts]
    storage.write(f"{name}.json", orjson.dumps(table))
    sizes = np.array([part.sizes for part in parts], np.uint64).reshape(len(parts), -1 if parts else 0)
    offsets = np.cumsum(sizes, axis=1) - sizes
    cells = np.stack((offsets.T, sizes.T), axis=1)  # bucket, offset or size, part
    storage.write(f"{name}.cells", np.ascontiguousarray(cells).astype("<u8").tobytes())


def read_plan(storage: Storage, name: str, bucket: int) -> list[Section]:
    """Return the sections of a bucket, in the order of the merge, without empty ones. Blocks. Raises OutputError."""
    table = orjson.loads(storage.read_all(f"{name}.json"))
    row = 2 * len(table) * _CELL_BYTES
    offsets, sizes = np.frombuffer(storage.read(f"{name}.cells", bucket * row, row), "<u8").reshape(2, -1).tolist()
    return [
        Section(name, window, start, end, offset, size)
        for (name, window, start, end), offset, size in zip(table, offsets, sizes, strict=True)
        if size
    ]
