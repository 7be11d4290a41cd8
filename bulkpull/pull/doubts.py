"""Doubts: whether what a window delivered can be all that there is. Pure: no requests, no clock, no disk.

A count says how much there is at least. Where there is none, or none to be trusted, exports that end at one and the
same number of records say that they may have been cut there: one window is cut to see whether more comes (a trial).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from bulkpull.journal.journal import Verdict
from bulkpull.planning.volume import looks_like_a_limit
from bulkpull.window import Window

_ROUND = 500  # records: exports that end at a multiple of it may have been cut there
_MAX_DEPTH = 5  # trials in a row that show nothing, since all rows are in one of the pieces


def is_suspicious(records: int) -> bool:
    """Whether so many records look like a limit: a round number, or one of spreadsheets."""
    return looks_like_a_limit(records) or (records > 0 and records % _ROUND == 0)


@dataclass(slots=True)
class Trial:
    """A window that delivered a suspicious number of `records`, with so many different `ids`, was cut: `pieces` of it
    are still to be merged. `found` are the different ids that they delivered, `as_many` those that delivered the same
    number again."""

    records: int
    ids: int
    pieces: int
    depth: int = 1
    found: int = 0
    as_many: list[Window] = field(default_factory=list)
    spoiled: bool = False  # a piece could not be exported


class Doubt(Exception):  # noqa: N818 - never leaves the pull: it is resolved by asking
    """A window's rows may not be all: it delivered none (`empty`), fewer than counted (`short`), or a number of records
    at which exports seem to be cut (`capped`). `records` are those of the newest export, `ids` the different ones of
    all.

    Of the `capped`, `again` are windows that were merged already and are to be exported in pieces too; with `is_own`
    the window itself is. `trial` is to be settled by the pieces, where the cap is not certain; `is_to_be_counted` says
    that nothing but a count is worth while yet.
    """

    def __init__(
        self,
        kind: Literal["empty", "short", "capped"],
        records: int,
        ids: int,
        *,
        again: Iterable[Window] = (),
        is_own: bool = True,
        trial: Trial | None = None,
        is_to_be_counted: bool = False,
    ) -> None:
        super().__init__(f"{kind}: {records} records, {ids} ids")
        self.kind = kind
        self.records = records
        self.ids = ids
        self.again = tuple(again)
        self.is_own = is_own
        self.trial = trial
        self.is_to_be_counted = is_to_be_counted


@dataclass(slots=True)
class Doubts:
    """Judges the windows in the order in which they are merged.

    `caps` tells of numbers of records whether exports end there, `open` where no trial could tell, or has yet.
    `are_counts_doubtful` says that a count proves nothing.
    """

    caps: dict[int, Verdict] = field(default_factory=dict)
    are_counts_doubtful: bool = False
    _unproven: dict[int, list[Window]] = field(default_factory=dict)  # merged, by the records of their export
    _most: int = 0  # records that an export delivered
    _news: set[int] = field(default_factory=set)

    def resume(self, window: Window, records: int, rows: int, ids: int) -> None:
        """An earlier run has merged the window."""
        if self._proves(window, rows, ids):
            self._most = max(self._most, records)
        else:
            self._note(window, records)

    def news(self) -> dict[int, Verdict]:
        """The verdicts since the last call."""
        news = {records: self.caps[records] for records in sorted(self._news)}
        self._news.clear()
        return news

    def judge(
        self,
        window: Window,
        records: int,
        rows: int,
        ids: int,
        trial: Trial | None,
        *,
        is_empty: bool,
        is_resolved: bool,
        is_uncountable: bool = False,
    ) -> Doubt | None:
        """The doubt about a window of which `ids` different ones came, `rows` of them for the first time, in `records`
        of its newest export; None where there is none, or none that could be resolved (`is_resolved`). A `trial` hears
        of a window once."""
        if not is_resolved:
            if not ids and not is_empty:
                return Doubt("empty", records, ids)
            if window.rows is not None and ids < window.rows:
                return Doubt("short", records, ids)
        if trial:
            trial.pieces -= 1
            trial.found += ids
            if records == trial.records:
                trial.as_many.append(window)
            return None if trial.pieces else self._settle(trial, window, records, ids)
        if is_resolved or self._proves(window, rows, ids):
            self._most = max(self._most, records)
            return None
        return self._suspect(window, records, rows, ids, is_uncountable=is_uncountable)

    def refute(self, records: int) -> None:
        """Exports do not end at so many records: a count says that one of them was whole."""
        self._judge_cap(records, "refuted")

    def convict(self, records: int) -> tuple[Window, ...]:
        """Exports end at so many records: a count says that one of them was not whole. Returns the windows that were
        merged and ended there too."""
        self._judge_cap(records, "found")
        return tuple(self._unproven.pop(records, ()))

    def give_up(self, records: int) -> None:
        """No trial can tell whether exports end at so many records, unless that is known."""
        if self.caps.get(records) != "found":
            self._judge_cap(records, "open")

    def _proves(self, window: Window, rows: int, ids: int) -> bool:
        """Whether the count says that this is all. More than was counted, or a number at which counts may end, does
        not; ids that come again in another window were counted there."""
        if window.rows is None or rows > window.rows:
            return False
        return not (self.are_counts_doubtful and looks_like_a_limit(ids))

    def _suspect(self, window: Window, records: int, rows: int, ids: int, *, is_uncountable: bool) -> Doubt | None:
        if self.caps.get(records) == "found":
            return Doubt("capped", records, ids, again=self._unproven.pop(records, ()))
        is_first = records not in self._unproven
        is_open = is_suspicious(records) and records >= self._most and records not in self.caps
        if is_open and is_first and not is_uncountable:
            return Doubt("capped", records, ids, is_to_be_counted=True)
        is_over = window.rows is not None and rows > window.rows  # then a count has been wrong already
        if not is_open or (is_first and not is_over):
            self._note(window, records)
            return None
        self._judge_cap(records, "open")
        return Doubt("capped", records, ids, trial=Trial(records, ids, 0))

    def _settle(self, trial: Trial, window: Window, records: int, ids: int) -> Doubt | None:
        """The last piece of a trial is there, and is this window."""
        if trial.found > trial.ids:
            again = [*self.convict(trial.records), *(one for one in trial.as_many if one is not window)]
            is_own = window in trial.as_many
            return Doubt("capped", records, ids, again=again, is_own=is_own) if again or is_own else None
        if trial.spoiled or (trial.as_many and trial.depth == _MAX_DEPTH):
            self.give_up(trial.records)
        elif trial.as_many:  # all rows are in one piece, which may have been cut as well
            deeper = Trial(trial.records, trial.ids, 0, trial.depth + 1)
            again = [one for one in trial.as_many if one is not window]
            return Doubt("capped", records, ids, again=again, is_own=not again, trial=deeper)
        else:
            self._judge_cap(trial.records, "refuted")
        return None

    def _judge_cap(self, records: int, verdict: Verdict) -> None:
        self.caps[records] = verdict
        self._news.add(records)

    def _note(self, window: Window, records: int) -> None:
        self._unproven.setdefault(records, []).append(window)
        self._most = max(self._most, records)
