"""Windows by volume, split windows and skipped windows, over real sockets."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest

import bulkpull
from bulkpull import Clickwrap, ExportError, Plan, Result, RetryPolicy, events
from bulkpull.events import Event
from bulkpull.pull.reconcile import MAX_USELESS_EXPORTS
from bulkpull.sandbox import Sandbox, SandboxConfig

START, END = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 7, 1, tzinfo=UTC)
CONFIG = SandboxConfig(rows=6000, start=START, end=END, export_seconds=0.05, rows_per_file=300)
RETRY = RetryPolicy(base=0.02, cap=0.1)


async def pull(sandbox: Sandbox, out: Path, **options: Any) -> Result:
    defaults: dict[str, Any] = {"start": START, "end": END, "fields": ["custom_data.vip"], "rows_per_export": 500}
    async with Clickwrap(sandbox.config.token, base_url=sandbox.url, retry=RETRY) as clickwrap:
        return await bulkpull.pull(clickwrap, out=out, **(defaults | options))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("undisturbed") / "a.csv"

    async def main() -> None:
        async with Sandbox(CONFIG) as sandbox:
            await pull(sandbox, out, window="1y")

    anyio.run(main)
    return out.read_bytes()


async def test_windows_by_volume_give_the_same_bytes(tmp_path: Path, undisturbed: bytes) -> None:
    heard: list[Event] = []
    async with Sandbox(CONFIG) as sandbox:
        result = await pull(sandbox, tmp_path / "a.csv", on_event=heard.append)
        assert sandbox.stats.requests["GET /v1.1/activity"] == result.probes == 12
    assert (tmp_path / "a.csv").read_bytes() == undisturbed
    assert (result.windows, result.counted, result.rows, result.short) == (12, 6000, 6000, ())
    assert isinstance(heard[0], events.Requested)
    [planned] = [event for event in heard if isinstance(event, events.Planned)]
    assert (planned.probes, planned.uncounted) == (12, "")


async def test_a_busy_week_has_short_windows_and_quiet_years_long_ones(tmp_path: Path) -> None:
    config = replace(CONFIG, end=datetime(2026, 1, 1, tzinfo=UTC), peak=0.95)
    async with Sandbox(config) as sandbox, Clickwrap(config.token, base_url=sandbox.url) as clickwrap:
        plan = await bulkpull.plan(clickwrap, start=config.start, end=config.end, rows_per_export=500)
    assert isinstance(plan, Plan)
    assert plan.rows == 6000
    assert 12 <= len(plan.windows) <= 17
    assert max(window.rows or 0 for window in plan.windows) <= 750
    assert sum((window.end - window.start).days < 2 for window in plan.windows) >= 9


async def test_windows_have_equal_length_if_counting_is_refused(tmp_path: Path, undisturbed: bytes) -> None:
    heard: list[Event] = []
    async with Sandbox(replace(CONFIG, counting=False)) as sandbox:
        result = await pull(sandbox, tmp_path / "a.csv", on_event=heard.append)
        assert sandbox.stats.requests["GET /v1.1/activity"] == 1
    assert (tmp_path / "a.csv").read_bytes() == undisturbed
    assert (result.windows, result.counted, result.probes) == (6, None, 1)
    [planned] = [event for event in heard if isinstance(event, events.Planned)]
    assert "lacks the permission" in planned.uncounted


@pytest.mark.parametrize("seed", range(4))
async def test_splits_windows_that_always_fail_without_changing_the_output(
    tmp_path: Path, undisturbed: bytes, seed: int
) -> None:
    heard: list[Event] = []
    async with Sandbox(replace(CONFIG, faults=f"export-always-fails:{seed}")) as sandbox:
        result = await pull(sandbox, tmp_path / "a.csv", on_event=heard.append)
    assert (tmp_path / "a.csv").read_bytes() == undisturbed
    splits = [event for event in heard if isinstance(event, events.Split)]
    assert result.splits == len(splits) > 0
    assert result.windows == 12 + sum(len(event.pieces) - 1 for event in splits)
    for event in splits:
        assert (event.pieces[0].start, event.pieces[-1].end) == (event.window.start, event.window.end)
        assert all(one.end == following.start for one, following in pairwise(event.pieces))
        assert sum(piece.rows or 0 for piece in event.pieces) == event.window.rows
        assert max(piece.rows or 0 for piece in event.pieces) <= 0.75 * (event.window.rows or 0)
    # Windows of the plan were launched three times, their pieces twice.
    assert result.windows + 2 * len(splits) <= result.exports <= result.windows + 3 * len(splits)


async def test_splits_a_window_whose_export_times_out_and_remembers_it(tmp_path: Path, undisturbed: bytes) -> None:
    out = tmp_path / "a.csv"
    async with Sandbox(replace(CONFIG, faults="export-never-ends:1", workers=50)) as sandbox:
        with anyio.CancelScope() as scope:

            def stop(event: Event) -> None:
                if isinstance(event, events.Split):
                    scope.cancel()

            await pull(sandbox, out, export_timeout=2.5, on_event=stop)
        assert scope.cancelled_caught
        status = bulkpull.status(out)
        assert status.splits >= 1  # a second window may have been split before the cancellation
        # Another window may have failed too, but not been split yet: it is launched again.
        interrupted = [one for one in status.windows if one.state == "failed"]
        result = await pull(sandbox, out, export_timeout=2.5)
        fates = [task.fault for task in sandbox.exports.tasks.values()]
    assert out.read_bytes() == undisturbed
    assert result.runs == 2
    assert result.splits >= fates.count("export-never-ends") - len(interrupted) > 0


async def test_a_window_that_cannot_be_split_ends_the_pull_or_is_skipped(tmp_path: Path, undisturbed: bytes) -> None:
    out = tmp_path / "a.csv"
    async with Sandbox(replace(CONFIG, faults="export-always-fails:2")) as sandbox:
        with pytest.raises(ExportError, match=r"all 2 exports allowed beyond the plan are used.*--skip-failed"):
            await pull(sandbox, out, max_extra_exports=2)
        result = await pull(sandbox, out, skip_failed=True, max_extra_exports=2)
        assert len(result.skipped) >= 1
        assert all(sandbox.faults.always_fails(task.filter) for task in sandbox.exports.tasks.values() if task.fault)
    assert (result.splits, result.short, result.complete, result.completeness) == (0, (), False, "short")
    assert result.rows == 6000 - sum(window.rows or 0 for window in result.skipped)
    assert set(out.read_bytes().splitlines()) < set(undisturbed.splitlines())


async def test_reports_the_windows_of_missing_rows(tmp_path: Path) -> None:
    async with (
        Sandbox(CONFIG) as sandbox,
        Sandbox(replace(CONFIG, rows=5400)) as later,
        Clickwrap(CONFIG.token, base_url=sandbox.url) as counting,
        Clickwrap(CONFIG.token, base_url=later.url, retry=RETRY) as clickwrap,
    ):
        # Activity deleted after it was counted.
        clickwrap.count = counting.count  # type: ignore[method-assign]
        observed = clickwrap.observed(lambda _event: None)
        assert observed.count == counting.count
        result = await bulkpull.pull(clickwrap, start=START, end=END, out=tmp_path / "a.csv", rows_per_export=500)
    assert (result.counted, result.rows) == (6000, 5400)
    assert sum((short.counted or 0) - short.delivered for short in result.short) == 600
    assert len(result.short) >= 12
    assert (result.complete, result.completeness) == (False, "short")
    # Windows that lack more than a tenth are split, to find out whether their exports were truncated.
    assert result.exports <= 12 + MAX_USELESS_EXPORTS + 2 * result.splits
