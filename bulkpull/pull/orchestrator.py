"""The orchestrator: a plan, the journeys of its windows, one consumer that merges, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import InitVar, field, replace
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from bulkpull.errors import BulkpullError, OutputError, UsageError
from bulkpull.events import CountsDoubted, Event, Planned, Published, ignore, tell
from bulkpull.journal import Journal, Recorder, Verdict, has_begun, resume
from bulkpull.logs import log
from bulkpull.pacing import Backpressure, DownloadLimit, ExportLimit
from bulkpull.planning import AUTO, Plan, plan, require_filter
from bulkpull.pull.collect import Collector
from bulkpull.pull.completeness import Completeness, completeness
from bulkpull.pull.conflicts import write_conflicts
from bulkpull.pull.doubts import Delivery, Doubts
from bulkpull.pull.export import Exporter
from bulkpull.pull.extra import ExtraExports, default_extra
from bulkpull.pull.journey import Journey, cancelled_from_within
from bulkpull.pull.journeys import Journeys
from bulkpull.pull.manifest import manifest_of
from bulkpull.pull.merge import merge
from bulkpull.pull.options import ALL_FIELDS, PullOptions, RunOptions
from bulkpull.pull.reconcile import Reconciler
from bulkpull.pull.result import Result, Tally
from bulkpull.pull.slots import Slots
from bulkpull.pull.troubles import TroubleRecorder
from bulkpull.pull.workers import Workers
from bulkpull.record import record
from bulkpull.rows.held_file import Memory
from bulkpull.source import Source
from bulkpull.store import (
    ByteStream,
    Destination,
    ManifestWriter,
    Pipe,
    WorkDirectory,
    byte_stream_at,
    destination_for,
    feed,
)
from bulkpull.suggestions import did_you_mean
from bulkpull.threads import in_thread, own_threads
from bulkpull.window import Window, fingerprint


async def pull(source: Source, options: PullOptions) -> Result:
    """Pull the activity of `[start, end)` into one output, in this process. See `bulkpull.pull`.

    Args:
        source: The API.
        options: The options, whose `cluster` is None.

    Returns:
        The figures of the pull, over all its runs.

    Raises:
        BulkpullError: See `bulkpull.pull`.
    """
    if stream := byte_stream_at(options.out):
        return await _pull_to(stream, source, options)

    def destination(work: WorkDirectory, provenance: Callable[[], Mapping[str, str]]) -> Destination:
        return destination_for(
            options.out,
            work,
            options.output_format,
            overwrite=options.overwrite,
            columns=source.columns,
            provenance=provenance,
        )

    return await run(source, options, WorkDirectory.of(options.out, options.state), destination)


async def _pull_to(stream: ByteStream, source: Source, options: PullOptions) -> Result:
    pipe = Pipe(stream, options.output_format, source.columns)
    with WorkDirectory.temporary(stream.name) as directory:
        return await run(source, options, directory, lambda _work, _provenance: pipe)


MakeDestination = Callable[[WorkDirectory, Callable[[], Mapping[str, str]]], Destination]


async def run(
    source: Source,
    options: RunOptions,
    directory: WorkDirectory,
    destination: MakeDestination,
    windows: Sequence[Window] = (),
    workers: Workers | None = None,
) -> Result:
    """Run a pull whose progress is kept in a directory.

    Args:
        source: The API.
        options: The options.
        directory: The work directory.
        destination: Returns the destination, given the directory and a function that describes, once all rows are
            merged, where they come from.
        windows: The windows, instead of a plan of the range: in order of time, without overlaps, perhaps with gaps.
        workers: What downloads and merges, instead of this process.

    Returns:
        The figures of the pull, over all its runs.

    Raises:
        BulkpullError: See `pull`.
    """
    work = _Pull(source, options, directory, destination, tuple(windows), workers)
    started = anyio.current_time()
    try:
        # The work is a child of this task, so that a plain cancellation reaches it through the group's scope: only
        # that lets what is under way in threads come to an end first.
        with own_threads(options.downloads):
            async with anyio.create_task_group() as group:
                group.start_soon(work.run)
    except BaseExceptionGroup as errors:
        error = plain(errors)
        raise error from error.__cause__
    if not work.published:
        raise cancelled_from_within()
    assert work.completeness
    return work.tally.result(
        anyio.current_time() - started,
        work.directory.output,
        work.skipped,
        work.completeness,
        work.doubt,
        work.manifest,
    )


@record(frozen=False)
class _Pull:
    """What the coroutines of one pull share."""

    source: Source
    options: RunOptions
    directory: WorkDirectory
    make_destination: InitVar[MakeDestination]
    given: tuple[Window, ...] = ()
    workers: Workers | None = None
    destination: Destination = field(init=False)
    identity: dict[str, str] = field(init=False)
    memory: Memory = field(init=False)
    journal: Journal = field(init=False)
    tally: Tally = field(default_factory=Tally)
    recorder: Recorder = field(init=False)
    troubles: TroubleRecorder = field(default_factory=TroubleRecorder)
    skipped: tuple[Window, ...] = ()
    completeness: Completeness | None = None
    doubt: str = ""
    manifest: Path | str | None = None
    published: bool = False

    def __post_init__(self, make_destination: MakeDestination) -> None:
        self.destination = make_destination(self.directory, self.provenance)
        self.identity = self.options.identity(self.source)
        if self.given:
            self.identity |= {"window": fingerprint(self.given), "rows_per_export": ""}
        self.memory = Memory(self.options.divided_memory.parts)
        self.recorder = Recorder(
            self.source.requests_per_minute,
            self.options.exports or self.options.max_exports,
            self.options.downloads,
            is_adaptive=self.options.exports is None,
        )
        self.source = self.source.observed(self.announce)

    def announce(self, event: Event) -> None:
        log(event)
        self.tally(event)
        self.recorder(event)
        self.troubles(event)
        tell(self.options.on_event, event)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns that exports are asked for."""
        return self.options.names(self.source.columns)

    async def run(self) -> None:
        journal = None
        try:
            if self.options.report is not None:
                from bulkpull.report import check_report_path  # takes time to import, and most pulls have none

                await in_thread(check_report_path, Path(self.options.report))
            await in_thread(self.directory.claim)
            if not self.options.resume:
                await in_thread(self.destination.discard)
                await in_thread(self.directory.clear)
            self.journal = journal = await in_thread(self.open_journal)
            if self.options.wants_all_fields:
                await self.choose_all_fields()
            if await in_thread(has_begun, journal, self.identity):
                self.announce(Planned(await in_thread(lambda: journal.windows)))
            else:
                found = await self.plan()
                await in_thread(journal.begin, self.identity, found.end, found.windows, found.total, found.doubt)
                self.announce(Planned(found.windows, found.probes, found.uncounted))
                if found.doubt:
                    self.announce(CountsDoubted(found.doubt))
            if resumed := await in_thread(resume, journal):
                self.announce(resumed)
            if not await in_thread(lambda: self.destination.holds(journal.receipt)):
                await in_thread(self.destination.check)
                await self.check_site()
                merged = await self.gather()
                with anyio.CancelScope(shield=True):
                    await in_thread(self.publish, merged)
            self.skipped = await in_thread(lambda: journal.skipped)
            self.completeness = await in_thread(completeness, journal)
            self.recorder.end_run(is_published=True)
            await in_thread(journal.record_moments)
            self.manifest = await in_thread(self.write_manifest, self.completeness)
            if self.options.conflicts is not None:
                await in_thread(write_conflicts, journal, Path(self.options.conflicts))
            self.doubt = await in_thread(lambda: journal.doubt)
            self.published = True
            self.announce(Published())
        finally:
            if not self.published:
                self.recorder.end_run(is_published=False)
            with anyio.CancelScope(shield=True):
                await in_thread(self.close, journal)

    async def plan(self) -> Plan:
        """The windows that were given, or those of the range."""
        if self.given:
            return Plan(self.given[0].start, self.given[-1].end, self.given)
        found = await plan(self.source, self.options)
        if self.options.length != AUTO and found.windows:  # else the counts have told
            await require_filter(self.source, found.start, found.end, self.identity["filter"])
        return found

    def open_journal(self) -> Journal:
        is_durable = not self.directory.is_temporary
        return Journal(self.directory.journal, is_durable=is_durable, moments=self.recorder.moments)

    def publish(self, merged: Path) -> None:
        """Publish the output, so that the next run recognises it if this one is killed meanwhile."""
        self.journal.record_receipt(self.destination.finish(merged))
        self.destination.publish()

    def write_manifest(self, found: Completeness) -> Path | str | None:
        """Write the manifest of the published output, if the destination has a place for one; return its path."""
        if not isinstance(self.destination, ManifestWriter):
            return None
        manifest = manifest_of(self.journal, self.identity, self.options, self.source.columns, found)
        return self.destination.write_manifest(manifest)

    def close(self, journal: Journal | None) -> None:
        """Write the report, close the journal and release the work directory, which stays as long as there is progress
        in it."""
        try:
            if journal:
                self.conclude(journal)
        finally:
            self.release(journal)

    def conclude(self, journal: Journal) -> None:
        """Record the last moments, and write the report if one is wanted. If the pull fails, no error hides its own."""
        with nullcontext() if self.published else suppress(OutputError):
            journal.record_moments()
            if self.options.report is not None:
                from bulkpull.report import report_page, save_report

                timeline = journal.timeline(str(self.options.output_format))
                save_report(Path(self.options.report), report_page(timeline, self.directory.output))

    def release(self, journal: Journal | None) -> None:
        remove = self.directory.is_temporary or (self.published and not self.directory.is_kept)
        self.destination.close()
        if journal:
            with suppress(OutputError):  # a journal that cannot be read may still hold progress
                if not remove and not journal.launches:
                    remove = True
                    if not self.published:
                        self.destination.discard()  # what there is in object storage
            journal.close()
        self.memory.close()
        self.directory.release(remove=remove)

    async def choose_all_fields(self) -> None:
        """Take the fields that an earlier run has found, or those that the site offers now, and record both that these
        are all and which they are."""
        recorded = await in_thread(lambda: self.journal.options)
        mark = f"{ALL_FIELDS}:"
        if not recorded:
            assert self.options.site is not None
            offered = await self.source.export_fields(self.options.site)
        elif recorded["fields"].startswith(mark):
            offered = recorded["fields"].removeprefix(mark).split(",")
        else:
            return  # an earlier run has not asked for all: its options differ
        columns = self.source.columns
        self.options = replace(self.options, fields=[*columns.required, *offered])
        self.identity["fields"] = mark + self.options.recorded_fields(columns)

    async def check_site(self) -> None:
        """Raises UsageError for fields that the site does not offer."""
        site = self.options.site
        if site is None:
            return
        offered = await self.source.export_fields(site)
        known = {*self.source.columns.required, *offered}
        unknown = [name for name in self.names if name not in known]
        if unknown:
            raise UsageError(
                f"site {site} does not offer the fields {', '.join(unknown)}.{did_you_mean(unknown, offered)}"
            )

    async def gather(self) -> Path:
        """Run the journeys of all windows concurrently, merge them in plan order, and feed the destination."""
        finished: Path | None = None
        waiting, past = await in_thread(lambda: (self.journal.waiting, self.journal.exports()))
        journeys = [Journey(window, past.get(window.index, ())) for window in waiting]
        doubts, extra = await in_thread(self.doubts), await in_thread(self.extra)
        unlaunched = await in_thread(lambda: self.journal.unlaunched)
        merged = self.directory.merged
        if self.workers:
            await self.workers.start(self.journal, self.announce)
        async with anyio.create_task_group() as group:
            work = self.journeys(group, waiting, doubts, extra, unlaunched)
            group.start_soon(work.start, journeys)
            recorded = self.troubles.recorded(self.journal)
            if self.workers:
                async with recorded:
                    return await self.workers.merge(
                        journeys,
                        merged,
                        names=self.names,
                        fixed=bool(self.options.fields),
                        doubts=doubts,
                        release=work.collector.window_left,
                    )
            # A plain CSV is only read for its checksum, which is not worth telling.
            on_rendered = ignore if self.options.output_format.is_merged_already else self.announce
            async with recorded, feed(self.destination, merged, on_rendered) as followed:
                finished = await merge(
                    journeys,
                    merged,
                    self.journal,
                    names=self.names,
                    columns=self.source.columns,
                    fixed=bool(self.options.fields),
                    memory=self.options.divided_memory.ids,
                    doubts=doubts,
                    release=work.collector.window_left,
                    followed=followed,
                    on_event=self.announce,
                    is_durable=not self.directory.is_temporary,
                    collects_conflicts=self.options.conflicts is not None,
                )
        if finished is None:
            raise cancelled_from_within()
        return finished

    def doubts(self) -> Doubts:
        """What earlier runs have left in doubt; trials that they did not end begin anew."""
        journal = self.journal
        caps: dict[int, Verdict] = {records: found for records, found in journal.caps.items() if found != "open"}
        doubts = Doubts(caps, bool(journal.doubt))
        for outcome in journal.outcomes():
            if outcome.window.rows is not None and (outcome.rows or 0) > outcome.window.rows:
                doubts.are_counts_doubtful = True
            if outcome.records is not None and not outcome.is_split:
                doubts.resume(outcome.window, Delivery(outcome.records, outcome.ids or 0, outcome.rows or 0))
        return doubts

    def extra(self) -> ExtraExports:
        """The exports beyond the plan, with those of earlier runs."""
        planned = self.journal.planned
        most = self.options.max_extra_exports
        most = default_extra(planned) if most is None else most
        return ExtraExports(most, self.journal.launches - planned + len(self.journal.unlaunched))

    def journeys(
        self, group: TaskGroup, windows: Sequence[Window], doubts: Doubts, extra: ExtraExports, unlaunched: set[int]
    ) -> Journeys:
        """What all journeys share."""
        options, now = self.options, anyio.current_time()
        export_limit = ExportLimit(options.exports, options.max_exports, now)
        download_limit = self.workers.limit if self.workers else DownloadLimit(options.downloads, now)
        slots = Slots(export_limit, download_limit, self.announce)
        if self.workers:
            self.workers.limit.on_change = slots.adjust
        exporter = Exporter(
            self.source,
            self.journal,
            filter=self.identity["filter"],
            fields=self.names,
            slots=slots,
            extra=extra,
            unlaunched=unlaunched,
            export_timeout=self.options.export_timeout_s,
            on_event=self.announce,
        )
        collector = Collector(
            self.source,
            self.journal,
            group,
            memory=self.memory,
            path=self.directory.part,
            slots=slots,
            backpressure=Backpressure(self.options.spool_bytes, windows),
            workers=self.workers,
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
            discard=self.directory.discard_parts,
            skip_failed=self.options.skip_failed,
            on_event=self.announce,
        )

    def provenance(self) -> dict[str, str]:
        """Describe where the output's rows come from, for formats that store it; the same for the same data."""
        figures = self.journal.frontier.figures
        return {
            "start": self.identity["start"],
            "end": self.journal.end,
            "filter": self.identity["filter"],
            "fields": ",".join(self.names),
            "rows": str(figures.rows),
            "duplicates": str(figures.duplicates),
            "conflicts": str(figures.conflicts),
            "outside": str(figures.outside),
        }


def plain(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error behind a group; the group itself where errors of several kinds, not all ours, are in it."""
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
