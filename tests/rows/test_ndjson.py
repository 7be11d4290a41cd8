"""NDJSON holds the values of the CSV; the csv and json modules are the oracles."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bulkpull.errors import FormatError
from bulkpull.rows import ndjson as module
from bulkpull.rows.ndjson import ndjson
from bulkpull.sandbox.data import csv_value

pytestmark = pytest.mark.usefixtures("each_renderer")

VALUES = st.one_of(
    st.sampled_from(["", "a", "TRUE", "two\nlines", 'say "no"', "C:\\x", "é📝", ':""', ',"', "\x00", "\x7f\u2028"]),
    st.text(alphabet='ab:,"\\\n\r\t\x00\x1fé', max_size=5),
)
COLUMNS = ["id", "created_time", "a.b", "a.c.d", "e", "a.c.f"]


def objects(data: bytes, *, flat: bool = False) -> list[dict[str, Any]]:
    text = b"".join(ndjson([io.BytesIO(data)], key="id", flat=flat)).decode()
    assert text.endswith("\n") or not text
    return [json.loads(line) for line in text.split("\n")[:-1]]


def nested(row: dict[str, str | None]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in row.items():
        *path, leaf = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = value
    return tree


Rows = list[list[str | None]]


@given(st.lists(st.lists(st.one_of(st.none(), VALUES), min_size=5, max_size=5), max_size=30), st.booleans())
@example([["a", ":", ':""', "", None], ['"', "\\", "\x00", '\\"', ""]], False)
def test_keeps_every_value(rows: Rows, quote_all: bool) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(COLUMNS)
    expected = []
    for number, values in enumerate(rows):
        row = [f"{number:024x}", *values]
        expected.append(dict(zip(COLUMNS, row, strict=True)))
        text.write(",".join(csv_field(value, quote_all=quote_all) for value in row) + "\n")
    data = text.getvalue().encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ROWS_PER_CALL", 4)
        assert objects(data, flat=True) == expected
        assert objects(data) == [nested(row) for row in expected]


def csv_field(value: str | None, *, quote_all: bool) -> str:
    if quote_all and value is not None:
        return '"' + value.replace('"', '""') + '"'
    return csv_value(value)


def test_keeps_quotes_inside_an_unquoted_value() -> None:
    assert objects(b'id,v\n1,5" screen\n') == [{"id": "1", "v": '5" screen'}]


def test_keys_follow_the_order_of_columns_grouped_by_object() -> None:
    [line] = ndjson([io.BytesIO(b"id,a.b,c,a.d\n1,2,3,4\n")], key="id", flat=False)
    assert line == b'{"id":"1","a":{"b":"2","d":"4"},"c":"3"}\n'


def test_a_name_stays_flat_if_its_prefix_is_a_column() -> None:
    data = b"a.b.c,id,a.b,.x,y.,a.z\n1,2,3,4,5,6\n"
    assert objects(data) == [{"a.b.c": "1", "id": "2", "a": {"b": "3", "z": "6"}, ".x": "4", "y.": "5"}]


def test_a_file_without_rows_has_no_lines() -> None:
    assert objects(b"id,v\n") == []


@pytest.mark.parametrize("quote", [b"", b'"'])
def test_names_the_cell_that_is_not_valid_utf8(quote: bytes) -> None:
    rows = [b"%024x,a" % number for number in range(3000)]
    rows[2345] = b"%024x,%s\xff%s" % (2345, quote, quote)
    with pytest.raises(FormatError, match=r"row 2,346 \(id 0{21}929\): v is not valid UTF-8") as caught:
        objects(b"id,v\n" + b"\n".join(rows) + b"\n")
    assert caught.value.row == 2346
