"""Syncs: count, export, and commit, until the table equals the site."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import field, fields, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import anyio

from bulkpull import events
from bulkpull.disk import disk_errors
from bulkpull.errors import ShrinkError
from bulkpull.events import Event, tell
from bulkpull.logs import log
from bulkpull.planning import moment
from bulkpull.pull import plain
from bulkpull.record import record
from bulkpull.source import Source
from bulkpull.store import WorkDirectory
from bulkpull.sync.export import Exported, export
from bulkpull.sync.options import SyncOptions, policy_of, table_of
from bulkpull.sync.order import Kind, Order, discard_progress, work_directory
from bulkpull.sync.planner import Planner
from bulkpull.sync.request import frontier, request
from bulkpull.sync.result import SyncResult
from bulkpull.sync.state import SyncState
from bulkpull.sync.stretches import before
from bulkpull.tables import Changes, Delivery, Table
from bulkpull.threads import in_thread, own_threads
from bulkpull.window import Window, instant

_SHRUNK = (
    "If these rows are really gone at the source, run it once with a larger --max-shrink, or with --deleted keep; "
    "otherwise run it again later"
)
_IDENTITY = ("source", "filter", "fields", "start")  # of what is synced
_MAX_ROUNDS = 3  # an interrupted order, what is new since, and exports that were empty at first


async def sync(source: Source, options: SyncOptions) -> SyncResult:
    """Keep a table equal to the site: export what is new, and what has changed in the past as far as counts tell.

    The table has, for each window, what the last export of it delivered; a window that is exported again replaces its
    rows, in one transaction with the state of the sync. Each call goes on where the last one ended. One that failed,
    was cancelled or was killed leaves its exports in a directory in `state`; the next call finishes them first.

    Args:
        source: The API.
        options: The options, by name.

    Returns:
        What was done, and how far the table is.

    Raises:
        UsageError: An option makes no sense, or the table holds another range, filter or field list.
        AuthenticationError: The API does not accept the token.
        ApiError: The API refused or failed.
        PartError: A file could not be downloaded or read.
        OutputError: The table or the disk does not take the rows, or another sync is running.
        ShrinkError: More rows would go than is allowed. Nothing was changed.
    """
    table = table_of(options, source.columns)
    with own_threads(options.downloads):
        try:
            await in_thread(partial(table.open, create=not options.dry_run))
            return await _Sync(source, options, table).run()
        except BaseExceptionGroup as errors:  # of a listener, for example
            error = plain(errors)
            raise error from error.__cause__
        finally:
            with anyio.CancelScope(shield=True):
                await in_thread(table.close)


@record(frozen=False)
class _Sync:
    """One call of `sync`."""

    source: Source
    options: SyncOptions
    table: Table
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    counts: Counter[str] = field(default_factory=Counter)
    changes: Changes = field(default_factory=Changes)
    text: str | None = None  # the table's state
    commits: int = 0

    def listen(self, event: Event) -> None:
        """Count what a sync costs, and pass the event on."""
        self.counts["requests"] += isinstance(event, events.Requested)
        self.counts["exports"] += isinstance(event, events.Launched)
        tell(self.options.on_event, event)

    def log_and_listen(self, event: Event) -> None:
        """Also log an event. Those of the pull in a sync are logged there."""
        log(event)
        self.listen(event)

    async def run(self) -> SyncResult:
        started = anyio.current_time()
        observed = replace(self.options, on_event=self.listen)
        counting = self.source.observed(self.log_and_listen)
        planner = Planner(counting, observed, self.table)
        directory = await in_thread(work_directory, self.table.name, self.options.state)
        self.text = None if self.options.rebuild else await in_thread(self.table.state)
        saved = await in_thread(self.saved, directory)
        kind, state = await self.request(counting, saved)
        order = saved if saved and self.is_wanted(saved, kind, state) else None
        is_resumed = order is not None
        if order is None:
            if not self.options.dry_run:
                await in_thread(discard_progress, directory)
            order = await self.plan(planner, kind, state)
        windows: list[Window] = []
        outside, doubt = 0, ""
        for _ in range(_MAX_ROUNDS):
            if order is None:
                break
            windows += order.windows
            if self.options.dry_run:
                state = replace(order.state, missing=())
                break
            exported = await self.export(observed, order, directory)
            if exported:
                outside += exported.outside
                doubt = doubt or exported.doubt
            state = self.new_state(order, exported)
            if not await in_thread(self.commit, order, state, exported, directory):
                state = replace(state, frontier=state.start)
                break
            order = self.again(state)
            if order is None and is_resumed and self.is_behind(state):
                order = await self.plan(planner, "increment", state)
        return SyncResult(
            table=self.table.name,
            start=state.start,
            frontier=state.frontier,
            inserted=self.changes.inserted,
            changed=self.changes.changed,
            deleted=self.changes.deleted,
            rewritten=self.changes.rewritten,
            exports=self.counts["exports"],
            requests=self.counts["requests"],
            seconds=anyio.current_time() - started,
            windows=tuple(windows),
            missing=tuple(one.window for one in state.missing),
            outside=outside,
            recheck=planner.recheck,
            doubt=doubt,
            is_resumed=is_resumed,
            is_dry_run=self.options.dry_run,
        )

    @property
    def changes_path(self) -> Path | None:
        """Where the ids of changed rows are written."""
        return None if self.options.changes is None else Path(self.options.changes)

    # What to export

    def saved(self, directory: WorkDirectory) -> Order | None:
        """The order of an interrupted run, if the table is still as it was then."""
        order = Order.load(directory) if self.options.resume else None
        return order if order and order.expected == self.text else None

    async def request(self, source: Source, saved: Order | None) -> tuple[Kind, SyncState]:
        """What is asked for. A first sync that was interrupted remembers its options as a finished one does."""
        if self.options.rebuild:
            return await request(source, self.options, None)
        if self.text is not None:
            return await request(source, self.options, SyncState.parse(self.text))
        if saved:
            await request(source, self.options, saved.state)
            return "first", replace(saved.state, frontier=saved.state.start, revision=0, missing=())
        return await request(source, self.options, None)

    def is_wanted(self, order: Order, kind: Kind, state: SyncState) -> bool:
        """Whether the order of an interrupted run is to be finished. A plain rerun finishes any."""
        is_same = all(getattr(order.state, name) == getattr(state, name) for name in _IDENTITY)
        end = self.options.end
        is_within_end = end is None or order.state.frontier <= max(state.frontier, moment(end, "end"))
        return is_same and is_within_end and kind in ("increment", "first", order.kind)

    async def plan(self, planner: Planner, kind: Kind, state: SyncState) -> Order | None:
        """The order for what is asked; None if there is nothing to do."""
        end = frontier(self.options, self.now, state.frontier)
        if end <= state.start:
            return None
        if kind == "increment":
            order = await planner.increment(state, end, self.text)
        else:
            columns = self.source.columns.required if state.fields is None else state.fields
            await in_thread(self.table.check, columns)
            order = await planner.whole(kind, state, end, self.text)
        return replace(order, state=replace(order.state, at=instant(self.now)))

    def again(self, state: SyncState) -> Order | None:
        """The order to export once more what was empty although the table has rows there."""
        empty = tuple(one.window for one in state.missing if one.reason == "empty")
        if not empty:
            return None
        rest = tuple(one for one in state.missing if one.reason != "empty")
        return Order(
            kind="increment",
            windows=tuple(replace(window, index=index) for index, window in enumerate(empty)),
            expected=self.text,
            state=replace(state, missing=rest),
            believed=empty,
        )

    def is_behind(self, state: SyncState) -> bool:
        """Whether the range of an interrupted run ended more than `lookback` before the range of this one does."""
        return before(frontier(self.options, self.now, state.frontier), self.options.lookback_s) > state.frontier

    # Exporting and committing

    async def export(self, options: SyncOptions, order: Order, directory: WorkDirectory) -> Exported | None:
        """Export the windows of an order; None if it has none."""
        if not order.windows:
            return None
        await in_thread(directory.claim)
        await in_thread(order.save, directory)
        return await export(self.source, options, self.table, order, directory)

    def new_state(self, order: Order, exported: Exported | None) -> SyncState:
        """The state of the order, with what its exports have left missing."""
        missing = exported.missing if exported else ()
        return replace(order.state, missing=(*order.state.missing, *missing))

    def commit(self, order: Order, state: SyncState, exported: Exported | None, directory: WorkDirectory) -> bool:
        """Replace the rows of what was exported, and the state, in one transaction; then remove the progress. Returns
        whether there was anything to commit."""
        is_worth_it = bool(exported and exported.windows) or (self.text is not None and order.kind != "rebuild")
        if is_worth_it:
            with tempfile.TemporaryDirectory() as temporary:
                delivery = self.delivery(order, state, exported, Path(temporary))
                try:
                    self.replace(delivery)
                except ShrinkError as error:
                    discard_progress(directory)  # the next run exports again: this export may have been wrong
                    error.add_note(_SHRUNK)
                    raise
            self.text = delivery.state
        discard_progress(directory)
        return is_worth_it

    def replace(self, delivery: Delivery) -> None:
        """Give a delivery to the table, and add up what has changed."""
        made = self.table.replace(delivery, policy_of(self.options))
        before = self.changes
        self.changes = Changes(*(getattr(before, one.name) + getattr(made, one.name) for one in fields(Changes)))
        path = self.changes_path
        if path and delivery.changes and delivery.changes != path:
            with disk_errors(f"write {path}"), path.open("ab") as file:
                file.write(delivery.changes.read_bytes())
        self.commits += 1

    def delivery(self, order: Order, state: SyncState, exported: Exported | None, temporary: Path) -> Delivery:
        """What the table gets; without an export, the state alone."""
        columns = exported.columns if exported else state.fields or self.source.columns.required
        rows = exported.rows if exported else temporary / "empty.csv"
        if not exported:
            rows.write_text(",".join(columns) + "\n")
        changes = self.changes_path
        if changes and self.commits:
            changes = temporary / "changes.ndjson"
        return Delivery(
            windows=exported.windows if exported else (),
            rows=rows,
            columns=tuple(columns),
            expected=order.expected,
            rebuild=order.kind == "rebuild",
            state=state.text(),
            at=state.at,
            changes=changes,
        )
