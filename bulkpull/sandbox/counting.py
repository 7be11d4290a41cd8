"""What the list route counts, and what it says."""

from __future__ import annotations

from bulkpull.sandbox.faults import Faults


class Counting:
    """Turns what there is into what is said, as the modes have it."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._asked = 0

    def refuses(self) -> bool:
        """Whether one more count is refused."""
        self._asked += 1
        kind = "counts-refused-after"
        return self._faults.has(kind) and self._asked > self._faults.value(kind) and self._faults.note(kind)

    def indexed(self, numbers: range, rows: int) -> range:
        """Those of the activities that can be counted, of `rows` in all."""
        if not self._faults.has("counts-lag"):
            return numbers
        known = rows * max(0, 100 - self._faults.value("counts-lag")) // 100
        if known < numbers.stop:
            self._faults.note("counts-lag")
        return range(numbers.start, max(numbers.start, min(numbers.stop, known)))

    def said(self, total: int) -> int | float | str | None:
        """The `total_count` for what was counted."""
        faults, said = self._faults, total
        if faults.has("counts-stale") and self._asked <= faults.value("counts-stale"):
            said //= 2
        if faults.has("counts-over"):
            said += faults.value("counts-over")
        if faults.has("counts-under"):
            said = max(0, said - faults.value("counts-under"))
        if faults.has("counts-capped"):
            said = min(said, faults.value("counts-capped"))
        if faults.has("counts-zero"):
            said = 0
        if faults.has("counts-negative"):
            said = -1
        for kind in ("counts-stale", "counts-over", "counts-under", "counts-capped", "counts-zero", "counts-negative"):
            if said != total and faults.has(kind):
                faults.note(kind)
        if faults.has("counts-null") and faults.note("counts-null"):
            return None
        if faults.has("counts-float") and faults.note("counts-float"):
            return float(said)
        if faults.has("counts-text") and faults.note("counts-text"):
            return str(said)
        return said
