"""The orchestrator: one coroutine a window, one consumer that merges, and nothing else."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectSendStream

from bulkpull.clickwrap import Export
from bulkpull.clickwrap.filters import check_filter
from bulkpull.errors import BulkpullError, OutputError, UsageError
from bulkpull.events import Event, Exported, ExportFailed, Launched, OnEvent, Planned, Polled, Published, ignore
from bulkpull.pull.api import Api
from bulkpull.pull.fetch import fetch
from bulkpull.pull.journal import ExportRecord, Journal
from bulkpull.pull.journey import ExportFailure, Journey, Part, cancelled_from_within
from bulkpull.pull.launch import launch
from bulkpull.pull.links import Links, part_records
from bulkpull.pull.merge import merge
from bulkpull.pull.output import Output, disk_errors
from bulkpull.pull.plan import AUTO, MAX_WINDOWS, moment, plan
from bulkpull.pull.poll import poll
from bulkpull.pull.render import Renderer, memory_to_render
from bulkpull.pull.result import Result, Tally
from bulkpull.pull.resume import resume
from bulkpull.pull.spool import SPOOL, Spool
from bulkpull.rows.format import Format, format_of
from bulkpull.window import Window, instant

ALWAYS = ("id", "signer_id", "created_time")  # the API's documents ask for these in every export
EXPORTS = 16
DOWNLOADS = 8
EXPORT_TIMEOUT = 3600.0
MAX_LAUNCHES = 3
MEMORY = 256_000_000  # bytes
MEMORY_WITHOUT_IDS = 140_000_000  # bytes: the interpreter, its libraries, and what is on its way
LEAST_IDS, USUAL_IDS = 10_000_000, 64_000_000  # bytes of memory for ids


async def pull(
    clickwrap: Api,
    *,
    start: date | datetime | str,
    end: date | datetime | str | None = None,
    out: str | os.PathLike[str],
    filter: str | None = None,
    fields: Sequence[str] | None = None,
    site: str | int | None = None,
    window: str = AUTO,
    max_windows: int = MAX_WINDOWS,
    format: str | None = None,
    flat: bool = False,
    all_strings: bool = False,
    partition_by: str | None = None,
    exports: int = EXPORTS,
    downloads: int = DOWNLOADS,
    spool: int = SPOOL,
    memory: int | None = None,
    export_timeout: float = EXPORT_TIMEOUT,
    overwrite: bool = False,
    resume: bool = True,
    on_event: OnEvent = ignore,
) -> Result:
    """Pulls the activity of `[start, end)` into one output at `out`, each id once.

    `start`, `end`: dates (midnight UTC) or instants with an offset; without `end`, until now.
    `filter`: comparisons joined by ` and `, such as `event_type==agreed`.
    `fields`: the output's columns after `id`, `signer_id` and `created_time`, which always come first. Without it
    those three are asked for, and whatever else the files bring is kept.
    `site`: where it is given, the fields are checked against what the site offers before any export is made.
    `window`: the length of a window (`6h`, `1d`, `7d`, `1mo`, ...), or `auto`; at most `max_windows` come of it.
    `format`: `csv`, `ndjson` or `parquet`; without it, what the suffix of `out` tells, or CSV. A last suffix `.gz` or
    `.zst` compresses the first two. NDJSON nests dotted names unless `flat`. Parquet has created_time as an instant
    unless `all_strings`, and becomes a directory of files where `partition_by` is `month`.
    `exports`, `downloads`: how many exports are in flight, and how many files are streamed, at most.
    `spool`: bytes of files that wait on the disk to be merged, beyond which no further download starts.
    `memory`: bytes that a process which does nothing else takes at its peak, about; ids beyond it go to the disk.
    Without it 256 MB, or 364 MB for Parquet.
    `export_timeout`: seconds after which an export is given up and launched again.
    `on_event`: called in the event loop with each event.

    The output appears only when it is whole. A pull that fails, is cancelled or is killed leaves the directory
    `<out>.bulkpull` with what has been done, unless that is nothing; the same call goes on from there, or starts over
    where `resume` is false. Cancelling may take some seconds while an export is being launched.

    Raises UsageError, OutputError, AuthenticationError, ApiError or PartError: see `bulkpull.errors`.
    """
    if min(exports, downloads, spool) < 1 or not export_timeout > 0:
        raise UsageError("exports, downloads, spool and export timeout must be positive")
    form = format_of(Path(out), format, flat=flat, all_strings=all_strings, partition_by=partition_by)
    without_ids = MEMORY_WITHOUT_IDS + memory_to_render(form)
    memory = max(MEMORY, without_ids + USUAL_IDS) if memory is None else memory
    if memory < without_ids + LEAST_IDS:
        raise UsageError(
            f"a pull to {form.name} takes {without_ids + LEAST_IDS:,} bytes of memory at least, not {memory:,}"
        )
    windows = plan(start, end, window, max_windows)
    asked_fields = check_fields(fields or ())
    work = _Pull(
        clickwrap=clickwrap,
        output=Output(out, overwrite=overwrite),
        format=form,
        windows=windows,
        options={
            "start": instant(moment(start, "start")),
            "end": "now" if end is None else instant(moment(end, "end")),
            "filter": check_filter(filter) or "",
            "fields": ",".join(asked_fields) if fields else "",
            "window": window.strip().lower(),
            "base_url": clickwrap.base_url,
        },
        fields=asked_fields,
        site=site,
        exports=anyio.CapacityLimiter(exports),
        downloads=anyio.CapacityLimiter(downloads),
        spool=Spool(spool),
        memory=(memory - without_ids) // 6,  # what is sorted and joined takes some times of it
        export_timeout=export_timeout,
        fresh=not resume,
        listener=on_event,
    )
    started = anyio.current_time()
    try:
        # The work is a child of this task, so that a plain cancellation reaches it through the group's scope: only
        # that lets what is under way in threads come to an end first.
        async with anyio.create_task_group() as group:
            group.start_soon(work.run)
    except BaseExceptionGroup as errors:
        error = _plain(errors)
        raise error from error.__cause__
    if not work.published:
        raise cancelled_from_within()
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
    format: Format
    windows: tuple[Window, ...]
    options: dict[str, str]
    fields: tuple[str, ...]
    site: str | int | None
    exports: anyio.CapacityLimiter
    downloads: anyio.CapacityLimiter
    spool: Spool
    memory: int
    export_timeout: float
    fresh: bool
    listener: OnEvent
    api: Api = field(init=False)
    journal: Journal = field(init=False)
    past: dict[int, ExportRecord] = field(default_factory=dict)
    merged: int = 0
    tally: Tally = field(default_factory=Tally)
    launching: anyio.Lock = field(default_factory=anyio.Lock)
    answered: anyio.Event = field(default_factory=anyio.Event)
    published: bool = False

    def __post_init__(self, clickwrap: Api) -> None:
        self.api = clickwrap.observed(self.announce)

    def announce(self, event: Event) -> None:
        self.tally(event)
        self.spool(event)
        if isinstance(event, Launched | Polled):
            self.answered.set()
        self.listener(event)

    async def run(self) -> None:
        journal = None
        try:
            await to_thread.run_sync(self.output.claim)
            if self.fresh:
                await to_thread.run_sync(self.output.clear)
            self.journal = journal = await to_thread.run_sync(Journal, self.output.journal)
            resumed, self.windows = await to_thread.run_sync(resume, journal, self.options, self.windows)
            self.announce(Planned(self.windows))
            if resumed:
                self.announce(resumed)
                self.merged = resumed.merged
                self.spool.begin_at(resumed.merged)
                self.past = await to_thread.run_sync(journal.exports)
            published = await to_thread.run_sync(journal.published, str(self.format))
            if not await to_thread.run_sync(self.output.holds, published):
                await to_thread.run_sync(lambda: self.output.check(data_set=self.format.is_data_set))
                await self.check_site()
                finished = await self.gather()
                with anyio.CancelScope(shield=True):
                    await to_thread.run_sync(self.publish, finished)
            self.published = True
            self.announce(Published())
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(self.close, journal)

    def publish(self, finished: Path) -> None:
        """Lets the finished file appear, in a way that a run to come understands if this one is killed meanwhile."""
        with disk_errors(f"read {finished}"):
            inode = finished.stat().st_ino
        self.journal.publishing(inode, str(self.format))
        self.output.publish(finished)

    def close(self, journal: Journal | None) -> None:
        """Lets go of the journal and the directory, which stays as long as there is something in it to go on with."""
        remove = self.published
        if journal:
            with suppress(OutputError):  # what cannot be read may be worth something
                remove = remove or not journal.launches
            journal.close()
        self.output.release(remove=remove)

    async def check_site(self) -> None:
        """Raises UsageError for fields that the site does not offer."""
        if self.site is None:
            return
        offered = await self.api.export_fields(self.site)
        unknown = [name for name in self.fields if name not in {*ALWAYS, *offered}]
        if unknown:
            close = {near for name in unknown for near in difflib.get_close_matches(name, offered, n=2)}
            hint = f"; near to it: {', '.join(sorted(close))}" if close else ""
            raise UsageError(f"site {self.site} does not offer the fields {', '.join(unknown)}{hint}")

    async def gather(self) -> Path:
        """All windows' journeys side by side, the merge that awaits them in plan order, and what renders it."""
        finished: Path | None = None
        merged = self.output.partial
        renderer = Renderer(merged, self.output.rendered, self.format, self.provenance, self.announce)
        started, journeys = anyio.create_memory_object_stream[Journey](math.inf)
        with started, journeys:
            async with anyio.create_task_group() as group:
                group.start_soon(self.start, started, group)
                with renderer.following(group) as followed:
                    finished = await merge(
                        journeys,
                        merged,
                        self.journal,
                        columns=self.fields,
                        fixed=bool(self.options["fields"]),
                        memory=self.memory,
                        followed=followed,
                        on_event=self.announce,
                    )
        if finished is None:
            raise cancelled_from_within()
        return await renderer.finish(finished)

    def provenance(self) -> dict[str, str]:
        """Where the output's rows come from, for formats that can tell; the same for the same data."""
        figures = self.journal.frontier.figures
        return {
            "start": instant(self.windows[0].start) if self.windows else self.options["start"],
            "end": instant(self.windows[-1].end) if self.windows else self.options["end"],
            "filter": self.options["filter"],
            "fields": ",".join(self.fields),
            "rows": str(figures.rows),
            "duplicates": str(figures.duplicates),
            "conflicts": str(figures.conflicts),
            "outside": str(figures.outside),
        }

    async def start(self, started: MemoryObjectSendStream[Journey], group: TaskGroup) -> None:
        """Starts a journey whenever fewer exports than the limit are in flight."""
        with started:
            for window in self.windows[self.merged :]:
                journey = Journey(window, self.past.get(window.index))
                if not journey.exported:
                    await self.exports.acquire_on_behalf_of(journey)
                group.start_soon(self.travel, journey)
                started.send_nowait(journey)
                if not journey.exported:
                    # A token or a filter that the API refuses is found out with one request, not with one per export.
                    await self.answered.wait()

    async def travel(self, journey: Journey) -> None:
        """One window's way from its launch to the merge, with another export where one will not do."""
        for attempt in range(1, MAX_LAUNCHES + 1):
            if attempt > 1:
                await anyio.sleep(self.api.retry.backoff(attempt - 1))
                await self.exports.acquire_on_behalf_of(journey)
            try:
                await self.attempt(journey, attempt)
                return
            except ExportFailure as failure:
                reason = str(failure)
                await to_thread.run_sync(self.journal.failed, journey.window, failure.export_id, reason)
                self.announce(ExportFailed(journey.window, failure.export_id, attempt, reason))
                journey.past = None
                kind, export_id = failure.kind, failure.export_id
        raise kind(
            f"{journey.window}: none of its {MAX_LAUNCHES} exports succeeded; the last, {export_id}: {reason}. "
            "Pull again to go on from here; if it recurs, try shorter windows or a longer export timeout"
        )

    async def attempt(self, journey: Journey, attempt: int) -> None:
        """One export's way to the merge. Raises ExportFailure where it will not do."""
        past = journey.past
        if past and past.exported:
            export, records = Export(past.id, "success"), past.parts
            self.announce(Exported(journey.window, past.id, len(records), _seconds_since(past.launched)))
        else:
            export = await self.export(journey, attempt)
            records = part_records(export)
            await to_thread.run_sync(self.journal.exported, journey.window, export.id, records)
        journey.export_id = export.id
        path = self.output.part
        journey.parts = [
            Part(journey.window, record.number, path(journey.window.index, record.number), record) for record in records
        ]
        links = Links(self.api, export, records)
        failures: list[ExportFailure] = []
        async with anyio.create_task_group() as group:
            for part in journey.parts:
                group.start_soon(self.fetch, part, links, failures, group)
        if failures:
            raise failures[0]
        if any(part.size is None for part in journey.parts):
            raise cancelled_from_within()
        await journey.hand_over()

    async def export(self, journey: Journey, attempt: int) -> Export:
        """A succeeded export of the window: the one that an earlier run launched, or a new one."""
        window, past = journey.window, journey.past
        try:
            if past:
                export, waited = Export(past.id, "unknown"), _seconds_since(past.launched)
            else:
                async with self.launching:  # one at a time: whatever ends this process loses one answer at most
                    export = await launch(
                        self.api, window, self.journal, filter=self.options["filter"], fields=self.fields
                    )
                waited = 0.0
                self.announce(Launched(window, export.id, attempt))
            began = anyio.current_time()
            export = await poll(
                self.api,
                window,
                export,
                waited=waited,
                export_timeout=self.export_timeout,
                on_event=self.announce,
            )
        finally:
            self.exports.release_on_behalf_of(journey)
        self.announce(Exported(window, export.id, len(export.links), waited + anyio.current_time() - began))
        return export

    async def fetch(self, part: Part, links: Links, failures: list[ExportFailure], group: TaskGroup) -> None:
        window = part.window.index
        while True:
            await self.spool.room(window)
            async with self.downloads:
                if not self.spool.has_room(window):  # any more: it must not be waited for with a place in hand
                    continue
                try:
                    await fetch(self.api, part, links, self.journal, streams=self.downloads, on_event=self.announce)
                except ExportFailure as failure:
                    failures.append(failure)
                    group.cancel_scope.cancel()
                return


def _seconds_since(moment: datetime) -> float:
    """At least a little, whatever the clocks say."""
    return max(0.001, (datetime.now(UTC) - moment).total_seconds())


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
