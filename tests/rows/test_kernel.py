"""The kernel finds what the strict reader, NumPy and the csv module find, wherever a buffer starts and ends."""

from __future__ import annotations

import csv
import io
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bulkpull.rows.block import Layout, compute_keys, is_outside
from bulkpull.rows.numpy_scan import NumpyBuffer
from bulkpull.rows.records import CsvError, records, unquote

_kernel = pytest.importorskip("bulkpull.rows._kernel")

START, END = b"2024-01-01T00:00:00.000Z", b"2024-02-01T00:00:00.000Z"
WAYS = range(len(_kernel.ways()))
WIDTH, ID, TIME = 4, 1, 2
ROOM = 100  # fields and records; more than any of the small inputs has

CELLS = st.one_of(
    st.sampled_from(
        [
            *("", "a", "agreed", "two\nlines", 'say "no"', "CR\r\nLF", "é", '"', '""', ",", "2024-01-15T12:00:00.000Z"),
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)",
            '{"plan": "team", "seats": 12}',
        ]
    ),
    st.text(alphabet='ab,"\n\r', max_size=6),
)
IDS = st.text(alphabet="0123456789abcdef", min_size=1, max_size=40)
TIMES = st.sampled_from(
    ["2024-01-15T12:00:00.000Z", "2024-02-01T00:00:00.000Z", "2023-12-31T23:59:59.999Z", "2023-12-15", "soon", ""]
)


@st.composite
def plain(draw: st.DrawFn) -> bytes:
    """Records as the csv module writes them."""
    ends, quoting = draw(st.sampled_from(["\n", "\r\n"])), draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=ends, quoting=quoting)  # type: ignore[arg-type]
    for _ in range(draw(st.integers(0, 12))):
        cells = [draw(CELLS), draw(IDS), draw(TIMES), draw(CELLS)]
        if quoting == csv.QUOTE_MINIMAL:  # Python 3.11 does not quote a bare carriage return
            cells = [cell if "\n" in cell else cell.replace("\r", "") for cell in cells]
        writer.writerow(cells)
    return text.getvalue().encode()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = draw(plain())
    at = draw(st.integers(0, len(data)))
    return data[:at] + draw(st.binary(max_size=3) | st.sampled_from([b'"', b",", b"\n", b"\r"])) + data[at + 1 :]


Found = tuple[list[list[bytes]], int, list[int], int]  # fields, bytes used, keys, records outside of the window


def scanned(data: bytes, way: int, alignment: int = 0, *, fields: int = ROOM * WIDTH, rows: int = ROOM) -> Found:
    """What the kernel finds in memory that ends with the data, so that a sanitizer sees each byte that is too many."""
    memory = bytearray(alignment) + data
    view: Any = memoryview(memory)[alignment:]
    separators, keys, others = np.empty(fields, np.int32), np.empty(rows, np.uint64), np.empty(rows, np.int32)
    count, width, used, size, outside, odd = _kernel.scan(
        view, len(data), WIDTH, ID, TIME, START, END, separators, keys, others, way
    )
    assert width == WIDTH
    found: list[list[bytes]] = []
    begin = 0
    for row in separators[: count * WIDTH].reshape(count, WIDTH).tolist():
        found.append([])
        for end in row:
            found[-1].append(bytes(view[begin:end]))
            begin = end + 1
    assert begin == size
    assert bytes(memory[:alignment]) == bytes(alignment)
    assert bytes(view[used:]) == data[used:]
    outside += sum(is_outside(unquote(found[row][TIME]), START, END) for row in others[:odd].tolist())
    return found, used, keys[:count].tolist(), outside


def strictly(data: bytes) -> list[tuple[list[bytes], int]]:
    """The complete records before the first error of the strict reader, and where each ends."""
    found: list[tuple[list[bytes], int]] = []
    try:
        for _, fields, end in records([data], 2):
            if end > len(data) or len(fields) != WIDTH or not unquote(fields[ID]):
                break
            found.append((fields, end))
    except CsvError:
        pass
    return found


