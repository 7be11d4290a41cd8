"""Servers with unreliable counts: every row is pulled, or the result names the windows that lack some."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bulkpull import CountMismatch, events
from tests import commands
from tests.commands import sandbox_process
from tests.flows.found import Pulled, pulled, short_patience


async def by_volume(faults: str, tmp_path: Path, rows_per_export: int = 200) -> Pulled:
    """Pull 1,000 activities in windows by volume: five, if the counts are right."""
    with short_patience():
        return await pulled(faults, tmp_path / "a.csv", window="auto", rows_per_export=rows_per_export)


async def test_correct_counts_are_reconciled_without_further_exports(tmp_path: Path) -> None:
    pull = await by_volume("", tmp_path)
    result = pull.complete()
    assert (result.completeness, result.counted, result.over) == ("counts reconciled", 1000, ())
    assert pull.stats.exports == result.windows <= 6
    assert pull.told(events.CountsDoubted) == 0


async def test_exports_60_000_activities_although_counts_stop_at_10_000(tmp_path: Path) -> None:
    with short_patience():
        pull = await pulled(
            "counts-capped:10000",
            tmp_path / "a.csv",
            window="auto",
            rows_per_export=5000,
            config={"rows": 60_000, "rows_per_file": 2000},
        )
    pull.complete()
    assert pull.told(events.CountsDoubted) == 1
    assert pull.stats.exports <= 3 * 60_000 / 5000


@pytest.mark.parametrize(
    ("cap", "rows_per_export"), [(99, 20), (100, 50), (200, 50), (500, 100), (500, 50), (999, 200)]
)
async def test_pulls_all_rows_despite_limited_counts(tmp_path: Path, cap: int, rows_per_export: int) -> None:
    pull = await by_volume(f"counts-capped:{cap}", tmp_path, rows_per_export)
    pull.complete()
    assert pull.told(events.CountsDoubted) <= 1
    assert pull.stats.exports <= 3 * 1000 / rows_per_export + 10


async def test_pulls_all_rows_if_all_counts_are_zero(tmp_path: Path) -> None:
    pull = await by_volume("counts-zero", tmp_path)
    pull.complete()
    told = [event for event in pull.heard if isinstance(event, events.Planned) and event.uncounted]
    assert len(told) + pull.told(events.CountsDoubted) == 1
    assert pull.stats.exports <= 24


@pytest.mark.parametrize("rows_per_export", [50, 250, 500])
@pytest.mark.parametrize("stale", [1, 2, 3, 6])
async def test_pulls_all_rows_if_the_first_counts_are_stale(tmp_path: Path, stale: int, rows_per_export: int) -> None:
    """With one stale count and 250 rows per export, the second half seems to be empty."""
    pull = await by_volume(f"counts-stale:{stale}", tmp_path, rows_per_export)
    pull.complete()
    assert pull.stats.exports <= 3 * 1000 / rows_per_export + 10


@pytest.mark.parametrize(("lag", "rows_per_export"), [(1, 200), (5, 20), (10, 40), (20, 125), (50, 250), (100, 200)])
async def test_pulls_activity_that_is_not_counted_yet(tmp_path: Path, lag: int, rows_per_export: int) -> None:
    pull = await by_volume(f"counts-lag:{lag}", tmp_path, rows_per_export)
    pull.complete()
    assert pull.stats.exports <= 3 * 1000 / rows_per_export + 10


@pytest.mark.parametrize("kind", ["counts-text", "counts-float"])
async def test_accepts_counts_given_as_strings_and_floats(tmp_path: Path, kind: str) -> None:
    pull = await by_volume(kind, tmp_path)
    result = pull.complete()
    assert (result.completeness, result.counted) == ("counts reconciled", 1000)
    assert pull.stats.exports == result.windows <= 6


@pytest.mark.parametrize("kind", ["counts-negative", "counts-null"])
async def test_pulls_by_length_if_counts_are_invalid(tmp_path: Path, kind: str) -> None:
    pull = await by_volume(kind, tmp_path)
    result = pull.complete()
    assert (result.completeness, result.counted) == ("counts unknown", None)
    assert pull.stats.exports == result.windows <= 24


@pytest.mark.parametrize("after", [0, 1, 2, 4, 9])
async def test_pulls_all_rows_if_counting_is_refused_later(tmp_path: Path, after: int) -> None:
    pull = await by_volume(f"counts-refused-after:{after}", tmp_path)
    pull.complete()
    assert pull.stats.exports <= 30


@pytest.mark.parametrize("number", [1, 3, 20])
async def test_reports_windows_with_fewer_rows_than_counted(tmp_path: Path, number: int) -> None:
    """There are no more rows; the result reports both numbers."""
    pull = await by_volume(f"counts-over:{number}", tmp_path)
    result = pull.result
    assert result is not None, pull.error
    assert pull.ids() == pull.expected
    assert (result.complete, result.completeness) == (False, "short")
    assert result.short
    assert all(isinstance(short, CountMismatch) for short in result.short)
    assert {(short.counted or 0) - short.delivered for short in result.short} == {number}
    assert pull.stats.exports <= 2 * result.windows


@pytest.mark.parametrize("number", [1, 3, 20])
async def test_reports_windows_with_more_rows_than_counted(tmp_path: Path, number: int) -> None:
    pull = await by_volume(f"counts-under:{number}", tmp_path)
    result = pull.complete()
    assert result.over
    assert {over.delivered - (over.counted or 0) for over in result.over} == {number}
    assert pull.told(events.CountsDoubted) == 1
    assert pull.stats.exports <= 2 * result.windows


def test_exits_with_code_6_if_there_are_fewer_rows_than_counted(tmp_path: Path) -> None:
    options = "pull", "--start", "2024-01-01", "--end", "2024-07-01", "--rows-per-export", "200"
    sandbox_options = "--rows", "1000", "--start", "2024-01-01", "--end", "2024-07-01", "--export-seconds", "0.05"
    with sandbox_process(*sandbox_options, "--faults", "counts-over:3") as sandbox:
        for name, accepted, code in (("a.csv", (), 6), ("b.csv", ("--accept-short",), 0)):
            environment = os.environ | {"BULKPULL_TOKEN": sandbox.token, "BULKPULL_BASE_URL": sandbox.url}
            done = commands.run(*options, "--out", str(tmp_path / name), *accepted, environment=environment, lag=1.0)
            assert done.returncode == code, done.stderr
            assert (tmp_path / name).read_bytes().count(b"\n") >= 1000
            assert "Traceback" not in done.stderr
