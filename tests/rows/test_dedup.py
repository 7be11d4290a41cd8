"""Deduplication is exact and keeps the order; Python's csv module is the oracle."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull import Clickwrap
from bulkpull.rows.dedup import Deduplicator, PartStats
from bulkpull.rows.records import CsvError
from bulkpull.rows.sink import CsvSink

MEMORY = 32_000_000  # bytes for ids
START, END = b"2024-01-01T00:00:00.000Z", b"2024-02-01T00:00:00.000Z"
SPECTRUM = Path(__file__).parents[3] / "shared" / "data" / "csv-spectrum"


@contextmanager
def deduplicating(path: Path, columns: Sequence[str] = ("id",), *, fixed: bool = False) -> Iterator[Deduplicator]:
    """A deduplicator that writes to `path` and finishes the file at the end."""
    sink = CsvSink(path, columns, fixed=fixed)
    with closing(sink), closing(Deduplicator(sink, MEMORY, Clickwrap.columns)) as deduplicator:
        yield deduplicator
        sink.finish(lambda: None).replace(path)


def merge(
    directory: Path, *parts: bytes, columns: Sequence[str] = ("id",), fixed: bool = False
) -> tuple[bytes, list[PartStats]]:
    """Merge `parts`; return the output and the counts of each part."""
    output = directory / "output"
    merged = []
    with deduplicating(output, columns, fixed=fixed) as deduplicator:
        for number, part in enumerate(parts):
            path = directory / f"part-{number}"
            path.write_bytes(part)
            merged.append(deduplicator.add(path, START, END, lambda: None))
            deduplicator.keep()
    return output.read_bytes(), merged


def test_keeps_the_first_row_of_each_id_in_order(tmp_path: Path) -> None:
    output, merged = merge(tmp_path, b"id,v\n1,a\n2,b\n1,a\n", b"id,v\n3,c\n2,b\n", b"id,v\n")
    assert output == b"id,v\n1,a\n2,b\n3,c\n"
    assert [(part.rows, part.duplicates, part.conflicts) for part in merged] == [(2, 1, 0), (1, 1, 0), (0, 0, 0)]


def test_keeps_values_byte_for_byte(tmp_path: Path) -> None:
    rows = [
        b'1,"two\nlines"',
        b'2,"with ""quotes"""',
        b"3,007",
        b"4,",
        b'5,""',
        '6,"利用規約, 📝"'.encode(),
        b'7,"CRLF\r\ninside"',
        b'8,"needlessly quoted"',
        b"9,  blanks  ",
        b'10,in"side',
        b"11,\xff\xfe",
    ]
    output, _ = merge(tmp_path, b"id,v\n" + b"\n".join(rows) + b"\n")
    assert output == b"id,v\n" + b"\n".join(rows) + b"\n"


@pytest.mark.parametrize(
    "part", [b"id,v\r\n1,a\r\n2,b\r\n", b"id,v\n1,a\n2,b", b"\xef\xbb\xbfid,v\n1,a\n2,b\n", b"id,v\n\n1,a\n\r\n2,b\n\n"]
)
def test_accepts_any_line_end_a_bom_and_blank_lines(tmp_path: Path, part: bytes) -> None:
    assert merge(tmp_path, part)[0] == b"id,v\n1,a\n2,b\n"


def test_compares_ids_by_value_regardless_of_quoting(tmp_path: Path) -> None:
    output, [merged] = merge(tmp_path, b'id,v\n"1",a\n1,a\n1,"a"\n"a ""b""",x\n"a ""b""",x\n')
    assert output == b'id,v\n"1",a\n"a ""b""",x\n'
    assert (merged.duplicates, merged.conflicts) == (3, 0)


def test_distinguishes_similar_ids(tmp_path: Path) -> None:
    ids = [b"5f88abf5f4689d7295cf1134", b"5F88ABF5F4689D7295CF1134", b"05f88abf5f4689d7295cf1134", b" 5f88abf5f4689d72"]
    assert merge(tmp_path, b"id\n" + b"\n".join(ids))[1][0].rows == len(ids)


