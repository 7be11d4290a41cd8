"""Export: from a window to a succeeded export with its links."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace

import anyio

from bulkpull import patience
from bulkpull.errors import ApiError, AuthenticationError
from bulkpull.events import Exported, ExportFailed, Launched, OnEvent, Reconciling, Refused
from bulkpull.journal import ExportRecord, Journal
from bulkpull.planning.size import SizeLimit
from bulkpull.planning.volume import PROBE_TIMEOUT_S, CountUnavailable, count_window
from bulkpull.pull.extra import ExtraExports
from bulkpull.pull.journey import ExportFailure, Journey
from bulkpull.pull.launch import launch
from bulkpull.pull.poll import Poller, known
from bulkpull.pull.slots import Slots
from bulkpull.source import Export, Source
from bulkpull.threads import in_thread
from bulkpull.window import Window

MAX_UNTOLD = 3  # windows in a row of which the list route tells nothing, after which it is not asked any more
# With these a launch may be refused because others of ours are in flight.
CAPACITY = frozenset({400, 403, 409, 429, 503})


class NoExtraLeft(Exception):  # noqa: N818 - never leaves the pull
    """The window needs an export beyond the plan, and none is allowed any more."""


@dataclass(slots=True)
class Exporter:
    """Makes exports. `unlaunched` are the windows of the plan that never had one: theirs are not extra."""

    source: Source
    journal: Journal
    _: KW_ONLY
    filter: str
    fields: Sequence[str]
    slots: Slots
    extra: ExtraExports
    unlaunched: set[int]
    export_timeout: float
    on_event: OnEvent
    sizes: SizeLimit = field(default_factory=SizeLimit)
    poller: Poller = field(init=False)
    proof: anyio.Event = field(default_factory=anyio.Event)  # an export has succeeded
    _launching: anyio.Lock = field(default_factory=anyio.Lock)
    _in_flight: int = 0
    _ended: anyio.Event = field(default_factory=anyio.Event)
    _is_accepted: bool = False  # a launch was
    _untold: int = 0

    def __post_init__(self) -> None:
        self.poller = Poller(self.source, self.slots, export_timeout=self.export_timeout, on_event=self.on_event)

    async def place(self) -> object:
        """A place in flight, to be released once the export is done."""
        place = object()
        await self.slots.exports.acquire_on_behalf_of(place)
        return place

    async def export(self, journey: Journey, attempt: int, unfinished: ExportRecord | None = None) -> Export:
        """A succeeded export of the window: the `unfinished` one that an earlier run launched, or a new one.

        Raises ExportFailure where it will not do, NoExtraLeft, and the client's errors.
        """
        window = journey.window
        journey.place = journey.place or await self.place()
        try:
            if unfinished:
                export, age = Export(unfinished.id, "running"), unfinished.age
                self._is_accepted = True
            else:
                if self.sizes.is_hopeless(window):
                    raise ExportFailure("", "windows as large as this one failed", too_large=True, is_explained=True)
                self._take(window)
                export, age = await self._launched(window), None
                self._record_launch()
                self.on_event(Launched(window, export.id, attempt))
            journey.launched.set()
            began = anyio.current_time()
            self._in_flight += 1
            try:
                export = await self.poller.poll(window, export, age=age)
            except ExportFailure as failure:
                if failure.too_large:
                    self.sizes.failed(window)
                raise
            finally:
                self._in_flight -= 1
                self._ended.set()
                self._ended = anyio.Event()
        finally:
            journey.launched.set()  # or it needs no launch
            self.slots.exports.release_on_behalf_of(journey.place)
            journey.place = None
        self.proof.set()
        self.sizes.succeeded(window.rows or 0)
        export = await self._with_links(journey, export, is_last=attempt > 1)
        seconds = (age or 0.0) + anyio.current_time() - began
        self._record_success(window, export, seconds)
        self.on_event(Exported(window, export.id, len(export.links), seconds))
        return export

    def _record_launch(self) -> None:
        self.slots.export_limit.record_launch()
        self.slots.export_limit.record_throttling(self.source.throttled_at, anyio.current_time())
        self.slots.adjust()

    def _record_success(self, window: Window, export: Export, seconds: float) -> None:
        self.slots.export_limit.record_success(
            export.id, window.rows, seconds, anyio.current_time(), is_saturated=self.slots.are_exports_saturated
        )
        self.slots.adjust()

    async def is_empty(self, journey: Journey) -> bool | None:
        """Whether the API agrees that the window is empty, for one request, or two where it does not count; None where
        it does not tell, or did not so often that it is not asked. The window's count is brought up to date."""
        window = journey.window
        if self._untold >= MAX_UNTOLD:
            return None
        try:
            rows = await self.count_again(window)
        except CountUnavailable as uncounted:
            if uncounted.has_activity:
                return False
            try:
                with anyio.fail_after(PROBE_TIMEOUT_S):
                    empty = not await self.source.any_activity(self.source.window_filter(window, self.filter))
            except (ApiError, TimeoutError) as error:
                if isinstance(error, AuthenticationError) and error.status == 401:
                    raise
                self._untold += 1
                return None
            self._untold = 0
            return empty
        self._untold = 0
        await self.recounted(journey, rows)
        return rows == 0

    async def recounted(self, journey: Journey, rows: int) -> None:
        """The window's count is this from now on."""
        if rows != journey.window.rows:
            journey.window = replace(journey.window, rows=rows)
            await in_thread(self.journal.record_count, journey.window)

    async def failed(self, window: Window, failure: ExportFailure, attempt: int) -> None:
        """An export of the window will not do; none was made where it has no id."""
        if failure.export_id:
            await in_thread(self.journal.record_failure, window, failure.export_id, str(failure))
            self.slots.export_limit.record_failure(
                failure.export_id, anyio.current_time(), is_saturated=self.slots.are_exports_saturated
            )
            self.slots.adjust()
            self.on_event(ExportFailed(window, failure.export_id, attempt, str(failure)))

    async def count_again(self, window: Window, ids: int = 0) -> int:
        """The window's count. One that goes back to what came (`ids`), or below, is asked for again for a while before
        it is believed. Raises CountUnavailable."""

        def count() -> Awaitable[int]:
            return count_window(self.source, window.start, window.end, self.filter)

        if (window.rows or 0) <= ids:
            return await count()
        return await patience.until(count, lambda rows: rows > ids)

    def _take(self, window: Window) -> None:
        if window.index in self.unlaunched:
            self.unlaunched.discard(window.index)
        elif not self.extra.take():
            raise NoExtraLeft(str(self.extra))

    async def _launched(self, window: Window) -> Export:
        """A launch that is refused while others are in flight means "not now": it waits until one has ended. What has
        just ended may still count for a moment."""
        deadline = None
        async with self._launching:  # one at a time: whatever ends this process loses one answer at most
            while True:
                others, ended = self._in_flight, self._ended
                try:
                    export = await launch(self.source, window, self.journal, filter=self.filter, fields=self.fields)
                except ApiError as refusal:
                    if refusal.status not in CAPACITY or not self._is_accepted:
                        raise
                    if not others:
                        deadline = deadline or anyio.current_time() + patience.LAG
                        if anyio.current_time() >= deadline:
                            raise
                        await anyio.sleep(patience.LONGEST * patience.LAG)
                        continue
                    self.slots.export_limit.lower_maximum(others, anyio.current_time())
                    self.slots.adjust()
                    self.on_event(Refused(window, others, str(refusal)))
                    await ended.wait()
                else:
                    self._is_accepted = True
                    return export

    async def _with_links(self, journey: Journey, export: Export, *, is_last: bool) -> Export:
        """An export without links is believed only where the API agrees that the window is empty. `is_last` says that
        another export was tried before."""
        if export.links:
            return export
        window = journey.window
        empty = await self.is_empty(journey)
        if empty:
            journey.is_empty = True
            return export
        self.on_event(Reconciling(window, journey.window.rows, 0, "asking for the links of its export again"))
        found = await patience.until(
            lambda: known(self.source, export.id), lambda answer: answer is not None and bool(answer.links)
        )
        if found and found.links:
            return found
        if empty is None:
            journey.is_empty = True  # nothing says otherwise
            return export
        there_is = f"{journey.window.rows:,} activities are" if journey.window.rows else "activity is"
        reason = f"it succeeded without files, though {there_is} counted in its window"
        raise ExportFailure(export.id, reason, too_large=is_last, is_size_related=False)
