"""Activities that a test chooses, instead of generated ones."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson

from bulkpull.errors import UsageError
from bulkpull.sandbox.data import DEFAULT_FIELDS, FIELDS, Row, csv_value, made_up_id, milliseconds

_INTERVAL = timedelta(minutes=1)


class GivenActivities:
    """The given rows, ordered by time. It does for an export what `Activities` does, without repeats and conflicts.

    Args:
        rows: The rows: see `Sandbox.rows`.
        start: The time of a first row without one.
        seed: Part of the ids that are made up.

    Raises:
        UsageError: A row has no valid time, or the id of another one.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], start: datetime, seed: int = 0) -> None:
        timed: list[tuple[int, dict[str, str | None]]] = []
        moment = start - _INTERVAL
        for number, given in enumerate(rows):
            row = dict(_flattened(given))
            moment = _moment(row["created_time"]) if row.get("created_time") is not None else moment + _INTERVAL
            ms = milliseconds(moment)
            row["created_time"] = moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            row["id"] = row.get("id") or made_up_id(ms, seed, number)
            row.setdefault("signer_id", f"{number + 1:05d}")
            timed.append((ms, row))
        timed.sort(key=lambda pair: pair[0])
        named = {name: None for _, row in timed for name in row}
        self.fields = tuple(dict.fromkeys((*FIELDS, *named)))
        self.default_fields = tuple(dict.fromkeys((*DEFAULT_FIELDS, *named)))
        self.rows = len(timed)
        self._times = [ms for ms, _ in timed]
        self._rows: list[Row] = [tuple(map(row.get, self.fields)) for _, row in timed]
        seen: set[str | None] = set()
        for _, row in timed:
            if row["id"] in seen:
                raise UsageError(f"two rows of the sandbox have the id {row['id']!r}: ids must be unique")
            seen.add(row["id"])

    def row(self, number: int) -> Row:
        """Return the values of one activity, in the order of `fields`."""
        return self._rows[number]

    def first_from(self, moment: datetime) -> int:
        """Return the number of the first activity that is not before the moment."""
        return bisect_left(self._times, milliseconds(moment))

    def export_rows(self, numbers: range, matches: Callable[[Row], bool] | None) -> Iterator[tuple[str, ...]]:
        """Yield the rows of an export of these activities, as CSV fields."""
        for row in self._rows[numbers.start : numbers.stop]:
            if matches is None or matches(row):
                yield tuple(map(csv_value, row))


def _flattened(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    """Yield dotted names with values as text."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{name}.")
        elif value is None or isinstance(value, str):
            yield prefix + name, value
        elif isinstance(value, date):  # which a datetime is
            yield prefix + name, value.isoformat()
        else:
            yield prefix + name, orjson.dumps(value).decode()


def _moment(text: str | None) -> datetime:
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        raise UsageError(f"a row of the sandbox has the created_time {text!r}: it must be an ISO 8601 time") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
