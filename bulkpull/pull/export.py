"""Export: from a window to a succeeded export with its links."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import KW_ONLY, field, replace
from typing import TypeVar

import anyio
from anyio.lowlevel import checkpoint

from bulkpull import patience
from bulkpull.errors import ApiError, AuthenticationError
from bulkpull.events import Exported, ExportFailed, Launched, OnEvent, Reconciling, Recovered, Refused, Retried
from bulkpull.journal import ExportRecord, Journal
from bulkpull.planning import PROBE_TIMEOUT_S, CountUnavailable, SizeLimit, count_window
from bulkpull.pull.extra import ExtraExports
from bulkpull.pull.journey import ExportFailure, Journey, cancelled_from_within
from bulkpull.pull.poll import Poller, known
from bulkpull.pull.slots import Slots
from bulkpull.record import record
from bulkpull.source import Export, Source
from bulkpull.threads import in_thread
from bulkpull.window import Window

LAUNCH_GRACE_S = 3.0  # that a cancelled launch waits for its answer
_MAX_UNANSWERED = 3  # consecutive windows that the list route tells nothing about, after which it is not asked again
# The statuses with which a launch may be refused because too many exports are in flight.
_CAPACITY_STATUSES = frozenset({400, 403, 409, 429, 503})
_AMBIGUOUS_STATUSES = frozenset({403, 409})  # 400 suggests a wrong filter; the client retries 429 and 503

T = TypeVar("T")


class NoExtraLeft(Exception):  # noqa: N818 - never leaves the pull
    """The window needs an export beyond the plan, and no more are allowed."""


@record(frozen=False)
class Exporter:
    """Makes exports. `unlaunched` are the windows of the plan that never had one: theirs do not count as extra.

    `is_proven` is set once an export has succeeded.
    """

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
    is_proven: anyio.Event = field(default_factory=anyio.Event)
    _launching: anyio.Lock = field(default_factory=anyio.Lock)
    _in_flight: int = 0
    _one_ended: anyio.Event = field(default_factory=anyio.Event)
    _was_accepted: bool = False  # a launch
    _unanswered: int = 0  # consecutive windows

    def __post_init__(self) -> None:
        self.poller = Poller(self.source, self.slots, export_timeout=self.export_timeout, on_event=self.on_event)

    async def acquire_slot(self) -> object:
        """Wait for a slot of an export in flight; it is released when the export has ended."""
        slot = object()
        await self.slots.exports.acquire_on_behalf_of(slot)
        return slot

    async def export(self, journey: Journey, attempt: int, unfinished: ExportRecord | None = None) -> Export:
        """Return a succeeded export of the window: a new one, or the `unfinished` one that an earlier run launched.

        Raises:
            ExportFailure: The export is of no use.
            NoExtraLeft: It would be one more than allowed.
            ApiError: The API refused or failed.
        """
        window = journey.window
        journey.slot = journey.slot or await self.acquire_slot()
        try:
            if unfinished:
                export, age = Export(unfinished.id, "running"), unfinished.age
                self._was_accepted = True
            else:
                # Once a window was exported, a failure of others as large as it says nothing of it.
                if not journey.evidence.is_exported_again and self.sizes.is_hopeless(window):
                    raise ExportFailure("", "windows as large as this one failed", is_final=True, is_explained=True)
                self._spend_launch(window)
                export, age = await self._launch_when_accepted(window), None
                self._record_launch()
                self.on_event(Launched(window, export.id, attempt))
            journey.is_launched.set()
            started_at = anyio.current_time()
            self._in_flight += 1
            try:
                export = await self.poller.poll(window, export, age=age)
            except ExportFailure as failure:
                if failure.is_final:
                    self.sizes.failed(window)
                raise
            finally:
                self._in_flight -= 1
                self._one_ended.set()
                self._one_ended = anyio.Event()
        finally:
            journey.is_launched.set()
            self.slots.exports.release_on_behalf_of(journey.slot)
            journey.slot = None
        self.is_proven.set()
        self.sizes.succeeded(window.rows or 0)
        export = await self._with_links(journey, export, is_last=attempt > 1)
        seconds = (age or 0.0) + anyio.current_time() - started_at
        self._record_success(window, export, seconds)
        self.on_event(Exported(window, export.id, len(export.links), seconds))
        return export

    async def record_failure(self, window: Window, failure: ExportFailure, attempt: int) -> None:
        """Record that an export of the window is of no use. A no-op if none was launched."""
        if failure.export_id:
            await in_thread(self.journal.record_failure, window, failure.export_id, str(failure))
            self.slots.export_limit.record_failure(
                failure.export_id, anyio.current_time(), is_saturated=self.slots.are_exports_saturated
            )
            self.slots.adjust()
            self.on_event(ExportFailed(window, failure.export_id, attempt, str(failure)))

    # Counting

    async def is_empty(self, journey: Journey) -> bool | None:
        """Return whether the API confirms that the window is empty, and update its count.

        That takes one request, or two if the API does not count. None if it does not tell, or did not so often that it
        is not asked again.
        """
        window = journey.window
        if self._unanswered >= _MAX_UNANSWERED:
            return None
        try:
            rows = await self.count_again(window)
        except CountUnavailable as error:
            return False if error.has_activity else await self._lists_nothing(window)
        self._unanswered = 0
        await self.update_count(journey, rows)
        return rows == 0

    async def count_again(self, window: Window, ids: int = 0) -> int:
        """Count the window. A count that drops to what was delivered (`ids`), or below, is repeated for a while before
        it is accepted. Raises CountUnavailable."""

        def count() -> Awaitable[int]:
            return count_window(self.source, window.start, window.end, self.filter)

        if (window.rows or 0) <= ids:
            return await count()
        return await patience.until(count, lambda rows: rows > ids)

    async def update_count(self, journey: Journey, rows: int) -> None:
        """Record a new count of the window."""
        if rows != journey.window.rows:
            journey.window = replace(journey.window, rows=rows)
            await in_thread(self.journal.record_count, journey.window)

    async def _lists_nothing(self, window: Window) -> bool | None:
        try:
            with anyio.fail_after(PROBE_TIMEOUT_S):
                is_empty = not await self.source.any_activity(self.source.window_filter(window, self.filter))
        except (ApiError, TimeoutError) as error:
            if isinstance(error, AuthenticationError) and error.status == 401:
                raise
            self._unanswered += 1
            return None
        self._unanswered = 0
        return is_empty

    # Launching

    def _spend_launch(self, window: Window) -> None:
        if window.index in self.unlaunched:
            self.unlaunched.discard(window.index)
        elif not self.extra.take():
            raise NoExtraLeft(str(self.extra))

    async def _launch_when_accepted(self, window: Window) -> Export:
        """Launch an export. A refusal while others are in flight means "not now": the launch is repeated when one has
        ended. With none in flight it is repeated for a while, since others may still count against the limit."""
        deadline, attempt, what = None, 1, f"{window}: the launch"
        async with self._launching:  # one at a time: if the process ends, one answer is lost at most
            while True:
                others, one_ended = self._in_flight, self._one_ended
                try:
                    export = await self._launch(window)
                except ApiError as refusal:
                    if refusal.status not in _CAPACITY_STATUSES:
                        raise
                    if others and self._was_accepted:
                        self.slots.export_limit.lower_maximum(others, anyio.current_time())
                        self.slots.adjust()
                        self.on_event(Refused(window, others, str(refusal)))
                        await one_ended.wait()
                        deadline = None
                        continue
                    now, wait = anyio.current_time(), patience.LONGEST * patience.LAG * min(10, max(1, attempt - 3))
                    deadline = deadline or now + await self._refusal_timeout(refusal)
                    if now >= deadline:
                        raise
                    reason = f"{refusal}. Perhaps other exports of this pull still count"
                    self.on_event(Retried(what, attempt, wait, reason, deadline - now))
                    attempt += 1
                    await anyio.sleep(wait)
                else:
                    if attempt > 1:
                        self.on_event(Recovered(what, attempt))
                    self._was_accepted = True
                    return export

    async def _refusal_timeout(self, refusal: ApiError) -> float:
        """Return for how many seconds a refusal may be due to exports that are not known to be in flight: those that
        have just ended, and one whose launch was not answered, perhaps in an earlier run."""
        age = await in_thread(lambda: self.journal.unanswered_seconds)
        lag = patience.LAG if self._was_accepted else 0.0
        if age is None or refusal.status not in _AMBIGUOUS_STATUSES or not refusal.undone:
            return lag
        return max(lag, min(self.source.retry.seconds, self.export_timeout - age))

    async def _launch(self, window: Window) -> Export:
        """Launch an export; the journal records it before and after, or that it may exist if no answer came.

        An export whose id is lost cannot be found again, since the API does not list exports. So a cancelled launch
        waits for its answer, for a moment.
        """
        number = await in_thread(self.journal.record_launch, window)

        async def start() -> Export:
            try:
                filter = self.source.window_filter(window, self.filter)
                export = await self.source.start_export(filter, self.fields)
            except ApiError as error:
                record = self.journal.forget_launch if error.undone else self.journal.record_lost_answer
                await in_thread(record, number)
                raise
            except anyio.get_cancelled_exc_class():
                with anyio.CancelScope(shield=True):
                    await in_thread(self.journal.record_lost_answer, number)
                raise
            await in_thread(self.journal.record_export, number, export.id)
            return export

        return await _with_grace(start)

    def _record_launch(self) -> None:
        self.slots.export_limit.record_launch()
        self.slots.export_limit.record_throttling(self.source.throttled_at, anyio.current_time())
        self.slots.adjust()

    def _record_success(self, window: Window, export: Export, seconds: float) -> None:
        self.slots.export_limit.record_success(
            export.id, window.rows, seconds, anyio.current_time(), is_saturated=self.slots.are_exports_saturated
        )
        self.slots.adjust()

    async def _with_links(self, journey: Journey, export: Export, *, is_last: bool) -> Export:
        """Return the export with its links. One without links is accepted only if the API confirms that the window is
        empty. `is_last` says that an earlier export was of no use either."""
        if export.links:
            return export
        window = journey.window
        is_empty = await self.is_empty(journey)
        if is_empty:
            journey.evidence.is_empty = True
            return export
        self.on_event(Reconciling(window, journey.window.rows, 0, "asking for the links of its export again"))
        found = await patience.until(
            lambda: known(self.source, export.id), lambda answer: answer is not None and bool(answer.links)
        )
        if found and found.links:
            return found
        if is_empty is None:
            journey.evidence.is_empty = True  # nothing says otherwise
            return export
        there_is = f"{journey.window.rows:,} activities are" if journey.window.rows else "activity is"
        reason = f"it succeeded without files, though {there_is} counted in its window"
        raise ExportFailure(export.id, reason, is_final=is_last, is_size_related=False)


async def _with_grace(work: Callable[[], Awaitable[T]]) -> T:
    """Return what `work` returns; a cancellation leaves it LAUNCH_GRACE_S."""
    results: list[T] = []
    errors: list[Exception] = []
    async with anyio.create_task_group() as group:
        with anyio.CancelScope(shield=True) as scope:

            async def limit_once_cancelled() -> None:
                try:
                    await anyio.sleep_forever()
                finally:
                    scope.deadline = anyio.current_time() + LAUNCH_GRACE_S

            group.start_soon(limit_once_cancelled)
            try:
                results.append(await work())
            except Exception as error:  # raised below, outside of the group
                errors.append(error)
        group.cancel_scope.cancel()
    if errors:
        raise errors[0]
    if not results:
        await checkpoint()  # no answer within the grace: the cancellation goes on
        raise cancelled_from_within()
    return results[0]
