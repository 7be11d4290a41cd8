"""What the list route says that it counted."""

from __future__ import annotations

from bulkpull.sandbox.faults import Faults


class Counting:
    """Turns what was counted into what is said, as the modes have it."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def said(self, total: int) -> int:
        """The `total_count` of an answer."""
        if self._faults.has("counts-capped"):
            total = min(total, self._faults.value("counts-capped"))
        return total