@given(data=plain() | damaged(), way=st.sampled_from(WAYS), alignment=st.integers(0, 70))
@example(data=b'x"y,1,,\r\n"a\r\nb",2,,\r\n', way=0, alignment=0)
@example(data=b"a,1,,\r\r\n", way=0, alignment=0)
@example(data=b'"a",1,,""x\n', way=0, alignment=0)
def test_finds_only_what_the_strict_reader_finds(data: bytes, way: int, alignment: int) -> None:
    expected = strictly(data)
    found, used, keys, outside = scanned(data, way, alignment)
    assert found == [fields for fields, _ in expected[: len(found)]]
    assert used == (expected[len(found) - 1][1] if found else 0)
    ids = [unquote(fields[ID]) for fields in found]
    assert keys == [int(compute_keys(np.frombuffer(id, np.uint8).reshape(1, -1))[0]) for id in ids]
    assert outside == sum(is_outside(unquote(fields[TIME]), START, END) for fields in found)


@given(data=plain(), way=st.sampled_from(WAYS), alignment=st.integers(0, 70))
def test_finds_all_that_the_csv_module_writes(data: bytes, way: int, alignment: int) -> None:
    found, used, _, _ = scanned(data, way, alignment)
    assert used == len(data)
    rows = list(csv.reader(io.StringIO(data.decode(), newline=""), strict=True))
    assert [[unquote(field).decode() for field in fields] for fields in found] == rows


@given(data=plain(), way=st.sampled_from(WAYS), end=st.floats(0, 1))
def test_takes_whole_records_only(data: bytes, way: int, end: float) -> None:
    whole, _, _, _ = scanned(data, way)
    cut = data[: int(end * len(data))]
    found, used, _, _ = scanned(cut, way)
    assert found == whole[: len(found)]
    rest, _, _, _ = scanned(data[used:], way)
    assert found + rest == whole


@given(data=plain() | damaged(), way=st.sampled_from(WAYS))
def test_finds_what_numpy_finds(data: bytes, way: int) -> None:
    if not data:
        return
    buffer = NumpyBuffer(len(data) + 100)
    buffer.data[: len(data)] = data
    block, used, have = buffer.scan(len(data), Layout(WIDTH, ID, TIME), START, END)
    if block:  # NumPy leaves all records to the strict reader where it must read one
        found, kernel_used, keys, outside = scanned(data, way)
        assert b"".join(b",".join(fields) + b"\n" for fields in found) == bytes(block.data)
        assert (keys, outside) == (block.keys.tolist(), block.outside)
        assert len(data) - kernel_used == have - used


def test_every_split_of_a_large_block_gives_the_same_records() -> None:
    line = (
        b'"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)",%024x,2024-01-15T12:00:00.000Z,%s\n'
    )
    cells = (b"", b'"two\nlines"', b'"{""a"": 1}"', b"agreed")
    data = b"".join(line % (number, cells[number % 4]) for number in range(90))
    whole, used, _, _ = scanned(data, -1)
    assert (len(whole), used) == (90, len(data))
    for way in WAYS:
        for end in range(0, len(data), 7):
            found, used, _, _ = scanned(data[:end], way)
            assert found == whole[: len(found)]
            assert data.count(b"Z,", 0, end) - len(found) in (0, 1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("fields", "rows", "expected"), [(4, 9, 1), (7, 9, 1), (8, 9, 2), (0, 9, 0), (40, 2, 2), (40, 0, 0)]
)
def test_stops_where_there_is_no_room_for_more(way: int, fields: int, rows: int, expected: int) -> None:
    data = b"".join(b"a,%d,,\n" % number for number in range(9))
    found, used, _, _ = scanned(data, way, fields=fields, rows=rows)
    assert len(found) == expected
    assert used == len(b"a,0,,\n") * expected


