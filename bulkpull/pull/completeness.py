"""Completeness: whether a pull has everything, as far as the API can be made to tell, and how that is known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bulkpull.journal.journal import Journal, Outcome
from bulkpull.window import Window

KnownBy = Literal["counts reconciled", "counts unknown", "short"]


@dataclass(frozen=True, slots=True)
class CountMismatch:
    """A window of which `delivered` different activities came, another number than was `counted`. `counted` is None
    where there is no count, and its export may have ended early all the same."""

    window: Window
    counted: int | None
    delivered: int


@dataclass(frozen=True, slots=True)
class Completeness:
    """`short` are the windows of which less came than there is, or may be, `over` those of which more came than was
    counted, in the order of their time."""

    short: tuple[CountMismatch, ...]
    over: tuple[CountMismatch, ...]
    known_by: KnownBy


def completeness(journal: Journal) -> Completeness:
    """What the journal of a pull that is through says. Blocks on the disk. Raises OutputError."""
    outcomes = journal.outcomes()
    caps = {records for records, verdict in journal.caps.items() if verdict != "refuted"}
    cut = {outcome.parent for outcome in outcomes}
    merged = [outcome for outcome in outcomes if outcome.window.index not in cut and outcome.ids is not None]
    short: list[CountMismatch] = []
    over: list[CountMismatch] = []
    for outcome in merged:
        window, ids, brought = outcome.window, outcome.ids or 0, outcome.rows or 0
        if window.rows is not None and ids < window.rows:
            short.append(CountMismatch(window, window.rows, ids))
        elif window.rows is not None and brought > window.rows:  # ids that come again were counted in another window
            over.append(CountMismatch(window, window.rows, brought))
        elif outcome.records in caps and (window.rows is None or journal.doubt):
            short.append(CountMismatch(window, None, ids))
    short += _less_than_before(outcomes)
    rows = sum(outcome.rows or 0 for outcome in outcomes)
    if not short:
        short += _less_in_all(merged, rows)
    if not short and journal.total is not None:
        short += _less_than_total(outcomes, journal.total, rows)
    counted = all(outcome.window.rows is not None for outcome in merged)
    known_by: KnownBy = "counts reconciled" if counted and not journal.doubt else "counts unknown"
    if short or any(outcome.is_skipped for outcome in outcomes):
        known_by = "short"
    in_order = [sorted(found, key=lambda mismatch: mismatch.window.start) for found in (short, over)]
    return Completeness(tuple(in_order[0]), tuple(in_order[1]), known_by)


def _less_than_before(outcomes: Sequence[Outcome]) -> list[CountMismatch]:
    """The windows that were cut, and of whose pieces less came than had come of them before, or than was counted in
    them where the pieces were not."""
    of_pieces: dict[int, int] = defaultdict(int)
    is_skipped: dict[int, bool] = defaultdict(bool)
    is_uncounted: dict[int, bool] = defaultdict(bool)
    for outcome in reversed(outcomes):  # pieces have higher numbers than what they are cut from
        index, parent = outcome.window.index, outcome.parent
        if parent is not None:
            of_pieces[parent] += max(of_pieces[index], outcome.ids or 0)
            is_skipped[parent] |= is_skipped[index] or outcome.is_skipped
            is_uncounted[parent] |= is_uncounted[index] or outcome.window.rows is None
    found = []
    for outcome in outcomes:
        index = outcome.window.index
        if index not in of_pieces or outcome.ids is not None or is_skipped[index]:
            continue
        least = max(outcome.delivered or 0, (outcome.window.rows or 0) if is_uncounted[index] else 0)
        if of_pieces[index] < least:
            found.append(CountMismatch(outcome.window, least, of_pieces[index]))
    return found


def _less_than_total(outcomes: Sequence[Outcome], total: int, rows: int) -> list[CountMismatch]:
    """The whole range, where the `rows` of the output are less than was counted in it before counting failed."""
    if rows >= total or any(outcome.is_skipped for outcome in outcomes):
        return []
    starts = [outcome.window.start for outcome in outcomes]
    ends = [outcome.window.end for outcome in outcomes]
    return [CountMismatch(Window(0, min(starts), max(ends), total), total, rows)]


def _less_in_all(merged: Sequence[Outcome], rows: int) -> list[CountMismatch]:
    """The windows that brought less than was counted, where the `rows` of the output are less than was counted in all:
    what they delivered had been delivered by other windows already."""
    if rows >= sum(outcome.window.rows or 0 for outcome in merged):
        return []
    return [
        CountMismatch(outcome.window, outcome.window.rows, outcome.rows or 0)
        for outcome in merged
        if (outcome.rows or 0) < (outcome.window.rows or 0)
    ]
