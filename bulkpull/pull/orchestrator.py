"""The orchestrator: one coroutine a window, one consumer that merges, and nothing else."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from datetime import date, datetime

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectSendStream

from bulkpull.clickwrap.filters import check_filter
from bulkpull.errors import BulkpullError, UsageError
from bulkpull.events import Event, Launched, OnEvent, Planned, ignore
from bulkpull.pull.api import Api
from bulkpull.pull.fetch import Links, Part, fetch
from bulkpull.pull.launch import launch
from bulkpull.pull.merge import Journey, merge
from bulkpull.pull.output import Output
from bulkpull.pull.plan import AUTO, plan
from bulkpull.pull.result import Result, Tally
from bulkpull.window import Window

ALWAYS = ("id", "signer_id", "created_time")  # the API's documents ask for these in every export
EXPORTS = 16
DOWNLOADS = 8
EXPORT_TIMEOUT = 3600.0


async def pull(
    clickwrap: Api,
    *,
    start: date | datetime | str,
    end: date | datetime | str | None = None,
    out: str | os.PathLike[str],
    filter: str | None = None,
    fields: Sequence[str] | None = None,
    window: str = AUTO,
    exports: int = EXPORTS,
    downloads: int = DOWNLOADS,
    export_timeout: float = EXPORT_TIMEOUT,
    overwrite: bool = False,
    on_event: OnEvent = ignore,
) -> Result:
    """Pulls the activity of `[start, end)` into one CSV at `out`, each id once.

    `start`, `end`: dates (midnight UTC) or instants with an offset; without `end`, until now.
    `filter`: comparisons joined by ` and `, such as `event_type==agreed`.
    `fields`: the output's columns after `id`, `signer_id` and `created_time`, which always come first. Without it
    those three are asked for, and whatever else the files bring is kept.
    `window`: the length of a window (`6h`, `1d`, `7d`, `1mo`, ...), or `auto`.
    `exports`, `downloads`: how many exports are in flight, and how many files are streamed, at most.
    `export_timeout`: seconds after which an export is given up and launched again.
    `on_event`: called in the event loop with each event.

    The output appears only when it is whole; a pull that fails or is cancelled leaves none, and no task.

    Raises UsageError, OutputError, AuthenticationError, ApiError or PartError: see `bulkpull.errors`.
    """
    if min(exports, downloads) < 1 or not export_timeout > 0:
        raise UsageError("exports, downloads and export timeout must be positive")
    work = _Pull(
        clickwrap=clickwrap,
        output=Output(out, overwrite=overwrite),
        filter=check_filter(filter),
        fields=check_fields(fields or ()),
        fixed=bool(fields),
        exports=anyio.CapacityLimiter(exports),
        downloads=anyio.CapacityLimiter(downloads),
        export_timeout=export_timeout,
        listener=on_event,
    )
    windows = plan(start, end, window)
    started = anyio.current_time()
    try:
        # The work is a child of this task, so that a plain cancellation reaches it through the group's scope: only
        # that lets what is under way in threads come to an end first.
        async with anyio.create_task_group() as group:
            group.start_soon(work.run, windows)
    except BaseExceptionGroup as errors:
        error = _plain(errors)
        raise error from error.__cause__
    if not work.published:
        raise _cancelled_from_within()
    return work.tally.result(anyio.current_time() - started, work.output.path)


def check_fields(fields: Sequence[str]) -> tuple[str, ...]:
    """`fields` behind the three that always come first, each once. Raises UsageError for what is no name."""
    if isinstance(fields, str):
        raise UsageError("fields must be a list of names, not one string")
    fields = tuple(fields)
    for field_name in fields:
        if not field_name.strip() or any(character in field_name for character in ', "\r\n\t'):
            raise UsageError(f"{field_name!r} is no field name")
    return tuple(dict.fromkeys((*ALWAYS, *fields)))


@dataclass(slots=True)
class _Pull:
    """What the coroutines of one pull share."""

    clickwrap: InitVar[Api]
    output: Output
    filter: str | None
    fields: tuple[str, ...]
    fixed: bool
    exports: anyio.CapacityLimiter
    downloads: anyio.CapacityLimiter
    export_timeout: float
    listener: OnEvent
    api: Api = field(init=False)
    tally: Tally = field(default_factory=Tally)
    first_launched: anyio.Event = field(default_factory=anyio.Event)
    published: bool = False

    def __post_init__(self, clickwrap: Api) -> None:
        self.api = clickwrap.observed(self.announce)

    def announce(self, event: Event) -> None:
        self.tally(event)
        if isinstance(event, Launched):
            self.first_launched.set()
        self.listener(event)

    async def run(self, windows: tuple[Window, ...]) -> None:
        self.announce(Planned(windows))
        try:
            await to_thread.run_sync(self.output.prepare)
            await self.gather(windows)
            await to_thread.run_sync(self.output.publish)
            self.published = True
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(self.output.discard)

    async def gather(self, windows: tuple[Window, ...]) -> None:
        """All windows' journeys side by side, and the merge that awaits them in plan order."""
        merged = False
        started, journeys = anyio.create_memory_object_stream[Journey](math.inf)
        with started, journeys:
            async with anyio.create_task_group() as group:
                group.start_soon(self.start, windows, started, group)
                await merge(
                    journeys, self.output.partial, columns=self.fields, fixed=self.fixed, on_event=self.announce
                )
                merged = True
        if not merged:
            raise _cancelled_from_within()

    async def start(
        self, windows: tuple[Window, ...], started: MemoryObjectSendStream[Journey], group: TaskGroup
    ) -> None:
        """Starts a journey whenever fewer exports than the limit are in flight."""
        with started:
            for window in windows:
                journey = Journey(window)
                await self.exports.acquire_on_behalf_of(journey)
                group.start_soon(self.travel, journey)
                started.send_nowait(journey)
                # A token or a filter that the API refuses is found out with one request, not with one per export.
                await self.first_launched.wait()

    async def travel(self, journey: Journey) -> None:
        """One window's way from its launch to parts on the disk."""
        window = journey.window
        try:
            export = await launch(
                self.api,
                window,
                filter=self.filter,
                fields=self.fields,
                export_timeout=self.export_timeout,
                on_event=self.announce,
            )
        finally:
            self.exports.release_on_behalf_of(journey)
        for number in range(1, len(export.links) + 1):
            journey.parts.append(Part(window, number, self.output.part(window.index, number)))
        journey.exported.set()
        links = Links(self.api, export)
        async with anyio.create_task_group() as group:
            for part in journey.parts:
                group.start_soon(self.fetch, part, links)
        if not all(part.fetched.is_set() for part in journey.parts):
            raise _cancelled_from_within()

    async def fetch(self, part: Part, links: Links) -> None:
        async with self.downloads:
            await fetch(self.api, part, links, on_event=self.announce)


def _cancelled_from_within() -> BulkpullError:
    """A task group ends without an error where one of its tasks was cancelled by somebody else, for example by a
    session that was closed under it. That must not pass for success."""
    return BulkpullError("the pull was cancelled from within: was its session closed, or a task of it cancelled?")


def _plain(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error behind a group; the group itself where errors of several kinds stand side by side, not all ours."""
    leaves: list[BaseException] = []
    pending: list[BaseException] = [errors]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending += error.exceptions
        else:
            leaves.append(error)
    if len({type(leaf) for leaf in leaves}) == 1 or all(isinstance(leaf, BulkpullError) for leaf in leaves):
        return leaves[0]
    return errors
