"""The range of a pull, as the command line shows it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime

from bulkpull import PlanOptions
from bulkpull.planning import is_relative, moment
from bulkpull.window import instant


def range_text(options: PlanOptions) -> str:
    """Return the range in UTC."""
    return f"{_text(options.start, 'start')} to {_text(options.end, 'end')} (UTC, the end excluded)"


def resolved_dates(given: Mapping[str, object], options: PlanOptions) -> dict[str, str]:
    """Return by flag, for dates given relative to the current time, what they stand for."""
    return {
        f"--{name}": _text(getattr(options, name), name) for name in ("start", "end") if is_relative(given.get(name))
    }


def _text(value: date | datetime | str | None, what: str) -> str:
    return "now" if value is None else instant(moment(value, what))
