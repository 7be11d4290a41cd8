"""Activity that changes while time passes: it arrives late, and is deleted, changed, moved and imported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import repeat
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bulkpull.errors import UsageError
from bulkpull.record import record
from bulkpull.sandbox.data import (
    DEFAULT_FIELDS,
    ENCODED,
    FIELDS,
    MASK,
    SEED_FACTOR,
    VALUES,
    Activities,
    Pools,
    Row,
    made_up_id,
    made_up_row,
    milliseconds,
)
from bulkpull.sandbox.given import GivenActivities

Times = NDArray[np.int64]  # milliseconds since 1970
_Versions = tuple[Times, Times, Times, Times, Times]  # times of creation, arrival and leaving, numbers, revisions

_DAY_MS = 86_400_000
_PROMPT_MS = 60_000  # an activity that is not late arrives within a minute
_MIN_AFTER_MS = 1000
_NEVER = np.iinfo(np.int64).max
_REPEATED = 1 << 9  # of 2^16 rows of an export, how many it delivers twice


@dataclass(slots=True, eq=False, kw_only=True)
class History:
    """A seeded stream of changes to a site's activity, from `start` to `end`.

    Fractions are those of all activities. What happens late, or later, happens within `within_days`, mostly soon.

    Args:
        start: Start of the range in which activities are created, inclusive.
        end: End of that range, exclusive.
        per_day: Number of activities created in a day.
        seed: Seed of activities and changes.
        late: Fraction that arrives late, so that an export made before lacks it.
        deleted: Fraction that is deleted.
        changed: Fraction whose values change, with the same id and time.
        moved: Fraction whose `created_time` changes, by up to `within_days` in either direction.
        imported: Fraction that is imported in bulk: a few times, many activities of one day in the past arrive at once.
        within_days: Days within which that happens.
        count_delay_s: Seconds until counts show a change.
        export_delay_s: Seconds until exports show a change.

    Raises:
        UsageError: The range is empty, or too large for the number of activities in a day.
    """

    start: datetime
    end: datetime
    per_day: float = 100.0
    seed: int = 0
    late: float = 0.001
    deleted: float = 0.0001
    changed: float = 0.0
    moved: float = 0.0
    imported: float = 0.0
    within_days: float = 30.0
    count_delay_s: float = 0.0
    export_delay_s: float = 0.0
    _first_ms: int = field(init=False, repr=False)
    _span_ms: int = field(init=False, repr=False)
    _created: Times = field(init=False, repr=False)  # of each version of each activity, in ascending order
    _arrives: Times = field(init=False, repr=False)
    _leaves: Times = field(init=False, repr=False)
    _numbers: Times = field(init=False, repr=False)  # of the activity
    _revisions: Times = field(init=False, repr=False)  # 1 for a version with other values
    _first_arrivals: Times = field(init=False, repr=False)  # by number, as the ids contain it
    _changes: Times = field(init=False, repr=False)  # all times at which a version arrives or leaves
    visible: Callable[[int], tuple[Times, Times]] = field(init=False, repr=False)  # see `_find_visible`

    def __post_init__(self) -> None:
        if self.start >= self.end:
            raise UsageError("the start of a sandbox's history must be before its end")
        self._first_ms = milliseconds(self.start)
        self._span_ms = (self.end - self.start) // timedelta(milliseconds=1)
        rows = round(self.per_day * self._span_ms / _DAY_MS)
        if rows >= 1 << 24:
            raise UsageError(f"a history of {rows:,} activities is too long: their ids would not be unique")
        numbers = np.arange(rows, dtype=np.int64)
        offsets = (numbers + self._draws(numbers, 1)) * (self._span_ms / max(rows, 1))
        created = self._first_ms + offsets.astype(np.int64)
        arrives = created + (self._draws(numbers, 2) * _PROMPT_MS).astype(np.int64)
        late, after_ms = self._choose(numbers, self.late, 3)
        arrives[late] = created[late] + after_ms
        self._import(created, arrives, self._choose(numbers, self.imported, 5)[0])
        self._first_arrivals = arrives
        self._order(self._delete(self._change(created, arrives)))
        self._changes = np.sort(np.concatenate((self._arrives, self._leaves[self._leaves < _NEVER])))
        self.visible = lru_cache(maxsize=3)(self._find_visible)  # for exports, counts and lists

    def _choose(self, numbers: Times, fraction: float, draw: int) -> tuple[Times, Times]:
        """Draw the activities to which something happens, and after how many milliseconds."""
        which = np.flatnonzero(self._draws(numbers, draw) < fraction)
        within_ms = self.within_days * _DAY_MS
        return which, _MIN_AFTER_MS + (self._draws(which, draw + 1) ** 3 * within_ms).astype(np.int64)

    def _import(self, created: Times, arrives: Times, imported: Times) -> None:
        """Let activities arrive in batches, each of one day in the past."""
        number_of_batches = min(len(imported), max(1, round(len(imported) / max(self.per_day, 1))))
        for number in range(number_of_batches):
            batch = imported[number::number_of_batches]
            instant, ago = (self._draws(np.array([number]), draw).item() for draw in (7, 8))
            at = self._first_ms + int(self._span_ms * (0.1 + 0.9 * instant))
            day = max(self._first_ms, at - _DAY_MS - int(ago * self.within_days * _DAY_MS))
            created[batch] = day + (self._draws(batch, 9) * min(_DAY_MS, at - day)).astype(np.int64)
            arrives[batch] = at

    def _change(self, created: Times, arrives: Times) -> _Versions:
        """Return the first versions of all activities, and the second ones of those that are changed or moved."""
        numbers = np.arange(len(created), dtype=np.int64)
        leaves = np.full(len(created), _NEVER)
        changed, changed_after_ms = self._choose(numbers, self.changed, 10)
        moved, moved_after_ms = self._choose(numbers, self.moved, 12)
        by_ms = ((2 * self._draws(moved, 14) - 1) * self.within_days * _DAY_MS).astype(np.int64)
        times = np.clip(created[moved] + by_ms, self._first_ms, arrives[moved] + moved_after_ms)
        is_moved_only = np.isin(moved, changed, invert=True)  # one of the two happens to an activity, once
        moved, moved_after_ms, times = moved[is_moved_only], moved_after_ms[is_moved_only], times[is_moved_only]
        leaves[changed] = arrives[changed] + changed_after_ms
        leaves[moved] = arrives[moved] + moved_after_ms
        which = np.concatenate((changed, moved))
        return (
            np.concatenate((created, created[changed], times)),
            np.concatenate((arrives, leaves[which])),
            np.concatenate((leaves, np.full(len(which), _NEVER))),
            np.concatenate((numbers, which)),
            np.concatenate(
                (np.zeros(len(created), np.int64), np.ones(len(changed), np.int64), np.zeros(len(moved), np.int64))
            ),
        )

    def _delete(self, versions: _Versions) -> _Versions:
        """Let the last versions of the deleted activities leave."""
        created, arrives, leaves, numbers, revisions = versions
        deleted, after_ms = self._choose(np.arange(len(self._first_arrivals), dtype=np.int64), self.deleted, 15)
        gone = np.full(len(self._first_arrivals), _NEVER)
        gone[deleted] = after_ms
        is_deleted = (leaves == _NEVER) & (gone[numbers] < _NEVER)
        leaves[is_deleted] = arrives[is_deleted] + gone[numbers[is_deleted]]
        return created, arrives, leaves, numbers, revisions

    def _order(self, versions: _Versions) -> None:
        """Keep the versions in the order of time."""
        created, _, _, numbers, _ = versions
        order = np.lexsort((numbers, created))
        self._created, self._arrives, self._leaves, self._numbers, self._revisions = (
            array[order] for array in versions
        )

    def at(self, moment: datetime) -> Moment:
        """Return the activity as it is at a moment."""
        return Moment(self, int(np.searchsorted(self._changes, milliseconds(moment), "right")))

    def _find_visible(self, changes: int) -> tuple[Times, Times]:
        """Return which versions are there after so many changes, and their times, both ordered by time."""
        now = self._changes[changes - 1] if changes else np.int64(0)
        visible = np.flatnonzero((self._arrives <= now) & (now < self._leaves))
        return visible, self._created[visible]

    def _draws(self, numbers: Times, draw: int) -> NDArray[np.float64]:
        """Return a reproducible draw from [0, 1) for each number."""
        return (_mixed(numbers, self.seed * 64 + draw) >> np.uint64(11)) / float(1 << 53)


@record
class Moment:
    """The activities of a history after its first `changes` changes. It does for an export what `Activities` does.

    It holds no arrays: the sandbox keeps one for each export.
    """

    history: History
    changes: int
    fields: ClassVar = FIELDS
    default_fields: ClassVar = DEFAULT_FIELDS

    @property
    def rows(self) -> int:
        """The number of activities."""
        return len(self.history.visible(self.changes)[0])

    def row(self, number: int) -> Row:
        """Return the values of one activity, in the order of FIELDS."""
        return next(row for row, _ in self._rows(range(number, number + 1), VALUES))

    def first_from(self, moment: datetime) -> int:
        """Return the number of the first activity that is not before the moment."""
        return int(np.searchsorted(self.history.visible(self.changes)[1], milliseconds(moment)))

    def export_rows(self, numbers: range, matches: Callable[[Row], bool] | None) -> Iterator[tuple[str, ...]]:
        """Yield the rows of an export of these activities, as CSV fields; repeats come last."""
        again: list[tuple[str, ...]] = []
        chosen = repeat(True) if matches is None else (matches(row) for row, _ in self._rows(numbers, VALUES))
        for (fields, draw), is_chosen in zip(self._rows(numbers, ENCODED), chosen, strict=False):
            if is_chosen:
                yield fields
                if draw * 0x9E3779B97F4A7C15 >> 24 & 0xFFFF < _REPEATED:  # independent of the values
                    again.append(fields)
        yield from again

    def _rows(self, numbers: range, pools: Pools) -> Iterator[tuple[tuple[Any, ...], int]]:
        """Yield rows, each with what its values are drawn with."""
        history = self.history
        versions, times = (array[numbers.start : numbers.stop] for array in history.visible(self.changes))
        of = history._numbers[versions]
        draws = _mixed(of + (history._revisions[versions] << 32), history.seed)
        arrivals = history._first_arrivals[of]
        for number, ms, arrival, draw in zip(
            of.tolist(), times.tolist(), arrivals.tolist(), draws.tolist(), strict=True
        ):
            yield made_up_row(made_up_id(arrival, history.seed, number), ms, draw, pools), draw


AnyActivities = Activities | GivenActivities | Moment


def _mixed(numbers: Times, seed: int) -> NDArray[np.uint64]:
    """Do what `data.mixed` does, for many numbers."""
    bits = numbers.astype(np.uint64) + np.uint64(seed * SEED_FACTOR & MASK)
    bits *= np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ bits >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ bits >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return bits ^ bits >> np.uint64(31)
