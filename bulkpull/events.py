"""What happens during a pull, as small values.

Progress, logs, the result's figures and tests listen to the same events; no stage prints or counts on its own.
A listener is a plain function called in the event loop: it must return at once, and what it raises ends the pull.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bulkpull.window import Window


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events."""


OnEvent = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """The listener of those who do not listen."""


# The client


@dataclass(frozen=True, slots=True)
class Requested(Event):
    """A request is about to be sent to the API. `route` is method and path, without the query."""

    route: str


@dataclass(frozen=True, slots=True)
class Retried(Event):
    """Attempt number `attempt` (from 1) at `what` failed for `reason`; the next comes in `wait` seconds."""

    what: str
    attempt: int
    wait: float
    reason: str


@dataclass(frozen=True, slots=True)
class Throttled(Event):
    """The API answered 429, which mails the site's admins. All requests hold for `wait` seconds."""

    route: str
    wait: float


# The pull


@dataclass(frozen=True, slots=True)
class Planned(Event):
    """The range has been cut into these windows, with so many `probes` (requests that count). `uncounted` is why the
    windows are of equal length, where they should have been of equal volume; empty otherwise."""

    windows: tuple[Window, ...]
    probes: int = 0
    uncounted: str = ""


@dataclass(frozen=True, slots=True)
class CountsDoubted(Event):
    """The API's counts cannot be trusted, for `reason`; told once in a pull."""

    reason: str


@dataclass(frozen=True, slots=True)
class Resumed(Event):
    """The pull goes on with what earlier runs have done: `run` is this run's number, from 2.

    The first `merged` windows are in the output already, and came to so many `parts`, `rows`, `duplicates`,
    `conflicts` and rows `outside`. Of the others, `exporting` have an export that had not succeeded yet and
    `exported` one that had; `whole` of their files are on the disk, and `half` in part; `skipped` were left out.
    `exports` were launched, and `splits` windows were cut.
    """

    run: int
    merged: int
    parts: int
    rows: int
    duplicates: int
    conflicts: int
    outside: int
    exports: int
    exporting: int
    exported: int
    whole: int
    half: int
    skipped: int
    splits: int


@dataclass(frozen=True, slots=True)
class Launched(Event):
    """An export was started for a window; `attempt` counts from 1."""

    window: Window
    export_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Polled(Event):
    """An export was asked for its `status`, `waited` seconds after its launch. `state` is what the status means:
    queued, running, succeeded or failed."""

    window: Window
    export_id: str
    status: str
    state: str
    waited: float


@dataclass(frozen=True, slots=True)
class ExportFailed(Event):
    """An export failed or timed out, or its files are gone or damaged, for `reason`; its window is launched again,
    or, where that is of no use, cut. `attempt` counts the window's exports of this run, from 1."""

    window: Window
    export_id: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class Split(Event):
    """A window was cut into `pieces`, for `reason`: its exports failed, or do not deliver all. The pieces take its
    place; where the window `is_merged` already, they are exported in addition."""

    window: Window
    pieces: tuple[Window, ...]
    reason: str
    is_merged: bool = False


@dataclass(frozen=True, slots=True)
class Refused(Event):
    """The API refused a launch, for `reason`, while others of ours are in flight: it is launched again when one of them
    has ended. Up to `exports` are in flight from now on."""

    window: Window
    exports: int
    reason: str


@dataclass(frozen=True, slots=True)
class Reconciling(Event):
    """A window of which `ids` different ones came, and `counted` were counted (None where that is not known), may lack
    rows: `step` is what is done about it."""

    window: Window
    counted: int | None
    ids: int
    step: str


@dataclass(frozen=True, slots=True)
class Skipped(Event):
    """A window that could not be exported is left out, for `reason`."""

    window: Window
    reason: str


@dataclass(frozen=True, slots=True)
class Limited(Event):
    """From now on at most so many exports are in flight, and so many files streamed."""

    exports: int
    downloads: int


@dataclass(frozen=True, slots=True)
class Exported(Event):
    """A window's export succeeded with `parts` links, `seconds` after its launch."""

    window: Window
    export_id: str
    parts: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Received(Event):
    """`size` more bytes of a part (`part` counts from 1 in its window) came over the wire."""

    window: Window
    part: int
    size: int


@dataclass(frozen=True, slots=True)
class PartFetched(Event):
    """A part stands whole on the disk: `size` bytes."""

    window: Window
    part: int
    size: int


@dataclass(frozen=True, slots=True)
class ColumnsDiffer(Event):
    """A part lacks columns of the output (written empty there), or has `unasked` ones (left out)."""

    window: Window
    part: int
    missing: tuple[str, ...]
    unasked: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ColumnsEmpty(Event):
    """No row of the output has a value in these columns: the site may not know fields of these names."""

    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PartMerged(Event):
    """A part went into the output, with all of its window.

    `rows` were new, `duplicates` had an id seen before, `conflicts` of those had other values, and
    `outside` rows (kept all the same) lie outside the window: the server ignored the filter.
    """

    window: Window
    part: int
    rows: int
    duplicates: int
    conflicts: int
    outside: int


@dataclass(frozen=True, slots=True)
class WindowMerged(Event):
    """All parts of a window are in the output."""

    window: Window


@dataclass(frozen=True, slots=True)
class Rendered(Event):
    """The first `size` bytes of what has been merged, `merged` bytes of CSV so far, are in the output's format."""

    size: int
    merged: int


@dataclass(frozen=True, slots=True)
class Published(Event):
    """The output stands at its path, whole."""
