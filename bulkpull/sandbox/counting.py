"""The counts of the list route."""

from __future__ import annotations

from bulkpull.sandbox.faults import Faults


class CountModes:
    """Distorts counts according to the active modes."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._requests = 0

    def refuses(self) -> bool:
        """Return whether this counting request is refused."""
        self._requests += 1
        kind = "counts-refused-after"
        return self._faults.has(kind) and self._requests > self._faults.value(kind) and self._faults.note(kind)

    def countable(self, numbers: range, rows: int) -> range:
        """Return those of the activities `numbers` that are counted, of `rows` in total."""
        if not self._faults.has("counts-lag"):
            return numbers
        known = rows * max(0, 100 - self._faults.value("counts-lag")) // 100
        if known < numbers.stop:
            self._faults.note("counts-lag")
        return range(numbers.start, max(numbers.start, min(numbers.stop, known)))

    def reported_total(self, total: int) -> int | float | str | None:
        """Return the `total_count` to report for a count."""
        faults, count = self._faults, total
        if faults.has("counts-stale") and self._requests <= faults.value("counts-stale"):
            count //= 2
        if faults.has("counts-over"):
            count += faults.value("counts-over")
        if faults.has("counts-under"):
            count = max(0, count - faults.value("counts-under"))
        if faults.has("counts-capped"):
            count = min(count, faults.value("counts-capped"))
        if faults.has("counts-zero"):
            count = 0
        if faults.has("counts-negative"):
            count = -1
        for kind in ("counts-stale", "counts-over", "counts-under", "counts-capped", "counts-zero", "counts-negative"):
            if count != total and faults.has(kind):
                faults.note(kind)
        if faults.has("counts-null") and faults.note("counts-null"):
            return None
        if faults.has("counts-float") and faults.note("counts-float"):
            return float(count)
        if faults.has("counts-text") and faults.note("counts-text"):
            return str(count)
        return count
