"""A sandbox whose activity changes while its clock passes."""

from __future__ import annotations

import csv
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import ClientSession
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import bulkpull
from bulkpull import Clickwrap
from bulkpull.cli import cli
from bulkpull.errors import UsageError
from bulkpull.sandbox import History, Sandbox, SandboxConfig
from bulkpull.sandbox.data import Row
from bulkpull.sandbox.history import Moment
from tests.waiting import until

CONFIG = SandboxConfig(export_seconds=0.0, file_latency=0.0)
START = datetime(2024, 1, 1, tzinfo=UTC)
END = START + timedelta(days=60)
DAY = timedelta(days=1)
AFTER = END + timedelta(days=100)  # when everything has happened


def quiet(**changes: float) -> History:
    """A history in which only these changes happen."""
    return History(**{"start": START, "end": END, "late": 0.0, "deleted": 0.0, "within_days": 20.0, **changes})  # type: ignore[arg-type]


def rows(moment: Moment) -> dict[str, Row]:
    return {str(row[0]): row for row in map(moment.row, range(moment.rows))}


def created(row: Row) -> datetime:
    return datetime.fromisoformat(str(row[2]))


def test_without_changes_activity_arrives_within_a_minute_and_stays() -> None:
    history = quiet()
    assert history.at(START - DAY).rows == 0
    half = history.at(START + 30 * DAY)
    assert len(rows(half)) == half.rows == pytest.approx(3000, abs=1)
    everything = rows(history.at(AFTER))
    assert len(everything) == 6000
    assert rows(half).items() <= everything.items()
    settled = START + 30 * DAY - timedelta(minutes=1)
    assert {id for id, row in everything.items() if created(row) < settled} <= rows(half).keys()


def test_late_activity_arrives_below_the_frontier() -> None:
    history = quiet(late=0.05)
    before, after = rows(history.at(START + 30 * DAY)), rows(history.at(START + 31 * DAY))
    late = [created(row) for id, row in after.items() if id not in before and created(row) < START + 29 * DAY]
    assert late
    assert min(late) > START + 10 * DAY
    assert len(rows(history.at(AFTER))) == 6000


def test_deleted_activity_leaves() -> None:
    history = quiet(deleted=0.05)
    before, after = rows(history.at(START + 30 * DAY)), rows(history.at(START + 40 * DAY))
    assert before.keys() - after.keys()
    assert len(rows(history.at(AFTER))) == pytest.approx(5700, abs=100)


def test_changed_activity_keeps_id_and_time() -> None:
    history = quiet(changed=0.05)
    before, after = rows(history.at(START + 30 * DAY)), rows(history.at(START + 40 * DAY))
    assert before.keys() <= after.keys()
    changed = [id for id in before if before[id] != after[id]]
    assert changed
    assert all(before[id][2] == after[id][2] for id in changed)


def test_moved_activity_keeps_its_id_and_gets_another_time() -> None:
    history = quiet(moved=0.05)
    before, after = rows(history.at(START + 30 * DAY)), rows(history.at(START + 40 * DAY))
    assert before.keys() <= after.keys()
    moved = [id for id in before if before[id] != after[id]]
    assert moved
    assert all(before[id][2] != after[id][2] for id in moved)
    assert all(before[id][3:] == after[id][3:] for id in moved)


def test_imported_activity_arrives_all_at_once_in_the_past() -> None:
    history = quiet(imported=0.1)
    arrivals = Counter(history._arrives.tolist())
    instant, number = arrivals.most_common(1)[0]
    assert number == pytest.approx(100, abs=50)
    at = datetime.fromtimestamp(instant / 1000, UTC)
    before, after = rows(history.at(at - timedelta(milliseconds=1))), rows(history.at(at))
    times = [created(row) for id, row in after.items() if id not in before]
    assert number == len(times)
    assert max(times) - min(times) < DAY
    assert max(times) < at


