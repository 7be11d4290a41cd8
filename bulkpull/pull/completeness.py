"""Completeness: whether a pull has everything, as far as the API can tell, and how that is known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from bulkpull.journal import Journal, Outcome
from bulkpull.record import record
from bulkpull.window import Window

KnownBy = Literal["counts reconciled", "counts unknown", "short"]


@record
class CountMismatch:
    """A window that delivered another number of activities than was counted. `counted` is None if the window has no
    usable count, but its export may have been truncated."""

    window: Window
    counted: int | None
    delivered: int


@record
class Completeness:
    """How complete a finished pull is. `short` are the windows that delivered less than there is, or may have; `over`
    those that delivered more than was counted; both in order of time."""

    short: tuple[CountMismatch, ...]
    over: tuple[CountMismatch, ...]
    known_by: KnownBy


def completeness(journal: Journal) -> Completeness:
    """Compare what a finished pull has merged with the counts. Blocks on the disk. Raises OutputError."""
    outcomes = journal.outcomes()
    caps = {records for records, verdict in journal.caps.items() if verdict != "refuted"}
    merged = [outcome for outcome in outcomes if not outcome.is_split and outcome.ids is not None]
    short: list[CountMismatch] = []
    over: list[CountMismatch] = []
    for outcome in merged:
        window, ids, new = outcome.window, outcome.ids or 0, outcome.rows or 0
        if window.rows is not None and ids < window.rows:
            short.append(CountMismatch(window, window.rows, ids))
        elif window.rows is not None and new > window.rows:  # ids from an earlier window were counted there
            over.append(CountMismatch(window, window.rows, new))
        elif outcome.records in caps and (window.rows is None or journal.doubt):
            short.append(CountMismatch(window, None, ids))
    short += _less_than_before_split(outcomes)
    rows = sum(outcome.rows or 0 for outcome in outcomes)
    if not short:
        short += _less_than_sum(merged, rows)
    if not short and journal.total is not None:
        short += _less_than_total(outcomes, journal.total, rows)
    counted = all(outcome.window.rows is not None for outcome in merged)
    known_by: KnownBy = "counts reconciled" if counted and not journal.doubt else "counts unknown"
    if short or any(outcome.is_skipped for outcome in outcomes):
        known_by = "short"
    in_order = [sorted(found, key=lambda mismatch: mismatch.window.start) for found in (short, over)]
    return Completeness(tuple(in_order[0]), tuple(in_order[1]), known_by)


def _less_than_before_split(outcomes: Sequence[Outcome]) -> list[CountMismatch]:
    """The windows whose pieces delivered less than they had delivered before they were split, or less than was counted
    in them if the pieces were not counted."""
    of_pieces: dict[int, int] = defaultdict(int)
    is_skipped: dict[int, bool] = defaultdict(bool)
    is_uncounted: dict[int, bool] = defaultdict(bool)
    for outcome in reversed(outcomes):  # pieces come after the window that was split
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
        least = max(outcome.ids_before_split or 0, (outcome.window.rows or 0) if is_uncounted[index] else 0)
        if of_pieces[index] < least:
            found.append(CountMismatch(outcome.window, least, of_pieces[index]))
    return found


def _less_than_total(outcomes: Sequence[Outcome], total: int, rows: int) -> list[CountMismatch]:
    """The whole range, if the output has fewer `rows` than were counted in it before counting failed."""
    if rows >= total or any(outcome.is_skipped for outcome in outcomes):
        return []
    starts = [outcome.window.start for outcome in outcomes]
    ends = [outcome.window.end for outcome in outcomes]
    return [CountMismatch(Window(0, min(starts), max(ends), total), total, rows)]


def _less_than_sum(merged: Sequence[Outcome], rows: int) -> list[CountMismatch]:
    """The windows that added fewer rows than were counted, if the output has fewer `rows` than the sum of the counts:
    other windows had delivered some of their ids already."""
    if rows >= sum(outcome.window.rows or 0 for outcome in merged):
        return []
    return [
        CountMismatch(outcome.window, outcome.window.rows, outcome.rows or 0)
        for outcome in merged
        if (outcome.rows or 0) < (outcome.window.rows or 0)
    ]
