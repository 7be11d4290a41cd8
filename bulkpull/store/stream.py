"""The destination of a stream: rows go to a consumer in this process, batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from anyio import from_thread

from bulkpull.disk import disk_errors, replace_file
from bulkpull.errors import OutputError
from bulkpull.rows.growing_file import GrowingFile, Superseded
from bulkpull.source import Columns

if TYPE_CHECKING:
    from bulkpull.rows.batch import Batch
    from bulkpull.rows.columns import Shape

_MAX_LEAD_BYTES = 64_000_000  # of merged rows that the consumer has not taken


class Stream:
    """Hands batches of rows to a consumer. See Destination.

    Args:
        directory: Where it is recorded which rows were taken.
        columns: The columns that have a meaning.
        all_strings: Whether times stay text.
        max_rows: The most rows in a batch.
        on_header: Called in a thread with the columns, before the first batch.
        hand_over: Called in a thread with each batch; blocks until the consumer has room for it.
    """

    def __init__(
        self,
        directory: Path,
        columns: Columns,
        *,
        all_strings: bool,
        max_rows: int,
        on_header: Callable[[Shape], None],
        hand_over: Callable[[Batch], None],
    ) -> None:
        self._record = directory / "taken"
        self._columns = columns
        self._all_strings = all_strings
        self._max_rows = max_rows
        self._on_header = on_header
        self._hand_over = hand_over

    def check(self) -> None:
        """A no-op: nothing can be in the way."""

    def holds(self, receipt: str) -> bool:
        """False: rows that were not recorded as taken come again."""
        return False

    def take(self, merged: GrowingFile) -> None:
        """Hand over the rows that no earlier run has recorded as taken."""
        from bulkpull.rows.batch import batches  # imports NumPy: not in the event loop's thread

        taken = self._taken()

        def on_header(shape: Shape) -> None:
            if taken and not _ends_a_row(merged, taken):
                raise self._changed()
            self._on_header(shape)

        merged.max_lead = _MAX_LEAD_BYTES
        try:
            for batch in batches(
                merged,
                taken,
                self._columns,
                all_strings=self._all_strings,
                max_rows=self._max_rows,
                on_header=on_header,
                checkpoint=from_thread.check_cancelled,
            ):
                self._hand_over(batch)
        except Superseded:
            if merged.added_columns:
                raise OutputError(
                    f"the column {merged.added_columns[0]} appeared after the first rows had been delivered. Choose "
                    "the columns with fields, since those of a stream cannot change"
                ) from None
            raise

    def finish(self, merged: Path) -> str:
        """A no-op: all rows were handed over."""
        return ""

    def publish(self) -> None:
        """A no-op: rows are visible as they come."""

    def discard(self) -> None:
        """Forget which rows were taken."""
        with disk_errors(f"remove {self._record}"):
            self._record.unlink(missing_ok=True)

    def close(self) -> None:
        """A no-op."""

    def record_taken(self, end: int) -> None:
        """Record durably that rows were taken up to byte `end` of the merged CSV. Raises OutputError."""
        with disk_errors(f"write to {self._record}", at=self._record):
            replace_file(self._record, orjson.dumps({"end": end}), self._record.with_name("taken.new"))

    def _taken(self) -> int:
        with disk_errors(f"read {self._record}"):
            try:
                return int(orjson.loads(self._record.read_bytes())["end"])
            except FileNotFoundError:
                return 0
            except (ValueError, KeyError, TypeError):
                raise self._changed() from None

    def _changed(self) -> OutputError:
        return OutputError(f"{self._record} was changed since it was written. Start over with resume=False")


def _ends_a_row(merged: GrowingFile, end: int) -> bool:
    """Whether byte `end` is available, and follows a line end."""
    if end > merged.available:
        return False
    with merged.path.open("rb") as file:
        file.seek(end - 1)
        return file.read(1) == b"\n"
