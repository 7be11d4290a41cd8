"""The orchestrator: a plan, the journeys of its windows, one consumer that merges, and nothing else."""

from __future__ import annotations

import difflib
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import InitVar, dataclass, field
from datetime import date, datetime
from functools import partial
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from bulkpull.disk import disk_errors
from bulkpull.errors import BulkpullError, OutputError, UsageError
from bulkpull.events import CountsDoubted, Event, OnEvent, Planned, Published, ignore
from bulkpull.journal.journal import Journal, Verdict
from bulkpull.journal.resume import has_begun, resume
from bulkpull.pacing import MAX_SPOOLED_BYTES, Backpressure, DownloadLimit, ExportLimit
from bulkpull.planning.length import AUTO
from bulkpull.planning.plan import MAX_WINDOWS, Plan, plan, span
from bulkpull.planning.volume import ROWS_PER_EXPORT
from bulkpull.pull.collect import Collector
from bulkpull.pull.completeness import Completeness, completeness
from bulkpull.pull.doubts import Doubts
from bulkpull.pull.export import Exporter
from bulkpull.pull.extra import ExtraExports, default_extra
from bulkpull.pull.journey import Journey, cancelled_from_within
from bulkpull.pull.journeys import Journeys
from bulkpull.pull.merge import merge
from bulkpull.pull.reconcile import Reconciler
from bulkpull.pull.result import Result, Tally
from bulkpull.pull.slots import Slots
from bulkpull.rows.format import Format, format_of
from bulkpull.source import Columns, Source
from bulkpull.store.file import Output
from bulkpull.store.render import Renderer, memory_to_render
from bulkpull.threads import in_thread, own_threads
from bulkpull.window import Window, instant

MAX_EXPORTS = 128
DOWNLOADS = 8
EXPORT_TIMEOUT = 3600.0
MEMORY = 256_000_000  # bytes
MEMORY_WITHOUT_IDS = 140_000_000  # bytes: the interpreter, its libraries, and what is on its way
LEAST_IDS, USUAL_IDS = 10_000_000, 64_000_000  # bytes of memory for ids


