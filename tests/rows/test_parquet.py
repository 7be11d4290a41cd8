"""Parquet holds the values of the CSV, with times as timestamps."""

from __future__ import annotations

import io
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull import Clickwrap
from bulkpull.errors import FormatError
from bulkpull.rows import parquet as module
from bulkpull.rows import scan
from bulkpull.rows.parquet import write_parquet
from tests.rows.test_ndjson import VALUES, csv_field

pytestmark = pytest.mark.usefixtures("each_renderer")

PROVENANCE = {"start": "2024-01-01T00:00:00.000Z", "rows": "3"}
NOON = "2024-01-15T12:00:00.000Z"


def write(data: bytes, path: Path, *, all_strings: bool = False, partition_by: str | None = None) -> None:
    def provenance() -> Mapping[str, str]:
        return PROVENANCE

    write_parquet(
        io.BytesIO(data),
        path,
        columns=Clickwrap.columns,
        all_strings=all_strings,
        partition_by=partition_by,
        provenance=provenance,
        checkpoint=lambda: None,
    )


def table(rows: list[tuple[str, str]]) -> bytes:
    return b"id,created_time,v\n" + b"".join(f"{id},{created},x\n".encode() for id, created in rows)


@given(st.lists(st.lists(st.one_of(st.none(), VALUES), min_size=2, max_size=2), max_size=30), st.booleans())
def test_keeps_every_value(tmp_path_factory: pytest.TempPathFactory, rows: list[Any], quote_all: bool) -> None:
    expected = [{"id": f"{number:024x}", "a": a, "b.c": b} for number, (a, b) in enumerate(rows)]
    lines = [",".join(csv_field(value, quote_all=quote_all) for value in row.values()) for row in expected]
    data = "".join(f"{line}\n" for line in ("id,a,b.c", *lines)).encode()
    path = tmp_path_factory.mktemp("parquet") / "a.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROW_GROUP_BYTES", 300)
        write(data, path)
        first = path.read_bytes()
        assert pyarrow.parquet.read_table(path).to_pylist() == expected
        write(data, path)
        assert path.read_bytes() == first


def test_times_are_timestamps_and_the_metadata_holds_the_provenance(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(table([("1", "2024-01-15T12:00:00.123Z"), ("2", "2024-01-15T14:00:00+02:00"), ("3", "")]), path)
    read = pyarrow.parquet.ParquetFile(path)
    assert [field.type for field in read.schema_arrow] == [pa.string(), pa.timestamp("ms", "UTC"), pa.string()]
    noon = datetime(2024, 1, 15, 12, tzinfo=UTC)
    assert read.read().column("created_time").to_pylist() == [noon + timedelta(milliseconds=123), noon, None]
    metadata = read.metadata.metadata
    assert metadata[b"bulkpull.start"] == b"2024-01-01T00:00:00.000Z"
    assert metadata[b"bulkpull.rows"] == b"3"


@pytest.mark.parametrize(
    ("created", "milliseconds"),
    [
        ("2024-02-01T00:00:00.123000Z", 1_706_745_600_123),
        ("2024-02-01T00:00:00.123000000Z", 1_706_745_600_123),
        ('"2024-02-01T00:00:00,123Z"', 1_706_745_600_123),
        ("20240201T020000.123+0200", 1_706_745_600_123),
        ("2024-W05-4T00:00:00Z", 1_706_745_600_000),
        ("2024-01-31T24:00Z", 1_706_745_600_000),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000),
        ("0001-01-01T02:00:00+02:00", -62_135_596_800_000),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
        ("9999-12-31T21:59:59.999000-02:00", 253_402_300_799_999),
    ],
)
def test_converts_every_form_of_iso_8601(tmp_path: Path, created: str, milliseconds: int) -> None:
    rows = [("1", NOON), ("2", created), ("3", "")]
    write(table(rows), tmp_path / "a.parquet")
    column = pyarrow.parquet.read_table(tmp_path / "a.parquet").column("created_time")
    assert column.type == pa.timestamp("ms", "UTC")
    assert [instant.value for instant in column] == [1_705_320_000_000, milliseconds, None]
    write(table(rows), tmp_path / "set", partition_by="month")
    month = created.strip('"')[:7] if "-" in created and "W" not in created else "2024-02"
    month = "2024-02" if "24:00" in created else month
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == sorted(
        ["month=2024-01", f"month={month}", "month=__HIVE_DEFAULT_PARTITION__"]
    )
    read = pyarrow.parquet.ParquetFile(tmp_path / "set" / f"month={month}" / "activity.parquet").read()
    assert [instant.value for instant in read.column("created_time")] == [milliseconds]


