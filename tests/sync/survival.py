"""Seeded histories of a site and of the syncs of it, some of which fail. Tests run a few, the soak test many."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio

from bulkpull import BulkpullError, Clickwrap, OutputError, RetryPolicy, ShrinkError
from bulkpull.events import Event
from bulkpull.sandbox import History, Sandbox, SandboxConfig
from bulkpull.sandbox.data import FIELDS, Row
from bulkpull.sync import SyncOptions, SyncResult, sync
from bulkpull.tables import DELETED_COLUMN, Changes, Delivery, Policy, Table
from bulkpull.window import Window
from tests.sync.memory_table import MemoryTable
from tests.tables.places import Place

Found = dict[str, Row]  # rows by id, with the values of COLUMNS

START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
COLUMNS = (*FIELDS[:6], "custom_data.vip")  # values of the last one are null, empty or a text
RETRY = RetryPolicy(base=0.01, cap=0.05, seconds=5.0)
RUN_TIMEOUT_S = 60.0  # that no run may exceed
FAULTS = (
    "counts-capped:20",
    "counts-over:3",
    "counts-under:3",
    "counts-zero",
    "counts-null",
    "counts-stale:5",
    "counts-refused-after:3",
    "counts-lag:20",
    "export-fails-once:2",
    "late-rows:2",
    "links-late:1",
    "empty-file-zero",
    "export-fails",
    "rows-capped:30",
    "damaged-once",
    "server-error",
    "everything",
)
LIARS = ("counts-", "late-rows", "rows-capped")  # faults with which counts or exports are wrong


class MemoryPlace(Place):
    """One table in memory, which outlives runs, and does not tell null from an empty text."""

    def __init__(self, where: str = "") -> None:
        super().__init__(where)
        self.kept = MemoryTable()

    def table(self, name: str, **_options: Any) -> Table:
        self.kept.close()  # as the end of a process would
        return self.kept

    def query(self, name: str) -> list[dict[str, Any]]:
        return [dict(row) for row in self.kept.rows.values()]


class UnsteadyTable:
    """A table that fails before or after its `fails_at`th commit. See Table."""

    def __init__(self, table: Table, fails_at: int, *, after: bool) -> None:
        self._table = table
        self._left = fails_at
        self._after = after
        for name in ("open", "state", "count", "columns", "check", "close"):
            setattr(self, name, getattr(table, name))

    @property
    def name(self) -> str:
        return self._table.name

    def replace(self, delivery: Delivery, policy: Policy) -> Changes:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise OutputError("the disk is full")
        changes = self._table.replace(delivery, policy)
        if self._left == 0:
            raise OutputError("the connection was lost")
        return changes


@dataclass(slots=True)
class Survival:
    """The outcome of a history: its runs by how they ended, and what they cost."""

    seed: int
    ends: Counter[str] = field(default_factory=Counter)
    exports: int = 0
    requests: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    log: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Schedule:
    """A drawn history, and the syncs of it.

    If it `is_countable`, activities are only added, or only deleted, so that counts see all that happens. Otherwise
    they cannot see everything, so a last run exports everything again.
    """

    seed: int
    draw: random.Random = field(init=False)
    is_countable: bool = field(init=False)
    history: History = field(init=False)
    faults: str = field(init=False)
    options: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        draw = self.draw = random.Random(f"sync {self.seed}")
        self.is_countable = draw.random() < 0.5
        rates: dict[str, float] = {}
        if self.is_countable:
            rates |= {"late": 0.1, "imported": draw.choice((0.0, 0.1))} if draw.random() < 0.6 else {"deleted": 0.1}
        else:
            kinds = ("late", "deleted", "changed", "moved", "imported")
            rates |= {kind: draw.choice((0.0, 0.02, 0.1)) for kind in kinds}
        self.history = History(
            **{"late": 0.0, "deleted": 0.0, "within_days": draw.choice((3.0, 15.0)), **rates},
            start=START,
            end=START + draw.choice((10, 30)) * DAY,
            per_day=draw.choice((2.0, 10.0, 30.0)),
            seed=self.seed,
            count_delay_s=draw.choice((0, 0, 3600, 86_400)),
            export_delay_s=draw.choice((0, 0, 3600)),
        )
        self.faults = draw.choice(("", "", "+".join(draw.sample(FAULTS, draw.randint(1, 3))) + f":{self.seed}"))
        self.options = {
            "start": START,
            "fields": COLUMNS[3:],
            "deleted": draw.choice(("mark", "drop", "keep")),
            "rows_per_export": draw.choice((10, 100, 1000)),
        }

    @property
    def is_honest(self) -> bool:
        """Whether counts and exports tell what is there."""
        return not any(lie in self.faults for lie in LIARS) and self.faults.find("everything") < 0


async def survive(seed: int, place: Place, state: Path) -> Survival:
    """Run the schedule of this seed; check every run, and that the table ends equal to the site.

    Args:
        seed: The seed.
        place: Where the table is.
        state: Where runs keep their progress.
    """
    schedule, survival = Schedule(seed), Survival(seed)
    try:
        await _Runs(schedule, survival, place, place.new_name(), state).run()
    except BaseException as error:
        error.add_note(f"seed {seed}: {schedule}")
        for line in survival.log:
            error.add_note(line)
        raise
    return survival


@dataclass(slots=True)
class _Runs:
    schedule: Schedule
    survival: Survival
    place: Place
    name: str
    state: Path
    now: datetime = START + DAY

    async def run(self) -> None:
        schedule, draw = self.schedule, self.schedule.draw
        well = SandboxConfig(
            export_seconds=0.0, file_latency=0.0, rows_per_file=50, fault_seconds=0.05, requests_per_minute=100_000
        )
        async with Sandbox(replace(well, faults=schedule.faults), history=schedule.history) as sandbox:
            port = int(sandbox.url.split(":")[2].partition("/")[0])
            for _ in range(draw.randint(1, 5)):
                self.now += draw.choice((0.0, 0.2, 1.0, 1.0, 7.0)) * draw.random() * 2 * DAY
                sandbox.now = self.now
                await self.attempt(sandbox)
            self.survival.faults.update(sandbox.faults.injected)
        # Everything has happened, and the site tells the truth: on the same port, since a table belongs to one site.
        self.now = schedule.history.end + 40 * DAY
        schedule.history.count_delay_s = schedule.history.export_delay_s = 0.0
        async with Sandbox(replace(well, port=port), history=schedule.history) as sandbox:
            sandbox.now = self.now
            for _ in range(3):
                result = await self.sync(sandbox, recheck="all")
                if not result.is_resumed and result.complete:
                    break
            assert result.complete, "the site is well, and yet the sync is not complete"
            if not (schedule.is_countable and schedule.is_honest):
                result = await self.sync(sandbox, full_recheck=True)
                assert result.complete
            self.check_same([Window(0, START, result.frontier)])
            again = await self.sync(sandbox, recheck="all", lookback=0)
            assert (again.exports, again.rewritten) == (0, 0), "nothing has changed since, and yet something was done"

    async def attempt(self, sandbox: Sandbox) -> None:
        """Sync once, with drawn options, and perhaps not to the end."""
        draw = self.schedule.draw
        options: dict[str, Any] = {
            "end": self.now - draw.choice((0.0, 0.01, 1.0)) * DAY,
            "lookback": draw.choice((0, "1h", "1d", "5d")),
            "recheck": draw.choice((0, "3d", "90d", "all")),
            "max_shrink_rows": draw.choice((0, 3, 100)),
            "full_recheck": draw.random() < 0.1,
            "deleted": self.schedule.options["deleted"],
        }
        end = draw.choice(("", "", "cancelled", "before", "after"))
        at = draw.choice((1, 2, 3, 5, 8, 13, 21, 34))
        table = self.table()
        if end in ("before", "after"):
            table = UnsteadyTable(table, draw.choice((1, 1, 2)), after=end == "after")  # type: ignore[assignment]
        self.survival.log.append(f"now {self.now}, {end or 'to the end'} ({at}): {options}")
        before = self.held()
        try:
            with anyio.CancelScope() as scope:
                result = await self.sync(sandbox, table, _ending(end, at, scope), **options)
                self.check(result)
            if scope.cancelled_caught:
                self.survival.ends["cancelled"] += 1
        except ShrinkError as error:
            self.survival.ends["shrinks"] += 1
            assert error.gone > options["max_shrink_rows"]
            state, rows = self.held()
            # What an interrupted run had begun may have been committed before.
            assert state != before[0] or rows == before[1]
        except BulkpullError as error:
            self.survival.ends[type(error).__name__] += 1
            self.survival.log.append(repr(error))
            assert self.schedule.faults or end, "the site is well, and yet the sync fails"

    async def sync(
        self,
        sandbox: Sandbox,
        table: Table | None = None,
        listen: Callable[[Event], None] | None = None,
        **options: Any,
    ) -> SyncResult:
        """Sync, within a deadline."""
        defaults = {"settle": 0, "end": self.now, "state": self.state, "max_shrink_rows": 1_000_000}
        options = self.schedule.options | defaults | options | ({"on_event": listen} if listen else {})
        with anyio.fail_after(RUN_TIMEOUT_S):
            async with Clickwrap(sandbox.token, base_url=sandbox.url, retry=RETRY) as clickwrap:
                result = await sync(clickwrap, SyncOptions(to=table or self.table(), **options))
        self.survival.ends["complete" if result.complete else "incomplete"] += 1
        self.survival.exports += result.exports
        self.survival.requests += result.requests
        self.survival.log.append(repr(result))
        return result

    def held(self) -> tuple[str | None, Found]:
        """The state and the rows."""
        table = self.table()
        table.open(create=True)
        try:
            state = table.state()
        finally:
            table.close()
        return state, self.rows()

    def table(self) -> Table:
        """The table, as each run opens it anew."""
        return self.place.table(self.name)

    def rows(self) -> Found:
        """The rows that are still there at the source, as far as the table tells."""
        rows = self.place.rows(self.name)
        stored = [name if any(name in row for row in rows.values()) else name.replace(".", "_") for name in COLUMNS]
        return {id: tuple(map(row.get, stored)) for id, row in rows.items() if row.get(DELETED_COLUMN) in (None, "")}

    def check(self, result: SyncResult) -> None:
        """Check what a run promises: the windows that it has exported are as on the site."""
        if self.schedule.is_honest and not self.schedule.history.export_delay_s and not result.is_resumed:
            self.check_same([one for one in result.windows if not any(_overlap(one, gap) for gap in result.missing)])

    def check_same(self, windows: Sequence[Window]) -> None:
        """Compare the rows of windows with the site's of this moment."""
        moment = self.schedule.history.at(self.now)
        every = [FIELDS.index(name) for name in COLUMNS]
        null = "" if isinstance(self.place, MemoryPlace) else None
        site = {
            str(row[0]): tuple(null if row[at] is None else row[at] for at in every)
            for row in map(moment.row, range(moment.rows))
        }
        expected, found = (
            {id: row for id, row in rows.items() if _is_in(row, windows)} for rows in (site, self.rows())
        )
        if self.schedule.options["deleted"] == "keep":  # which rows are gone, readers cannot tell
            found = {id: row for id, row in found.items() if id in expected}
            table = self.table()
            table.open(create=False)
            try:
                assert sum(table.count(windows)) == len(expected)
            finally:
                table.close()
        different = {
            id: (found.get(id), expected.get(id))
            for id in sorted(found.keys() | expected.keys())
            if found.get(id) != expected.get(id)
        }
        assert not different, f"{len(different)} rows differ, in the table and on the site"


def _ending(end: str, at: int, scope: anyio.CancelScope) -> Callable[[Event], None] | None:
    """Return what ends a run at its `at`th event."""
    if end != "cancelled":
        return None
    events = 0

    def listen(_event: Event) -> None:
        nonlocal events
        events += 1
        if events == at:
            scope.cancel()

    return listen


def _overlap(one: Window, other: Window) -> bool:
    return one.start < other.end and other.start < one.end


def _is_in(row: Row, windows: Sequence[Window]) -> bool:
    created = datetime.fromisoformat(str(row[2]))
    return any(window.start <= created < window.end for window in windows)
