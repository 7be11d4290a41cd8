"""Arrow IPC holds the values of Parquet, as a file and as a stream."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.dataset
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull import Clickwrap
from bulkpull.errors import FormatError
from bulkpull.rows import arrow, kernel, scan
from bulkpull.rows.arrow import arrow_stream, write_arrow
from tests.rows import test_parquet
from tests.rows.test_ndjson import VALUES, csv_field

pytestmark = pytest.mark.usefixtures("each_renderer")

NOON = "2024-01-15T12:00:00.000Z"


def write(data: bytes, path: Path, *, all_strings: bool = False) -> bytes:
    write_arrow(io.BytesIO(data), path, columns=Clickwrap.columns, all_strings=all_strings, checkpoint=lambda: None)
    return path.read_bytes()


def streamed(*spans: io.BytesIO, all_strings: bool = False) -> Any:
    pieces = arrow_stream(spans, columns=Clickwrap.columns, all_strings=all_strings)
    return pa.ipc.open_stream(b"".join(pieces)).read_all()


def table(rows: int) -> bytes:
    times = (f"2024-01-15T12:00:00.{row % 1000:03d}Z" if row % 7 else "" for row in range(rows))
    return b"id,created_time,v\n" + b"".join(f"{row:024x},{time},é\n".encode() for row, time in enumerate(times))


@given(st.lists(st.lists(st.one_of(st.none(), VALUES), min_size=2, max_size=2), max_size=30), st.booleans())
def test_both_formats_keep_every_value(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], quote_all: bool
) -> None:
    expected = [{"id": f"{number:024x}", "a": a, "b.c": b} for number, (a, b) in enumerate(rows)]
    lines = [",".join(csv_field(value, quote_all=quote_all) for value in row.values()) for row in expected]
    data = "".join(f"{line}\n" for line in ("id,a,b.c", *lines)).encode()
    path = tmp_path_factory.mktemp("arrow") / "a.arrow"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrow, "BATCH_BYTES", 300)
        write(data, path)
    assert pa.ipc.open_file(path).read_all().to_pylist() == expected
    assert streamed(io.BytesIO(data)).to_pylist() == expected


@pytest.mark.parametrize("all_strings", [False, True])
def test_a_file_has_the_schema_and_the_values_of_parquet(tmp_path: Path, all_strings: bool) -> None:
    data = table(2000)
    test_parquet.write(data, tmp_path / "a.parquet", all_strings=all_strings)
    expected = pyarrow.parquet.read_table(tmp_path / "a.parquet")
    write(data, tmp_path / "a.arrow", all_strings=all_strings)
    for found in (
        pyarrow.feather.read_table(tmp_path / "a.arrow"),
        streamed(io.BytesIO(data), all_strings=all_strings),
    ):
        assert found.schema.equals(expected.schema)
        assert found.equals(expected)


@pytest.mark.parametrize("rows", [1, 9, 65, 333, 500])
def test_the_same_rows_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(arrow, "BATCH_BYTES", 30_000)
    monkeypatch.setattr(scan, "BLOCK_BYTES", 20_000)
    data = table(rows)
    files, streams = set(), set()
    for number, way in enumerate((None, kernel.KERNEL) * 20):
        monkeypatch.setattr(kernel, "KERNEL", way)
        for size in (100, 1000, 10_000, 100_000):
            np.full(size, number, np.uint8)  # memory that is allocated next holds these bytes
        files.add(write(data, tmp_path / "a.arrow"))
        streams.add(b"".join(arrow_stream([io.BytesIO(data)], columns=Clickwrap.columns, all_strings=False)))
    assert (len(files), len(streams)) == (1, 1)


def test_other_readers_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.feather"
    write(table(3000), path)
    expected = pyarrow.feather.read_table(path)
    assert polars.read_ipc(path).to_dicts() == expected.to_pylist()
    lazy = pyarrow.dataset.dataset(path, format="feather")
    counted = duckdb.execute("select count(*), count(created_time) from lazy")
    assert counted.fetchall() == [(3000, 2571)], lazy


def test_a_stream_yields_the_rows_of_each_span_before_it_reads_the_next() -> None:
    file, seen = io.BytesIO(), bytearray()
    lines = table(30).splitlines(keepends=True)

    def spans() -> Iterator[io.BytesIO]:
        for first in range(0, 31, 10):
            at = file.tell()
            file.seek(0, io.SEEK_END)
            file.write(b"".join(lines[first : first + 10]))
            file.seek(at)
            yield file
            rows = pa.ipc.open_stream(bytes(seen)).read_next_batch  # raises if it is not complete
            assert rows().num_rows == 9
            assert lines[min(first + 9, 30)].split(b",")[0] in seen

    for piece in arrow_stream(spans(), columns=Clickwrap.columns, all_strings=False):
        seen += piece
    assert pa.ipc.open_stream(bytes(seen)).read_all().num_rows == 30


def test_a_time_that_is_none_stops_it_with_its_row_and_the_remedy(tmp_path: Path) -> None:
    data = b"id,created_time\na," + NOON.encode() + b"\nb,noon\n"
    with pytest.raises(FormatError, match=r"row 2 \(id b\).*which Arrow timestamps require; keep.*--all-strings"):
        write(data, tmp_path / "a.arrow")
    assert write(data, tmp_path / "a.arrow", all_strings=True)
