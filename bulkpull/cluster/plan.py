"""The plan of the buckets: which scattered parts there are, in the order of the merge, and where a bucket's rows are.

It is written to the storage once, so that no task carries it: a table of the parts, and for each bucket a row of
offsets and sizes, of which a task reads its own. A task carries the checksums of both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import orjson
from numpy.typing import NDArray
from xxhash import xxh3_128_hexdigest

from bulkpull.cluster.storage import DamagedError, Storage
from bulkpull.record import record


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
    """The records of one bucket in a part. `place` is that of the part in the merge, from 0."""

    place: int
    name: str
    bucket: int
    window: int
    start: str
    end: str
    offset: int
    size: int


@record
class BucketPlan:
    """Where the plan of a bucket is: the name of the plan, the bytes of its table and of each bucket's row, and the
    checksums of the table and of the bucket's row."""

    name: str
    table_bytes: int
    table_checksum: str
    row_bytes: int
    row_checksum: str


def write_plan(storage: Storage, name: str, parts: Sequence[PlannedPart], buckets: int) -> list[BucketPlan]:
    """Write the plan under a name; return where that of each bucket is. Blocks. Raises OutputError."""
    table = orjson.dumps([(part.name, part.window, part.start, part.end) for part in parts])
    storage.write(f"{name}.json", table)
    sizes = np.array([part.sizes for part in parts], np.uint64).reshape(len(parts), buckets)
    offsets = np.cumsum(sizes, axis=1) - sizes
    cells = np.stack((offsets.T, sizes.T), axis=1).astype("<u8", copy=False)  # bucket, offset or size, part
    storage.write(f"{name}.cells", cells.tobytes())
    checksum = xxh3_128_hexdigest(table)
    return [BucketPlan(name, len(table), checksum, row.nbytes, xxh3_128_hexdigest(row.tobytes())) for row in cells]


def read_plan(storage: Storage, plan: BucketPlan, bucket: int) -> list[Section]:
    """Return the sections of a bucket, in the order of the merge, without empty ones. Blocks. Raises OutputError."""
    table = _read(storage, f"{plan.name}.json", 0, plan.table_bytes, plan.table_checksum)
    row = _read(storage, f"{plan.name}.cells", bucket * plan.row_bytes, plan.row_bytes, plan.row_checksum)
    offsets, sizes = np.frombuffer(row, "<u8").reshape(2, -1).tolist()
    return [
        Section(place, name, bucket, window, start, end, offset, size)
        for place, ((name, window, start, end), offset, size) in enumerate(
            zip(orjson.loads(table), offsets, sizes, strict=True)
        )
        if size
    ]


def _read(storage: Storage, name: str, offset: int, size: int, checksum: str) -> bytes:
    data = storage.read(name, offset, size)
    if xxh3_128_hexdigest(data) != checksum:
        raise DamagedError(storage, name)
    return data
