"""Doubts: whether a window delivered everything. Pure: no requests, no clock, no disk.

A count is a lower bound of what there is. If a window has none, or none that can be trusted, exports that end at the
same number of records suggest a limit (a cap) that truncates them: one window is split to see whether its pieces
deliver more (a trial).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field
from typing import Literal

from bulkpull.journal import Verdict
from bulkpull.planning import looks_like_a_limit
from bulkpull.record import record
from bulkpull.window import Window

_ROUND_RECORDS = 500  # an export that ends at a multiple of it may have been truncated there
_REPEATED_RECORDS, _REPETITIONS = 100, 3  # so many exports that end at one number, at least as high: rarely chance
_MAX_TRIAL_DEPTH = 5  # consecutive trials that show nothing because all rows are in one of the pieces


def is_suspicious(records: int) -> bool:
    """Whether this number of records looks like a cap: a round number, or a limit of spreadsheets."""
    return looks_like_a_limit(records) or (records > 0 and records % _ROUND_RECORDS == 0)


@record
class Delivery:
    """What a window delivered: the `records` of its newest export, the different `ids` of all its exports, and the
    `rows` among them whose ids no earlier window had delivered. It `is_foreign` if there are records, and none of them
    lies in the window."""

    records: int
    ids: int
    rows: int
    is_foreign: bool = False


@record(frozen=False)
class Trial:
    """A test of a cap: a window that delivered a suspicious number of `records`, with `ids` different ids, was split.

    `pieces` is how many of its pieces are still to be merged, `found` how many different ids the others delivered,
    `at_cap` those that delivered the same number of records again. It `is_spoiled` if a piece could not be exported.
    """

    records: int
    ids: int
    pieces: int = 0
    depth: int = 1
    found: int = 0
    at_cap: list[Window] = field(default_factory=list)
    is_spoiled: bool = False


@record(frozen=False)
class Evidence:
    """What asking has shown about a window.

    It `is_empty` if the source confirms that, `is_uncountable` if it was to be counted and could not be, and
    `is_resolved` if nothing is left to ask. `ids_before` is the number of different ids that its first export
    delivered, if a second one was started. `late_links` is how often more links appeared. `trial` is the trial of which
    the window is a piece, until it has been judged.
    """

    is_empty: bool = False
    is_uncountable: bool = False
    is_resolved: bool = False
    cannot_be_split: bool = False
    ids_before: int | None = None
    late_links: int = 0
    trial: Trial | None = None

    @property
    def is_exported_again(self) -> bool:
        """Whether a second export was started."""
        return self.ids_before is not None


class Doubt(Exception):  # noqa: N818 - never leaves the pull: it is resolved by asking
    """A window may not have delivered everything: it delivered nothing (`empty`), only what lies outside of it
    (`foreign`), fewer ids than counted (`short`), or a number of records at which exports seem to be truncated
    (`capped`).

    If `capped`, the merged windows `again` are to be exported in pieces as well, and so is the window itself unless
    `is_own` is false. A `trial` is settled by the pieces, if the cap is not certain. If `is_to_be_counted`, only a
    count is worth its request so far. If a `short` one `is_at_cap`, exports are known to be truncated at its number.
    """

    def __init__(
        self,
        kind: Literal["empty", "foreign", "short", "capped"],
        delivery: Delivery,
        *,
        again: Iterable[Window] = (),
        is_own: bool = True,
        trial: Trial | None = None,
        is_to_be_counted: bool = False,
        is_at_cap: bool = False,
    ) -> None:
        super().__init__(f"{kind}: {delivery.records} records, {delivery.ids} ids")
        self.kind = kind
        self.delivery = delivery
        self.again = tuple(again)
        self.is_own = is_own
        self.trial = trial
        self.is_to_be_counted = is_to_be_counted
        self.is_at_cap = is_at_cap


def contradiction(window: Window, rows: int) -> str:
    """Return how the rows of a window contradict its count, which is lower; empty if they do not."""
    if window.rows is None or rows <= window.rows:
        return ""
    return f"{window}: {window.rows:,} activities were counted, and {rows:,} exported"


@record(frozen=False)
class Doubts:
    """Judges the windows in the order in which they are merged.

    `caps` says by number of records whether exports are truncated there: `open` if no trial could tell, or none has
    yet. Counts prove nothing while `are_counts_doubtful`.
    """

    caps: dict[int, Verdict] = field(default_factory=dict)
    are_counts_doubtful: bool = False
    _unproven: dict[int, list[Window]] = field(default_factory=dict)  # merged windows, by records of their export
    _max_records: int = 0  # of one export
    _changed: set[int] = field(default_factory=set)  # numbers of records with a new verdict

    def resume(self, window: Window, delivery: Delivery) -> None:
        """Take into account a window that an earlier run has merged."""
        if self._is_proven(window, delivery):
            self._max_records = max(self._max_records, delivery.records)
        else:
            self._add_unproven(window, delivery.records)

    def new_verdicts(self) -> dict[int, Verdict]:
        """The verdicts since the last call."""
        verdicts = {records: self.caps[records] for records in sorted(self._changed)}
        self._changed.clear()
        return verdicts

    def judge(self, window: Window, delivery: Delivery, evidence: Evidence) -> Doubt | None:
        """The doubt about what a window delivered; None if there is none, or none that could be resolved."""
        if not evidence.is_resolved:
            if not delivery.ids and not evidence.is_empty:
                return Doubt("empty", delivery)
            if delivery.is_foreign:
                return Doubt("foreign", delivery)
            if window.rows is not None and delivery.ids < window.rows:
                return Doubt("short", delivery, is_at_cap=self.caps.get(delivery.records) == "confirmed")
        trial, evidence.trial = evidence.trial, None
        if trial:
            trial.pieces -= 1
            trial.found += delivery.ids
            if delivery.records == trial.records:
                trial.at_cap.append(window)
            return None if trial.pieces else self._settle(trial, window, delivery)
        if evidence.is_resolved or self._is_proven(window, delivery):
            self._max_records = max(self._max_records, delivery.records)
            return None
        return self._suspect(window, delivery, is_uncountable=evidence.is_uncountable)

    def refute_cap(self, records: int) -> None:
        """Exports are not truncated at this number of records: a count says that one of them was complete."""
        self._set_verdict(records, "refuted")

    def confirm_cap(self, records: int) -> tuple[Window, ...]:
        """Exports are truncated at this number of records: a count says that one of them was incomplete. Returns the
        merged windows whose exports ended there too."""
        self._set_verdict(records, "confirmed")
        return tuple(self._unproven.pop(records, ()))

    def leave_open(self, records: int) -> None:
        """No trial can tell whether exports are truncated at this number of records. A no-op if that is confirmed."""
        if self.caps.get(records) != "confirmed":
            self._set_verdict(records, "open")

    def _is_proven(self, window: Window, delivery: Delivery) -> bool:
        """Whether the count says that this is everything. More rows than counted prove nothing, nor does a number that
        may be a cap of counts; ids that an earlier window had delivered were counted there."""
        if window.rows is None or delivery.rows > window.rows:
            return False
        return not (self.are_counts_doubtful and looks_like_a_limit(delivery.ids))

    def _suspect(self, window: Window, delivery: Delivery, *, is_uncountable: bool) -> Doubt | None:
        records = delivery.records
        if self.caps.get(records) == "confirmed":
            return Doubt("capped", delivery, again=self._unproven.pop(records, ()))
        before, is_round = len(self._unproven.get(records, ())), is_suspicious(records)
        is_first, is_repeated = not before, records >= _REPEATED_RECORDS and before >= _REPETITIONS - 1
        is_open = (is_round or is_repeated) and records >= self._max_records and records not in self.caps
        if is_open and (is_first or not is_round) and not is_uncountable:
            return Doubt("capped", delivery, is_to_be_counted=True)
        is_over = window.rows is not None and delivery.rows > window.rows  # so a count has been wrong already
        if not is_open or (is_first and not is_over):
            self._add_unproven(window, records)
            return None
        self._set_verdict(records, "open")
        return Doubt("capped", delivery, trial=Trial(records, delivery.ids))

    def _settle(self, trial: Trial, window: Window, delivery: Delivery) -> Doubt | None:
        """Conclude a trial: `window` is its last piece."""
        others = [piece for piece in trial.at_cap if piece is not window]
        if trial.found > trial.ids:
            again = [*self.confirm_cap(trial.records), *others]
            is_own = window in trial.at_cap
            return Doubt("capped", delivery, again=again, is_own=is_own) if again or is_own else None
        if trial.is_spoiled or (trial.at_cap and trial.depth == _MAX_TRIAL_DEPTH):
            self.leave_open(trial.records)
        elif trial.at_cap:  # all rows are in one piece, which may have been truncated as well
            deeper = Trial(trial.records, trial.ids, depth=trial.depth + 1)
            return Doubt("capped", delivery, again=others, is_own=not others, trial=deeper)
        else:
            self._set_verdict(trial.records, "refuted")
        return None

    def _set_verdict(self, records: int, verdict: Verdict) -> None:
        self.caps[records] = verdict
        self._changed.add(records)

    def _add_unproven(self, window: Window, records: int) -> None:
        self._unproven.setdefault(records, []).append(window)
        self._max_records = max(self._max_records, records)
