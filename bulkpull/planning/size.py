"""The largest export that the server can make, estimated from exports that succeeded and failed."""

from __future__ import annotations

import re

from bulkpull.record import record
from bulkpull.window import Window

_TOO_LARGE = re.compile(
    r"too (?:many|much|large|big|long)|limit|exceed|maximum|memory|time[ds]?[ -]?out|smaller|narrow|reduce",
    re.IGNORECASE,
)


def suggests_smaller_export(message: str) -> bool:
    """Return whether the message of a failed export suggests that a smaller one may succeed."""
    return bool(_TOO_LARGE.search(message))


@record(frozen=False)
class SizeLimit:
    """Bounds on the number of activities per export.

    `fits` is the largest number whose export succeeded, `fails` the smallest number whose export was too large.
    """

    fits: int = 0
    fails: int | None = None

    def succeeded(self, rows: int) -> None:
        """Record that an export of `rows` activities succeeded."""
        self.fits = max(self.fits, rows)

    def failed(self, window: Window) -> None:
        """Record that the export of `window` was too large."""
        if window.rows:
            self.fails = min(self.fails or window.rows, window.rows)

    def is_hopeless(self, window: Window) -> bool:
        """Return whether the export of `window` is bound to fail: one no larger failed, and none as large succeeded."""
        return self.fails is not None and window.rows is not None and window.rows >= max(self.fails, self.fits + 1)

    @property
    def limit(self) -> int | None:
        """The number of activities known to fit into an export; None if no limit is known."""
        return self.fits if self.fits and self.fails is not None else None
