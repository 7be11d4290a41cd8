"""Every format holds the values that the csv module reads from the merged files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bulkpull import Clickwrap
from bulkpull.errors import FormatError
from bulkpull.rows import batch, kernel, numpy_scan, scan
from bulkpull.rows import ndjson as ndjson_module
from bulkpull.rows import parquet as parquet_module
from bulkpull.rows.batch import batches
from bulkpull.rows.dedup import Deduplicator
from bulkpull.rows.growing_file import GrowingFile
from bulkpull.rows.ndjson import ndjson
from bulkpull.rows.sink import CsvSink
from tests.rows.test_parquet import write

pytestmark = pytest.mark.usefixtures("each_fast_path", "each_renderer")

START, END = b"2024-01-01T00:00:00.000Z", b"2024-02-01T00:00:00.000Z"
CELLS = st.one_of(
    st.sampled_from(
        ["", "a", "\r", "\n", "\r\n", "\r\n" * 30, '"', '""', '"\r\n"', ",", "\x00", "é\r\n", "📝,", "\ufeff"]
    ),
    st.text(alphabet='ab,"\r\n\x00é📝', max_size=12),
)


def merged(directory: Path, *parts: bytes) -> bytes:
    """Merge the parts; return the merged CSV."""
    sink = CsvSink(directory / "merged", ("id",), fixed=False)
    with closing(sink), closing(Deduplicator(sink, 1_000_000, Clickwrap.columns)) as deduplicator:
        for part in parts:
            path = directory / "part"
            path.write_bytes(part)
            deduplicator.add(path, START, END, lambda: None)
        return sink.finish(lambda: None).read_bytes()


def as_parquet(directory: Path, data: bytes) -> list[dict[str, Any]]:
    path = directory / "rows.parquet"
    write(data, path)
    return list(pyarrow.parquet.read_table(path).to_pylist())


def as_ndjson(data: bytes) -> list[dict[str, Any]]:
    lines = b"".join(ndjson([io.BytesIO(data)], key="id", flat=True)).decode().split("\n")
    return [json.loads(line) for line in lines[:-1]]


def as_batches(path: Path, max_rows: int) -> list[dict[str, Any]]:
    """The rows of the merged CSV, in batches: as Python objects, which are those that Arrow hands over."""
    growing = GrowingFile(path)
    growing.finish(path)
    with closing(growing):
        found = list(
            batches(
                growing,
                0,
                Clickwrap.columns,
                all_strings=False,
                max_rows=max_rows,
                on_header=lambda _: None,
                checkpoint=lambda: None,
            )
        )
    assert all(one.num_rows <= max_rows for one in found)
    assert not found or found[-1].end == path.stat().st_size
    rows = [row for one in found for row in one.to_pylist()]
    assert [row for one in found for row in pyarrow.record_batch(one).to_pylist()] == rows
    return rows


def by_csv(data: bytes) -> Iterator[dict[str, str]]:
    return csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)


def texts(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [{name: value or "" for name, value in row.items()} for row in rows]


@given(
    rows=st.lists(st.lists(CELLS, min_size=2, max_size=2), max_size=12),
    dialect=st.sampled_from([("\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_MINIMAL)]),
    long=st.integers(0, 300),
    block=st.integers(24, 400),
)
@example(rows=[["\r\n" * 40, "é" * 40]] * 3, dialect=("\n", csv.QUOTE_ALL), long=0, block=64)
def test_every_format_holds_what_the_csv_module_reads(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], dialect: tuple[str, Any], long: int, block: int
) -> None:
    line_end, quoting = dialect
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=line_end, quoting=quoting)
    writer.writerow(["v", "id", "w"])
    for number, (left, right) in enumerate(rows):
        writer.writerow([left, f"{number:024x}", right])
    writer.writerow(["x\r\n" * long, "last", ""])
    data = text.getvalue().encode()
    expected = list(by_csv(data))
    directory = tmp_path_factory.mktemp("formats")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "BLOCK_BYTES", block)
        patch.setattr(scan, "_SLOW_BLOCK_BYTES", block // 2)
        patch.setattr(numpy_scan, "_CHUNK_BYTES", 16)
        patch.setattr(ndjson_module, "_ROWS_PER_CALL", 3)
        output = merged(directory, data)
        assert list(by_csv(output)) == expected
        assert texts(as_parquet(directory, output)) == expected
        assert texts(as_ndjson(output)) == expected
        patch.setattr(batch, "MAX_BYTES", block)
        assert texts(as_batches(directory / "merged", max_rows=5)) == expected


@given(
    rows=st.lists(
        st.tuples(CELLS, st.sampled_from(["", "2024-01-15T12:00:00.000Z", "2024-02-29T23:59:59.999Z"]), CELLS),
        max_size=40,
    ),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    odd_time=st.sampled_from(["", "2024-01-15", "2024-01-15T12:00:00Z", "2024-01-31T24:00:00.000Z"]),
    block=st.integers(64, 2000),
)
@settings(max_examples=30)  # for each scanner, twice
def test_the_kernel_and_numpy_write_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]], quoting: Any, odd_time: str, block: int
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n", quoting=quoting)
    writer.writerow(["v", "id", "created_time", "w"])
    for number, (left, created, right) in enumerate(rows):
        writer.writerow([left.replace("\r", ""), f"{number:024x}", created, right.replace("\r", "")])
    writer.writerow(["", "last", odd_time, ""])
    data = text.getvalue().replace(',"",', ",,").encode()
    directory = tmp_path_factory.mktemp("renderers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "BLOCK_BYTES", block)
        patch.setattr(parquet_module, "ROW_GROUP_BYTES", 700)
        found: list[bytes] = []
        for way in (None, kernel.KERNEL):
            patch.setattr(kernel, "KERNEL", way)
            rendered = b"".join(ndjson([io.BytesIO(data)], key="id", flat=False))
            for partition_by in (None, "month"):
                path = directory / f"{partition_by}{len(found)}"
                try:
                    write(data, path, partition_by=partition_by)
                except FormatError as error:
                    rendered += str(error).encode()
                files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
                rendered += b"".join(str(file.relative_to(path)).encode() + file.read_bytes() for file in files)
            found.append(rendered)
    assert found[0] == found[1]


@pytest.mark.parametrize("shift", range(3))
def test_keeps_line_feeds_at_block_boundaries(tmp_path: Path, shift: int) -> None:
    rows = [(f"{number:024x}", "\r\n" * (180 + number % 7)) for number in range(9000)]
    data = b"id,v" + b"w" * shift + b"\n" + b"".join(f'{id},"{cell}"\n'.encode() for id, cell in rows)
    assert [tuple(row.values()) for row in as_parquet(tmp_path, data)] == rows
    assert [tuple(row.values()) for row in as_ndjson(data)] == rows


def test_empty_fields_become_null_and_quoted_empty_fields_empty_strings(tmp_path: Path) -> None:
    data = b'id,v,w,x\n1,,"",a""b\n2,"""","a""b",""\n3,5" screen,"""",\n'
    expected = [
        {"id": "1", "v": None, "w": "", "x": 'a""b'},
        {"id": "2", "v": '"', "w": 'a"b', "x": ""},
        {"id": "3", "v": '5" screen', "w": '"', "x": None},
    ]
    assert as_parquet(tmp_path, data) == expected
    assert as_ndjson(data) == expected


@pytest.mark.parametrize("odd", [b"\xff", b"\xed\xa0\x80", b"\xc3", b'"\xc3""x"', b"\xf0\x9f\x93"])
def test_csv_keeps_invalid_utf8_and_other_formats_reject_it(tmp_path: Path, odd: bytes) -> None:
    data = b"id,v,w\n1,\xc3\xa9\x00,\n2," + odd + b",x\n3,b,y\n"
    assert merged(tmp_path, data) == data
    formats: tuple[Callable[[], object], ...] = (lambda: as_parquet(tmp_path, data), lambda: as_ndjson(data))
    for render in formats:
        with pytest.raises(FormatError, match=r"row 2 \(id 2\): v is not valid UTF-8"):
            render()


def test_the_slow_path_is_left_after_an_irregular_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "BLOCK_BYTES", 2000)
    slow_scans: list[Any] = []
    original: Any = scan.Scanner._scan_slowly

    def scan_slowly(scanner: scan.Scanner, file: Any, *arguments: Any) -> Any:
        slow_scans.append(file)
        return original(scanner, file, *arguments)

    monkeypatch.setattr(scan.Scanner, "_scan_slowly", scan_slowly)
    lines = [b'%d,"a, b"\n' % number for number in range(5000)]
    lines[100] = b'100,5" screen\n'
    lines[2500] = b'2500,"' + b"x\r\n" * 3000 + b'"\n'
    data = b"id,v\n" + b"".join(lines)
    assert merged(tmp_path, data) == data
    assert len(slow_scans) <= 4  # for the blocks of the two irregular records only
    assert [row["v"] for row in as_ndjson(data)] == [row["v"] for row in by_csv(data)]
