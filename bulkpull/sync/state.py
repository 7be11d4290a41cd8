"""The state of a sync, as it is kept in the table: what was synced, how far, and which counts cannot be trusted."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Literal, Self

import orjson

from bulkpull.errors import UsageError
from bulkpull.record import record
from bulkpull.window import Window, instant

VERSION = 1

Reason = Literal["skipped", "short", "empty"]


@record
class Missing:
    """A window whose last export was not taken over, so that the next run exports it again: it could not be exported
    (`skipped`), or delivered fewer rows than counted (`short`), or none although the table has some (`empty`)."""

    window: Window
    reason: Reason


@record
class Mismatch:
    """A window in which the API `counted` another number of rows than the table `held`."""

    window: Window
    counted: int
    held: int

    @property
    def excess(self) -> int:
        """How many more were counted than held."""
        return self.counted - self.held


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncState:
    """What a table holds.

    Args:
        source: The API.
        filter: The user's filter; empty if there is none.
        fields: The columns asked for; None for those that exports have by default.
        are_all_fields: Whether `fields` are those that the site offered when they were asked for.
        start: The start of the range, inclusive.
        frontier: Its end, exclusive: younger rows were not synced yet.
        revision: The number of the sync that wrote this.
        at: When that sync began.
        missing: What was not taken over.
        suspects: Windows that were exported since the counts differed: whether that helped, the next run sees.
        unreliable: Windows whose count is known to be wrong by a constant.
        lies: How many windows were found unreliable since counts were last distrusted.
        distrusted_until: The revision up to which no counts are asked for.
    """

    source: str
    filter: str
    fields: tuple[str, ...] | None
    are_all_fields: bool = False
    start: datetime
    frontier: datetime
    revision: int
    at: str
    missing: tuple[Missing, ...] = ()
    suspects: tuple[Mismatch, ...] = ()
    unreliable: tuple[Mismatch, ...] = ()
    lies: int = 0
    distrusted_until: int = 0

    @property
    def distrusts_counts(self) -> bool:
        """Whether counts were wrong so often that the next run does without them."""
        return self.revision < self.distrusted_until

    def text(self) -> str:
        """Return the state as JSON, the same for the same state."""
        values = asdict(replace(self, missing=(), suspects=(), unreliable=()))
        values |= {"version": VERSION, "start": instant(self.start), "frontier": instant(self.frontier)}
        values["missing"] = [[*_bounds(one.window), one.reason] for one in self.missing]
        for name in ("suspects", "unreliable"):
            values[name] = [[*_bounds(one.window), one.counted, one.held] for one in getattr(self, name)]
        return orjson.dumps(values, option=orjson.OPT_SORT_KEYS).decode()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a state. Raises UsageError for one that another version has written, or that is damaged."""
        try:
            values: dict[str, Any] = orjson.loads(text)
            version = values.pop("version")
        except (ValueError, KeyError, AttributeError, TypeError):
            raise UsageError(f"the table's sync state is damaged: {text[:60]!r}. Start over with --rebuild") from None
        if version != VERSION:
            raise UsageError(
                f"the table's sync state has version {version}, and this bulkpull reads version {VERSION}. Use the "
                "version of bulkpull that wrote it, or start over with --rebuild"
            )
        try:
            values["missing"] = tuple(Missing(_window(*bounds), reason) for *bounds, reason in values["missing"])
            for name in ("suspects", "unreliable"):
                values[name] = tuple(Mismatch(_window(start, end), *rows) for start, end, *rows in values[name])
            for name in ("start", "frontier"):
                values[name] = datetime.fromisoformat(values[name])
            values["fields"] = None if values["fields"] is None else tuple(values["fields"])
            return cls(**values)
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"the table's sync state is damaged: {error!r}. Start over with --rebuild") from None


def span(start: datetime, end: datetime) -> Window:
    """Return a window that is part of no plan."""
    return Window(0, start, end)


def _bounds(window: Window) -> tuple[str, str]:
    return instant(window.start), instant(window.end)


def _window(start: str, end: str) -> Window:
    return span(datetime.fromisoformat(start), datetime.fromisoformat(end))
