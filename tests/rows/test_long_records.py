"""The length limit of a record is the same for every reader, wherever the bytes are split."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull import Clickwrap
from bulkpull.rows import records as records_module
from bulkpull.rows import scan
from bulkpull.rows.dedup import Deduplicator
from bulkpull.rows.ndjson import ndjson
from bulkpull.rows.records import CsvError, records
from bulkpull.rows.sink import CsvSink
from tests.rows.test_parquet import write

pytestmark = pytest.mark.usefixtures("each_fast_path")

START, END = b"2024-01-01T00:00:00.000Z", b"2024-02-01T00:00:00.000Z"
LIMIT = 1000  # bytes, instead of MAX_RECORD_BYTES


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records_module, "MAX_RECORD_BYTES", LIMIT)
    monkeypatch.setattr(scan, "BLOCK_BYTES", 300)


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def merge(data: bytes, directory: Path) -> None:
    path = directory / "part"
    path.write_bytes(data)
    sink = CsvSink(directory / "merged", ("id", "v"), fixed=True)
    with closing(sink), closing(Deduplicator(sink, 1_000_000, Clickwrap.columns)) as deduplicator:
        deduplicator.add(path, START, END, lambda: None)
        assert sink.read(0, len(data) + 1) == data.replace(b"\r\n", b"\n")


def resume(data: bytes, directory: Path) -> None:
    path = directory / "merged"
    path.write_bytes(data)
    sink = CsvSink(path, ("id", "v"), fixed=True, offset=len(data))
    with closing(sink), closing(Deduplicator(sink, 1_000_000, Clickwrap.columns)) as deduplicator:
        deduplicator.restore(lambda _: None, lambda: None)


def to_ndjson(data: bytes, _directory: Path) -> None:
    assert sum(piece.count(b"\n") for piece in ndjson([io.BytesIO(data)], key="id", flat=False)) == 3


def to_parquet(data: bytes, directory: Path) -> None:
    path = directory / "rows.parquet"
    write(data, path)
    assert pyarrow.parquet.read_table(path).num_rows == 3


PATHS: list[Callable[[bytes, Path], None]] = [merge, resume, to_ndjson, to_parquet]


def record(size: int, kind: str) -> bytes:
    """A record of `size` bytes."""
    inner = size - len(b'2,""')
    return (
        b"2,"
        + {
            "a bare value": b"x" * (inner + 2),
            "a quoted value": b'"' + b"x" * inner + b'"',
            "lines": b'"' + (b"x\n" * inner)[:inner] + b'"',
            "empty lines": b'"' + b"\n" * inner + b'"',
            "quotes": b'"' + b'""' * (inner // 2) + b"y" * (inner % 2) + b'"',
        }[kind]
    )


KINDS = ["a bare value", "a quoted value", "lines", "empty lines", "quotes"]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_accepts_a_record_at_the_limit_and_rejects_a_longer_one(
    tmp_path: Path, path: Callable[[bytes, Path], None], kind: str, line_end: bytes
) -> None:
    first, last = b"id,v" + line_end + b"1,a" + line_end, line_end + b"3,b" + line_end
    path(first + record(LIMIT, kind) + last, tmp_path)
    with pytest.raises(CsvError, match=r"^row 3: the record is longer than 1,000 bytes"):
        path(first + record(LIMIT + 1, kind) + last, tmp_path)


@given(kind=st.sampled_from(KINDS), size=st.integers(1, 1300), cr=st.booleans(), bom=st.booleans())
def test_the_limit_does_not_depend_on_where_the_bytes_are_split(kind: str, size: int, cr: bool, bom: bool) -> None:
    line_end = b"\r\n" if cr else b"\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records_module, "MAX_RECORD_BYTES", LIMIT)
        begin = b"\xef\xbb\xbf" if bom else b""
        data = begin + record(LIMIT, kind) + line_end + record(LIMIT, kind)
        assert [(len(raw), len(fields)) for raw, fields, _ in records(cut(data, size))] == [(LIMIT, 2)] * 2
        assert [end for _, _, end in records(cut(data + line_end, size))][-1] == len(data + line_end)
        with pytest.raises(CsvError, match="row 1: the record is longer"):
            list(records(cut(begin + record(LIMIT + 1, kind), size)))


@pytest.mark.usefixtures("small")
def test_the_header_has_the_same_limit(tmp_path: Path) -> None:
    with pytest.raises(CsvError, match=r"^row 1: the record is longer than 1,000 bytes"):
        merge(b"id," + b"v" * LIMIT + b"\n", tmp_path)


def endless(piece: bytes) -> Iterator[bytes]:
    """Yield far more than the limit; fail if all of it is read."""
    yield b'id,v\n1,"'
    for _ in range(records_module.MAX_RECORD_BYTES // len(piece) + 2):
        yield piece
    raise AssertionError("read far beyond the limit")


@pytest.mark.parametrize("piece", [b"x" * 1_000_000, b"some text\n" * 100_000])
def test_stops_reading_an_unclosed_quote_at_the_limit(piece: bytes) -> None:
    with pytest.raises(CsvError, match=r"row 2: the record is longer than 67,108,864 bytes"):
        list(records(endless(piece)))


@pytest.mark.parametrize(
    "cell", [b"x" * 20_000_000, b"x\n" * 350_000, b'""' * 1_000_000], ids=["20 MB", "lines", "quotes"]
)
def test_every_format_holds_long_values(tmp_path: Path, cell: bytes) -> None:
    data = b'id,v\n1,a\n2,"' + cell + b'"\n3,b\n'
    merge(data, tmp_path)
    expected = ["a", cell.replace(b'""', b'"').decode(), "b"]
    to_parquet(data, tmp_path)
    assert pyarrow.parquet.read_table(tmp_path / "rows.parquet").column("v").to_pylist() == expected
    lines = b"".join(ndjson([io.BytesIO(data)], key="id", flat=False)).split(b"\n")
    assert [json.loads(line)["v"] for line in lines[:-1]] == expected


def test_deduplicates_very_long_ids(tmp_path: Path) -> None:
    ids = [b"x" * 3_000_000, b"x" * 2_999_999 + b"y"]
    path = tmp_path / "part"
    path.write_bytes(b"id\n" + b"\n".join([*ids, *ids]) + b"\n")
    sink = CsvSink(tmp_path / "merged", ("id",), fixed=True)
    with closing(sink), closing(Deduplicator(sink, 1_000_000, Clickwrap.columns)) as deduplicator:
        merged = deduplicator.add(path, START, END, lambda: None)
    assert (merged.rows, merged.duplicates) == (2, 2)
