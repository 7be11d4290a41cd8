"""What a sync has done."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from bulkpull.record import record
from bulkpull.window import Window


@record(frozen=False)
class Recheck:
    """What counting settled time has shown.

    `stretches` were counted, of which `differing` had another number of rows in the table and were exported again. In
    the `unreliable` windows an export has shown that the count is wrong, and they are left as they are. `unavailable`
    is the reason why nothing could be compared; empty otherwise.
    """

    stretches: int = 0
    differing: int = 0
    unreliable: tuple[Window, ...] = ()
    unavailable: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncResult:
    """The figures of a finished sync.

    The table holds the rows from `start` to `frontier` as the site had them, apart from the windows in `missing`. In
    this run, rows were `inserted`, `changed` and found `deleted`, and `rewritten` rows were written or removed for
    whatever reason; `exports` were launched, and `requests` made. `windows` were exported, or would be, if it
    `is_dry_run`. `outside` rows that exports delivered lie outside of them, and were left out. `recheck` is what counts
    have shown. `doubt` is the reason why the counts of a pull cannot be trusted; empty if there is none. It
    `is_resumed` if an earlier run had begun it.
    """

    table: str
    start: datetime
    frontier: datetime
    inserted: int = 0
    changed: int = 0
    deleted: int = 0
    rewritten: int = 0
    exports: int = 0
    requests: int = 0
    seconds: float = 0.0
    windows: tuple[Window, ...] = ()
    missing: tuple[Window, ...] = ()
    outside: int = 0
    recheck: Recheck = field(default_factory=Recheck)
    doubt: str = ""
    is_resumed: bool = False
    is_dry_run: bool = False

    @property
    def complete(self) -> bool:
        """Whether every window was exported and taken over."""
        return not self.missing
