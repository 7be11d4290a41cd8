"""Servers whose exports go other ways than the documented one: every row comes, with no more exports than that takes,
or the pull ends soon with a sentence that names the window."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bulkpull import BulkpullError, ExportError, PartError, RetryPolicy, ThrottledError, UnavailableError
from tests.flows.found import pulled, short_patience

HALF = {"end": datetime(2024, 4, 1, tzinfo=UTC)}  # activity in three of the six months


# Links


@pytest.mark.parametrize("polls", [1, 2, 3])
async def test_links_that_come_a_poll_or_more_later(tmp_path: Path, polls: int) -> None:
    """Of six exports two each leave `links` out, say null, and give an empty list."""
    pull = await pulled(f"links-late:{polls}", tmp_path / "a.csv")
    pull.complete()
    assert pull.seen.exports == 6


async def test_an_export_that_never_gets_its_links_is_made_anew(tmp_path: Path) -> None:
    with short_patience():
        pull = await pulled("links-never:1", tmp_path / "a.csv")
    pull.complete()
    assert pull.seen.exports == 7


async def test_links_that_never_come_are_an_error(tmp_path: Path) -> None:
    with short_patience():
        pull = await pulled("links-never:1000", tmp_path / "a.csv", exports=1)
    message = pull.refused()
    assert "window 1 [2024-01-01, 2024-02-01)" in message
    assert "it succeeded" in message
    assert pull.seen.exports <= 12  # two for each window at most
    assert pull.polls <= 60


async def test_windows_without_activity_need_no_links(tmp_path: Path) -> None:
    for number, faults in enumerate(("", "links-late:1", "links-never:3")):
        with short_patience():
            pull = await pulled(faults, tmp_path / f"{number}.csv", start="2030-01-01", end="2030-07-01")
        assert pull.result is not None, pull.error
        assert (pull.result.rows, pull.result.complete, pull.seen.exports) == (0, True, 6)


# Statuses


async def test_an_export_that_is_lost_in_the_queue_is_made_anew(tmp_path: Path) -> None:
    pull = await pulled("export-pending-first", tmp_path / "a.csv", export_timeout=1.0)
    pull.complete()
    assert pull.seen.exports == 7


@pytest.mark.parametrize(("window", "exports"), [("1mo", None), ("7d", 16)])
async def test_exports_that_all_stay_pending_are_an_error(tmp_path: Path, window: str, exports: int | None) -> None:
    options: dict[str, Any] = {"window": window, "exports": exports, "export_timeout": 0.5}
    pull = await pulled("export-pending-all", tmp_path / "a.csv", **options)
    message = pull.refused(ExportError)
    assert "window" in message
    assert "pending" in message
    assert pull.seen.exports <= 60


async def test_words_for_failed_mean_that_another_export_is_needed(tmp_path: Path) -> None:
    """error, cancelled, canceled, expired, aborted and FAILED."""
    pull = await pulled("status-words+export-fails-once:6", tmp_path / "a.csv", exports=6)
    pull.complete()
    assert pull.seen.faults["export-fails-once"] == 6
    assert pull.seen.exports == 12


async def test_words_for_success_are_understood(tmp_path: Path) -> None:
    """completed, Done, complete, SUCCEEDED, Success and finished."""
    pull = await pulled("status-words", tmp_path / "a.csv")
    pull.complete()
    assert pull.seen.exports == 6


async def test_an_export_with_links_that_is_not_active_has_succeeded_whatever_it_is_called(tmp_path: Path) -> None:
    pull = await pulled("status-unknown", tmp_path / "a.csv")
    pull.complete()
    assert pull.seen.exports == 6
    assert pull.polls <= 40


@pytest.mark.parametrize("status", [202, 204, 409, 425])
async def test_a_status_route_that_answers_otherwise_while_the_export_runs(tmp_path: Path, status: int) -> None:
    """For longer than errors would be retried."""
    client = {"retry": RetryPolicy(base=0.01, cap=0.1, seconds=0.5)}
    pull = await pulled(f"status-{status}", tmp_path / "a.csv", client=client, config={"export_seconds": 2.0})
    pull.complete()
    assert pull.seen.faults[f"status-{status}"]
    assert pull.seen.exports == 6


@pytest.mark.parametrize("polls", [1, 2])
async def test_an_export_that_another_backend_does_not_know_yet(tmp_path: Path, polls: int) -> None:
    pull = await pulled(f"status-404-first:{polls}", tmp_path / "a.csv")
    pull.complete()
    assert pull.seen.exports == 6


async def test_an_export_that_goes_back_to_started(tmp_path: Path) -> None:
    pull = await pulled("status-flaps", tmp_path / "a.csv")
    pull.complete()
    assert pull.seen.exports == 6


@pytest.mark.parametrize(("status", "kind"), [(429, ThrottledError), (503, UnavailableError)])
async def test_a_server_that_wants_to_be_asked_in_a_day(tmp_path: Path, status: int, kind: type[BulkpullError]) -> None:
    client = {"retry": RetryPolicy(base=0.01, cap=0.1, seconds=1.0)}
    pull = await pulled(f"retry-after-day-{status}", tmp_path / "a.csv", client=client)
    assert str(status) in pull.refused(kind)
    assert pull.seen.exports <= 6


# What cannot be exported, or not as a whole


@pytest.mark.parametrize("window", ["1mo", "1y"])
async def test_too_many_records_for_an_export(tmp_path: Path, window: str) -> None:
    pull = await pulled("too-many-records:150", tmp_path / "a.csv", window=window)
    result = pull.complete()
    assert result.splits >= 6
    assert pull.seen.exports <= 40


async def test_too_many_records_where_one_export_is_made_at_a_time(tmp_path: Path) -> None:
    """After the first window, those behind it are too large as well, and are cut without an export of their own."""
    pull = await pulled("too-many-records:150", tmp_path / "a.csv", window="auto", rows_per_export=250, exports=1)
    pull.complete()
    assert pull.seen.exports <= 20


@pytest.mark.parametrize("window", ["1mo", "1y"])
async def test_an_instant_that_cannot_be_exported_is_an_error_soon(tmp_path: Path, window: str) -> None:
    """It holds half of all activity, so that no cut leaves less of it."""
    config = {"rows": 3000, "burst": 1500}
    pull = await pulled("poisoned-instant", tmp_path / "a.csv", config=config, window=window)
    message = pull.refused(ExportError)
    assert "window" in message
    assert "--skip-failed" in message
    assert pull.seen.exports <= 24


@pytest.mark.parametrize("counting", [True, False])
@pytest.mark.parametrize("burst", [0, 1500])
async def test_an_activity_that_cannot_be_exported_costs_no_more_exports_than_are_allowed(
    tmp_path: Path, burst: int, counting: bool
) -> None:
    config = {"rows": 3000, "burst": burst, "counting": counting}
    pull = await pulled("poisoned-instant", tmp_path / "a.csv", config=config, max_extra_exports=15)
    message = pull.refused(ExportError)
    assert "window" in message
    assert "--skip-failed" in message
    assert pull.seen.exports <= 6 + 15


async def test_without_the_instant_that_cannot_be_exported_the_rest_comes(tmp_path: Path) -> None:
    config = {"rows": 3000, "burst": 1500}
    pull = await pulled("poisoned-instant", tmp_path / "a.csv", config=config, skip_failed=True)
    assert pull.result is not None, pull.error
    assert pull.result.skipped
    assert not pull.result.complete
    assert set(pull.ids()) < set(pull.expected)
    assert pull.seen.exports <= 20


async def test_an_export_that_delivers_only_so_many_rows_of_those_counted(tmp_path: Path) -> None:
    """Three windows of 2,000 activities; an export ends after 1,000 rows."""
    config = {"rows": 6000, "rows_per_file": 500}
    pull = await pulled("rows-capped:1000", tmp_path / "a.csv", config=config, window="auto", rows_per_export=2000)
    pull.complete()
    assert pull.seen.exports <= 30


@pytest.mark.parametrize("counting", [True, False])
async def test_windows_of_equal_length_that_all_deliver_the_same_number(tmp_path: Path, counting: bool) -> None:
    """Six windows of 1,000 activities, of which 500 come."""
    config = {"rows": 6000, "rows_per_file": 500, "counting": counting}
    with short_patience():
        pull = await pulled("rows-capped:500", tmp_path / "a.csv", config=config)
    result = pull.result
    assert result is not None, pull.error
    assert result.complete == (pull.ids() == pull.expected)
    assert result.complete or not counting
    assert pull.seen.exports <= 60


async def test_rows_that_are_exported_a_moment_later(tmp_path: Path) -> None:
    """The first export of a window lacks what its second one delivers."""
    with short_patience():
        pull = await pulled("late-rows:3", tmp_path / "a.csv", window="auto", rows_per_export=350)
    pull.complete()
    assert pull.seen.exports <= 8


# Files


@pytest.mark.parametrize("kind", ["zero", "newline", "bom"])
@pytest.mark.parametrize("empty", ["some", "all"])
async def test_files_of_windows_without_activity(tmp_path: Path, kind: str, empty: str) -> None:
    config = HALF if empty == "some" else HALF | {"rows": 0}
    pull = await pulled(f"empty-file-{kind}", tmp_path / "a.csv", config=config)
    pull.complete()
    assert pull.seen.faults[f"empty-file-{kind}"]
    assert pull.seen.exports == 6


@pytest.mark.parametrize("kind", ["zero", "newline", "bom"])
async def test_files_of_windows_without_activity_where_nothing_is_counted(tmp_path: Path, kind: str) -> None:
    pull = await pulled(f"empty-file-{kind}", tmp_path / "a.csv", config=HALF | {"counting": False})
    pull.complete()
    assert pull.seen.exports == 6


async def test_a_file_that_is_damaged_on_its_way_is_downloaded_again(tmp_path: Path) -> None:
    pull = await pulled("damaged-once", tmp_path / "a.csv")
    pull.complete()
    assert pull.seen.exports == 6
    assert sorted(pull.deliveries) == [1] * (len(pull.deliveries) - 1) + [2]


async def test_a_file_that_stays_damaged_takes_one_more_download_and_one_more_export(tmp_path: Path) -> None:
    pull = await pulled("damaged-always", tmp_path / "a.csv")
    pull.complete()
    assert pull.seen.exports == 7
    assert max(pull.deliveries) == 2


# Launches


@pytest.mark.parametrize("at_a_time", [1, 2])
@pytest.mark.parametrize("status", [200, 400, 403, 409, 429, 503])
async def test_a_further_export_at_a_time_is_refused(tmp_path: Path, status: int, at_a_time: int) -> None:
    pull = await pulled(f"launch-refused-{status}:{at_a_time}", tmp_path / "a.csv", config={"export_seconds": 0.3})
    pull.complete()
    assert pull.seen.exports == 6
    assert pull.seen.peak_exports == at_a_time
    assert pull.launches <= 120


@pytest.mark.parametrize(("status", "words"), [(400, "jobs in queue"), (403, "is reached"), (409, "export requests")])
async def test_the_very_first_launch_that_is_refused_is_a_refusal(tmp_path: Path, status: int, words: str) -> None:
    pull = await pulled(f"launch-refused-{status}:0", tmp_path / "a.csv")
    message = pull.refused()
    assert str(status) in message
    assert words in message
    assert pull.launches == 1


async def test_a_launch_that_is_answered_late_is_one_launch(tmp_path: Path) -> None:
    client = {"request_timeout": 0.5}
    pull = await pulled("launch-slow:2", tmp_path / "a.csv", client=client, window="3mo")
    pull.complete()
    assert (pull.launches, pull.seen.exports) == (2, 2)


async def test_a_launch_has_its_limit_too(tmp_path: Path) -> None:
    client: dict[str, Any] = {"launch_timeout": 0.2, "retry": RetryPolicy(base=0.01, cap=0.1, seconds=1.0)}
    pull = await pulled("launch-slow:2", tmp_path / "a.csv", client=client)
    assert "timed out" in pull.refused(UnavailableError)


async def test_ids_that_are_no_path_segments(tmp_path: Path) -> None:
    pull = await pulled("odd-ids", tmp_path / "a.csv")
    pull.complete()
    assert pull.seen.exports == 6


async def test_long_headers_of_the_api(tmp_path: Path) -> None:
    pull = await pulled("headers-long", tmp_path / "a.csv", window="auto", rows_per_export=200)
    pull.complete()
    assert pull.seen.exports <= 6


async def test_errors_name_no_links_nor_the_token(tmp_path: Path) -> None:
    with short_patience():
        pull = await pulled("damaged-always+links-never:1000", tmp_path / "a.csv")
    message = pull.refused(ExportError | PartError)  # type: ignore[arg-type]
    assert "signature=" not in message
    assert "sandbox-token" not in message
