"""Dividing a part: no row is lost, and all rows of an id are in one bucket, also if little fits into memory."""

from __future__ import annotations

import csv
import io
import sys
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bulkpull.cluster.divide import CHECKSUM_BYTES, KEY_BYTES, checksum_of_keys, checksum_of_records, divide
from bulkpull.source import Columns

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COLUMNS = Columns(key="id", time="created_time", required=("id", "created_time"))
WINDOW = (b"2024-01-01T00:00:00.000Z", b"2024-02-01T00:00:00.000Z")
IDS = st.integers(0, 40).map(lambda number: f"{number:024x}")
CELLS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
TIMES = st.sampled_from(["2024-01-05T00:00:00.000Z", "2024-02-01T00:00:00.000Z", "2023-12-31T23:59:59.999Z"])


@given(
    rows=st.lists(st.tuples(IDS, TIMES, CELLS), max_size=80),
    buckets=st.sampled_from([1, 2, 7, 64]),
    memory=st.sampled_from([1, 300, 10**6]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_every_row_is_in_the_bucket_of_its_id(
    rows: list[tuple[str, str, str]], buckets: int, memory: int, end: str
) -> None:
    text = io.StringIO(newline="")
    # Without line ends of its own, the writer does not quote a carriage return, which needs quotes.
    needs_quotes = any("\r" in cell for _, _, cell in rows)
    writer = csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL if needs_quotes else csv.QUOTE_MINIMAL)
    writer.writerows([("id", "created_time", "note"), *rows])
    with tempfile.TemporaryDirectory() as directory:
        source, path = Path(directory, "part.csv"), Path(directory, "rows")
        source.write_bytes(text.getvalue().encode())
        with source.open("rb", buffering=0) as file:
            divided = divide(file, path, name="name", columns=COLUMNS, buckets=buckets, window=WINDOW, memory=memory)
        assert {left.name for left in Path(directory).iterdir()} == {"part.csv", "rows"}
        data = path.read_bytes()
    assert divided.records == len(rows)
    assert divided.outside == sum(not WINDOW[0].decode() <= at < WINDOW[1].decode() for _, at, _ in rows)
    found: list[list[tuple[str, ...]]] = []
    offset = 0
    for number, size in enumerate(divided.sizes.tolist()):
        frames, checksum = (
            data[offset : offset + size][:-CHECKSUM_BYTES],
            data[offset : offset + size][-CHECKSUM_BYTES:],
        )
        expected = checksum_of_records("name", number)
        expected.update(frames)
        assert checksum == (expected.digest() if size else b"")
        section = decompressed(frames)
        header, *records = list(csv.reader(io.StringIO(section, newline=""))) if section else [["id"]]
        assert header[0] == "id"
        found.append([tuple(record) for record in records])
        offset += size
    checksum_of_all = checksum_of_keys("name")
    checksum_of_all.update(data[offset:])
    assert divided.checksum == checksum_of_all.hexdigest()
    assert sorted(row for bucket in found for row in bucket) == sorted(rows)
    for bucket, count in zip(found, divided.ids.tolist(), strict=True):
        ids = {row[0] for row in bucket}
        assert count == len(ids)
        assert bucket == [row for row in rows if row[0] in ids]  # all rows of these ids, in order
        keys = np.frombuffer(data[offset : offset + count * KEY_BYTES], "<u8")
        assert (np.diff(keys.astype(object)) > 0).all()
        offset += count * KEY_BYTES
    assert offset == len(data)


def decompressed(frames: bytes) -> str:
    return zstd.decompress(frames).decode() if frames else ""