@pytest.mark.parametrize("way", WAYS)
def test_takes_the_width_of_the_first_record(way: int) -> None:
    data = bytearray(b"1,a\n2,b\n3\n")
    separators, keys, others = np.empty(9, np.int32), np.empty(9, np.uint64), np.empty(9, np.int32)
    assert _kernel.scan(data, len(data), 0, 0, -1, b"", b"", separators, keys, others, way) == (2, 2, 8, 8, 0, 0)
    assert _kernel.scan(data, len(data), 0, 2, -1, b"", b"", separators, keys, others, way)[0] == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 99},
        {"size": -1},
        {"width": -1},
        {"key_at": 3},
        {"key_at": -1},
        {"time_at": 3},
        {"time_at": -2},
        {"start": b""},
        {"way": 99},
        {"keys": bytearray(7)},
    ],
)
def test_refuses_what_would_lead_out_of_the_buffers(wrong: dict[str, Any]) -> None:
    given = {"data": bytearray(9), "size": 9, "width": 3, "key_at": 0, "time_at": 1, "start": START, "end": END}
    given |= {"separators": bytearray(40), "keys": bytearray(80), "others": bytearray(40), "way": -1}
    assert _kernel.scan(*given.values())[0] == 0
    with pytest.raises(ValueError, match=r"out of range|not a multiple"):
        _kernel.scan(*(given | wrong).values())


def test_refuses_memory_that_cannot_be_written() -> None:
    with pytest.raises(BufferError):
        _kernel.scan(b"a", 1, 1, 0, -1, b"", b"", bytearray(4), bytearray(8), bytearray(4), -1)


ORDERS = st.lists(st.integers(-1, WIDTH - 1), min_size=1, max_size=7).filter(
    lambda order: len({column for column in order if column >= 0}) == len([column for column in order if column >= 0])
)


@given(data=plain(), order=ORDERS)
def test_copies_records_in_another_order(data: bytes, order: list[int]) -> None:
    memory = bytearray(data)
    separators, keys, others = np.empty(ROOM * WIDTH, np.int32), np.empty(ROOM, np.uint64), np.empty(ROOM, np.int32)
    rows, _, _, size, _, _ = _kernel.scan(memory, len(data), WIDTH, ID, TIME, START, END, separators, keys, others, -1)
    fields, _, _, _ = scanned(data, -1)
    expected = b"".join(b",".join(row[at] if at >= 0 else b"" for at in order) + b"\n" for row in fields)
    out, ends = bytearray(size + rows * len(order)), np.empty(rows * len(order), np.int32)
    found = separators[: rows * WIDTH]
    written = _kernel.reorder(memory[:size], found, WIDTH, np.array(order, np.int32), out, ends)
    assert out[:written] == expected
    begin = 0
    for number, end in enumerate(ends.tolist()):
        row, at = divmod(number, len(order))
        assert out[begin:end] == (fields[row][order[at]] if order[at] >= 0 else b"")
        begin = end + 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"order": [4]},
        {"order": [-2]},
        {"order": [0, 0]},
        {"order": []},
        {"width": 0},
        {"width": 3},
        {"out": bytearray(1)},
        {"ends": bytearray(4)},
        {"separators": [0, 1, 2, 99]},
        {"separators": [2, 1, 2, 3]},
    ],
)
def test_refuses_an_order_that_would_lead_out_of_the_buffers(wrong: dict[str, Any]) -> None:
    given = {"data": b",,,\n", "separators": [0, 1, 2, 3], "width": 4, "order": [3, 0], "out": bytearray(6)}
    given |= {"ends": bytearray(8)}
    for numbers in (given, wrong):
        numbers |= {name: np.array(numbers[name], np.int32) for name in ("separators", "order") if name in numbers}
    assert _kernel.reorder(*given.values()) == 2
    with pytest.raises(ValueError, match="out of range"):
        _kernel.reorder(*(given | wrong).values())