def test_counts_repeats_with_other_values_as_conflicts(tmp_path: Path) -> None:
    _, merged = merge(
        tmp_path,
        b'id,v,w\n1,a,\n2,b,""\n3,c,x\n',
        b'id,v,w\n1,a,\n1,a,""\n2,b,\n2,"b",""\n3,c,y\n3,"c",x\n',
    )
    assert (merged[1].duplicates, merged[1].conflicts) == (6, 3)


def test_reads_a_long_row_once_for_all_its_conflicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    original = CsvSink.fields_at

    def count_read(sink: CsvSink, offset: int) -> list[bytes]:
        reads.append(offset)
        return original(sink, offset)

    monkeypatch.setattr(CsvSink, "fields_at", count_read)
    repeats = b"".join(b"1,%d\n" % number for number in range(500))
    _, [_, merged] = merge(tmp_path, b"id,v\n1," + b"x" * 100_000 + b"\n", b"id,v\n" + repeats)
    assert (merged.duplicates, merged.conflicts) == (500, 500)
    assert len(reads) == 1


def test_reorders_the_columns_of_a_part(tmp_path: Path) -> None:
    output, merged = merge(tmp_path, b'id,v,w\n1,a,"b,c"\n', b'w,id,v\n"x\ny",2,z\n"b,c",1,a\n')
    assert output == b'id,v,w\n1,a,"b,c"\n2,z,"x\ny"\n'
    assert (merged[1].duplicates, merged[1].conflicts) == (1, 0)


def test_the_header_is_the_union_of_columns_unless_fixed(tmp_path: Path) -> None:
    output, merged = merge(
        tmp_path,
        b"b,id\n1,x\n",
        b'c,id\n"2\n3",y\n5,x\n',
        b"id,d,b\nz,7,8\n",
        columns=("id", "a"),
    )
    assert output == b'id,a,b,c,d\nx,,1,,\ny,,,"2\n3",\nz,,8,,7\n'
    assert merged[1].conflicts == 1  # the repeat has another c
    assert [part.missing for part in merged] == [("a",), ("a", "b"), ("a", "c")]


def test_a_fixed_header_drops_other_columns(tmp_path: Path) -> None:
    output, merged = merge(tmp_path, b"x,id\n1,2\n", b"id,v\n3,4\n", columns=("id", "v"), fixed=True)
    assert output == b"id,v\n2,\n3,4\n"
    assert (merged[0].missing, merged[0].unasked) == (("v",), ("x",))
    assert (merged[1].missing, merged[1].unasked) == ((), ())


def test_writes_a_header_even_without_parts(tmp_path: Path) -> None:
    assert merge(tmp_path, columns=("id", 'odd "name"'))[0] == b'id,"odd ""name"""\n'


@pytest.mark.parametrize(
    ("part", "row", "reason"),
    [
        (b"id,v\n1,a\n2\n", 3, "1 fields where the header has 2"),
        (b"id,v\n1,a,b\n", 2, "3 fields"),
        (b'id,v\n1,a\n2,"cut', 3, "ends inside quotes: it is truncated"),
        (b"id,v\n,a\n", 2, "the id is empty"),
        (b'id,v\n"",a\n', 2, "the id is empty"),
        (b"<html>", 1, "not a CSV file with the column id"),
    ],
)
def test_names_the_row_of_an_invalid_part(tmp_path: Path, part: bytes, row: int, reason: str) -> None:
    with pytest.raises(CsvError, match=reason) as caught:
        merge(tmp_path, b"id,v\n0,x\n", part)
    assert caught.value.row == row


