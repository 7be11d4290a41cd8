"""The events of a pull.

Progress, logs, the figures of the result and tests all use these events; no stage prints or counts by itself.
A listener is a plain function that is called in the event loop: it must return at once, and an exception that it
raises ends the pull. Coroutine functions are refused, since nothing would await what they return.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

from bulkpull.errors import UsageError
from bulkpull.record import record
from bulkpull.window import Window


@record
class Event:
    """Base class of all events."""


OnEvent = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """No-op listener."""


def check_listener(on_event: OnEvent) -> None:
    """Raise UsageError for a coroutine function, also behind `functools.partial` or as the `__call__` of an object."""
    function: object = on_event
    while isinstance(function, partial):
        function = function.func
    call = getattr(type(function), "__call__", None)  # noqa: B004 - of an object
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call):
        raise _refused(on_event)


def tell(on_event: Callable[[Event], object], event: Event) -> None:
    """Call a listener. Raises UsageError if it returns an awaitable."""
    returned = on_event(event)
    if returned is not None and inspect.isawaitable(returned):
        if inspect.iscoroutine(returned):
            returned.close()
        raise _refused(on_event)


def _refused(on_event: object) -> UsageError:
    return UsageError(
        f"on_event is asynchronous: {on_event!r} must be a plain function, which is called in the event loop and "
        "returns at once. Let it put events into a queue, or use bulkpull.Progress."
    )


# The client


@record
class Requested(Event):
    """A request is about to be sent to the API. `route` is its method and path, without the query."""

    route: str


@record
class Retried(Event):
    """Attempt number `attempt` (from 1) at `what` failed with `reason`; the next one follows in `wait` seconds. It is
    retried for `left` more seconds; None if that is unknown."""

    what: str
    attempt: int
    wait: float
    reason: str
    left: float | None = None


@record
class Recovered(Event):
    """Attempt number `attempt` at `what` succeeded, after those before it had failed."""

    what: str
    attempt: int


@record
class QuotaExhausted(Event):
    """The request budget is used up. The next request is sent in `wait` seconds; others are behind it."""

    wait: float


@record
class Throttled(Event):
    """The API answered 429, which sends an email to the site's admins. All requests pause for `wait` seconds."""

    route: str
    wait: float


# The pull


@record
class Planned(Event):
    """The range was split into `windows`, with `probes` counting requests. `uncounted` is the reason why windows have
    equal lengths although equal volumes were requested; empty otherwise."""

    windows: tuple[Window, ...]
    probes: int = 0
    uncounted: str = ""


@record
class CountsDoubted(Event):
    """The API's counts cannot be trusted, because of `reason`. Sent once in a pull."""

    reason: str


@record
class Resumed(Event):
    """The pull continues what earlier runs have done. `run` is the number of this run, from 2.

    `merged` windows are in the output already, with these numbers of `parts`, `rows`, `duplicates`, `conflicts` and
    rows `outside` of their window. Of the other windows, `exporting` have an export that had not succeeded yet and
    `exported` one that had; `whole` of their files are completely on disk and `half` partially; `skipped` windows were
    skipped. `exports` counts launches, `splits` the windows that were split.
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


@record
class Launched(Event):
    """An export was launched for a window. `attempt` counts from 1."""

    window: Window
    export_id: str
    attempt: int


@record
class Polled(Event):
    """An export was polled `waited` seconds after its launch. `status` is the API's word; `state` its meaning: queued,
    running, succeeded or failed."""

    window: Window
    export_id: str
    status: str
    state: str
    waited: float


@record
class ExportFailed(Event):
    """An export failed or timed out, or its files are missing or damaged, because of `reason`. Its window is launched
    again, or split if that cannot help. `attempt` counts the window's exports in this run, from 1."""

    window: Window
    export_id: str
    attempt: int
    reason: str


@record
class Split(Event):
    """A window was split into `pieces`, because of `reason`: its exports failed, or do not deliver everything. The
    pieces replace it; if the window `is_merged` already, they are exported in addition."""

    window: Window
    pieces: tuple[Window, ...]
    reason: str
    is_merged: bool = False


@record
class Refused(Event):
    """The API refused a launch, because of `reason`, while other exports of the pull are in flight. It is retried when
    one of them has ended. At most `exports` are in flight from now on."""

    window: Window
    exports: int
    reason: str


@record
class Reconciling(Event):
    """A window may lack rows: `ids` different ids were delivered, and `counted` were counted (None if unknown). `step`
    says what is done about it."""

    window: Window
    counted: int | None
    ids: int
    step: str


@record
class Skipped(Event):
    """A window that could not be exported is skipped, because of `reason`."""

    window: Window
    reason: str


@record
class Limited(Event):
    """The limits changed: at most `exports` in flight, and `downloads` at a time."""

    exports: int
    downloads: int


@record
class Exported(Event):
    """The export of a window succeeded with `parts` links, `seconds` after its launch."""

    window: Window
    export_id: str
    parts: int
    seconds: float


@record
class Received(Event):
    """`size` more bytes of a part were received. `part` counts from 1 in its window."""

    window: Window
    part: int
    size: int


@record
class PartFetched(Event):
    """A part is completely on disk: `size` bytes."""

    window: Window
    part: int
    size: int


@record
class MergeAwaited(Event):
    """A download, or a launch if `window` is None, is held back: so much data waits for the merge already. It starts
    when windows have been merged."""

    window: Window | None


@record
class ColumnsDiffer(Event):
    """A part lacks the `missing` columns of the output, which are written empty, or has `unasked` ones, which are
    dropped."""

    window: Window
    part: int
    missing: tuple[str, ...]
    unasked: tuple[str, ...]


@record
class ColumnsEmpty(Event):
    """No row of the output has a value in these columns: the site may not have fields of these names."""

    columns: tuple[str, ...]


@record
class PartMerged(Event):
    """A part was merged into the output, with all parts of its window.

    `rows` were new. `duplicates` had an id that occurred before; `conflicts` of those had other values. `outside` rows
    lie outside of the window, since the server ignored the filter; they are kept.
    """

    window: Window
    part: int
    rows: int
    duplicates: int
    conflicts: int
    outside: int


@record
class WindowAppended(Event):
    """The new rows of a window were appended to the output, which took `seconds`. They are not durable yet: see
    `WindowMerged`."""

    window: Window
    seconds: float


@record
class WindowMerged(Event):
    """All parts of a window are in the output."""

    window: Window


@record
class Rendered(Event):
    """The first `size` of `merged` bytes of CSV are converted to the output format."""

    size: int
    merged: int


@record
class WorkersChanged(Event):
    """The cluster has so many `workers` now, with so many `threads` in all."""

    workers: int
    threads: int


@record
class TaskEnded(Event):
    """A `worker` has done a `task` in `seconds`: a part is divided, or a bucket merged."""

    task: str
    worker: str
    seconds: float


@record
class BucketMerged(Event):
    """The rows of a `bucket` are deduplicated and written; `merged` of all `buckets` are."""

    bucket: int
    buckets: int
    merged: int


@record
class Deduplicated(Event):
    """All buckets are merged. These are the figures of the whole pull, in place of those that PartMerged had: on a
    cluster, ids that several parts or windows have in common are found last."""

    rows: int
    duplicates: int
    conflicts: int
    outside: int


@record
class Published(Event):
    """The output is complete and at its path."""
