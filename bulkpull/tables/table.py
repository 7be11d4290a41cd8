"""The protocol of a table that holds a copy of the site's activity: rows, and the state of what was synced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from bulkpull.errors import OutputError
from bulkpull.record import record
from bulkpull.window import Window

Deleted = Literal["keep", "mark", "drop"]
OnConflict = Literal["newest", "first", "error"]

DELETED_COLUMN = "_deleted_at"  # when a sync found that the row is gone at the source; null as long as it is there


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What becomes of rows that are not plainly new.

    Args:
        deleted: Of rows that a window held, and its new export does not: kept as they are, marked in `_deleted_at`, or
            dropped.
        on_conflict: Of an id that the table has outside the windows that are replaced, with another time: the newest
            export's row wins, the row that the table has stays, or it is an error.
        max_shrink: Fraction of a window's rows, and of those of all windows together, that may go.
        max_shrink_rows: Number of rows that may always go.
        replace_nul: What replaces U+0000 where a database cannot hold it; None makes it an error.
    """

    deleted: Deleted = "mark"
    on_conflict: OnConflict = "newest"
    max_shrink: float = 0.05
    max_shrink_rows: int = 100
    replace_nul: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What new exports of some windows delivered: the rows of the table in these windows become exactly these.

    Args:
        windows: The windows, in order of time, without overlaps.
        rows: A CSV (UTF-8, LF, one header) of all rows, each id once, all within the windows. An empty cell is null, a
            quoted empty one an empty string.
        columns: Its header.
        expected: The state that the table must still have; None if it was never synced.
        state: The state to commit with the rows; None for a table that is filled once.
        at: When the sync began, as `_deleted_at` records it: ISO 8601 in UTC.
        rebuild: Whether all other rows go as well, and the state, whatever it is. The guard does not apply.
        changes: Where to write what changed, as NDJSON, in order of time: `{"change": "inserted" | "changed" |
            "deleted", "id": ..., "window": [start, end]}`.
    """

    windows: tuple[Window, ...]
    rows: Path
    columns: tuple[str, ...]
    expected: str | None
    state: str | None
    at: str
    rebuild: bool = False
    changes: Path | None = None

    def confirm_state(self, state: str | None, table: str) -> None:
        """Raise OutputError if the state of a table is not the one that the delivery expects."""
        if not self.rebuild and state != self.expected:
            raise OutputError(
                f"the state of {table} is not the one that this run has read: another sync has written to it, or it "
                "was restored from a backup; nothing was changed, run the sync again"
            )


@record
class Changes:
    """How many rows a delivery has inserted, changed and found deleted. A row that comes back is inserted; a row whose
    time has changed is changed. `rewritten` is the number of rows that were written or removed, for whatever reason.
    """

    inserted: int = 0
    changed: int = 0
    deleted: int = 0
    rewritten: int = 0


class Table(Protocol):
    """A table, or a file or data set that is one.

    Threads: every method may block. Each is called in a thread of the sync, one at a time, not always in the same.

    Errors: OutputError with a sentence, which ends the sync; ShrinkError from `replace`. After an error, a kill or a
    lost connection the table is as it was before the call, or as after it.
    """

    @property
    def name(self) -> str:
        """How messages call it. Never contains a password."""

    def open(self, *, create: bool) -> None:
        """Connect, and lock the table against other syncs until `close`. Changes nothing else if `create` is false.

        Raises OutputError if another sync holds it, or something else is where it should be.
        """

    def state(self) -> str | None:
        """Return the state that was committed last; None if the table was never synced, or does not exist."""

    def count(self, windows: Sequence[Window]) -> list[int]:
        """Count the rows in each window that are still there at the source, as far as the table knows."""

    def columns(self) -> tuple[str, ...]:
        """Return the columns with rows of the source, named as the source does; none if the table does not exist."""

    def check(self, columns: Sequence[str]) -> None:
        """Raise OutputError if rows with these columns cannot be stored, for example since two names clash. Called
        before the first export; changes nothing."""

    def replace(self, delivery: Delivery, policy: Policy) -> Changes:
        """Replace the rows of windows in one transaction, together with the state.

        Readers see either all of the rows before, or all of those after.
        Raises ShrinkError, and changes nothing, if more rows would go than the policy allows.
        Raises OutputError, and changes nothing, if the state is not the expected one.
        """

    def close(self) -> None:
        """Unlock the table and disconnect. A no-op if it is not open."""
