"""The options of a sync, each declared once: see `bulkpull.options`."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from bulkpull.durations import seconds_of
from bulkpull.errors import UsageError
from bulkpull.events import OnEvent, check_listener
from bulkpull.options import TROUBLE, WHAT, WHERE_TO, as_keywords, check, documented, option
from bulkpull.planning import moment
from bulkpull.pull import RunOptions, check_names
from bulkpull.source import Columns
from bulkpull.tables import Deleted, OnConflict, Policy, Table

ALL = "all"

_OF_RUNS = {of_run.name: of_run for of_run in dataclasses.fields(RunOptions)}


def as_declared(name: str, declared: Mapping[str, dataclasses.Field[Any]] = _OF_RUNS) -> Any:
    """Return the option with this name, of a pull unless something else is said."""
    of_other = declared[name]
    return field(default=of_other.default, repr=of_other.repr, metadata=of_other.metadata)


@documented
@dataclass(frozen=True, kw_only=True, slots=True)
class TableOptions:
    """Where the rows go, if that is a table. Raises UsageError for values that make no sense."""

    to: str | os.PathLike[str] | Table = field(
        repr=False,  # it may hold a password
        metadata=option(
            "Database URL such as postgresql://HOST/DATABASE, a directory, or a file.",
            group=WHERE_TO,
            details="Also duckdb:///path.db, sqlite:///path.db, or a data set in object storage. The library takes a "
            "`Table` as well.",
            metavar="URL",
        ),
    )
    table: str = field(
        default="activity", metadata=option("Name of the table in a database.", group=WHERE_TO, metavar="NAME")
    )
    schema: str | None = field(
        default=None,
        metadata=option("Schema of the table. Defaults to that of the connection.", group=WHERE_TO, metavar="NAME"),
    )
    types: Mapping[str, str] | None = field(
        default=None,
        metadata=option(
            'Types of columns in a database, by name, such as `{"custom_data.seats": "bigint"}`.',
            details="Other columns are text, and times are timestamps.",
            in_cli=False,
        ),
    )
    deleted: Deleted = field(
        default="mark",
        metadata=option(
            "What becomes of rows that are gone at the source.",
            group=WHAT,
            details="`mark` sets the column `_deleted_at`, which readers filter by; `drop` removes them.",
            choices=("keep", "mark", "drop"),
        ),
    )
    on_conflict: OnConflict = field(
        default="newest",
        metadata=option(
            "What becomes of an id that the table has at another time.",
            group=WHAT,
            details="`newest`: the row of the newest export replaces it; `first`: it stays.",
            choices=("newest", "first", "error"),
        ),
    )
    max_shrink: float = field(
        default=0.05,
        metadata=option(
            "Fraction of a window's rows that may go, beyond --max-shrink-rows.",
            group=TROUBLE,
            details="If more would go, of a window or of all exported together, nothing is changed.",
            metavar="FRACTION",
            minimum=0,
        ),
    )
    max_shrink_rows: int = field(default=100, metadata=option("Rows that may always go.", group=TROUBLE, minimum=0))
    replace_nul: str | None = field(
        default=None,
        metadata=option(
            "Text that replaces U+0000, which PostgreSQL cannot hold.",
            group=TROUBLE,
            details="Without it, such a value is an error that names the row.",
            metavar="TEXT",
        ),
    )


def table_of(options: Any, columns: Columns) -> Table:
    """Return the table that options name which have those of a table. Raises UsageError."""
    if not isinstance(options.to, str | os.PathLike):
        found: Table = options.to
        return found
    from bulkpull.tables import table_at

    return table_at(options.to, columns=columns, table=options.table, schema=options.schema, types=options.types)


def policy_of(options: Any) -> Policy:
    """Return what becomes of rows that are not plainly new, according to options that have those of a table."""
    return Policy(**{of_policy.name: getattr(options, of_policy.name) for of_policy in dataclasses.fields(Policy)})


@documented
@dataclass(frozen=True, kw_only=True, slots=True)
class SyncOptions(TableOptions):
    """The options of a sync. Raises UsageError for values that make no sense."""

    start: date | datetime | str | None = field(
        default=None,
        metadata=option(
            "Start of the range, inclusive. Required the first time, and remembered.",
            group=WHAT,
            details="2024-01-31 or 2024-01-31T06:00Z. A date starts at midnight UTC; an instant needs an offset.",
            metavar="DATE",
        ),
    )
    end: date | datetime | str | None = field(
        default=None,
        metadata=option("End of the range, exclusive, if earlier than now minus --settle.", group=WHAT, metavar="DATE"),
    )
    filter: str | None = field(
        default=None,
        metadata=option(
            "Comparisons joined by ' and ', such as event_type==agreed. Remembered.",
            group=WHAT,
            details=_OF_RUNS["filter"].metadata["option"].details,
            metavar="FILTER",
        ),
    )
    fields: Sequence[str] | None = field(
        default=None,
        metadata=option(
            "Columns after the required ones; all: those of --site. Remembered.",
            group=WHAT,
            details="Those of a site are read the first time. Without `fields`, all that exports have are kept.",
            metavar="A,B",
        ),
    )
    site: str | int | None = as_declared("site")
    settle: float | str = field(
        default=900.0,
        metadata=option(
            "Age below which activity is left to the next sync, as it may be incomplete.",
            group=WHAT,
            unit="seconds",
            minimum=0,
        ),
    )
    lookback: float | str = field(
        default=86_400.0,
        metadata=option(
            "How far before the end of the last sync to export again.", group=WHAT, unit="seconds", minimum=0
        ),
    )
    recheck: float | str = field(
        default="90d",
        metadata=option(
            "How far back to count settled activity and compare: a duration, all, or 0.",
            group=WHAT,
            details="What differs is exported again.",
            metavar="DURATION",
        ),
    )
    full_recheck: bool = field(
        default=False, metadata=option("Export everything again, and find what counting cannot see.", group=WHAT)
    )
    add_field: Sequence[str] | None = field(
        default=None,
        metadata=option("Add columns to those remembered, and export everything again.", group=WHAT, metavar="A,B"),
    )
    rebuild: bool = field(
        default=False,
        metadata=option("Replace the table's rows and state, with another range, filter or fields.", group=WHAT),
    )
    changes: str | os.PathLike[str] | None = field(
        default=None,
        metadata=option(
            "Write the ids of inserted, changed and deleted rows to this NDJSON file.", group=WHERE_TO, metavar="FILE"
        ),
    )
    state: str | os.PathLike[str] | None = field(
        default=None,
        metadata=option(
            "Directory for the progress of an unfinished export. Defaults to the current one.",
            group=TROUBLE,
            metavar="DIR",
        ),
    )
    dry_run: bool = field(
        default=False,
        metadata=option("Count, and show what would be exported and replaced; export and change nothing.", group=WHAT),
    )
    accept_short: bool = field(
        default=False,
        metadata=option("Take over windows that delivered fewer rows than counted.", in_cli=False),
    )
    window: str = as_declared("window")
    rows_per_export: int = as_declared("rows_per_export")
    max_windows: int = as_declared("max_windows")
    exports: int | None = as_declared("exports")
    max_exports: int = as_declared("max_exports")
    downloads: int = as_declared("downloads")
    spool: int | str = as_declared("spool")
    memory: int | str | None = as_declared("memory")
    export_timeout: float | str = as_declared("export_timeout")
    max_extra_exports: int | None = as_declared("max_extra_exports")
    resume: bool = field(
        default=True,
        metadata=option("Finish an interrupted sync first; if false, discard its progress.", in_cli=False),
    )
    on_event: OnEvent = as_declared("on_event")  # noqa: RUF009

    def __post_init__(self) -> None:
        check(self)
        for name, seconds in (("settle", self.settle_s), ("lookback", self.lookback_s), ("recheck", self.recheck_s)):
            if not 0 <= (seconds or 0) < math.inf:
                raise UsageError(f"the option {name} is {getattr(self, name)}: it must be a duration such as 15m")
        start = None if self.start is None else moment(self.start, "start")
        if self.end is not None and start is not None and moment(self.end, "end") < start:
            raise UsageError(f"the end {self.end} is before the start {self.start}")
        for names in (self.fields, self.add_field):
            check_names(names or ())
        check_listener(self.on_event)
        if (self.rebuild or self.full_recheck) and self.add_field:
            raise UsageError("--add-field exports everything again: use it without --rebuild and --full-recheck")
        if self.asks_for_all_fields and self.site is None:
            raise UsageError("--fields all needs --site ID, since each site has fields of its own")
        self.of_run(start=start or date(2000, 1, 1), end=None)  # raises for the others

    @property
    def settle_s(self) -> float:
        """The age of what is settled, in seconds."""
        return seconds_of(self.settle)

    @property
    def lookback_s(self) -> float:
        """How far back to export again, in seconds."""
        return seconds_of(self.lookback)

    @property
    def recheck_s(self) -> float | None:
        """How far back to count, in seconds; None for everything."""
        return None if self.recheck == ALL else seconds_of(self.recheck)

    @property
    def asks_for_all_fields(self) -> bool:
        """Whether the columns are those that the site offers."""
        return tuple(self.fields or ()) == ("all",)

    def of_run(self, **others: Any) -> RunOptions:
        """Return the options of a pull with the same limits, and with `others`."""
        shared = ("exports", "max_exports", "downloads", "spool", "memory", "export_timeout", "max_extra_exports")
        names = (*shared, "rows_per_export", "max_windows", "window", "on_event")
        return RunOptions(**{name: getattr(self, name) for name in names} | {"skip_failed": True} | others)

    def asdict(self) -> dict[str, Any]:
        """Return the keywords of `sync` that make these options."""
        return as_keywords(self)