@given(st.integers(0, 10_000), st.lists(st.floats(0, 160), max_size=4))
def test_a_moment_does_not_depend_on_what_was_asked_before(seed: int, days: list[float]) -> None:
    rates = {"late": 0.1, "deleted": 0.1, "changed": 0.1, "moved": 0.1, "imported": 0.1}
    history = quiet(seed=seed, per_day=3.0, **rates)
    for day in [*days, *reversed(days)]:
        now = START + day * DAY
        moment = history.at(now)
        found = [moment.row(number) for number in range(moment.rows)]
        assert found == sorted(found, key=lambda row: str(row[2]))
        assert len({row[0] for row in found}) == len(found)  # an id at a time is there once
        assert all(created(row) <= now for row in found)
        fresh = quiet(seed=seed, per_day=3.0, **rates).at(now)
        assert [fresh.row(number) for number in range(fresh.rows)] == found
        assert moment.first_from(START + 20 * DAY) == sum(created(row) < START + 20 * DAY for row in found)
    assert quiet(seed=seed, **rates).at(END).row(0) != quiet(seed=seed + 1, **rates).at(END).row(0)


async def test_exports_counts_and_lists_see_the_activity_of_the_moment(tmp_path: Path) -> None:
    history = quiet(per_day=20.0, late=0.05, deleted=0.05, changed=0.05, moved=0.05)
    async with Sandbox(CONFIG, history=history) as sandbox, Clickwrap(sandbox.token, base_url=sandbox.url) as clickwrap:
        assert await clickwrap.count() == 0
        for days in (20, 40, 20):  # the clock may also be set back
            sandbox.now = START + days * DAY
            expected = sorted(map(str, rows(history.at(sandbox.now))))
            assert sorted(row["id"] for row in sandbox.rows) == expected
            assert await clickwrap.count() == len(expected)
            assert sorted([str(row["id"]) async for row in clickwrap.activity("created_time>=2024-01-01")]) == expected
            await bulkpull.pull(clickwrap, start=START, end=END, out=tmp_path / "a.csv", overwrite=True)
            with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as lines:
                pulled = [tuple(row) for row in csv.reader(lines)][1:]
            assert sorted(row[0] for row in pulled) == expected
            assert {row[2] for row in pulled} == {row["created_time"] for row in sandbox.rows}


async def test_an_export_has_what_was_there_when_it_was_launched() -> None:
    config = SandboxConfig(export_seconds=0.0, workers=1)
    async with Sandbox(config, history=quiet()) as sandbox, Clickwrap(sandbox.token, base_url=sandbox.url) as clickwrap:
        sandbox.now = START + 10 * DAY
        await clickwrap.start_export("created_time>=2024-01-01")
        sandbox.now = START + 20 * DAY
        await until(lambda: not any(task.running for task in sandbox.exports.tasks.values()))
        assert await sandbox.distinct_ids() == pytest.approx(1000, abs=1)
        assert await clickwrap.count() == pytest.approx(2000, abs=1)


async def test_counts_and_exports_may_lag_behind(tmp_path: Path) -> None:
    history = quiet(count_delay_s=86_400, export_delay_s=2 * 86_400)
    async with Sandbox(CONFIG, history=history) as sandbox, Clickwrap(sandbox.token, base_url=sandbox.url) as clickwrap:
        sandbox.now = START + 10 * DAY
        assert await clickwrap.count() == history.at(START + 9 * DAY).rows
        result = await bulkpull.pull(clickwrap, start=START, end=START + 7 * DAY, out=tmp_path / "a.csv")
        assert result.rows == 700
        assert await sandbox.distinct_ids() == 700


async def test_the_clock_is_set_over_http_too() -> None:
    async with Sandbox(CONFIG, history=quiet()) as sandbox, ClientSession() as session:
        url = sandbox.url.removesuffix("/v1.1") + "/sandbox"
        async with session.post(url, params={"now": "2024-02-01"}) as answer:
            assert (await answer.json())["now"] == "2024-02-01T00:00:00+00:00"
        async with session.get(url) as answer:
            assert (await answer.json())["now"] == "2024-02-01T00:00:00+00:00"
        async with session.post(url, params={"now": "soon"}) as answer:
            assert answer.status == 400
        assert sandbox.now == datetime(2024, 2, 1, tzinfo=UTC)


def test_a_history_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError, match="before its end"):
        History(start=START, end=START)
    with pytest.raises(UsageError, match="too long"):
        History(start=START, end=END, per_day=1e6)


def test_a_clock_without_a_history_is_refused() -> None:
    result = CliRunner().invoke(cli, ["sandbox", "--now", "2024-01-01"])
    assert result.exit_code == 2
    assert "--now is the clock of a --history" in result.output
