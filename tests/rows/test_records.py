"""The CSV parser; Python's csv module in strict mode is the oracle."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bulkpull.rows import records as records_module
from bulkpull.rows.records import CsvError, read_columns, records, unquote

# The characters that matter in CSV, far denser than in real files.
TEXTS = st.text(st.sampled_from(list('",\n\r ab7é')), max_size=60)


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def parsed(data: bytes, size: int = 1 << 20) -> list[list[str]] | None:
    """The values of all records, or None if the bytes are rejected."""
    try:
        return [[unquote(field).decode() for field in fields] for _, fields, _ in records(cut(data, size))]
    except CsvError:
        return None


def oracle(text: str) -> list[list[str]] | None:
    try:
        return [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error:
        return None


@given(text=TEXTS, size=st.integers(1, 70))
@example(text='a,"b\n', size=1)
@example(text='"a""b"\r\n"\n"', size=1)
@example(text='"a"b,c\n', size=3)
@example(text='a"b,c"\n"",', size=2)
@example(text='"a\nb","c\nd"\n', size=2)
@example(text=',,\n\n\r\n,"",\n', size=1)
def test_parses_the_same_records_as_the_csv_module(text: str, size: int) -> None:
    ours = parsed(text.encode(), size)
    if ours is None and "\r" in text.replace("\r\n", ""):
        return  # the csv module takes a bare carriage return as a line end; we reject it
    assert ours == oracle(text)


@given(
    rows=st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), min_size=2, max_size=4), max_size=8
    ),
    size=st.integers(1, 50),
    # Before Python 3.13, csv leaves a carriage return unquoted where the line end is a newline.
    dialect=st.sampled_from([("\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_MINIMAL)]),
    last_line_end=st.booleans(),
    bom=st.booleans(),
)
def test_parses_whatever_the_csv_module_writes(
    rows: list[list[str]], size: int, dialect: tuple[str, int], last_line_end: bool, bom: bool
) -> None:
    line_end, quoting = dialect
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator=line_end, quoting=quoting).writerows(rows)  # type: ignore[arg-type]
    text = file.getvalue()
    data = (b"\xef\xbb\xbf" if bom else b"") + (text if last_line_end else text.removesuffix(line_end)).encode()
    if rows and rows[0][0].startswith("\ufeff") and not bom and quoting == csv.QUOTE_MINIMAL:
        return  # a value that looks like a BOM, at the very start
    assert parsed(data, size) == rows


@given(text=TEXTS)
def test_raw_records_are_the_bytes_of_the_file(text: str) -> None:
    data = text.encode()
    try:
        found = [raw for raw, _, _ in records([data])]
    except CsvError:
        return
    rest = data
    for raw in found:
        rest = rest.lstrip(b"\r\n")
        assert rest.startswith(raw)
        rest = rest[len(raw) :]
    assert not rest.strip(b"\r\n")


def test_distinguishes_an_empty_field_from_a_quoted_empty_one() -> None:
    [(_, fields, _)] = records([b'1,,""\n'])
    assert fields == [b"1", b"", b'""']


@pytest.mark.parametrize(
    ("data", "row", "reason"),
    [
        (b'a,b\n1,"2', 2, "inside quotes"),
        (b'a,b\n1,"2\n3,4\n', 2, "inside quotes"),
        (b'a,b\n\n1,"2"x\n', 2, "stray quote"),
        (b'a,b\n"x\ny"z,1\n', 2, "stray quote"),
        (b"a,b\n1,2\n3\r4,5\n", 3, "carriage return"),
        (b'a,b\n1,"2",3\r4\n', 2, "carriage return"),
    ],
)
def test_names_the_row_of_invalid_csv(data: bytes, row: int, reason: str) -> None:
    for size in (1, 3, 1000):
        with pytest.raises(CsvError, match=reason) as caught:
            list(records(cut(data, size)))
        assert caught.value.row == row


def test_rejects_an_endless_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records_module, "MAX_RECORD_BYTES", 1000)
    for endless in (b'id\n"' + b"x\n" * 2000, b"id\n" + b"x" * 2000):
        with pytest.raises(CsvError, match="longer than 1,000 bytes"):
            list(records(cut(endless, 100)))


def test_reads_the_column_names() -> None:
    rows = records([b'\xef\xbb\xbf"id",b,"c ""d"""\r\n1,2,3\r\n'])
    assert read_columns(rows, "id") == ("id", "b", 'c "d"')
    assert next(rows)[0] == b"1,2,3"


@pytest.mark.parametrize("data", [b"", b"\n\r\n", b"\r", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n\n"])
def test_an_empty_file_has_no_columns(data: bytes) -> None:
    assert read_columns(records(cut(data, 1)), "id") == ()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "begins with.*xml"),
        (b"<html>\n<body>\nSign in", "begins with.*html"),
        (b"ID,signer_id\n", "not a CSV file with the column id"),
        (b"id,a,id\n", "twice"),
        (b"id,\xff\n", "UTF-8"),
    ],
)
def test_rejects_a_file_without_an_id_column(data: bytes, reason: str) -> None:
    with pytest.raises(CsvError, match=reason):
        read_columns(records([data]), "id")
