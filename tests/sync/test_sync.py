"""Syncs from the sandbox into a table in memory."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bulkpull.errors import BulkpullError, OutputError, ShrinkError, UsageError
from bulkpull.events import Event, Launched, PartFetched, Requested
from bulkpull.sync.state import SyncState
from bulkpull.tables import DELETED_COLUMN, Changes, Delivery, Policy
from bulkpull.window import instant
from tests.sync.memory_table import MemoryTable
from tests.sync.site import START, Site, a_site, fail_exports

DAY = timedelta(days=1)
END = START + 100 * DAY


def state_of(site: Site) -> SyncState:
    assert site.table.committed
    return SyncState.parse(site.table.committed)


async def test_a_table_equals_the_site_after_each_night(tmp_path: Path) -> None:
    async with a_site(tmp_path, rows=500) as site:
        first = await site.sync(END)
        assert (first.inserted, first.exports, first.complete, first.frontier) == (500, 1, True, END)
        assert site.held() == site.expected(END)
        for night in range(1, 4):
            end = END + night * DAY
            site.add(end - DAY, end, 10)
            site.add(end - 30 * DAY, end - 29 * DAY, 1)
            # In another stretch than what is late: the two would cancel there until a later night.
            settled = instant(START + 50 * DAY)
            site.delete(min(id for id, row in site.activity.items() if row["created_time"] < settled))
            found = await site.sync(end, recheck="all")
            assert site.held() == site.expected(end)
            assert (found.inserted, found.deleted, found.exports, found.complete) == (11, 1, 1, True)
            assert found.requests <= 40
        assert list(tmp_path.iterdir()) == []
        [marked] = {row[DELETED_COLUMN] for row in site.table.rows.values() if row.get(DELETED_COLUMN)} & {
            site.table.deliveries[-1].at
        }
        assert marked == state_of(site).at


async def test_an_error_of_a_listener_ends_a_sync_as_it_is(tmp_path: Path) -> None:
    def fail(event: Event) -> None:
        if isinstance(event, Requested):
            raise ZeroDivisionError

    async with a_site(tmp_path, rows=30) as site:
        await site.sync(END)
        with pytest.raises(ZeroDivisionError):
            await site.sync(END + DAY, on_event=fail)


async def test_a_sync_without_anything_new_makes_no_export(tmp_path: Path) -> None:
    async with a_site(tmp_path, rows=300) as site:
        await site.sync(END)
        again = await site.sync(END)
        earlier = await site.sync(END - 10 * DAY)  # the clock was set back, or the end is another
    for found in (again, earlier):
        assert (found.exports, found.rewritten, found.frontier) == (0, 0, END)
    assert again.recheck.stretches == 24
    assert again.requests == 24


async def test_only_a_full_recheck_sees_what_counts_cannot(tmp_path: Path) -> None:
    async with a_site(tmp_path, rows=300) as site:
        await site.sync(END)
        site.change(next(id for id, row in site.activity.items() if row["created_time"] < "2024-03"), event_type="x")
        assert (await site.sync(END)).exports == 0
        found = await site.sync(END, full_recheck=True)
        assert (found.changed, found.inserted, found.deleted) == (1, 0, 0)
        assert site.held() == site.expected(END)


async def test_a_row_that_moves_is_found_at_its_new_time(tmp_path: Path) -> None:
    async with a_site(tmp_path, rows=300) as site:
        await site.sync(END)
        moved = next(id for id, row in site.activity.items() if "2024-02" < row["created_time"] < "2024-02-10")
        site.change(moved, created_time=instant(END - 5 * DAY))
        found = await site.sync(END)
        assert (found.changed, found.inserted, found.deleted) == (1, 0, 0)
        assert site.held() == site.expected(END)


async def test_changes_are_told_by_id(tmp_path: Path) -> None:
    changes = tmp_path / "changes.ndjson"
    async with a_site(tmp_path / "state", rows=50) as site:
        await site.sync(END, changes=changes)
        assert len(changes.read_text().splitlines()) == 50
        [added] = site.add(END, END + DAY, 1)
        await site.sync(END + DAY, changes=changes)
    [told] = map(json.loads, changes.read_text().splitlines())
    assert (told["change"], told["id"]) == ("inserted", added)


async def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    async with a_site(tmp_path, rows=50) as site:
        first = await site.sync(END, dry_run=True)
        assert (first.exports, len(first.windows), site.table.committed) == (0, 1, None)
        await site.sync(END)
        before = site.table.committed
        site.add(END - 50 * DAY, END - 49 * DAY, 3)
        found = await site.sync(END + DAY, dry_run=True)
        assert (found.exports, found.recheck.differing, found.is_dry_run) == (0, 1, True)
        assert found.windows[0].start <= END - 50 * DAY
        assert (site.table.committed, site.held()) != (None, site.expected(END + DAY))
        assert site.table.committed == before


# What the table remembers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "2023-01-01"}, r"the start 2023-01-01T00:00:00.000Z instead of 2024-01-01T00:00:00.000Z.*--rebuild"),
        ({"filter": "event_type==agreed"}, r"the filter event_type==agreed instead of \(none\)"),
        (
            {"fields": ["event_type", "connection_data"]},
            r"the field list id,.*event_type,connection_data inst.*--add-f",
        ),
    ],
)
async def test_other_options_than_those_remembered_are_named(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    async with a_site(tmp_path, rows=5) as site:
        await site.sync(END)
        await site.sync(END, start=START, fields=["event_type"], filter="")
        with pytest.raises(UsageError, match=message):
            await site.sync(END, **options)


async def test_the_first_sync_needs_a_start(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        with pytest.raises(UsageError, match="--start"):
            await site.sync(END, start=None)


async def test_a_rebuild_takes_other_options(tmp_path: Path) -> None:
    async with a_site(tmp_path, rows=50) as site:
        await site.sync(END)
        later = START + 50 * DAY
        found = await site.sync(END, rebuild=True, start=later, fields=["connection_data.page_title"])
        assert found.start == later
        assert {row["created_time"] for row in site.table.rows.values()} == {
            row["created_time"] for row in site.activity.values() if row["created_time"] >= instant(later)
        }
        assert "event_type" not in site.table.header


async def test_an_added_field_exports_everything_again(tmp_path: Path) -> None:
    async with a_site(tmp_path, rows=50) as site:
        await site.sync(END)
        site.change(next(iter(site.activity)), **{"custom_data.seats": "12"})
        site.add(END, END + DAY, 5)
        planned = await site.sync(END + DAY, add_field=["custom_data.seats"], dry_run=True)
        assert len(planned.windows) == 1
        found = await site.sync(END + DAY, add_field=["custom_data.seats"])
        assert found.inserted == 5
        assert {row["custom_data.seats"] for row in site.table.rows.values()} == {"12", ""}
        again = await site.sync(END + DAY, add_field=["custom_data.seats"])
        assert (again.exports, state_of(site).fields[-1:]) == (0, ("custom_data.seats",))  # type: ignore[index]


# What goes


async def test_a_window_that_becomes_empty_is_exported_twice(tmp_path: Path) -> None:
    async with a_site(tmp_path, rows=300) as site:
        await site.sync(END)
        site.delete(*[id for id, row in site.activity.items() if row["created_time"] >= instant(END - DAY)])
        found = await site.sync(END + DAY, recheck=0)
        assert site.held() == site.expected(END)
        assert (found.exports, found.complete) == (2, True)
        assert found.deleted > 0


async def test_nothing_changes_if_too_many_rows_would_go(tmp_path: Path) -> None:
    async with a_site(tmp_path, rows=600) as site:
        await site.sync(END)
        before = dict(site.table.rows), site.table.committed
        site.delete(*list(site.activity)[:300])
        for _ in range(2):
            with pytest.raises(ShrinkError) as refused:
                await site.sync(END, recheck="all")
            assert "--max-shrink" in refused.value.__notes__[0]
            assert (site.table.rows, site.table.committed) == before
        found = await site.sync(END, recheck="all", max_shrink=1)
        assert found.deleted == 300
        assert site.held() == site.expected(END)


# Runs that fail


class FailingTable(MemoryTable):
    """A table whose next commit fails."""

    def replace(self, delivery: Delivery, policy: Policy) -> Changes:
        self.replace = super().replace  # type: ignore[method-assign]
        raise OutputError("the connection was lost")


async def test_what_is_exported_is_not_exported_again_after_a_failed_commit(tmp_path: Path) -> None:
    async with a_site(tmp_path, rows=50) as site:
        site.table = FailingTable()
        with pytest.raises(OutputError, match="the connection was lost"):
            await site.sync(END)
        assert not site.table.is_open
        found = await site.sync(END, start=None, fields=None)  # remembered
        assert (found.is_resumed, found.exports, found.inserted) == (True, 0, 50)
        assert site.held() == site.expected(END)


async def test_an_interrupted_backfill_goes_on_and_then_on(tmp_path: Path) -> None:
    class Stopped(Exception):  # noqa: N818
        pass

    def stop(event: Event) -> None:
        if isinstance(event, PartFetched) and event.window.index == 3:
            raise Stopped

    launched: list[Event] = []
    async with a_site(tmp_path, rows=400) as site:
        with pytest.raises(Stopped):
            await site.sync(END, window="10d", exports=1, on_event=stop)
        done = site.sandbox.stats.exports
        assert site.table.committed is None
        site.add(END, END + 5 * DAY, 20)
        found = await site.sync(END + 5 * DAY, on_event=launched.append)
        assert found.is_resumed
        assert found.frontier == END + 5 * DAY
        assert site.held() == site.expected(END + 5 * DAY)
        assert site.sandbox.stats.exports == 10 + 1  # those of the interrupted run, and one for what is new
        assert sum(isinstance(event, Launched) for event in launched) == found.exports == 11 - done


async def test_the_progress_of_an_interrupted_run_is_not_taken_for_another_state(tmp_path: Path) -> None:
    async with a_site(tmp_path, rows=50) as site:
        await site.sync(END)
        site.add(END, END + DAY, 5)
        other = MemoryTable(rows=dict(site.table.rows), header=site.table.header, committed=site.table.committed)
        failing = FailingTable(rows=dict(site.table.rows), header=site.table.header, committed=site.table.committed)
        with pytest.raises(OutputError):
            await site.sync(END + DAY, to=failing)
        site.add(END, END + DAY, 1)
        await site.sync(END, to=other, state=tmp_path / "elsewhere")  # writes another state
        found = await site.sync(END + DAY, to=other)
        assert (found.is_resumed, found.inserted) == (False, 6)


async def test_a_second_sync_at_once_is_refused(tmp_path: Path) -> None:
    async with a_site(tmp_path, rows=5) as site:
        site.table.open(create=True)
        with pytest.raises(OutputError, match="another sync"):
            await site.sync(END)


async def test_a_window_that_cannot_be_exported_is_exported_by_the_next_run(tmp_path: Path) -> None:
    async with a_site(tmp_path, rows=200) as site:
        start_export = site.clickwrap.start_export
        fail_exports(site, lambda filter: "2024-01-21" in filter)
        found = await site.sync(END, window="10d", max_extra_exports=4)
        assert not found.complete
        assert all(window.start >= START + 10 * DAY and window.end <= START + 30 * DAY for window in found.missing)
        assert 0 < len(site.held()) < 200
        site.clickwrap.start_export = start_export  # type: ignore[method-assign]
        again = await site.sync(END, recheck=0)
        assert again.complete
        assert again.exports == 1
        assert site.held() == site.expected(END)


async def test_nothing_is_committed_if_the_first_export_fails(tmp_path: Path) -> None:
    async with a_site(tmp_path, rows=20) as site:
        fail_exports(site, lambda _filter: True)
        try:
            found = await site.sync(END, max_extra_exports=0)
            assert not found.complete
            assert found.frontier == START
        except BulkpullError:
            pass
        assert site.table.committed is None
        assert site.table.rows == {}


# Counts


async def test_counts_that_are_wrong_are_not_believed_for_long(tmp_path: Path) -> None:
    async with a_site(tmp_path, rows=300) as site:
        await site.sync(END)
        site.sandbox.faults._modes["counts-over"] = 2
        exports = []
        for night in range(1, 9):
            end = END + night * DAY
            site.add(end - DAY, end, 5)
            found = await site.sync(end)
            exports.append(found.exports)
            assert site.held() == site.expected(end), night
        assert sum(exports) <= len(exports) + 1
        assert found.complete
        assert found.recheck.unavailable or found.recheck.unreliable


@pytest.mark.parametrize("fault", ["counts-capped:10", "counts-under:3", "counts-zero", "counts-lag:5"])
async def test_low_counts_lose_nothing(tmp_path: Path, fault: str) -> None:
    kind, _, value = fault.partition(":")
    async with a_site(tmp_path, rows=300) as site:
        await site.sync(END)
        site.sandbox.faults._modes[kind] = int(value or 0)
        for night in range(1, 4):
            end = END + night * DAY
            site.add(end - DAY, end, 5)
            found = await site.sync(end)
            assert site.held() == site.expected(end), night
        assert found.exports <= 2


async def test_a_site_that_does_not_count_is_synced_without_a_recheck(tmp_path: Path) -> None:
    async with a_site(tmp_path, rows=100) as site:
        await site.sync(END)
        site.sandbox.faults._modes["counts-refused-after"] = 0
        site.add(END, END + DAY, 5)
        site.add(END - 50 * DAY, END - 49 * DAY, 1)
        found = await site.sync(END + DAY)
        assert (found.inserted, found.exports, found.complete) == (5, 1, True)
        assert "count" in found.recheck.unavailable
        del site.sandbox.faults._modes["counts-refused-after"]
        assert (await site.sync(END + DAY)).inserted == 1


async def test_a_limit_of_counts_is_recognized(tmp_path: Path) -> None:
    async with a_site(tmp_path, rows=4000) as site:
        await site.sync(END)
        site.sandbox.faults._modes["counts-capped"] = 100
        found = await site.sync(END)
        assert found.recheck.unavailable == "counts stop at 100"
        assert found.exports == 0
