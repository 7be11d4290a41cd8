"""A table in memory, as plain as can be: what all other tables must agree with."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime

from bulkpull.errors import OutputError, ShrinkError
from bulkpull.tables import DELETED_COLUMN, Changes, Delivery, Policy
from bulkpull.window import Window, instant

Row = dict[str, str | None]


@dataclass
class MemoryTable:
    """Rows by id. See Table."""

    name: str = "memory"
    rows: dict[str, Row] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)  # at the source, though the row is kept
    header: tuple[str, ...] = ()
    committed: str | None = None
    is_open: bool = False
    deliveries: list[Delivery] = field(default_factory=list)

    def open(self, *, create: bool) -> None:
        if self.is_open:
            raise OutputError("another sync holds the table memory")
        self.is_open = True

    def state(self) -> str | None:
        return self.committed

    def count(self, windows: Sequence[Window]) -> list[int]:
        return [sum(_is_in(window, row) and id not in self.gone for id, row in self.rows.items()) for window in windows]

    def columns(self) -> tuple[str, ...]:
        return self.header

    def check(self, columns: Sequence[str]) -> None:
        if len({name.replace(".", "_") for name in columns}) < len(columns):
            raise OutputError("two columns have the same name in the table")

    def replace(self, delivery: Delivery, policy: Policy) -> Changes:
        assert self.is_open
        if delivery.rebuild:
            self.rows, self.gone, self.header = {}, set(), ()
        elif delivery.expected != self.committed:
            raise OutputError("the table was synced by another process meanwhile")
        with delivery.rows.open(encoding="utf-8", newline="") as file:
            new = {row["id"]: row for row in csv.DictReader(file, strict=True)}
        assert all(any(_is_in(window, row) for window in delivery.windows) for row in new.values())
        rows, gone = deepcopy(self.rows), set(self.gone)
        told: list[tuple[str, str]] = []
        for id in list(new):
            old = rows.get(id)
            if old is None or any(_is_in(window, old) for window in delivery.windows):
                continue
            if policy.on_conflict == "error":
                raise OutputError(f"the id {id} is in the table at another time")
            if policy.on_conflict == "first" and id not in gone:
                del new[id]
        for window in delivery.windows:
            held = [id for id, row in self.rows.items() if _is_in(window, row) and id not in self.gone]
            lost = sum(id not in new for id in held)
            if lost > policy.max_shrink * len(held) and lost > policy.max_shrink_rows:
                raise ShrinkError(f"{lost} of {len(held)} rows would go", gone=lost, held=len(held))
        for id, old in self.rows.items():
            if id in new or id in gone or not any(_is_in(window, old) for window in delivery.windows):
                continue
            told.append(("deleted", id))
            if policy.deleted == "drop":
                del rows[id]
            else:
                gone.add(id)
                if policy.deleted == "mark":
                    rows[id][DELETED_COLUMN] = delivery.at
        for id, row in new.items():
            if id not in rows or id in gone:
                told.append(("inserted", id))
            elif rows[id] != row:
                told.append(("changed", id))
            rows[id] = dict(row)
            gone.discard(id)
        if delivery.changes:
            delivery.changes.write_text(
                "".join(
                    json.dumps({"change": change, "id": id, "window": self.window_of(id, delivery, new)}) + "\n"
                    for change, id in told
                )
            )
        self.rows, self.gone, self.committed = rows, gone, delivery.state
        self.header = tuple(dict.fromkeys((*self.header, *delivery.columns)))
        self.deliveries.append(delivery)
        number = {kind: sum(change == kind for change, _ in told) for kind in ("inserted", "changed", "deleted")}
        return Changes(**number, rewritten=len(told))

    def window_of(self, id: str, delivery: Delivery, new: dict[str, Row]) -> list[str]:
        row = new.get(id) or self.rows[id]
        window = next(window for window in delivery.windows if _is_in(window, row))
        return [instant(window.start), instant(window.end)]

    def close(self) -> None:
        self.is_open = False

    def present(self) -> dict[str, Row]:
        """The rows that are still there at the source."""
        return {id: row for id, row in self.rows.items() if id not in self.gone}


def _is_in(window: Window, row: Row) -> bool:
    return window.start <= datetime.fromisoformat(row["created_time"] or "") < window.end
