"""Servers whose exports deviate from the documentation: every row is pulled without unnecessary exports, or the pull
fails early with an error that names the window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bulkpull import BulkpullError, Clickwrap, ExportError, PartError, RetryPolicy, ThrottledError, UnavailableError
from bulkpull.pull.extra import default_extra
from bulkpull.pull.reconcile import MAX_USELESS_EXPORTS
from bulkpull.sandbox.exports import Exports
from bulkpull.source import Export
from tests.flows.found import pulled, short_patience

HALF = {"end": datetime(2024, 4, 1, tzinfo=UTC)}  # activity in three of the six months


# Links


@pytest.mark.parametrize("polls", [1, 2, 3])
async def test_waits_for_late_links(tmp_path: Path, polls: int) -> None:
    """Of the six exports, two each lack `links`, have null, and have an empty list."""
    pull = await pulled(f"links-late:{polls}", tmp_path / "a.csv")
    pull.complete()
    assert pull.stats.exports == 6


async def test_launches_another_export_if_links_never_appear(tmp_path: Path) -> None:
    with short_patience():
        pull = await pulled("links-never:1", tmp_path / "a.csv")
    pull.complete()
    assert pull.stats.exports == 7


async def test_fails_if_no_export_ever_has_links(tmp_path: Path) -> None:
    with short_patience():
        pull = await pulled("links-never:1000", tmp_path / "a.csv", exports=1)
    message = pull.refused()
    assert "window 1 [2024-01-01, 2024-02-01)" in message
    assert "it succeeded" in message
    assert pull.stats.exports <= 12  # at most two per window
    assert pull.polls <= 60


async def test_windows_without_activity_need_no_links(tmp_path: Path) -> None:
    for number, faults in enumerate(("", "links-late:1", "links-never:3")):
        with short_patience():
            pull = await pulled(faults, tmp_path / f"{number}.csv", start="2030-01-01", end="2030-07-01")
        assert pull.result is not None, pull.error
        assert (pull.result.rows, pull.result.complete, pull.stats.exports) == (0, True, 6)


# Statuses


async def test_launches_another_export_if_one_stays_pending(tmp_path: Path) -> None:
    pull = await pulled("export-pending-first", tmp_path / "a.csv", export_timeout=1.0)
    pull.complete()
    assert pull.stats.exports == 7


@pytest.mark.parametrize(("window", "exports"), [("1mo", None), ("7d", 16)])
async def test_fails_if_all_exports_stay_pending(tmp_path: Path, window: str, exports: int | None) -> None:
    options: dict[str, Any] = {"window": window, "exports": exports, "export_timeout": 0.5}
    pull = await pulled("export-pending-all", tmp_path / "a.csv", **options)
    message = pull.refused(ExportError)
    assert "window" in message
    assert "pending" in message
    windows = 6 if window == "1mo" else 26
    assert pull.stats.exports <= windows + default_extra(windows) // 2  # it ends long before all are used


async def test_understands_every_word_for_failure(tmp_path: Path) -> None:
    """error, cancelled, canceled, expired, aborted and FAILED."""
    pull = await pulled("status-words+export-fails-once:6", tmp_path / "a.csv", exports=6)
    pull.complete()
    assert pull.stats.faults["export-fails-once"] == 6
    assert pull.stats.exports == 12


async def test_understands_every_word_for_success(tmp_path: Path) -> None:
    """completed, Done, complete, SUCCEEDED, Success and finished."""
    pull = await pulled("status-words", tmp_path / "a.csv")
    pull.complete()
    assert pull.stats.exports == 6


async def test_an_inactive_export_with_links_has_succeeded_whatever_its_status(tmp_path: Path) -> None:
    pull = await pulled("status-unknown", tmp_path / "a.csv")
    pull.complete()
    assert pull.stats.exports == 6
    assert pull.polls <= 40


@pytest.mark.parametrize("status", [202, 204, 409, 425])
async def test_waits_for_an_export_whose_status_route_returns_not_ready(tmp_path: Path, status: int) -> None:
    """For longer than errors are retried."""
    client = {"retry": RetryPolicy(base=0.01, cap=0.1, seconds=0.5)}
    pull = await pulled(f"status-{status}", tmp_path / "a.csv", client=client, config={"export_seconds": 2.0})
    pull.complete()
    assert pull.stats.faults[f"status-{status}"]
    assert pull.stats.exports == 6


@pytest.mark.parametrize("polls", [1, 2])
async def test_waits_for_an_export_unknown_to_a_stale_replica(tmp_path: Path, polls: int) -> None:
    pull = await pulled(f"status-404-first:{polls}", tmp_path / "a.csv")
    pull.complete()
    assert pull.stats.exports == 6


async def test_waits_for_an_export_whose_status_returns_to_started(tmp_path: Path) -> None:
    pull = await pulled("status-flaps", tmp_path / "a.csv")
    pull.complete()
    assert pull.stats.exports == 6


@pytest.mark.parametrize(("status", "kind"), [(429, ThrottledError), (503, UnavailableError)])
async def test_fails_if_asked_to_wait_for_a_day(tmp_path: Path, status: int, kind: type[BulkpullError]) -> None:
    client = {"retry": RetryPolicy(base=0.01, cap=0.1, seconds=1.0)}
    pull = await pulled(f"retry-after-day-{status}", tmp_path / "a.csv", client=client)
    assert str(status) in pull.refused(kind)
    assert pull.stats.exports <= 6


# What cannot be exported, or not as a whole


@pytest.mark.parametrize("window", ["1mo", "1y"])
async def test_splits_windows_with_too_many_records(tmp_path: Path, window: str) -> None:
    pull = await pulled("too-many-records:150", tmp_path / "a.csv", window=window)
    result = pull.complete()
    assert result.splits >= 6
    assert pull.stats.exports <= 40


async def test_splits_later_windows_without_trying_them_once_the_limit_is_known(tmp_path: Path) -> None:
    """Once the first window has failed, later windows that are as large are split without an export."""
    pull = await pulled("too-many-records:150", tmp_path / "a.csv", window="auto", rows_per_export=250, exports=1)
    pull.complete()
    assert pull.stats.exports <= 20


@pytest.mark.parametrize("window", ["1mo", "1y"])
async def test_fails_early_if_one_instant_cannot_be_exported(tmp_path: Path, window: str) -> None:
    """The instant holds half of all activity, so that splitting cannot help."""
    config = {"rows": 3000, "burst": 1500}
    pull = await pulled("poisoned-instant", tmp_path / "a.csv", config=config, window=window)
    message = pull.refused(ExportError)
    assert "window" in message
    assert "--skip-failed" in message
    assert pull.stats.exports <= 24


@pytest.mark.parametrize("counting", [True, False])
@pytest.mark.parametrize("burst", [0, 1500])
async def test_one_unexportable_activity_costs_a_bounded_number_of_exports(
    tmp_path: Path, burst: int, counting: bool
) -> None:
    config = {"rows": 3000, "burst": burst, "counting": counting}
    pull = await pulled("poisoned-instant", tmp_path / "a.csv", config=config, max_extra_exports=15)
    message = pull.refused(ExportError)
    assert "window" in message
    assert "--skip-failed" in message
    assert pull.stats.exports <= 6 + 15


async def test_skips_only_the_instant_that_cannot_be_exported(tmp_path: Path) -> None:
    config = {"rows": 3000, "burst": 1500}
    pull = await pulled("poisoned-instant", tmp_path / "a.csv", config=config, skip_failed=True)
    assert pull.result is not None, pull.error
    assert pull.result.skipped
    assert not pull.result.complete
    assert set(pull.ids()) < set(pull.expected)
    assert pull.stats.exports <= 20


async def test_splits_windows_whose_exports_are_silently_limited(tmp_path: Path) -> None:
    """Three windows of 2,000 activities; exports are limited to 1,000 rows."""
    config = {"rows": 6000, "rows_per_file": 500}
    pull = await pulled("rows-capped:1000", tmp_path / "a.csv", config=config, window="auto", rows_per_export=2000)
    pull.complete()
    assert pull.stats.exports <= 30


async def test_a_limit_that_a_split_has_proven_is_known_for_the_other_windows(tmp_path: Path) -> None:
    """Twelve windows of 500 activities, of which 310 are delivered: not a number that looks like a limit."""
    with short_patience():
        pull = await pulled(
            "rows-capped:310", tmp_path / "a.csv", config={"rows": 6000}, window="auto", rows_per_export=500
        )
    pull.complete()
    assert pull.stats.exports <= 12 * 4 + 1  # each once, and in three pieces; one window a second time


@pytest.mark.parametrize("counting", [True, False])
async def test_detects_a_limit_if_all_exports_deliver_the_same_number(tmp_path: Path, counting: bool) -> None:
    """Six windows of 1,000 activities, of which 500 are delivered."""
    config = {"rows": 6000, "rows_per_file": 500, "counting": counting}
    with short_patience():
        pull = await pulled("rows-capped:500", tmp_path / "a.csv", config=config)
    result = pull.result
    assert result is not None, pull.error
    assert result.complete == (pull.ids() == pull.expected)
    assert result.complete or not counting
    assert pull.stats.exports <= 60


async def test_a_second_export_that_fails_is_made_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are late in each window, and the API does not know the second export of any."""
    launches: Counter[str] = Counter()
    start = Clickwrap.start_export

    async def start_export(self: Clickwrap, filter: str, fields: Sequence[str] = ()) -> Export:
        launches[filter] += 1
        return Export("0" * 24, "queued") if launches[filter] == 2 else await start(self, filter, fields)

    monkeypatch.setattr(Clickwrap, "start_export", start_export)
    with short_patience():
        pull = await pulled("late-rows:3", tmp_path / "a.csv", window="auto", rows_per_export=200)
    pull.complete()
    assert len(launches) > MAX_USELESS_EXPORTS
    assert set(launches.values()) == {3}


