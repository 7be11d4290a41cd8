"""What a table must hold after any deliveries: a dict, and the rules in plain Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bulkpull.tables import DELETED_COLUMN, Changes, Policy
from bulkpull.window import Window, instant

Values = dict[str, str | None]


class RefusedError(Exception):
    """The table must raise an error, and change nothing."""


@dataclass
class Model:
    """The rows by id, with a mark if they are gone; the ids that are kept though they are gone."""

    rows: dict[str, Values] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)

    def is_present(self, id: str) -> bool:
        """Whether a row is still there at the source."""
        return id in self.rows and self.rows[id].get(DELETED_COLUMN) is None and id not in self.kept

    def count(self, window: Window) -> int:
        """Count the rows in a window that are still there at the source."""
        return sum(self.is_present(id) and _holds(window, row) for id, row in self.rows.items())

    def replace(
        self, windows: Sequence[Window], rows: Mapping[str, Values], policy: Policy, at: str
    ) -> tuple[Changes, set[tuple[str, str]]]:
        """Replace the rows of windows; return the changes, and each of them with its id.

        Raises RefusedError if the policy does not allow it.
        """
        within = {id: next((w for w in windows if _holds(w, row)), None) for id, row in self.rows.items()}
        shrunk = [sum(self.is_present(id) and within[id] is w and id not in rows for id in self.rows) for w in windows]
        held = [sum(self.is_present(id) and within[id] is w for id in self.rows) for w in windows]
        for gone, had in [*zip(shrunk, held, strict=True), (sum(shrunk), sum(held))]:
            if gone > policy.max_shrink * had and gone > policy.max_shrink_rows:
                raise RefusedError
        elsewhere = {id for id in rows if self.is_present(id) and within[id] is None}
        if elsewhere and policy.on_conflict == "error":
            raise RefusedError
        taken = {id: row for id, row in rows.items() if not (id in elsewhere and policy.on_conflict == "first")}
        listed: set[tuple[str, str]] = set()
        rewritten = 0
        for id in [id for id in self.rows if within[id] is not None and id not in rows]:
            if self.is_present(id):
                listed.add(("deleted", id))
            is_marked = self.rows[id].get(DELETED_COLUMN) is not None
            if policy.deleted == "drop":
                del self.rows[id]
                self.kept.discard(id)
                rewritten += 1
            elif policy.deleted == "mark":
                self.kept.discard(id)
                if not is_marked:
                    self.rows[id][DELETED_COLUMN] = at
                    rewritten += 1
            elif not is_marked:
                self.kept.add(id)
        for id, row in taken.items():
            old = {**self.rows[id]} if id in self.rows else None
            differs = old is None or any(row[column] != old.get(column) for column in row)
            if not self.is_present(id):
                listed.add(("inserted", id))
            elif differs:
                listed.add(("changed", id))
            if differs or (old or {}).get(DELETED_COLUMN) is not None:
                rewritten += 1
            self.rows[id] = {**(old or {}), **row, DELETED_COLUMN: None}
            self.kept.discard(id)
        kinds = [kind for kind, _ in listed]
        return Changes(kinds.count("inserted"), kinds.count("changed"), kinds.count("deleted"), rewritten), listed


def _holds(window: Window, row: Values) -> bool:
    return instant(window.start) <= str(row["created_time"]) < instant(window.end)
