"""The SQL that makes the rows of some windows exactly those of a delivery: one copy, for every database.

It runs on four temporary tables: INCOMING (the delivered rows, with the columns of the target), WINDOWS, HELD (the rows
of the target that the delivery concerns) and CHANGES.
"""
# ruff: noqa: S608 - names are quoted by `quoted`, and values by `literal`

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import orjson

from bulkpull.errors import OutputError, ShrinkError
from bulkpull.tables.table import Changes, Policy
from bulkpull.window import Window, instant

INCOMING = "_bulkpull_incoming"
WINDOWS = "_bulkpull_windows"
HELD = "_bulkpull_held"
CHANGES = "_bulkpull_changes"
TEMPORARY = (INCOMING, WINDOWS, HELD, CHANGES)

_QUOTE = '"'
_NAMED_IDS = 5  # in a message


class Connection(Protocol):
    """A connection to a database, within a transaction."""

    def run(self, statement: str) -> int:
        """Execute a statement; return the number of rows that it changed."""

    def rows(self, query: str) -> Iterable[tuple[Any, ...]]:
        """Return the rows of a query."""


def quoted(name: str) -> str:
    """Return a name as an identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str | None) -> str:
    """Return text as a string literal of standard SQL."""
    if text is None:
        return "NULL"
    if "\0" in text:
        raise ValueError("a literal cannot hold U+0000")
    return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """The difference between a target and a delivery, as SQL.

    Args:
        target: The table or view that holds the copy, quoted.
        key: The column of the ids, quoted.
        time: The column of the times, quoted.
        columns: All delivered columns, quoted.
        missing: Those of them that the target does not have yet, quoted.
        mark: The column that marks rows which are gone at the source, quoted; None if the target has none.
        kept: A query of one column, `id`: rows that stay in the target though they are gone at the source.
        time_type: The type of the times.
        differs: The operator that compares values, where null equals null.
        collate: The collation by which `kept` is compared with the target.
        bound: How an instant is written to be compared with a time: a format of its text in UTC, without the Z.
        text_of_time: The expression of a time's text in UTC, which sorts like the times: a format of the time.
        prepare: The statement to run for a temporary table that was filled: a format of `table`, of the column `id` by
            which it is joined, and of that and the `filters` by which its rows are chosen.
    """

    target: str
    key: str
    time: str
    columns: tuple[str, ...]
    missing: frozenset[str]
    mark: str | None
    kept: str
    time_type: str
    differs: str = "IS DISTINCT FROM"
    collate: str = ""
    bound: str = "{}Z"
    text_of_time: str = "{}"
    prepare: str = ""

    def bound_of(self, moment: Any) -> str:
        """Return an instant as a literal that compares with times."""
        return f"CAST({literal(self.bound.format(instant(moment).removesuffix('Z')))} AS {self.time_type})"

    def is_within(self, row: str, window: Window) -> str:
        """Return the condition that a row lies in a window."""
        return f"{row}.{self.time} >= {self.bound_of(window.start)} AND {row}.{self.time} < {self.bound_of(window.end)}"

    def is_present(self, row: str) -> str:
        """Return the condition that a row of the target is still there at the source, as far as is known."""
        not_kept = f"{row}.{self.key}{self.collate} NOT IN ({self.kept})"
        return f"({row}.{self.mark} IS NULL AND {not_kept})" if self.mark else f"({not_kept})"

    def count(self, window: Window) -> str:
        """Return the query that counts the rows in a window which are still there at the source."""
        return f"SELECT count(*) FROM {self.target} t WHERE {self.is_within('t', window)} AND {self.is_present('t')}"

    def outside(self, table: str, windows: Sequence[Window]) -> str:
        """Return the query of the delivered rows that lie in no window."""
        spans = _spans(windows)
        gaps = [f"n.{self.time} IS NULL"]
        if spans:
            gaps += [f"n.{self.time} < {self.bound_of(spans[0][0])}", f"n.{self.time} >= {self.bound_of(spans[-1][1])}"]
        else:
            gaps.append("1 = 1")
        for (_, end), (start, _) in pairwise(spans):
            gaps.append(f"(n.{self.time} >= {self.bound_of(end)} AND n.{self.time} < {self.bound_of(start)})")
        text = self.text_of_time.format(f"n.{self.time}")
        return f"SELECT n.{self.key}, {text} FROM {table} n WHERE {' OR '.join(gaps)} LIMIT 1"

    def find_held(self, windows: Sequence[Window]) -> list[str]:
        """Return the statements that fill WINDOWS and HELD from INCOMING and the target.

        HELD has the id and the time of each row of the target that lies in a window or was delivered; the `number` of
        its window; whether it `is_present` at the source as far as was known; whether it `is_delivered`; and then,
        whether it `is_stale`: is to be rewritten.
        """
        stale = " OR ".join([*self._differences(), *([f"t.{self.mark} IS NOT NULL"] if self.mark else [])])

        def row(number: str, *, delivered: str) -> str:
            return (
                f"SELECT t.{self.key} AS id, t.{self.time} AS moment, {number} AS number, "
                f"{self.is_present('t')} AS is_present, {delivered} AS is_delivered, ({stale}) AS is_stale "
            )

        return [
            *self._prepared(INCOMING, self.key),
            f"CREATE TEMPORARY TABLE {WINDOWS} (number integer, starts {self.time_type}, ends {self.time_type})",
            *(
                f"INSERT INTO {WINDOWS} VALUES "
                + ", ".join(
                    f"({number}, {self.bound_of(windows[number].start)}, {self.bound_of(windows[number].end)})"
                    for number in range(first, min(first + 1000, len(windows)))
                )
                for first in range(0, len(windows), 1000)
            ),
            # An index on the time finds the rows of each window; only ids that are not among them are looked up.
            f"CREATE TEMPORARY TABLE {HELD} AS {row('w.number', delivered=f'n.{self.key} IS NOT NULL')}"
            f"FROM {WINDOWS} w JOIN {self.target} t ON t.{self.time} >= w.starts AND t.{self.time} < w.ends "
            f"LEFT JOIN {INCOMING} n ON n.{self.key} = t.{self.key}",
            *self._prepared(HELD, "id", "is_delivered", "is_stale"),
            f"INSERT INTO {HELD} {row('NULL', delivered='1 = 1')}"
            f"FROM {INCOMING} n JOIN {self.target} t ON t.{self.key} = n.{self.key} "
            f"WHERE NOT EXISTS (SELECT 1 FROM {HELD} h WHERE h.id = n.{self.key})",
        ]

    @property
    def shrinkage(self) -> str:
        """The query of the windows with the number of rows that each holds, and that would go."""
        return (
            f"SELECT number, count(*), sum(CASE WHEN is_delivered THEN 0 ELSE 1 END) FROM {HELD} "
            "WHERE is_present AND number IS NOT NULL GROUP BY number ORDER BY number"
        )

    @property
    def conflicts(self) -> str:
        """The query of the delivered ids that the target holds outside the windows."""
        return f"SELECT id FROM {HELD} WHERE is_present AND number IS NULL"

    @property
    def leave_out_conflicts(self) -> list[str]:
        """The statements that remove delivered rows whose ids the target holds outside the windows."""
        return [
            f"DELETE FROM {INCOMING} WHERE {self.key} IN ({self.conflicts})",
            f"DELETE FROM {HELD} WHERE is_present AND number IS NULL",
        ]

    @property
    def gone(self) -> str:
        """The query of the ids in the windows that were not delivered, whether or not it was known before."""
        return f"SELECT id FROM {HELD} WHERE number IS NOT NULL AND NOT is_delivered"

    @property
    def find_changes(self) -> list[str]:
        """The statements that fill CHANGES. An inserted row `is_new` if the target does not have its id."""
        return [
            f"CREATE TEMPORARY TABLE {CHANGES} AS SELECT id, moment, 'deleted' AS change, 1 = 0 AS is_new "
            f"FROM {HELD} WHERE is_present AND number IS NOT NULL AND NOT is_delivered",
            f"INSERT INTO {CHANGES} SELECT n.{self.key}, n.{self.time}, 'inserted', 1 = 1 "
            f"FROM {INCOMING} n WHERE NOT EXISTS (SELECT 1 FROM {HELD} h WHERE h.id = n.{self.key})",
            f"INSERT INTO {CHANGES} SELECT n.{self.key}, n.{self.time}, "
            "CASE WHEN h.is_present THEN 'changed' ELSE 'inserted' END, 1 = 0 "
            f"FROM {INCOMING} n JOIN {HELD} h ON h.id = n.{self.key} "
            "WHERE h.is_delivered AND (h.is_stale OR NOT h.is_present)",
            *self._prepared(CHANGES, "id"),
        ]

    @property
    def counts(self) -> str:
        """The query that counts the changes by kind."""
        return f"SELECT change, count(*) FROM {CHANGES} GROUP BY change"

    @property
    def listed_changes(self) -> str:
        """The query of all changes, in order of time."""
        moment = self.text_of_time.format("c.moment")
        return f"SELECT c.change, c.id, {moment} FROM {CHANGES} c ORDER BY c.moment, c.id"

    @property
    def listed_rows(self) -> str:
        """The query of all rows of the target as changes, in order of time."""
        moment = self.text_of_time.format(f"t.{self.time}")
        return f"SELECT 'inserted', t.{self.key}, {moment} FROM {self.target} t ORDER BY t.{self.time}, t.{self.key}"

    @property
    def update(self) -> str:
        """The statement that rewrites the rows that differ, or are marked and have come back."""
        changes = [f"{column} = n.{column}" for column in self.columns if column != self.key]
        changes += [f"{self.mark} = NULL"] if self.mark else []
        return (
            f"UPDATE {self.target} AS t SET {', '.join(changes)} FROM {INCOMING} n WHERE n.{self.key} = t.{self.key} "
            f"AND n.{self.key} IN (SELECT id FROM {HELD} WHERE is_delivered AND is_stale)"
        )

    @property
    def insert(self) -> str:
        """The statement that inserts the rows whose ids the target does not have."""
        return (
            f"INSERT INTO {self.target} ({', '.join(self.columns)}) "
            f"SELECT {', '.join(f'n.{column}' for column in self.columns)} FROM {INCOMING} n "
            f"WHERE n.{self.key} IN (SELECT id FROM {CHANGES} WHERE is_new)"
        )

    @property
    def drop(self) -> str:
        """The statement that deletes the rows that are gone."""
        return f"DELETE FROM {self.target} WHERE {self.key} IN ({self.gone})"

    def marked(self, at: str) -> str:
        """Return the statement that marks the rows that are gone."""
        return (
            f"UPDATE {self.target} SET {self.mark} = CAST({literal(at)} AS {self.time_type}) "
            f"WHERE {self.mark} IS NULL AND {self.key} IN ({self.gone})"
        )

    def _differences(self) -> list[str]:
        return [
            f"n.{column} IS NOT NULL" if column in self.missing else f"n.{column} {self.differs} t.{column}"
            for column in self.columns
            if column != self.key
        ]

    def _prepared(self, table: str, id: str, *filters: str) -> list[str]:
        statement = self.prepare.format(table=table, id=id, filters=", ".join((id, *filters)))
        return [statement] if statement else []


class Keeping(Protocol):
    """Where ids are remembered whose rows stay in the target, though they are gone at the source."""

    def remember(self, ids: str) -> None:
        """Add the ids of a query."""

    def forget(self, ids: str) -> None:
        """Remove the ids of a query."""


def judge(database: Connection, diff: Diff, windows: Sequence[Window], policy: Policy, name: str) -> None:
    """Compare INCOMING with the target; it loses the rows that the policy leaves out.

    Raises:
        ShrinkError: more rows would go than the policy allows.
        OutputError: a row lies in no window; or an id is held outside the windows, and the policy makes it an error.
    """
    confirm_within(database, diff, INCOMING, windows)
    for statement in diff.find_held(windows):
        database.run(statement)
    _confirm_size(database, diff, windows, policy, name)
    if policy.on_conflict == "first":
        for statement in diff.leave_out_conflicts:
            database.run(statement)
    elif policy.on_conflict == "error" and (ids := [str(id) for (id,) in database.rows(diff.conflicts)]):
        listed = ", ".join(sorted(ids)[:_NAMED_IDS]) + (", …" if len(ids) > _NAMED_IDS else "")
        raise OutputError(
            f"{len(ids):,} of the exported ids are in {name} with a time outside the exported windows ({listed}): "
            "nothing was changed; pass --on-conflict newest or first"
        )


def confirm_within(database: Connection, diff: Diff, table: str, windows: Sequence[Window]) -> None:
    """Raise OutputError if a row of a table lies in no window."""
    for id, moment in database.rows(diff.outside(table, windows)):
        if moment is None:
            raise OutputError(f"the row with id {id} has no {diff.time.strip(_QUOTE)}")
        raise OutputError(f"the row with id {id} has the time {moment}, which is in none of the exported windows")


def apply(database: Connection, diff: Diff, keeping: Keeping, *, policy: Policy, at: str) -> Changes:
    """Write the differences between INCOMING and the target, after `judge`. `at` is the time for rows that are gone."""
    for statement in diff.find_changes:
        database.run(statement)
    counts = {str(change): int(count) for change, count in database.rows(diff.counts)}
    rewritten = database.run(diff.update)
    rewritten += database.run(diff.insert)
    if policy.deleted == "drop":
        rewritten += database.run(diff.drop)
    elif policy.deleted == "mark":
        rewritten += database.run(diff.marked(at))
    keeping.forget(f"SELECT {diff.key} FROM {INCOMING}")
    if policy.deleted == "keep":
        keeping.remember(f"SELECT id FROM {CHANGES} WHERE change = 'deleted'")
    else:
        keeping.forget(diff.gone)
    return Changes(counts.get("inserted", 0), counts.get("changed", 0), counts.get("deleted", 0), rewritten)


def change_lines(changes: Iterable[tuple[Any, ...]], windows: Sequence[Window]) -> Iterator[bytes]:
    """Yield the lines of the NDJSON of changes: each of a kind, an id, and a time in canonical form."""
    starts = [instant(window.start).removesuffix("Z") for window in windows]
    bounds = [[instant(window.start), instant(window.end)] for window in windows]
    for change, id, moment in changes:
        window = bounds[bisect_right(starts, moment) - 1]
        yield orjson.dumps({"change": change, "id": id, "window": window}, option=orjson.OPT_APPEND_NEWLINE)


def write_changes(lines: Iterable[bytes], path: Path) -> None:
    """Write the NDJSON of changes. Raises OSError."""
    with path.open("wb") as file:
        file.writelines(lines)


def _confirm_size(database: Connection, diff: Diff, windows: Sequence[Window], policy: Policy, name: str) -> None:
    """Raise ShrinkError if more rows of a window, or of all, would go than the policy allows."""
    all_held = all_gone = 0
    for number, held, gone in database.rows(diff.shrinkage):
        all_held, all_gone = all_held + held, all_gone + int(gone)
        _confirm_shrinkage(int(gone), held, f"in {windows[number]}", policy, name)
    _confirm_shrinkage(all_gone, all_held, "in the exported windows", policy, name)


def _confirm_shrinkage(gone: int, held: int, where: str, policy: Policy, name: str) -> None:
    if gone > policy.max_shrink * held and gone > policy.max_shrink_rows:
        raise ShrinkError(
            f"{gone:,} of the {held:,} rows that {name} holds {where} are missing from the new export, and the limit "
            f"is {policy.max_shrink:.3g} of them or {policy.max_shrink_rows:,} rows: nothing was changed",
            gone=gone,
            held=held,
        )


def _spans(windows: Sequence[Window]) -> list[tuple[Any, Any]]:
    """Return the spans of time that windows cover: those that touch are joined."""
    spans: list[tuple[Any, Any]] = []
    for window in windows:
        if spans and spans[-1][1] == window.start:
            spans[-1] = (spans[-1][0], window.end)
        else:
            spans.append((window.start, window.end))
    return spans