async def test_exports_a_window_again_if_rows_are_late(tmp_path: Path) -> None:
    """The first export of a window lacks rows that the second one delivers."""
    with short_patience():
        pull = await pulled("late-rows:3", tmp_path / "a.csv", window="auto", rows_per_export=350)
    pull.complete()
    assert pull.stats.exports <= 8


@pytest.mark.parametrize("counting", [True, False])
async def test_exports_a_window_again_that_got_the_rows_of_another_one(tmp_path: Path, counting: bool) -> None:
    """The second window of six, and no id of it is in any other."""
    pull = await pulled("rows-of-another", tmp_path / "a.csv", config=HALF | {"counting": counting}, exports=1)
    pull.complete()
    assert pull.stats.faults == {"rows-of-another": 1}
    assert pull.stats.exports == 7
    assert pull.result
    assert pull.result.outside > 100


async def test_believes_a_server_that_means_other_times_after_three_windows(tmp_path: Path) -> None:
    """All windows but the first get its rows, however often they are exported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Exports, "_is_mistaken", lambda self, task: task.filter != self._first_exports(1)[0].filter)
        pull = await pulled("rows-of-another", tmp_path / "a.csv", config=HALF | {"counting": False}, exports=1)
    assert pull.result, pull.error
    assert pull.stats.exports == 6 + 3
    assert pull.result.rows < 1000
    assert pull.result.completeness == "counts unknown"
    assert pull.result.doubt.endswith("no row of its exports lies in it")


# Files


@pytest.mark.parametrize("kind", ["zero", "newline", "bom"])
@pytest.mark.parametrize("empty", ["some", "all"])
async def test_accepts_empty_files_of_windows_without_activity(tmp_path: Path, kind: str, empty: str) -> None:
    config = HALF if empty == "some" else HALF | {"rows": 0}
    pull = await pulled(f"empty-file-{kind}", tmp_path / "a.csv", config=config)
    pull.complete()
    assert pull.stats.faults[f"empty-file-{kind}"]
    assert pull.stats.exports == 6


@pytest.mark.parametrize("kind", ["zero", "newline", "bom"])
async def test_accepts_empty_files_if_counting_is_refused(tmp_path: Path, kind: str) -> None:
    pull = await pulled(f"empty-file-{kind}", tmp_path / "a.csv", config=HALF | {"counting": False})
    pull.complete()
    assert pull.stats.exports == 6


async def test_downloads_a_file_damaged_in_transit_again(tmp_path: Path) -> None:
    pull = await pulled("damaged-once", tmp_path / "a.csv")
    pull.complete()
    assert pull.stats.exports == 6
    assert sorted(pull.deliveries) == [1] * (len(pull.deliveries) - 1) + [2]


async def test_a_permanently_damaged_file_costs_one_more_export(tmp_path: Path) -> None:
    pull = await pulled("damaged-always", tmp_path / "a.csv")
    pull.complete()
    assert pull.stats.exports == 7
    assert max(pull.deliveries) == 2


# Launches


@pytest.mark.parametrize("at_a_time", [1, 2])
@pytest.mark.parametrize("status", [200, 400, 403, 409, 429, 503])
async def test_adapts_to_a_limit_on_concurrent_exports(tmp_path: Path, status: int, at_a_time: int) -> None:
    pull = await pulled(f"launch-refused-{status}:{at_a_time}", tmp_path / "a.csv", config={"export_seconds": 0.3})
    pull.complete()
    assert pull.stats.exports == 6
    assert pull.stats.peak_exports == at_a_time
    assert pull.launches <= 120


@pytest.mark.parametrize(("status", "words"), [(400, "jobs in queue"), (403, "is reached"), (409, "export requests")])
async def test_fails_if_the_very_first_launch_is_refused(tmp_path: Path, status: int, words: str) -> None:
    pull = await pulled(f"launch-refused-{status}:0", tmp_path / "a.csv")
    message = pull.refused()
    assert str(status) in message
    assert words in message
    assert pull.launches == 1


async def test_a_slow_launch_is_not_repeated(tmp_path: Path) -> None:
    client = {"request_timeout": 0.5}
    pull = await pulled("launch-slow:2", tmp_path / "a.csv", client=client, window="3mo")
    pull.complete()
    assert (pull.launches, pull.stats.exports) == (2, 2)


async def test_a_launch_times_out(tmp_path: Path) -> None:
    client: dict[str, Any] = {"launch_timeout": 0.2, "retry": RetryPolicy(base=0.01, cap=0.1, seconds=1.0)}
    pull = await pulled("launch-slow:2", tmp_path / "a.csv", client=client)
    assert "timed out" in pull.refused(UnavailableError)


async def test_encodes_export_ids_in_paths(tmp_path: Path) -> None:
    pull = await pulled("odd-ids", tmp_path / "a.csv")
    pull.complete()
    assert pull.stats.exports == 6


async def test_accepts_long_headers_of_the_api(tmp_path: Path) -> None:
    pull = await pulled("headers-long", tmp_path / "a.csv", window="auto", rows_per_export=200)
    pull.complete()
    assert pull.stats.exports <= 6


async def test_errors_contain_neither_links_nor_the_token(tmp_path: Path) -> None:
    with short_patience():
        pull = await pulled("damaged-always+links-never:1000", tmp_path / "a.csv")
    message = pull.refused(ExportError | PartError)  # type: ignore[arg-type]
    assert "signature=" not in message
    assert "sandbox-token" not in message