async def pull(
    clickwrap: Source,
    *,
    start: date | datetime | str,
    end: date | datetime | str | None = None,
    out: str | os.PathLike[str],
    filter: str | None = None,
    fields: Sequence[str] | None = None,
    site: str | int | None = None,
    window: str = AUTO,
    rows_per_export: int = ROWS_PER_EXPORT,
    max_windows: int = MAX_WINDOWS,
    format: str | None = None,
    flat: bool = False,
    all_strings: bool = False,
    partition_by: str | None = None,
    exports: int | None = None,
    max_exports: int = MAX_EXPORTS,
    downloads: int = DOWNLOADS,
    spool: int = MAX_SPOOLED_BYTES,
    memory: int | None = None,
    export_timeout: float = EXPORT_TIMEOUT,
    max_extra_exports: int | None = None,
    skip_failed: bool = False,
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
    `window`: the length of a window (`6h`, `1d`, `7d`, `1mo`, ...), or `auto`: about `rows_per_export` activities each,
    see `plan`. At most `max_windows` come of it.
    `format`: `csv`, `ndjson` or `parquet`. Defaults to the extension of `out`, or to CSV where that has none; an
    unknown extension is a UsageError. A last extension `.gz` or `.zst` compresses the first two. NDJSON nests dotted
    names unless `flat`. Parquet has created_time as an instant unless `all_strings`, and becomes a directory of files
    where `partition_by` is `month`.
    `exports`: how many exports are in flight at most; without it as many as the server is found to work on, and some
    more, at most `max_exports`. `downloads`: how many files are streamed at most.
    `spool`: bytes of files that wait on the disk to be merged, beyond which no further download starts.
    `memory`: bytes that a process which does nothing else takes at its peak, about; ids beyond it go to the disk.
    Without it 256 MB, or 364 MB for Parquet.
    `export_timeout`: seconds that the server may work on an export, after which its window is cut; and that an export
    may wait although nothing that was launched before it leaves the queue, after which another is launched.
    `max_extra_exports`: how many exports may be launched beyond one for each window of the plan, because others failed,
    delivered too little or had to be cut; without it 100 and half of the plan's.
    `skip_failed`: leaves a window out that cannot be exported and is too small to be cut, instead of failing.
    `on_event`: called in the event loop with each event.

    The output appears only when it is whole. A pull that fails, is cancelled or is killed leaves the directory
    `<out>.bulkpull` with what has been done, unless that is nothing; the same call goes on from there, or starts over
    where `resume` is false. Cancelling may take some seconds while an export is being launched.

    Raises UsageError, OutputError, AuthenticationError, ApiError or PartError: see `bulkpull.errors`.
    """
    if min(1 if exports is None else exports, max_exports, downloads, spool) < 1 or not export_timeout > 0:
        raise UsageError("exports, downloads, spool and export timeout must be positive")
    if max_extra_exports is not None and max_extra_exports < 0:
        raise UsageError("extra exports cannot be negative")
    form = format_of(Path(out), format, flat=flat, all_strings=all_strings, partition_by=partition_by)
    without_ids = MEMORY_WITHOUT_IDS + memory_to_render(form)
    memory = max(MEMORY, without_ids + USUAL_IDS) if memory is None else memory
    if memory < without_ids + LEAST_IDS:
        raise UsageError(
            f"a pull to {form.name} takes {without_ids + LEAST_IDS:,} bytes of memory at least, not {memory:,}"
        )
    first, last = span(start, end)
    filter = clickwrap.check_filter(filter)
    window = window.strip().lower()
    asked_fields = check_fields(fields or (), clickwrap.columns)
    work = _Pull(
        clickwrap=clickwrap,
        output=Output(out, overwrite=overwrite),
        format=form,
        plan=partial(
            plan,
            start=first,
            end=last,
            filter=filter,
            window=window,
            rows_per_export=rows_per_export,
            max_windows=max_windows,
        ),
        options={
            "start": instant(first),
            "end": "now" if end is None else instant(last),
            "filter": filter or "",
            "fields": ",".join(asked_fields) if fields else "",
            "window": window,
            "rows_per_export": str(rows_per_export) if window == AUTO else "",
            "base_url": clickwrap.base_url,
        },
        fields=asked_fields,
        site=site,
        export_limit=ExportLimit(exports, max_exports, anyio.current_time()),
        download_limit=DownloadLimit(downloads, anyio.current_time()),
        max_spooled_bytes=spool,
        memory=(memory - without_ids) // 6,  # what is sorted and joined takes some times of it
        export_timeout=export_timeout,
        max_extra_exports=max_extra_exports,
        skip_failed=skip_failed,
        fresh=not resume,
        listener=on_event,
    )
    started = anyio.current_time()
    try:
        # The work is a child of this task, so that a plain cancellation reaches it through the group's scope: only
        # that lets what is under way in threads come to an end first.
        with own_threads(downloads):
            async with anyio.create_task_group() as group:
                group.start_soon(work.run)
    except BaseExceptionGroup as errors:
        error = _plain(errors)
        raise error from error.__cause__
    if not work.published:
        raise cancelled_from_within()
    assert work.completeness
    return work.tally.result(
        anyio.current_time() - started, work.output.path, work.skipped, work.completeness, work.doubt
    )


def check_fields(fields: Sequence[str], columns: Columns) -> tuple[str, ...]:
    """`fields` behind those that are always asked for, each once. Raises UsageError for what is no name."""
    if isinstance(fields, str):
        raise UsageError("fields must be a list of names, not one string")
    fields = tuple(fields)
    for field_name in fields:
        if not field_name.strip() or any(character in field_name for character in ', "\r\n\t'):
            raise UsageError(f"{field_name!r} is no field name")
    return tuple(dict.fromkeys((*columns.required, *fields)))


@dataclass(slots=True)
class _Pull:
    """What the coroutines of one pull share."""

    clickwrap: InitVar[Source]
    output: Output
    format: Format
    plan: Callable[[Source], Awaitable[Plan]]
    options: dict[str, str]
    fields: tuple[str, ...]
    site: str | int | None
    export_limit: ExportLimit
    download_limit: DownloadLimit
    max_spooled_bytes: int
    memory: int
    export_timeout: float
    max_extra_exports: int | None
    skip_failed: bool
    fresh: bool
    listener: OnEvent
    source: Source = field(init=False)
    journal: Journal = field(init=False)
    tally: Tally = field(default_factory=Tally)
    skipped: tuple[Window, ...] = ()
    completeness: Completeness | None = None
    doubt: str = ""
    published: bool = False

    def __post_init__(self, clickwrap: Source) -> None:
        self.source = clickwrap.observed(self.announce)

    def announce(self, event: Event) -> None:
        self.tally(event)
        self.listener(event)

    async def run(self) -> None:
        journal = None
        try:
            await in_thread(self.output.claim)
            if self.fresh:
                await in_thread(self.output.clear)
            self.journal = journal = await in_thread(Journal, self.output.journal)
            if await in_thread(has_begun, journal, self.options):
                self.announce(Planned(await in_thread(lambda: journal.windows)))
            else:
                plan = await self.plan(self.source)
                await in_thread(journal.begin, self.options, plan.end, plan.windows, plan.total, plan.doubt)
                self.announce(Planned(plan.windows, plan.probes, plan.uncounted))
                if plan.doubt:
                    self.announce(CountsDoubted(plan.doubt))
            if resumed := await in_thread(resume, journal):
                self.announce(resumed)
            published = await in_thread(journal.published, str(self.format))
            if not await in_thread(self.output.holds, published):
                await in_thread(lambda: self.output.check(data_set=self.format.is_data_set))
                await self.check_site()
                finished = await self.gather()
                with anyio.CancelScope(shield=True):
                    await in_thread(self.publish, finished)
            self.skipped = await in_thread(lambda: journal.skipped)
            self.completeness = await in_thread(completeness, journal)
            self.doubt = await in_thread(lambda: journal.doubt)
            self.published = True
            self.announce(Published())
        finally:
            with anyio.CancelScope(shield=True):
                await in_thread(self.close, journal)

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
        offered = await self.source.export_fields(self.site)
        unknown = [name for name in self.fields if name not in {*self.source.columns.required, *offered}]
        if unknown:
            close = {near for name in unknown for near in difflib.get_close_matches(name, offered, n=2)}
            hint = f"; near to it: {', '.join(sorted(close))}" if close else ""
            raise UsageError(f"site {self.site} does not offer the fields {', '.join(unknown)}{hint}")

    async def gather(self) -> Path:
        """All windows' journeys side by side, the merge that awaits them in plan order, and what renders it."""
        finished: Path | None = None
        waiting, past = await in_thread(lambda: (self.journal.waiting, self.journal.exports()))
        journeys = [Journey(window, past.get(window.index, ())) for window in waiting]
        doubts, extra = await in_thread(self.doubts), await in_thread(self.extra)
        unlaunched = await in_thread(lambda: self.journal.unlaunched)
        merged = self.output.partial
        renderer = Renderer(
            merged, self.output.rendered, self.format, self.source.columns, self.provenance, self.announce
        )
        async with anyio.create_task_group() as group:
            work = self.journeys(group, waiting, doubts, extra, unlaunched)
            group.start_soon(work.start, journeys)
            with renderer.following(group) as followed:
                finished = await merge(
                    journeys,
                    merged,
                    self.journal,
                    names=self.fields,
                    columns=self.source.columns,
                    fixed=bool(self.options["fields"]),
                    memory=self.memory,
                    judge=work.judge,
                    release=work.collector.window_left,
                    followed=followed,
                    on_event=self.announce,
                )
        if finished is None:
            raise cancelled_from_within()
        return await renderer.finish(finished)

    def doubts(self) -> Doubts:
        """What earlier runs have left in doubt; trials that they did not end begin anew."""
        journal = self.journal
        caps: dict[int, Verdict] = {records: found for records, found in journal.caps.items() if found != "open"}
        doubts = Doubts(caps, bool(journal.doubt))
        outcomes = journal.outcomes()
        cut = {outcome.parent for outcome in outcomes}
        for outcome in outcomes:
            if outcome.window.rows is not None and (outcome.rows or 0) > outcome.window.rows:
                doubts.are_counts_doubtful = True
            if outcome.records is not None and outcome.window.index not in cut:
                doubts.resume(outcome.window, outcome.records, outcome.rows or 0, outcome.ids or 0)
        return doubts

    def extra(self) -> ExtraExports:
        """The exports beyond the plan, with those of earlier runs."""
        planned = self.journal.planned
        most = default_extra(planned) if self.max_extra_exports is None else self.max_extra_exports
        return ExtraExports(most, self.journal.launches - planned + len(self.journal.unlaunched))

    def journeys(
        self, group: TaskGroup, windows: Sequence[Window], doubts: Doubts, extra: ExtraExports, unlaunched: set[int]
    ) -> Journeys:
        """What all journeys share."""
        slots = Slots(self.export_limit, self.download_limit, self.announce)
        exporter = Exporter(
            self.source,
            self.journal,
            filter=self.options["filter"],
            fields=self.fields,
            slots=slots,
            extra=extra,
            unlaunched=unlaunched,
            export_timeout=self.export_timeout,
            on_event=self.announce,
        )
        collector = Collector(
            self.source,
            self.journal,
            path=self.output.part,
            slots=slots,
            backpressure=Backpressure(self.max_spooled_bytes, windows),
            on_event=self.announce,
        )
        return Journeys(
            self.source,
            self.journal,
            group,
            exporter=exporter,
            collector=collector,
            doubts=doubts,
            reconciler=Reconciler(exporter, collector, on_event=self.announce),
            discard=self.output.discard_parts,
            skip_failed=self.skip_failed,
            on_event=self.announce,
        )

    def provenance(self) -> dict[str, str]:
        """Where the output's rows come from, for formats that can tell; the same for the same data."""
        figures = self.journal.frontier.figures
        return {
            "start": self.options["start"],
            "end": self.journal.end,
            "filter": self.options["filter"],
            "fields": ",".join(self.fields),
            "rows": str(figures.rows),
            "duplicates": str(figures.duplicates),
            "conflicts": str(figures.conflicts),
            "outside": str(figures.outside),
        }


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
