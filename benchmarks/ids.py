"""Print the number of rows of an output, the number of its distinct ids, and a hash of those.

    python ids.py OUT

CSV is parsed, since cells contain line breaks. Headers within the file, left by `cat`, do not count.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

ID_BYTES = 24


def columns(out: Path) -> Iterator[pa.Array]:
    """Yield the ids in pieces."""
    if out.suffix == ".parquet":
        for batch in parquet.ParquetFile(out).iter_batches(columns=["id"]):
            yield batch.column(0)
        return
    convert = csv.ConvertOptions(include_columns=["id"], column_types={"id": pa.string()})
    with csv.open_csv(out, parse_options=csv.ParseOptions(newlines_in_values=True), convert_options=convert) as batches:
        for batch in batches:
            yield batch.column(0)


def main() -> None:
    found = []
    for column in columns(Path(sys.argv[1])):
        texts = column.to_pylist()
        found.append(np.array([text for text in texts if text != "id"], dtype=f"S{ID_BYTES}"))
    ids = np.concatenate(found)
    distinct = np.unique(ids)
    print(len(ids), len(distinct), hashlib.sha256(distinct.tobytes()).hexdigest()[:12])


if __name__ == "__main__":
    main()