@pytest.mark.parametrize(
    ("created", "outside"),
    [
        ("2024-01-01T00:00:00.000Z", 0),
        ("2024-01-31T23:59:59.999Z", 0),
        ("2023-12-31T23:59:59.999Z", 1),
        ("2024-02-01T00:00:00.000Z", 1),
        ('"2024-01-15T00:00:00.000Z"', 0),
        ("2024-02-01T00:59:00+01:00", 0),
        ("2024-01-31T23:30:00.0-0100", 1),
        ("2024-01-31", 0),
        ("", 0),
        ("yesterday", 0),
    ],
)
def test_keeps_and_counts_rows_outside_the_window(tmp_path: Path, created: str, outside: int) -> None:
    output, [merged] = merge(tmp_path, f"id,created_time\n1,{created}\n".encode())
    assert output.endswith(f"1,{created}\n".encode())
    assert (merged.rows, merged.outside) == (1, outside)


@pytest.mark.parametrize(
    ("created", "outside"),
    [
        ("0001-01-01T00:00:00+02:00", 1),
        ("9999-12-31T23:59:59.999-02:00", 1),
        ("0000-01-01T00:00:00Z", 0),
        ("2024-01-31T23:59:59.999999999Z", 0),
        ('"2024-01-31T23:59:59,999999999Z"', 0),
        ("2024-02-01T00:00:00.000000Z", 1),
        ('"2023-12-31T23:59:59.999Z"', 1),
        ("2024-01-01T00:30:00+0100", 1),
        ("2024-02-01 00:00:00.000Z", 1),
        ("2024-01-15T12:00:00\x00000Z", 0),
        ("20240115T120000Z", 0),
        ("2024-W01-1T00:00:00.000Z", 0),
    ],
)
def test_compares_instants_of_any_form_with_the_window(tmp_path: Path, created: str, outside: int) -> None:
    data = f"id,created_time\n1,{created}\n"
    for part in (data, data + '2,5" screen\n'):  # the fast path and the slow path
        assert merge(tmp_path, part.encode())[1][0].outside == outside


@pytest.mark.parametrize(
    "empty",
    [b"", b"\n", b"\r\n", b"\n" * 3_000_000, b"\r\n\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n", b"\xef\xbb\xbf\r\n\r\n"],
)
def test_merges_an_empty_file_as_a_part_without_rows(tmp_path: Path, empty: bytes) -> None:
    output, merged = merge(tmp_path, empty, b"id,v\n1,a\n", empty)
    assert output == b"id,v\n1,a\n"
    assert [part.delivered for part in merged] == [0, 1, 0]
    assert merged[0] == merged[2] == PartStats()
    assert merge(tmp_path, empty, columns=("id", "w"), fixed=True) == (b"id,w\n", [PartStats()])


@pytest.mark.parametrize("page", [b" ", b"\n<html></html>", b"v\n1\n", b"\xef\xbb", b"\x00"])
def test_rejects_a_nonempty_file_without_an_id_column(tmp_path: Path, page: bytes) -> None:
    with pytest.raises(CsvError):
        merge(tmp_path, page)


def figures(deduplicator: Deduplicator, path: Path, *parts: bytes) -> list[tuple[int, int, int, int]]:
    """Merge a window's parts; return the counts of each: delivered, rows, duplicates, earlier."""
    counts = []
    for part in parts:
        path.write_bytes(part)
        stats = deduplicator.add(path, START, END, lambda: None)
        counts.append((stats.delivered, stats.rows, stats.duplicates, stats.earlier))
    return counts


def test_counts_an_id_of_an_earlier_window_once_per_window(tmp_path: Path) -> None:
    part = tmp_path / "part"
    with deduplicating(tmp_path / "output", ("id", "v")) as deduplicator:
        first = figures(deduplicator, part, b"id,v\n1,a\n2,b\n2,b\n", b"id,v\n1,a\n3,c\n")
        assert first == [(3, 2, 1, 0), (2, 1, 1, 0)]  # the first window
        deduplicator.keep()
        again = b"id,v\n1,a\n1,a\n1,other\n4,d\n4,d\n"
        second = figures(deduplicator, part, again, b'id,v\n1,a\n4,d\n3,other\n"3",c\n')
        assert second == [(5, 1, 4, 1), (4, 0, 4, 1)]  # id 1, then id 3
        deduplicator.keep()
        assert figures(deduplicator, part, b"id,v\n4,d\n") == [(1, 0, 1, 1)]


