"""Servers whose counts cannot be relied on: every row comes all the same, or it is said which do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from bulkpull import CountMismatch, events
from bulkpull.sandbox.process import sandbox_process
from tests.cli.test_cli import bulkpull as command
from tests.flows.found import Pulled, pulled, short_patience


async def by_volume(faults: str, tmp_path: Path, rows_per_export: int = 200) -> Pulled:
    """A pull of 1,000 activities, by what is counted: five windows, if the counts are right."""
    with short_patience():
        return await pulled(faults, tmp_path / "a.csv", window="auto", rows_per_export=rows_per_export)


async def test_right_counts_are_reconciled_without_another_export(tmp_path: Path) -> None:
    pull = await by_volume("", tmp_path)
    result = pull.complete()
    assert (result.completeness, result.counted, result.over) == ("counts reconciled", 1000, ())
    assert pull.seen.exports == result.windows <= 6
    assert pull.told(events.CountsDoubted) == 0


async def test_60_000_activities_of_which_10_000_are_counted(tmp_path: Path) -> None:
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
    assert pull.seen.exports <= 3 * 60_000 / 5000


@pytest.mark.parametrize(
    ("cap", "rows_per_export"), [(99, 20), (100, 50), (200, 50), (500, 100), (500, 50), (999, 200)]
)
async def test_counts_that_are_capped(tmp_path: Path, cap: int, rows_per_export: int) -> None:
    pull = await by_volume(f"counts-capped:{cap}", tmp_path, rows_per_export)
    pull.complete()
    assert pull.told(events.CountsDoubted) <= 1
    assert pull.seen.exports <= 3 * 1000 / rows_per_export + 10


async def test_counts_of_zero_for_everything(tmp_path: Path) -> None:
    pull = await by_volume("counts-zero", tmp_path)
    pull.complete()
    assert pull.told(events.CountsDoubted) == 1
    assert pull.seen.exports <= 24


@pytest.mark.parametrize("rows_per_export", [50, 250, 500])
@pytest.mark.parametrize("stale", [1, 2, 3, 6])
async def test_first_counts_that_are_stale(tmp_path: Path, stale: int, rows_per_export: int) -> None:
    """With one stale count and 250 rows an export, the second half seems to be empty."""
    pull = await by_volume(f"counts-stale:{stale}", tmp_path, rows_per_export)
    pull.complete()
    assert pull.seen.exports <= 3 * 1000 / rows_per_export + 10


@pytest.mark.parametrize(("lag", "rows_per_export"), [(1, 200), (5, 20), (10, 40), (20, 125), (50, 250), (100, 200)])
async def test_the_newest_activity_is_not_counted_yet(tmp_path: Path, lag: int, rows_per_export: int) -> None:
    pull = await by_volume(f"counts-lag:{lag}", tmp_path, rows_per_export)
    pull.complete()
    assert pull.seen.exports <= 3 * 1000 / rows_per_export + 10


@pytest.mark.parametrize("kind", ["counts-text", "counts-float"])
async def test_counts_in_other_clothes_are_counts(tmp_path: Path, kind: str) -> None:
    pull = await by_volume(kind, tmp_path)
    result = pull.complete()
    assert (result.completeness, result.counted) == ("counts reconciled", 1000)
    assert pull.seen.exports == result.windows <= 6


@pytest.mark.parametrize("kind", ["counts-negative", "counts-null"])
async def test_counts_that_are_none(tmp_path: Path, kind: str) -> None:
    pull = await by_volume(kind, tmp_path)
    result = pull.complete()
    assert (result.completeness, result.counted) == ("counts unknown", None)
    assert pull.seen.exports == result.windows <= 24


@pytest.mark.parametrize("after", [0, 1, 2, 4, 9])
async def test_counting_that_is_refused_after_a_while(tmp_path: Path, after: int) -> None:
    pull = await by_volume(f"counts-refused-after:{after}", tmp_path)
    pull.complete()
    assert pull.seen.exports <= 30


@pytest.mark.parametrize("number", [1, 3, 20])
async def test_more_is_counted_than_comes(tmp_path: Path, number: int) -> None:
    """Nothing more can be had, and the result tells each number."""
    pull = await by_volume(f"counts-over:{number}", tmp_path)
    result = pull.result
    assert result is not None, pull.error
    assert pull.ids() == pull.expected
    assert (result.complete, result.completeness, result.over) == (False, "short", ())
    assert result.short
    assert {short.counted - short.delivered for short in result.short} == {number}
    assert all(isinstance(short, CountMismatch) for short in result.short)
    assert pull.seen.exports <= 2 * result.windows


@pytest.mark.parametrize("number", [1, 3, 20])
async def test_more_comes_than_is_counted(tmp_path: Path, number: int) -> None:
    pull = await by_volume(f"counts-under:{number}", tmp_path)
    result = pull.complete()
    assert result.over
    assert {over.delivered - over.counted for over in result.over} == {number}
    assert pull.told(events.CountsDoubted) == 1
    assert pull.seen.exports <= 2 * result.windows


def test_exit_code_6_where_less_comes_than_is_counted(tmp_path: Path) -> None:
    options = "pull", "--start", "2024-01-01", "--end", "2024-07-01", "--rows-per-export", "200"
    sandbox_options = "--rows", "1000", "--start", "2024-01-01", "--end", "2024-07-01", "--export-seconds", "0.05"
    with sandbox_process(*sandbox_options, "--faults", "counts-over:3") as sandbox:
        for name, accepted, code in (("a.csv", (), 6), ("b.csv", ("--accept-short",), 0)):
            done = command(sandbox, *options, "--out", str(tmp_path / name), *accepted)
            assert done.returncode == code, done.stderr
            assert (tmp_path / name).read_bytes().count(b"\n") >= 1000
            assert "Traceback" not in done.stderr