@pytest.mark.parametrize(
    "wrong", [{"offsets": [-1]}, {"offsets": [9]}, {"starts": [-1]}, {"ends": [9]}, {"ends": [0, 1]}]
)
def test_compares_no_rows_outside_of_the_block(wrong: dict[str, list[int]]) -> None:
    given = {"offsets": [0], "starts": [1], "ends": [3]}

    def equal(numbers: dict[str, list[int]]) -> int:
        result = bytearray(1)
        offsets, starts, ends = (np.array(numbers[name], np.int64) for name in ("offsets", "starts", "ends"))
        _kernel.equal(-1, offsets, b"aaab", starts, ends, result)
        return result[0]

    assert equal(given) == 1
    with pytest.raises(ValueError, match="out of range"):
        equal(given | wrong)


PADDING = 16  # bytes after each column of texts, and after the constant text of lines
Cells = list[list[bytes]]


def located(data: bytes) -> tuple[Cells, Any]:
    """The fields of records as the csv module writes them, and where they end after line ends have become LF."""
    fields, _, _, _ = scanned(data, -1)
    sizes = [len(field) + 1 for row in fields for field in row]
    return fields, np.cumsum(np.array(sizes, np.int32), dtype=np.int32) - np.int32(1)


def joined(fields: Cells) -> bytes:
    return b"".join(b",".join(row) + b"\n" for row in fields)


