"""Sizes: how large a window may be for the server, by what succeeded and what failed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bulkpull.window import Window

_TOO_LARGE = re.compile(
    r"too (?:many|much|large|big|long)|limit|exceed|maximum|memory|time[ds]?[ -]?out|smaller|narrow|reduce",
    re.IGNORECASE,
)


def is_about_size(message: str) -> bool:
    """Whether a failed export's message says that a smaller one may succeed."""
    return bool(_TOO_LARGE.search(message))


@dataclass(slots=True)
class Sizes:
    """`fits` is the largest number of activities whose export succeeded, `fails` the smallest whose export was too
    large."""

    fits: int = 0
    fails: int | None = None

    def succeeded(self, rows: int) -> None:
        """An export with so many records succeeded."""
        self.fits = max(self.fits, rows)

    def failed(self, window: Window) -> None:
        """The window's export was too large."""
        if window.rows:
            self.fails = min(self.fails or window.rows, window.rows)

    def is_hopeless(self, window: Window) -> bool:
        """Whether the window's export need not be tried: smaller ones were too large, and none as large succeeded."""
        return self.fails is not None and window.rows is not None and window.rows >= max(self.fails, self.fits + 1)

    @property
    def limit(self) -> int | None:
        """How many activities are known to fit, where not all numbers do."""
        return self.fits if self.fits and self.fails is not None else None
