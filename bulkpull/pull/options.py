"""The options of a pull, each declared once: see `bulkpull.options`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bulkpull.durations import seconds_of
from bulkpull.errors import UsageError
from bulkpull.events import OnEvent, check_listener, ignore
from bulkpull.options import DISPLAY, HOW_FAST, TROUBLE, WHAT, WHERE_TO, documented, option
from bulkpull.planning import PlanOptions
from bulkpull.pull.extra import EXTRA
from bulkpull.pull.memory import MemoryLimits, divided
from bulkpull.rows.format import FORMATS, PARTITIONS, Format, check_stream, format_of
from bulkpull.sizes import bytes_of
from bulkpull.source import Columns
from bulkpull.store import ObjectUrl

ALL_FIELDS = "all"
MAX_BUCKETS = 4096  # of a pull on a cluster


@documented
@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions(PlanOptions):
    """The options of a pull, wherever its rows go. Raises UsageError for values that make no sense."""

    fields: Sequence[str] | None = field(
        default=None,
        metadata=option(
            "Columns after the required ones; all: those of --site. Defaults to what files have.",
            group=WHAT,
            details="Those of a site are read as the pull begins. Without --fields, exports are asked for the "
            "required columns, and all that they deliver are kept.",
            metavar="A,B",
            recorded=lambda options, source: options.recorded_fields(source.columns),
        ),
    )
    site: str | int | None = field(
        default=None,
        metadata=option("Id of a site: check that it has the --fields before any export.", group=WHAT, metavar="ID"),
    )
    exports: int | None = field(
        default=None,
        metadata=option("Maximum concurrent exports; adapts to the API by default.", group=HOW_FAST, minimum=1),
    )
    max_exports: int = field(
        default=128,
        metadata=option("Upper bound for adaptive --exports.", group=HOW_FAST, minimum=1),
    )
    downloads: int = field(
        default=8,
        metadata=option("Maximum concurrent downloads.", group=HOW_FAST, minimum=1),
    )
    spool: int | str = field(
        default=4_000_000_000,
        metadata=option(
            "Maximum downloaded data waiting for the merge.",
            group=HOW_FAST,
            details="No other download starts above it, except those of the window that is merged next.",
            unit="bytes",
            minimum=1,
        ),
    )
    memory: int | str | None = field(
        default=None,
        metadata=option(
            "Target peak memory. Defaults to 256MB, or 364MB for Parquet.",
            group=HOW_FAST,
            details="That of a process that does nothing else. Ids that do not fit are kept on disk.",
            unit="bytes",
            minimum=1,
        ),
    )
    export_timeout: float | str = field(
        default=3600.0,
        metadata=option(
            "Timeout of one export, after which its window is split.",
            group=TROUBLE,
            details="If no earlier export leaves the queue either in that time, another one is launched instead.",
            unit="seconds",
            above=0,
        ),
    )
    max_extra_exports: int | None = field(
        default=None,
        metadata=option(
            f"Maximum exports beyond one per window. Defaults to {EXTRA} + half the windows.",
            group=TROUBLE,
            details="They replace exports that failed or delivered too little, and cover split windows.",
            minimum=0,
        ),
    )
    conflicts: str | os.PathLike[str] | None = field(
        default=None,
        metadata=option(
            "Write rows with the id of another row, but other values, to this NDJSON file.",
            group=TROUBLE,
            details="The output has the first row of each id. Each line has the `window`, the row that was `kept`, and "
            "the `other` one.",
            metavar="FILE",
            recorded=lambda options, _source: "reported" if options.conflicts is not None else "",
        ),
    )
    skip_failed: bool = field(
        default=False,
        metadata=option("Skip windows that cannot be exported; they are reported as missing.", group=TROUBLE),
    )
    report: str | os.PathLike[str] | None = field(
        default=None,
        metadata=option(
            "Write a report of the pull, one HTML page, at the end.",
            group=DISPLAY,
            details="Also if the pull fails. An existing report is replaced.",
            metavar="FILE.html",
        ),
    )
    resume: bool = field(
        default=True,
        metadata=option("Resume an interrupted pull; if false, discard its progress.", in_cli=False),
    )
    on_event: OnEvent = field(
        default=ignore,
        metadata=option(
            "Function called in the event loop with each event, such as a `Progress`.",
            details="It must return at once, so a coroutine function is refused; an exception it raises ends the pull.",
            in_cli=False,
        ),
    )

    def __post_init__(self) -> None:
        PlanOptions.__post_init__(self)  # super() fails in a dataclass with slots before Python 3.14
        divided(self.memory_bytes, self.output_format)
        check_names(self.fields or ())
        check_listener(self.on_event)
        if self.wants_all_fields and self.site is None:
            raise UsageError("--fields all needs --site ID, since each site has fields of its own")

    @property
    def output_format(self) -> Format:
        """The format of what a pull writes."""
        return Format()

    @property
    def wants_all_fields(self) -> bool:
        """Whether the columns are those that the site offers when the pull begins."""
        return tuple(self.fields or ()) == (ALL_FIELDS,)

    def recorded_fields(self, columns: Columns) -> str:
        """Return the columns as the journal records them; empty if they are those of the files."""
        if self.wants_all_fields:
            return ALL_FIELDS
        return ",".join(self.names(columns)) if self.fields else ""

    def names(self, columns: Columns) -> tuple[str, ...]:
        """Return the names of the columns that exports are asked for: those required, then the others, each once."""
        return tuple(dict.fromkeys((*columns.required, *(self.fields or ()))))

    @property
    def divided_memory(self) -> MemoryLimits:
        """What the memory is for."""
        return divided(self.memory_bytes, self.output_format)

    @property
    def memory_bytes(self) -> int | None:
        """The target peak memory in bytes; None for the default."""
        return None if self.memory is None else bytes_of(self.memory)

    @property
    def spool_bytes(self) -> int:
        """The limit of downloaded data in bytes."""
        return bytes_of(self.spool)

    @property
    def export_timeout_s(self) -> float:
        """The timeout of one export in seconds."""
        return seconds_of(self.export_timeout)


@documented
@dataclass(frozen=True, kw_only=True, slots=True)
class PullOptions(RunOptions):
    """The options of a pull into a file. Raises UsageError for values that make no sense."""

    out: str | os.PathLike[str] = field(
        metadata=option(
            "Output file, URL such as s3://bucket/key.csv, or - for standard output.",
            group=WHERE_TO,
            details=(
                "A file or an object appears once complete; .gz or .zst compresses csv and ndjson. Standard output, a "
                "pipe or a device gets rows as they are merged."
            ),
            metavar="FILE",
        )
    )
    state: str | os.PathLike[str] | None = field(
        default=None,
        metadata=option(
            "Directory for the progress of a pull to object storage. Defaults to the current one.",
            group=WHERE_TO,
            details="A local output has its progress beside it.",
            metavar="DIR",
        ),
    )
    format: str | None = field(
        default=None,
        metadata=option(
            "csv, ndjson, parquet or arrow. Defaults to the file extension, else csv.",
            group=WHERE_TO,
            details="An unknown extension is an error. NDJSON nests dotted names; Parquet and Arrow have timestamps.",
            metavar="FORMAT",
            choices=FORMATS,
        ),
    )
    flat: bool = field(
        default=False,
        metadata=option("Write NDJSON with dotted names instead of nested objects.", group=WHERE_TO),
    )
    all_strings: bool = field(
        default=False,
        metadata=option("Write times as text in Parquet and Arrow.", group=WHERE_TO),
    )
    partition_by: str | None = field(
        default=None,
        metadata=option(
            "Write a directory of Parquet files, by month; on a cluster by bucket.",
            group=WHERE_TO,
            details="Implies Parquet, unless --format or the extension says otherwise, which is an error.",
            choices=PARTITIONS,
        ),
    )
    overwrite: bool = field(
        default=False,
        metadata=option("Replace the output if it exists.", group=WHERE_TO),
    )
    cluster: str | Any | None = field(
        default=None,
        metadata=option(
            "Download and merge on a Dask cluster: tcp://HOST:8786, or local:N processes.",
            group=HOW_FAST,
            details="Its workers need the same version of bulkpull and access to the output; the token stays here. In "
            "Python also a `distributed.Client` with `asynchronous=True`. The output is a data set of Parquet files.",
            metavar="ADDRESS",
            recorded=lambda options, _source: "" if options.cluster is None else f"{options.buckets or 'auto'} buckets",
        ),
    )
    buckets: int | None = field(
        default=None,
        metadata=option(
            "Parts of the output that --cluster merges on their own. Defaults to one per 5 million rows.",
            group=HOW_FAST,
            details="Each is merged by one worker, whose disk holds its rows as CSV meanwhile.",
            minimum=1,
        ),
    )

    def __post_init__(self) -> None:
        RunOptions.__post_init__(self)
        if self.cluster is None and (self.buckets is not None or self.partition_by == "bucket"):
            raise UsageError("--buckets and --partition-by bucket are for pulls on a cluster (--cluster)")
        if self.buckets is not None and self.buckets > MAX_BUCKETS:
            raise UsageError(f"{self.buckets:,} buckets are too many: {MAX_BUCKETS:,} at most")
        if ObjectUrl.of(self.out) is None and self.state is not None:
            raise UsageError("--state is for outputs in object storage: a local output has its progress beside it")

    @property
    def output_format(self) -> Format:
        """The format, by its name or by the output's extension."""
        from bulkpull.store import byte_stream_at  # imports the event loop; the command line needs only the options

        format = format_of(
            Path(self.out),
            self.format,
            flat=self.flat,
            all_strings=self.all_strings,
            partition_by=self.partition_by or ("bucket" if self.cluster is not None else None),
        )
        if stream := byte_stream_at(self.out):
            check_stream(format, stream.name)
        return format


def check_names(fields: Sequence[str]) -> None:
    """Raise UsageError for a string instead of names, and for what cannot be a name."""
    if isinstance(fields, str):
        raise UsageError(f"fields is a string, {fields!r}: pass a list of names")
    for name in fields:
        if not name.strip() or any(character in name for character in ', "\r\n\t'):
            raise UsageError(
                f"{name!r} is not a field name: names are not blank, and hold no commas, quotes or whitespace"
            )