@given(data=plain(), time_at=st.sampled_from([-1, TIME]))
@example(data=b'"""",1,"""a""",""\n"a""b",2,,5\n' + b'"long ""enough"" for a copy of 16 bytes",1,,\n' * 70, time_at=-1)
def test_copies_the_values_of_each_column(data: bytes, time_at: int) -> None:
    fields, separators = located(data)
    raw, rows = joined(fields), len(fields)
    offsets, validity = np.empty(WIDTH * (rows + 1), np.int32), np.empty((WIDTH * rows + 7) // 8, np.uint8)
    texts, instants = bytearray(len(raw) + WIDTH * PADDING), np.empty(rows, np.int64)
    valid_instants = np.empty((rows + 7) // 8, np.uint8)
    nulls, has_instants = _kernel.columns(
        raw, separators, WIDTH, time_at, offsets, validity, texts, instants, valid_instants
    )
    bits = np.unpackbits(validity, bitorder="little")
    for column, ends in enumerate(offsets.reshape(WIDTH, rows + 1).tolist()):
        cells = [row[column] for row in fields]
        assert [bool(bit) for bit in bits[column * rows : (column + 1) * rows]] == [bool(cell) for cell in cells]
        if column != TIME or not has_instants:
            values = [bytes(texts[begin:end]) for begin, end in itertools.pairwise(ends)]
            assert values == [unquote(cell) for cell in cells]
    assert nulls == sum(not cell for row in fields for cell in row)
    times = [unquote(row[TIME]).decode() if row[TIME] else None for row in fields]
    assert has_instants == (time_at == TIME and all(time is None or len(time) == 24 for time in times))
    if has_instants:
        assert [bool(bit) for bit in np.unpackbits(valid_instants, bitorder="little")[:rows]] == [
            time is not None for time in times
        ]
        assert instants.tolist() == [0 if time is None else milliseconds(time) for time in times]


def milliseconds(time: str) -> int:
    return (datetime.fromisoformat(time) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def instants_of(times: list[bytes]) -> list[int] | None:
    data = b"".join(time + b"\n" for time in times)
    ends = np.cumsum([len(time) + 1 for time in times], dtype=np.int32) - np.int32(1)
    found, bits = np.empty(len(times), np.int64), np.empty(len(times), np.uint8)
    offsets, texts = np.empty(len(times) + 1, np.int32), bytearray(len(data) + PADDING)
    _, has_instants = _kernel.columns(data, ends, 1, 0, offsets, bits.copy(), texts, found, bits)
    return found.tolist() if has_instants else None


@given(st.lists(st.datetimes(), min_size=1, max_size=20), st.booleans())
@example([datetime(1, 1, 1), datetime(2000, 2, 29), datetime(1900, 3, 1), datetime(9999, 12, 31, 23, 59, 59)], False)
def test_reads_instants_in_canonical_form(times: list[datetime], quoted: bool) -> None:
    texts = [f"{time.isoformat(timespec='milliseconds')}Z" for time in times]
    cells = [f'"{text}"' if quoted else text for text in texts]
    assert instants_of([cell.encode() for cell in cells]) == [milliseconds(text) for text in texts]


@pytest.mark.parametrize(
    "odd",
    [
        *("0000-01-01T00:00:00.000Z", "2024-00-01T00:00:00.000Z", "2024-13-01T00:00:00.000Z"),
        *("2024-01-00T00:00:00.000Z", "2024-04-31T00:00:00.000Z", "2023-02-29T00:00:00.000Z"),
        *("1900-02-29T00:00:00.000Z", "2024-01-01T24:00:00.000Z", "2024-01-01T00:60:00.000Z"),
        *("2024-01-01T00:00:60.000Z", "2024-01-01T00:00:00.00Z", "2024-01-01T00:00:00.0000Z", '""', "soon"),
        *("2024-01-01T00:00:00.000z", "2024-01-01 00:00:00.000Z", "2024-01-01T00:00:00.0:0Z", '"'),
    ],
)
def test_leaves_all_other_times_as_texts(odd: str) -> None:
    noon = b"2024-02-29T12:00:00.000Z"
    assert instants_of([noon, b"", noon]) == [1_709_208_000_000, 0, 1_709_208_000_000]
    assert instants_of([noon, odd.encode(), noon]) is None


@given(
    st.lists(st.binary(max_size=5) | st.text(max_size=5).map(str.encode) | st.just(b"a" * 61), max_size=12),
    st.sampled_from([b"", b"\xff", b"\xed\xa0\x80", b"\xc3", b"\xf0\x9f\x93", b"\xf4\x90\x80\x80", b"\xe0\x9f\xbf"]),
)
def test_finds_the_first_byte_that_is_not_utf8(parts: list[bytes], odd: bytes) -> None:
    data = b"".join([*parts, odd])
    try:
        data.decode()
        expected = -1
    except UnicodeDecodeError as error:
        expected = error.start
    assert _kernel.invalid_utf8(bytearray(data)) == expected


def test_finds_each_sequence_of_bytes_that_is_not_utf8() -> None:
    seconds, thirds = (0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF), (0x7F, 0x80, 0xBF, 0xC0)
    for sequence in itertools.product(range(0x80, 0x100), seconds, thirds, thirds):
        data = bytes(sequence)
        try:
            data.decode()
            expected = -1
        except UnicodeDecodeError as error:
            expected = error.start
        assert _kernel.invalid_utf8(data) == expected, data


BETWEEN = (b"<", b"", b" and a constant longer than 16 bytes ", b">\n")


def lines_of(data: bytes, separators: Any, order: list[int], size: int) -> bytes:
    """All lines, written into `size` bytes at a time."""
    rows, row, found = len(separators) // WIDTH, 0, b""
    ends = np.cumsum([len(text) for text in BETWEEN], dtype=np.int32)
    while row < rows:
        out = bytearray(size)
        first = row
        row, written = _kernel.json_lines(
            data, separators, WIDTH, row, np.array(order, np.int32), b"".join(BETWEEN) + bytes(PADDING), ends, out
        )
        assert row > first, "a line does not fit"
        found += out[:written]
    return found


@given(
    data=plain(),
    order=st.sampled_from([[0, 1, 3], [3, 2, 0]]),
    text=st.text(alphabet='a"\\\n\r\t\b\f\x00\x1f\x7fé📝\u2028', max_size=30),
)
@example(data=b"", order=[0, 1, 3], text="".join(map(chr, range(0x80))))
def test_writes_lines_of_json(data: bytes, order: list[int], text: str) -> None:
    fields, _ = located(data)
    fields.append([text.encode().replace(b'"', b""), b"1", b"", b'"' + text.encode().replace(b'"', b'""') + b'"'])
    ends = np.cumsum([len(field) + 1 for row in fields for field in row], dtype=np.int32) - np.int32(1)
    raw, expected = joined(fields), b""
    for row in fields:
        values = [orjson.dumps(unquote(row[at]).decode()) if row[at] else b"null" for at in order]
        expected += b"".join(itertools.chain(*zip(BETWEEN, values, strict=False))) + BETWEEN[-1]
    most = max(6 * sum(len(field) + 1 for field in row) for row in fields) + len(b"".join(BETWEEN)) + PADDING
    assert lines_of(raw, ends, order, most) == expected
    assert lines_of(raw, ends, order, most * len(fields)) == expected


def test_writes_no_line_that_may_not_fit() -> None:
    data, ends = b"a,1,,\n", np.array([1, 3, 4, 5], np.int32)
    most = 6 * len(data) + len(b"".join(BETWEEN)) + PADDING
    assert lines_of(data, ends, [0, 1, 2], most) == b'<"a""1" and a constant longer than 16 bytes null>\n'
    with pytest.raises(AssertionError, match="does not fit"):
        lines_of(data, ends, [0, 1, 2], most - 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"separators": [0, 1, 2, 99]},
        {"separators": [2, 1, 2, 3]},
        {"separators": [-1, 1, 2, 3]},
        {"width": 0},
        {"width": 3},
        {"time_at": 4},
        {"time_at": -2},
        {"offsets": bytearray(28)},
        {"validity": bytearray()},
        {"texts": bytearray(4 + 4 * PADDING - 1)},
        {"instants": bytearray()},
        {"instant_validity": bytearray()},
    ],
)
def test_refuses_columns_that_would_lead_out_of_the_buffers(wrong: dict[str, Any]) -> None:
    given = {"data": b",,,\n", "separators": [0, 1, 2, 3], "width": 4, "time_at": 1, "offsets": bytearray(32)}
    given |= {"validity": bytearray(1), "texts": bytearray(4 + 4 * PADDING), "instants": bytearray(8)}
    given |= {"instant_validity": bytearray(1)}
    for numbers in (given, wrong):
        numbers |= {"separators": np.array(numbers["separators"], np.int32)} if "separators" in numbers else {}
    assert _kernel.columns(*given.values()) == (4, True)
    with pytest.raises(ValueError, match="out of range"):
        _kernel.columns(*(given | wrong).values())


@pytest.mark.parametrize(
    "wrong",
    [
        {"separators": [0, 1, 2, 99]},
        {"separators": [2, 1, 2, 3]},
        {"width": 0},
        {"width": 3},
        {"row": 2},
        {"row": -1},
        {"order": [4]},
        {"order": [-1]},
        {"order": [0, 1]},
        {"order": [0, 0], "between_ends": [1, 1, 2]},
        {"between": b"<>" + bytes(PADDING - 1)},
        {"between_ends": [2, 1]},
        {"between_ends": [-1, 2]},
        {"between_ends": [1, 3]},
    ],
)
def test_refuses_lines_that_would_lead_out_of_the_buffers(wrong: dict[str, Any]) -> None:
    given = {"data": b",,,\n", "separators": [0, 1, 2, 3], "width": 4, "row": 0, "order": [3]}
    given |= {"between": b"<>" + bytes(PADDING), "between_ends": [1, 2], "out": bytearray(99)}
    for numbers in (given, wrong):
        for name in {"separators", "order", "between_ends"} & numbers.keys():
            numbers[name] = np.array(numbers[name], np.int32)
    assert _kernel.json_lines(*given.values()) == (1, 6)
    with pytest.raises(ValueError, match="out of range"):
        _kernel.json_lines(*(given | wrong).values())