def test_counts_the_same_after_a_rollback(tmp_path: Path) -> None:
    part = tmp_path / "part"
    sink = CsvSink(tmp_path / "output", ("id", "v"), fixed=True)
    with closing(sink), closing(Deduplicator(sink, MEMORY, Clickwrap.columns)) as deduplicator:
        figures(deduplicator, part, b"id,v\n1,a\n")
        deduplicator.keep()
        offset = sink.offset
        for _ in range(2):
            assert figures(deduplicator, part, b"id,v\n1,a\n2,b\n", b"id,v\n1,a\n") == [(2, 1, 1, 1), (1, 0, 1, 0)]
            deduplicator.roll_back(offset, ("id", "v"))


@given(data=st.data())
def test_rows_plus_earlier_is_the_number_of_ids_of_a_window(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("windows")
    ids = st.integers(0, 12).map(str)
    windows = data.draw(st.lists(st.lists(st.lists(ids, max_size=8), max_size=3), max_size=4))
    sink = CsvSink(directory / "output", ("id", "v"), fixed=True)
    with closing(sink), closing(Deduplicator(sink, MEMORY, Clickwrap.columns)) as deduplicator:
        for window in windows:
            values = st.sampled_from(["a", "a", "b", '"a"'])
            parts = ["id,v\n" + "".join(f"{id},{data.draw(values)}\n" for id in part) for part in window]
            counts = figures(deduplicator, directory / "part", *(part.encode() for part in parts))
            assert sum(rows + earlier for _, rows, _, earlier in counts) == len({id for part in window for id in part})
            assert all(delivered == rows + duplicates for delivered, rows, duplicates, _ in counts)
            deduplicator.keep()


def test_reports_columns_without_a_value(tmp_path: Path) -> None:
    part = tmp_path / "part"
    with deduplicating(tmp_path / "output", ("id", "a", "b", "c", "d")) as deduplicator:
        assert deduplicator.empty_columns() == ()  # there are no rows
        figures(deduplicator, part, b'id,a,b,c,d\n1,,"",,x\n2,,,"",\n')
        assert deduplicator.empty_columns() == ("a", "b", "c")
        figures(deduplicator, part, b'c,id,e\n,3,\n"5"" screen",4,\n')
        assert deduplicator.empty_columns() == ("a", "b", "e")
        figures(deduplicator, part, b'id,b,a\n5," ",5"\n')
        assert deduplicator.empty_columns() == ("e",)


def test_columns_without_a_value_survive_a_resume_and_a_rollback(
    tmp_path: Path,
) -> None:
    part, output = tmp_path / "part", tmp_path / "output"
    sink = CsvSink(output, ("id",), fixed=False)
    with closing(sink), closing(Deduplicator(sink, MEMORY, Clickwrap.columns)) as deduplicator:
        figures(deduplicator, part, b"id,a,b\n1,x,\n", b"id,a,b,c\n2,,,\n")
        deduplicator.keep()
        offset, columns = sink.offset, tuple(sink.columns)
        figures(deduplicator, part, b"id,b,d\n3,x,y\n")
        assert deduplicator.empty_columns() == ("c",)
        deduplicator.roll_back(offset, columns)
        assert deduplicator.empty_columns() == ("b", "c")
    sink = CsvSink(output, columns, fixed=False, offset=offset)
    with closing(sink), closing(Deduplicator(sink, MEMORY, Clickwrap.columns)) as deduplicator:
        deduplicator.restore(lambda _: None, lambda: None)
        assert deduplicator.empty_columns() == ("b", "c")


class SearchCountingList(list[str]):
    """A list that counts linear searches."""

    searches = 0

    def __contains__(self, value: object) -> bool:
        self.searches += 1
        return super().__contains__(value)

    def index(self, *arguments: Any) -> int:
        self.searches += 1
        return super().index(*arguments)


@pytest.mark.parametrize("reverse", [False, True])
def test_does_not_search_thousands_of_columns_linearly(tmp_path: Path, reverse: bool) -> None:
    names = ["id", *(f"custom_data.v{number}" for number in range(20_000))]
    part = tmp_path / "part"
    sink = CsvSink(tmp_path / "output", names[:2], fixed=False)
    with closing(sink), closing(Deduplicator(sink, MEMORY, Clickwrap.columns)) as deduplicator:
        for number in range(2):
            sink.columns = searched = SearchCountingList(sink.columns)
            header = names[::-1] if reverse and number else names
            rows = [[f"{number}-{row}" if name == "id" else str(row % 10) for name in header] for row in range(20)]
            lines = [",".join(row) for row in (header, *rows)]
            came = figures(deduplicator, part, "\n".join(lines).encode())
            assert came == [(20, 20, 0, 0)]
            assert searched.searches < 10
    with (tmp_path / "output").open(newline="") as file:
        output = list(csv.reader(file))
    assert output == [
        names,
        *([f"{part}-{row}", *([str(row % 10)] * 20_000)] for part in range(2) for row in range(20)),
    ]


def test_a_checkpoint_may_stop_the_merge(tmp_path: Path) -> None:
    calls = iter([None])  # for the header

    def stop() -> None:
        if next(calls, stop) is stop:
            raise KeyboardInterrupt

    path = tmp_path / "part"
    path.write_bytes(b"id\n1\n")
    with pytest.raises(KeyboardInterrupt), deduplicating(tmp_path / "output") as deduplicator:
        deduplicator.add(path, START, END, stop)
    assert (tmp_path / "output").read_bytes() == b"id\n"


def spectrum() -> list[str]:
    return sorted(path.stem for path in (SPECTRUM / "csvs").glob("*.csv"))


@pytest.mark.parametrize("case", spectrum())
def test_csv_spectrum_through_the_merge(tmp_path: Path, case: str) -> None:
    data = (SPECTRUM / "csvs" / f"{case}.csv").read_bytes()
    if case.endswith("_crlf") and b"\r" not in data:  # git may have converted the line ends
        data = data.replace(b"\n", b"\r\n")
    expected = json.loads((SPECTRUM / "json" / f"{case}.json").read_text(encoding="utf-8"))
    first_column, _, rest = data.partition(b",")
    part = b"id," + rest  # the first column is the id: its values differ in every case
    output, merged = merge(tmp_path, part, part)
    rows = csv.DictReader(io.StringIO(output.decode(), newline=""))
    assert [{first_column.decode() if name == "id" else name: row[name] for name in row} for row in rows] == expected
    assert [(one.rows, one.duplicates, one.conflicts) for one in merged] == [
        (len(expected), 0, 0),
        (0, len(expected), 0),
    ]


VALUES = st.text(st.sampled_from(list('ab0",\n é')), max_size=4)
COLUMNS = ("id", "v", "w", "x")


@st.composite
def parts(draw: st.DrawFn) -> list[tuple[tuple[str, ...], list[dict[str, str]], bytes]]:
    """Parts with any of the columns in any order: as rows, and as bytes in one of several CSV dialects."""
    made = []
    for _ in range(draw(st.integers(0, 4))):
        others = draw(st.lists(st.sampled_from(COLUMNS[1:]), unique=True))
        columns = tuple(draw(st.permutations(["id", *others])))
        rows = [
            {column: draw(VALUES.filter(bool)) if column == "id" else draw(VALUES) for column in columns}
            for _ in range(draw(st.integers(0, 6)))
        ]
        file = io.StringIO(newline="")
        quoting: Literal[0, 1] = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
        writer = csv.DictWriter(file, columns, lineterminator=draw(st.sampled_from(["\n", "\r\n"])), quoting=quoting)
        writer.writeheader()
        writer.writerows(rows)
        text = file.getvalue()
        if draw(st.booleans()):
            text = text.removesuffix(writer.writer.dialect.lineterminator)
        made.append((columns, rows, draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.encode()))
    return made


@given(made=parts(), fixed=st.booleans())
def test_output_equals_a_merge_with_the_csv_module(
    tmp_path_factory: pytest.TempPathFactory,
    made: list[tuple[tuple[str, ...], list[dict[str, str]], bytes]],
    fixed: bool,
) -> None:
    output, merged = merge(
        tmp_path_factory.mktemp("merge"), *(data for _, _, data in made), columns=("id", "w"), fixed=fixed
    )
    header = ["id", "w"]
    kept: dict[str, dict[str, str]] = {}
    duplicates = 0
    for columns, rows, _ in made:
        header += [column for column in columns if column not in header and not fixed]
        for row in rows:
            duplicates += row["id"] in kept
            kept.setdefault(row["id"], row)
    assert list(csv.reader(io.StringIO(output.decode(), newline=""), strict=True)) == [
        header,
        *([row.get(column, "") for column in header] for row in kept.values()),
    ]
    assert sum(part.rows for part in merged) == len(kept)
    assert sum(part.duplicates for part in merged) == duplicates


@given(made=parts(), fixed=st.booleans(), data=st.data())
def test_an_interrupted_and_resumed_merge_writes_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    made: list[tuple[tuple[str, ...], list[dict[str, str]], bytes]],
    fixed: bool,
    data: st.DataObject,
) -> None:
    bodies = [body for _, _, body in made]
    killed = [data.draw(st.integers(0, 2), label="runs killed in this part") for _ in bodies]
    damaged = [data.draw(st.booleans(), label="a damaged part before it") for _ in bodies]
    expected, expected_stats = merge(tmp_path_factory.mktemp("straight"), *bodies, columns=("id", "w"), fixed=fixed)
    directory = tmp_path_factory.mktemp("broken")
    path, part = directory / "output", directory / "part"
    offset, columns = 0, ["id", "w"]
    merged: list[PartStats] = []
    for number, body in enumerate(bodies):
        part.write_bytes(body)
        for _ in range(killed[number]):
            sink = CsvSink(path, columns, fixed=fixed, offset=offset)
            with closing(sink), closing(Deduplicator(sink, MEMORY, Clickwrap.columns)) as deduplicator:
                deduplicator.restore(lambda _: None, lambda: None)
                deduplicator.add(part, START, END, lambda: None)  # beyond the committed offset
        sink = CsvSink(path, columns, fixed=fixed, offset=offset)
        with closing(sink), closing(Deduplicator(sink, MEMORY, Clickwrap.columns)) as deduplicator:
            deduplicator.restore(lambda _: None, lambda: None)
            if damaged[number]:
                part.write_bytes(body.rstrip(b"\r\n") + b'\nnew,"')
                with pytest.raises(CsvError):
                    deduplicator.add(part, START, END, lambda: None)
                part.write_bytes(body)
                deduplicator.roll_back(offset, columns)
            merged.append(deduplicator.add(part, START, END, lambda: None))
            sink.sync()
            offset, columns = sink.offset, list(sink.columns)
    sink = CsvSink(path, columns, fixed=fixed, offset=offset)
    output = sink.finish(lambda: None).read_bytes()
    assert sink.finish(lambda: None).read_bytes() == output  # as after a kill before publishing
    sink.close()
    assert output == expected
    assert merged == expected_stats