@pytest.mark.parametrize(
    ("created", "reason"),
    [
        ("2024-01-15T12:00:00.1234Z", "is not an instant in whole milliseconds"),
        ("2024-01-15T12:00:00.123000001Z", "is not an instant in whole milliseconds"),
        ("2024-01-15T12:00:00.1230000001Z", "is not an instant"),
        ("0000-01-01T00:00:00Z", "is not an instant"),
        ("0000-01-01T00:00:00.000Z", "is not an instant"),
        ("0001-01-01T00:00:00+02:00", "is not within the years 1 to 9999"),
        ("9999-12-31T23:59:59.999-02:00", "is not within the years 1 to 9999"),
        ("2024-01-15T12:00:00+25:00", "is not an instant"),
        ("2024-01-15T12:00:00", "is not an instant with a date, a time and an offset"),
    ],
)
@pytest.mark.parametrize("partition_by", [None, "month"])
def test_rejects_times_that_parquet_cannot_hold_and_suggests_a_remedy(
    tmp_path: Path, created: str, reason: str, partition_by: str | None
) -> None:
    data = table([("1", NOON), ("odd", created), ("3", "")])
    with pytest.raises(FormatError) as caught:
        write(data, tmp_path / "a", partition_by=partition_by)
    message = str(caught.value)
    assert message.startswith(f"row 2 (id odd): created_time '{created}' {reason}")
    assert "--all-strings" in message
    assert ("--partition-by" in message) == (partition_by is not None)
    write(data, tmp_path / "a.parquet", all_strings=True)
    read = pyarrow.parquet.read_table(tmp_path / "a.parquet").column("created_time").to_pylist()
    assert read == [NOON, created, None]


@pytest.mark.parametrize("created", ["soon", "2024-01-15", "2024-01-15T12:00:00.1234Z", "2024-02-30T12:00:00Z", '""'])
def test_names_the_row_of_an_invalid_time_unless_all_are_strings(tmp_path: Path, created: str) -> None:
    rows = [(f"{number:024x}", NOON) for number in range(20_000)]
    rows[12_345] = ("odd", created)
    value = created.strip('"')
    message = rf"row 12,346 \(id odd\): created_time '{value}' is not an instant"
    with pytest.raises(FormatError, match=message) as caught:
        write(table(rows), tmp_path / "a.parquet")
    assert caught.value.row == 12_346
    write(table(rows), tmp_path / "a.parquet", all_strings=True)
    assert pyarrow.parquet.read_table(tmp_path / "a.parquet").column("created_time")[12_345].as_py() == value


def test_names_the_cell_that_is_not_valid_utf8(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"row 2 \(id 2\): v is not valid UTF-8"):
        write(b"id,v\n1,\xc3\xa9\n2,\xff\n", tmp_path / "a.parquet")


def test_writes_a_record_longer_than_a_block(tmp_path: Path) -> None:
    long = "x\n" * scan.BLOCK_BYTES
    write(f'id,v\n1,a\n2,"{long}"\n3,b\n'.encode(), tmp_path / "a.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "a.parquet").column("v").to_pylist() == ["a", long, "b"]


def test_row_groups_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROW_GROUP_BYTES", 1_000_000)
    monkeypatch.setattr(scan, "BLOCK_BYTES", 256 * 1024)
    write(table([(f"{number:024x}", NOON) for number in range(60_000)]), tmp_path / "a.parquet")
    metadata = pyarrow.parquet.ParquetFile(tmp_path / "a.parquet").metadata
    sizes = [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)]
    assert sum(sizes) == 60_000
    assert len(sizes) > 1
    assert max(sizes) < 40_000


def test_only_repetitive_columns_have_a_dictionary(tmp_path: Path) -> None:
    rows = "".join(f"{number:024x},{NOON},{number},{number % 7}\n" for number in range(1000))
    write(f"id,created_time,serial,kind\n{rows}".encode(), tmp_path / "a.parquet")
    group = pyarrow.parquet.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0)
    has_dictionary = {
        column.path_in_schema: column.has_dictionary_page for column in map(group.column, range(group.num_columns))
    }
    assert has_dictionary == {"id": False, "created_time": False, "serial": False, "kind": True}


def test_writes_one_file_per_month(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROW_GROUP_BYTES", 10_000)  # so that several months are buffered at once
    rows = [(f"{number:024x}", f"2024-{number % 3 + 1:02d}-15T12:00:00.000Z") for number in range(900)]
    rows.insert(300, ("no-time", ""))
    write(table(rows), tmp_path / "set", partition_by="month")
    months = sorted(path.name for path in (tmp_path / "set").iterdir())
    assert months == ["month=2024-01", "month=2024-02", "month=2024-03", "month=__HIVE_DEFAULT_PARTITION__"]
    read = pyarrow.dataset.dataset(tmp_path / "set", partitioning="hive").to_table().to_pylist()
    assert len(read) == 901
    for row in read:
        assert row["month"] == (row["created_time"].strftime("%Y-%m") if row["created_time"] else None)
    january = pyarrow.parquet.ParquetFile(tmp_path / "set" / "month=2024-01" / "activity.parquet")
    assert january.read().column("id").to_pylist() == [id for id, created in rows if created.startswith("2024-01")]
    assert january.metadata.metadata[b"bulkpull.rows"] == b"3"


def test_a_partitioned_output_without_rows_is_readable(tmp_path: Path) -> None:
    write(table([]), tmp_path / "set", partition_by="month")
    assert pyarrow.parquet.read_table(tmp_path / "set").num_rows == 0


def test_rejects_too_many_months(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PARTITIONS", 3)
    rows = [(str(month), f"2024-{month:02d}-15T12:00:00.000Z") for month in range(1, 6)]
    with pytest.raises(FormatError, match="month 4"):
        write(table(rows), tmp_path / "set", partition_by="month")
