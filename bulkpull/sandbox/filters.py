"""The filter grammar of the API: comparisons joined by ` and `. Deliberately shares no code with the client."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from bulkpull.record import record
from bulkpull.sandbox.data import Row
from bulkpull.sandbox.history import AnyActivities

_COMPARISON = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(==|!=|>=|<=|>|<)\s*(\S.*?)\s*", re.DOTALL)
_OPERATORS: dict[str, Callable[[str, str], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


class FilterError(ValueError):
    """A filter that the API rejects with 400."""


@record
class Selection:
    """The activities that a filter selects: a range of numbers, and an additional condition on rows, if any."""

    activities: AnyActivities
    numbers: range
    matches: Callable[[Row], bool] | None


def select(activities: AnyActivities, filter: str) -> Selection:
    """Parse `filter`. Raises FilterError."""
    first, last, fields = 0, activities.rows, activities.fields
    conditions: list[tuple[int, Callable[[str, str], bool], str]] = []
    for clause in re.split(r"\sand\s", filter) if filter.strip() else ():
        match = _COMPARISON.fullmatch(clause)
        if not match:
            raise FilterError(f"invalid filter: {clause.strip()!r}")
        name, sign, value = match.groups()
        if name == "created_time":
            moment = parse_moment(value)
            at = activities.first_from(moment)
            after = activities.first_from(moment + timedelta(milliseconds=1))
            if sign in (">=", ">", "=="):
                first = max(first, after if sign == ">" else at)
            if sign in ("<", "<=", "=="):
                last = min(last, at if sign == "<" else after)
            if sign == "!=":
                conditions.append(
                    (
                        fields.index(name),
                        operator.ne,
                        moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                    )
                )
        elif name in fields:
            conditions.append((fields.index(name), _OPERATORS[sign], value))
        else:
            raise FilterError(f"unknown field in filter: {name!r}")
    return Selection(activities, range(first, max(first, last)), _all(conditions) if conditions else None)


def _all(conditions: list[tuple[int, Callable[[str, str], bool], str]]) -> Callable[[Row], bool]:
    def matches(row: Row) -> bool:
        return all(compare(row[at] or "", value) for at, compare, value in conditions)

    return matches


def parse_moment(value: str) -> datetime:
    """Parse a time as filters contain it; without a zone it is in UTC. Raises FilterError."""
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise FilterError(f"invalid date: {value!r}") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
