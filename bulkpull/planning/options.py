"""The options of a plan, each declared once: see `bulkpull.options`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from bulkpull.options import HOW_FAST, WHAT, as_keywords, check, documented, identity, option
from bulkpull.planning.length import AUTO, parse_window
from bulkpull.planning.range import is_now, is_relative, moment, span
from bulkpull.source import Source
from bulkpull.window import instant


@documented
@dataclass(frozen=True, kw_only=True, slots=True)
class PlanOptions:
    """The options of a plan. Raises UsageError for values that make no sense."""

    start: date | datetime | str = field(
        metadata=option(
            "Start of the range, inclusive: 2024-01-31, 2024-01, yesterday or -7d.",
            group=WHAT,
            details="A date stands for its midnight UTC, a period (2024, 2024-01, 2024-W07, 2024Q1) for its first "
            "instant. Lengths ago count back from the midnight before now, in h and min from now. Relative dates are "
            "resolved when the options are made. An instant (2024-01-31T06:00Z) needs an offset.",
            metavar="DATE",
            recorded=lambda options, _source: instant(moment(options.start, "start")),
        )
    )
    end: date | datetime | str | None = field(
        default=None,
        metadata=option(
            "End of the range, exclusive, like --start. Defaults to the current time.",
            group=WHAT,
            details="It is the first instant of a period too: 2024-01 to 2024-04 are three months.",
            metavar="DATE",
            recorded=lambda options, _source: "now" if options.end is None else instant(moment(options.end, "end")),
        ),
    )
    filter: str | None = field(
        default=None,
        metadata=option(
            "Comparisons joined by ' and ', such as event_type==agreed.",
            group=WHAT,
            details="Operators: == != >= <= > <. A value that contains ' or ' must be quoted.",
            metavar="FILTER",
            recorded=lambda options, source: source.check_filter(options.filter) or "",
        ),
    )
    window: str = field(
        default=AUTO,
        metadata=option(
            "Time span of one export, such as 6h, 7d, 1mo; auto counts to find it.",
            group=HOW_FAST,
            details="Units: min, h, d, w, mo, y. Windows of auto hold about --rows-per-export activities each.",
            metavar="LENGTH",
            recorded=lambda options, _source: options.length,
        ),
    )
    rows_per_export: int = field(
        default=100_000,
        metadata=option(
            "Target rows per export if --window is auto.",
            group=HOW_FAST,
            minimum=1,
            recorded=lambda options, _source: str(options.rows_per_export) if options.length == AUTO else "",
        ),
    )
    max_windows: int = field(
        default=1000,
        metadata=option(
            "Maximum windows in a plan; each is an export and an email.",
            group=HOW_FAST,
            details="A plan with more is an error.",
            minimum=1,
        ),
    )

    def __post_init__(self) -> None:
        check(self)
        first, last = span(self.start, self.end)
        # Once, so that a plan, the journal and a second run with the same options have the same range.
        if is_relative(self.start):
            object.__setattr__(self, "start", first)
        if is_relative(self.end):
            object.__setattr__(self, "end", None if is_now(self.end) else last)
        parse_window(self.length)

    @property
    def length(self) -> str:
        """The window's length in lower case: `auto`, or as `Length.parse` reads it."""
        return self.window.strip().lower()

    def identity(self, source: Source) -> dict[str, str]:
        """Return what an interrupted pull must be resumed with, by name, as the journal records it.

        Raises:
            UsageError: The source does not accept the filter.
        """
        return identity(self, source) | {"base_url": source.base_url}

    def asdict(self) -> dict[str, Any]:
        """Return the keywords of `plan` or `pull` that make these options."""
        return as_keywords(self)
