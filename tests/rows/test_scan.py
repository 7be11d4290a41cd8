"""The fast path and the slow path find the same records, wherever blocks end."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import closing
from io import FileIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bulkpull import Clickwrap
from bulkpull.rows import numpy_scan, scan
from bulkpull.rows.block import Block, Layout, compute_keys, is_outside, layout_of
from bulkpull.rows.records import CsvError, read_header, records, unquote
from bulkpull.rows.scan import Prefetcher, Scanner

pytestmark = pytest.mark.usefixtures("each_fast_path")

START, END = b"2024-01-01T00:00:00.000Z", b"2024-02-01T00:00:00.000Z"
Found = tuple[list[bytes], list[bytes], int] | tuple[int, str]  # records, ids, rows outside; or an error

VALUES = st.one_of(
    st.sampled_from(["", "a", "agreed", "two\nlines", "a,b", 'say "no"', "CR\r\nLF", "é", "2024-01-15T12:00:00.000Z"]),
    st.text(alphabet='ab,"\n\r', max_size=6),
)
INSTANTS = st.sampled_from(
    [
        *("2024-01-15T12:00:00.000Z", "2024-02-01T00:00:00.000Z", "2023-12-31T23:59:59.999Z"),
        *("2024-01-15", "2023-12-15T12:00:00.00xZ", "2023-12-15T12-00:00.000Z", "soon", ""),
    ]
)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Mostly regular files, as the csv module writes them, and some that were modified."""
    ends = draw(st.sampled_from(["\n", "\n", "\n", "\r\n"]))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=ends, quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])))
    header = draw(st.permutations(["id", "created_time", "v"]))
    writer.writerow(header)
    sizes = draw(st.sampled_from([(24, 24), (24, 24), (1, 30)]))
    for _ in range(draw(st.integers(0, 40))):
        row = {"id": draw(st.text(alphabet="0123456789abcdef", min_size=sizes[0], max_size=sizes[1]))}
        row |= {"created_time": draw(INSTANTS), "v": draw(VALUES)}
        writer.writerow([row[name] for name in header])
    data = text.getvalue().encode()
    for _ in range(draw(st.integers(0, 1))):
        at = draw(st.integers(0, len(data)))
        data = (
            data[:at]
            + draw(st.sampled_from([b'"', b",", b"\n", b"\r", b"", b"x"]))
            + data[at + draw(st.integers(0, 3)) :]
        )
    if draw(st.booleans()):
        data = data.removesuffix(ends.encode())
    return (b"\xef\xbb\xbf" if draw(st.booleans()) else b"") + data


def read_slowly(data: bytes) -> Found:
    rows = records([data])
    ids, found, outside = [], [], 0
    try:
        columns = [unquote(field).decode() for field in next(rows, (b"", [], 0))[1]]
        if "id" not in columns or len(set(columns)) < len(columns):
            return (1, "header")
        for number, (raw, fields, _) in enumerate(rows, start=2):
            if len(fields) != len(columns):
                return (number, f"{len(fields)} fields where the header has {len(columns)}")
            id = unquote(fields[columns.index("id")])
            if not id:
                return (number, "the id is empty")
            found.append(raw + b"\n")
            ids.append(id)
            if "created_time" in columns:
                outside += is_outside(unquote(fields[columns.index("created_time")]), START, END)
    except CsvError as error:
        return (error.row, error.reason)
    return found, ids, outside


def scanned(file: FileIO, body: int, layout: Layout) -> Iterator[Block]:
    with closing(Prefetcher()) as prefetcher:
        yield from prefetcher.blocks(Scanner().blocks(file, body, layout, START, END))


def read_by_blocks(path: Path) -> Found:
    ids, found, outside = [], [], 0
    with path.open("rb", buffering=0) as file:
        try:
            columns, body = read_header(file, lambda: None, "id")
            for block in scanned(file, body, layout_of(columns, list(columns), Clickwrap.columns)):
                assert block.starts[0] == 0
                assert (block.ends[:-1] == block.starts[1:]).all()
                assert block.ends[-1] == len(block.data)
                for row, (start, end) in enumerate(zip(block.starts, block.ends, strict=True)):
                    found.append(bytes(block.data[start:end]))
                    ids.append(block.id(row))
                    id = np.frombuffer(ids[-1], np.uint8).reshape(1, -1)
                    assert block.keys[row] == compute_keys(id)[0]
                outside += block.outside
        except CsvError as error:
            if error.row == 1:
                return (1, "header")
            return (error.row, error.reason)
    return found, ids, outside


@given(data=files(), block=st.integers(40, 3000), chunk=st.integers(8, 3000))
@example(data=b"id,v\r\n1,a\r\n2,b\r\n", block=64, chunk=64)
@example(data=b'id,v\r\n1,"a"\r\r\n2,b\r\n', block=64, chunk=64)
@example(data=b'id,v\n1,""\n2,"""a"""\n', block=64, chunk=64)
def test_both_paths_find_the_same_records(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, block: int, chunk: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "scanned.csv"
    path.write_bytes(data)
    expected = read_slowly(data)
    if expected[0] == 1:
        expected = (1, "header")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "BLOCK_BYTES", block)
        patch.setattr(numpy_scan, "_CHUNK_BYTES", chunk)
        assert read_by_blocks(path) == expected


@pytest.mark.parametrize(
    "line",
    [
        b'65920080%016x,"two\nlines, and ""quotes""",x\n',
        b'65920080%016x,,""\n',
        b"65920080%016x,a,b\r\n",
        b'65920080%016x,"two\r\nlines, and ""quotes""","x"\r\n',
        b'"65920080%016x","a, b",""\n',
        b"%x,a,b\n",
    ],
)
def test_regular_files_take_the_fast_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes) -> None:
    monkeypatch.setattr(Scanner, "_scan_slowly", None)
    monkeypatch.setattr(scan, "BLOCK_BYTES", 1000)
    path = tmp_path / "a.csv"
    path.write_bytes(b"id,v,w\n" + b"".join(line % number for number in range(500)))
    lines = [(line % number).removesuffix(b"\r\n").removesuffix(b"\n") + b"\n" for number in range(500)]
    assert read_by_blocks(path) == (lines, [line.split(b",")[0].strip(b'"') for line in lines], 0)


def test_reorders_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'v,id\n"x\ny",1\nz,2\n')
    with path.open("rb", buffering=0) as file:
        columns, body = read_header(file, lambda: None, "id")
        layout = layout_of(columns, ["id", "w", "v"], Clickwrap.columns)
        [block] = scanned(file, body, layout)
    assert bytes(block.data) == b'1,,"x\ny"\n2,,z\n'


def test_keys_are_ordered_by_time_and_distinct() -> None:
    times = [f"{second:08x}{number:016x}".encode() for second in (0x65920080, 0x65920081) for number in range(1000)]
    found = compute_keys(np.frombuffer(b"".join(times), np.uint8).reshape(-1, 24))
    assert len(np.unique(found)) == 2000
    assert found[:1000].max() < found[1000:].min()
    assert (found >> np.uint64(32) == np.repeat([0x65920080, 0x65920081], 1000)).all()
    odd = {size: compute_keys(np.full((1, size), 97, np.uint8))[0] for size in range(1, 70)}
    assert len(set(odd.values())) == 69


def test_a_layout_without_a_width_accepts_ragged_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"id\n1\n2,x\n3,y\n")
    with path.open("rb", buffering=0) as file:
        blocks = list(scanned(file, 3, Layout(None, 0)))
    assert [block.id(row) for block in blocks for row in range(len(block.starts))] == [b"1", b"2", b"3"]
