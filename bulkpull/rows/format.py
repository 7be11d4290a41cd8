"""What the output looks like: CSV as it was merged, or another format that is rendered from it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bulkpull.errors import UsageError

FORMATS = ("csv", "ndjson", "parquet")
PARTITIONS = ("month",)
DATA_SET_FILE = "activity.parquet"  # in the directory of a month
_SUFFIXES = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson", ".parquet": "parquet", ".pq": "parquet"}
_COMPRESSIONS = {".gz": "gz", ".zst": "zst"}
_KNOWN = ".csv, .ndjson or .jsonl (each also with .gz or .zst behind it), .parquet or .pq"


@dataclass(frozen=True, slots=True)
class Format:
    """`name` is one of FORMATS; `compression` is gz, zst or empty (Parquet compresses itself). `flat` keeps NDJSON's
    dotted names, `all_strings` Parquet's times as text; `partition_by` makes Parquet a directory of files."""

    name: str = "csv"
    compression: str = ""
    flat: bool = False
    all_strings: bool = False
    partition_by: str | None = None

    @property
    def is_merged_already(self) -> bool:
        """Whether the merge's own file is the output, as it stands."""
        return self == Format()

    @property
    def is_data_set(self) -> bool:
        """Whether the output is a directory of files."""
        return self.partition_by is not None


def format_of(
    path: Path,
    name: str | None = None,
    *,
    flat: bool = False,
    all_strings: bool = False,
    partition_by: str | None = None,
) -> Format:
    """The format with a `name`, or else the one of the path's extension. CSV where there is neither.

    Raises UsageError for an unknown extension without a `name`, for options that contradict each other, and where a
    library is missing.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix != "."]
    compression = _COMPRESSIONS.get(suffixes[-1], "") if suffixes else ""
    if compression:
        suffixes.pop()
    if name is None and suffixes and suffixes[-1] not in _SUFFIXES:
        raise UsageError(
            f"{path.name}: {suffixes[-1]} is not the extension of a format. Use {_KNOWN}, "
            f"or choose the format with --format {'|'.join(FORMATS)}"
        )
    name = name or (_SUFFIXES[suffixes[-1]] if suffixes else "csv")
    if name not in FORMATS:
        raise UsageError(f"the format {name!r} is none of {', '.join(FORMATS)}")
    if partition_by is not None and partition_by not in PARTITIONS:
        raise UsageError(f"a data set can be partitioned by {' or '.join(PARTITIONS)}, not by {partition_by!r}")
    if name == "parquet" and compression:
        raise UsageError(f"Parquet compresses itself: take a name without .{compression}")
    if name != "parquet" and (all_strings or partition_by):
        raise UsageError(f"{'partitions' if partition_by else 'all strings'}: Parquet has that, {name} has not")
    if partition_by and all_strings:
        raise UsageError("partitions are by the time of rows as an instant: not with all strings")
    if name != "ndjson" and flat:
        raise UsageError(f"flat names: NDJSON has that choice, {name} has not")
    if name == "parquet" and find_spec("pyarrow") is None:
        raise UsageError("Parquet takes pyarrow: pip install 'bulkpull[parquet]'")
    return Format(name, compression, flat, all_strings, partition_by)
