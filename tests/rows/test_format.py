"""The choice of the output format, by extension and by options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bulkpull import UsageError
from bulkpull.rows import format as formats
from bulkpull.rows.format import Format, format_of


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.csv", Format()),
        ("a", Format()),
        (".activity", Format()),
        ("a.2024.csv", Format()),
        ("a.CSV.GZ", Format(compression="gz")),
        ("a.gz", Format(compression="gz")),
        ("a.csv.zst", Format(compression="zst")),
        ("a.ndjson", Format("ndjson")),
        ("a.jsonl.gz", Format("ndjson", "gz")),
        ("a.parquet", Format("parquet")),
        ("a.pq", Format("parquet")),
        ("a.arrow", Format("arrow")),
        ("a.feather", Format("arrow")),
    ],
)
def test_the_extension_determines_the_format(name: str, format: Format) -> None:
    assert format_of(Path("/somewhere.parquet") / name) == format


def test_an_explicit_format_overrides_the_extension() -> None:
    assert format_of(Path("a.csv"), "ndjson", flat=True) == Format("ndjson", flat=True)
    assert format_of(Path("a.parquet.gz"), "csv") == Format("csv", "gz")
    for odd in ("a.xlsx", "a.csv.bz2", "a.2024"):
        assert format_of(Path(odd), "csv") == Format()
    assert format_of(Path("a"), "parquet", partition_by="month").is_data_set
    assert format_of(Path("a.csv")).is_merged_already
    assert not format_of(Path("a.csv.gz")).is_merged_already


@pytest.mark.parametrize(
    ("name", "extension"),
    [
        ("a.xlsx", ".xlsx"),
        ("a.txt", ".txt"),
        ("a.json", ".json"),
        ("a.TSV", ".tsv"),
        ("a.csv.bz2", ".bz2"),
        ("a.xlsx.gz", ".xlsx"),
        ("activity.2024", ".2024"),
    ],
)
def test_rejects_an_unknown_extension_and_lists_the_formats(name: str, extension: str) -> None:
    with pytest.raises(UsageError, match=rf"\{extension} is not the extension") as refused:
        format_of(Path("/somewhere.csv") / name)
    for known in (".csv", ".ndjson", ".jsonl", ".parquet", ".pq", ".gz", ".zst", "--format csv|ndjson|parquet"):
        assert known in str(refused.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a", {"name": "xlsx"}, "unknown format 'xlsx'.*csv, ndjson, parquet"),
        ("a.parquet.gz", {}, "without .gz"),
        ("a.arrow.zst", {}, "Arrow files are compressed already.*without .zst"),
        ("a.arrow", {"partition_by": "month"}, "works with Parquet only, not with arrow"),
        ("a.csv", {"all_strings": True}, "--all-strings works with Parquet and Arrow only, not with csv"),
        ("a.ndjson", {"partition_by": "month"}, "--partition-by works with Parquet only, not with ndjson"),
        ("a.parquet", {"partition_by": "day"}, "by month or bucket, not by 'day'"),
        ("a.parquet", {"partition_by": "month", "all_strings": True}, "cannot be used with --all-strings"),
        ("a.parquet", {"flat": True}, "--flat works with NDJSON only, not with parquet"),
    ],
)
def test_rejects_contradictory_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        format_of(Path(name), **options)


def test_rejects_parquet_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match=r"pip install 'bulkpull\[parquet\]'"):
        format_of(Path("a.parquet"))
