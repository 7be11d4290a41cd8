"""Output formats: the merged CSV itself, or a format that is rendered from it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from bulkpull.errors import UsageError
from bulkpull.record import record
from bulkpull.suggestions import did_you_mean

FORMATS = ("csv", "ndjson", "parquet", "arrow")
STREAM_FORMATS = ("csv", "ndjson", "arrow")  # what a program can read before its end is written
PARTITIONS = ("month", "bucket")
DATA_SET_FILE = "activity.parquet"  # the name of the file in each partition's directory, if it is the only one
_SUFFIXES = {
    ".csv": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
_COMPRESSIONS = {".gz": "gz", ".zst": "zst"}
_ARROW_FORMATS = {"parquet": "Parquet", "arrow": "Arrow"}  # written by pyarrow
_KNOWN = ".csv, .ndjson or .jsonl (each optionally followed by .gz or .zst), .parquet or .pq, .arrow or .feather"


@record
class Format:
    """An output format and its options.

    `name` is one of FORMATS. `compression` is gz, zst or empty; Parquet and Arrow have their own. `flat` keeps dotted
    names flat in NDJSON, `all_strings` keeps times as text in Parquet and Arrow, and `partition_by` writes Parquet as a
    directory of files.
    """

    name: str = "csv"
    compression: str = ""
    flat: bool = False
    all_strings: bool = False
    partition_by: str | None = None

    @property
    def is_merged_already(self) -> bool:
        """Whether the merged CSV is the output itself, so that nothing is rendered."""
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
    """Return the format called `name`, or that of the path's extension, or CSV if there is neither.

    A data set, which is a directory, is Parquet if its path has no extension of another format.

    Raises UsageError for an unknown extension without a `name`, for contradictory options, and for a missing library.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix != "."]
    compression = _COMPRESSIONS.get(suffixes[-1], "") if suffixes else ""
    if compression:
        suffixes.pop()
    if name is None and partition_by and not (compression or (suffixes and suffixes[-1] in _SUFFIXES)):
        name = "parquet"
    if name is None and suffixes and suffixes[-1] not in _SUFFIXES:
        raise UsageError(
            f"{path.name}: {suffixes[-1]} is not the extension of a format. Use {_KNOWN}, "
            f"or choose the format with --format {'|'.join(FORMATS)}."
        )
    name = name or (_SUFFIXES[suffixes[-1]] if suffixes else "csv")
    if name not in FORMATS:
        raise UsageError(f"unknown format {name!r}: use one of {', '.join(FORMATS)}.{did_you_mean(name, FORMATS)}")
    if partition_by is not None and partition_by not in PARTITIONS:
        raise UsageError(f"the output can be partitioned by {' or '.join(PARTITIONS)}, not by {partition_by!r}")
    if name in _ARROW_FORMATS and compression:
        raise UsageError(f"{_ARROW_FORMATS[name]} files are compressed already: use a file name without .{compression}")
    if name != "parquet" and partition_by:
        raise UsageError(f"--partition-by works with Parquet only, not with {name}")
    if name not in _ARROW_FORMATS and all_strings:
        raise UsageError(f"--all-strings works with Parquet and Arrow only, not with {name}")
    if partition_by and all_strings:
        raise UsageError("--partition-by needs times as timestamps: it cannot be used with --all-strings")
    if name != "ndjson" and flat:
        raise UsageError(f"--flat works with NDJSON only, not with {name}")
    if name in _ARROW_FORMATS and find_spec("pyarrow") is None:
        raise UsageError(f"{_ARROW_FORMATS[name]} output needs pyarrow: pip install 'bulkpull[parquet]'")
    return Format(name, compression, flat, all_strings, partition_by)


def check_stream(format: Format, name: str) -> None:
    """Raise UsageError for a format that cannot be written to `name`, a pipe or a device."""
    choice = f"choose --format {', '.join(STREAM_FORMATS[:-1])} or {STREAM_FORMATS[-1]}"
    if format.name not in STREAM_FORMATS:
        raise UsageError(f"{format.name} cannot be written to {name}: its readers need a file; {choice}")
    if format.compression:
        raise UsageError(f"the output to {name} cannot be compressed: pipe it to gzip or zstd, and {choice}")
