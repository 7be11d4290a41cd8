"""What an earlier pull has shown of a server's exports."""

from __future__ import annotations

import json
import os
import re
from collections import deque
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from bulkpull import Progress, Window
from bulkpull.cli import cli
from bulkpull.events import Launched, Planned
from bulkpull.journal import Journal, Moment, Timeline, earlier_pull, encoded
from bulkpull.store import WorkDirectory
from tests.report.made import AT, START, Made

SITE = "http://localhost:1/v1"


def made(windows: int, seconds: float, *, workers: int | None = None, exports: int = 8) -> Made:
    """A pull of `windows` exports that take so long, at most `exports` in flight; the server has `workers`."""
    found = Made(windows, exports=exports)
    workers = workers or exports
    free, slots = deque([0.0] * workers), deque([0.0] * exports)
    for window in range(windows):
        launched, begins = slots.popleft(), free.popleft()
        running = max(launched, begins)
        ended = running + seconds * (1 + 0.01 * (window % 5))
        free.append(ended)
        slots.append(ended)
        found.export(window, launched, ended, running=running if running > launched else None)
    found.moments.sort(key=lambda moment: moment.at)
    return found


def write_manifest(out: Path, timeline: Timeline, *, site: str = SITE, modified_at: float = AT) -> None:
    path = out.with_name(f"{out.name}.manifest.json")
    path.write_text(json.dumps({"format": "bulkpull manifest", "source": site, "timeline": encoded(timeline)}))
    os.utime(path, (modified_at, modified_at))


def write_journal(out: Path, moments: list[Moment], *, site: str = SITE) -> None:
    work = WorkDirectory.beside(out)
    work.claim()
    with closing(Journal(work.journal, moments=deque(moments))) as journal:
        windows = tuple(Window(at, START + timedelta(at), START + timedelta(at + 1), 100) for at in range(20))
        journal.begin({"base_url": site}, windows[-1].end, windows)
        journal.record_moments()
    work.release(remove=False)


def test_finds_the_durations_in_the_manifest_of_the_output(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    write_manifest(out, made(40, 90.0).timeline())
    found = earlier_pull(out, None, SITE)
    assert found
    assert (found.name, found.is_finished) == ("a.csv", True)
    assert found.prior.durations.model.median == pytest.approx(90, rel=0.05)
    assert found.prior.durations.observed == 40
    assert found.seen_at.timestamp() == pytest.approx(AT + 5 * 90 * 1.02, rel=1e-6)


def test_an_unfinished_pull_comes_first(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    write_manifest(out, made(40, 90.0).timeline())
    write_journal(out, made(20, 30.0).moments)
    found = earlier_pull(out, None, SITE)
    assert found
    assert (found.is_finished, found.prior.durations.observed) == (False, 20)
    assert found.prior.durations.model.median == pytest.approx(30, rel=0.05)


def test_else_the_newest_pull_into_the_same_directory(tmp_path: Path) -> None:
    write_manifest(tmp_path / "old.csv", made(10, 10.0).timeline(), modified_at=AT)
    write_manifest(tmp_path / "new.csv", made(10, 20.0).timeline(), modified_at=AT + 9)
    write_manifest(tmp_path / "elsewhere.csv", made(10, 40.0).timeline(), site="https://x", modified_at=AT + 99)
    found = earlier_pull(tmp_path / "next.csv", None, SITE)
    assert found
    assert found.name == "new.csv"
    of_bucket = earlier_pull("s3://bucket/next.csv", tmp_path, SITE)
    assert of_bucket == found


def test_workers_are_found_where_exports_were_queued(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    write_manifest(out, made(60, 50.0, workers=4, exports=16).timeline())
    found = earlier_pull(out, None, SITE)
    assert found
    assert found.prior.workers == pytest.approx(4, abs=1)
    assert found.prior.durations.model.median == pytest.approx(50, rel=0.1)


def test_of_a_long_pull_the_latest_exports_count(tmp_path: Path) -> None:
    pull, late = made(300, 500.0), made(300, 5.0)
    pull.moments += [one._replace(at=one.at + 1e6) for one in late.moments]
    write_manifest(tmp_path / "a.csv", pull.timeline())
    found = earlier_pull(tmp_path / "a.csv", None, SITE)
    assert found
    assert found.prior.durations.model.median == pytest.approx(5, rel=0.05)
    assert found.prior.durations.observed < 250


@pytest.mark.parametrize("text", ["", "[]", "{", f'{{"source": "{SITE}"}}', f'{{"source": "{SITE}", "timeline": "x"}}'])
def test_what_cannot_be_read_is_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv.manifest.json").write_text(text)
    (tmp_path / "a.csv.bulkpull").mkdir()
    (tmp_path / "a.csv.bulkpull" / "journal.sqlite").write_bytes(b"no database" * 1000)
    assert earlier_pull(tmp_path / "a.csv", None, SITE) is None
    write_manifest(tmp_path / "b.csv", made(10, 20.0).timeline())
    assert earlier_pull(tmp_path / "a.csv", None, SITE) is not None


def test_a_damaged_time_is_passed_over(tmp_path: Path) -> None:
    pull = made(10, 20.0)
    pull.moments = [one._replace(at=one.at + 1e18) for one in pull.moments]
    write_manifest(tmp_path / "a.csv", pull.timeline())
    assert earlier_pull(tmp_path / "a.csv", None, SITE) is None


def test_a_pull_without_a_finished_export_shows_nothing(tmp_path: Path) -> None:
    pull = Made(2)
    pull.add(1, "launched", 0)
    write_manifest(tmp_path / "a.csv", pull.timeline())
    assert earlier_pull(tmp_path / "a.csv", None, SITE) is None


def test_progress_starts_with_the_earlier_durations(tmp_path: Path) -> None:
    write_manifest(tmp_path / "a.csv", made(40, 90.0).timeline())
    earlier = earlier_pull(tmp_path / "a.csv", None, SITE)
    assert earlier
    now = 0.0
    progress = Progress(lambda: now)
    windows = tuple(Window(at, START + timedelta(at), START + timedelta(at + 1), 100) for at in range(8))
    progress(Planned(windows))
    for window in windows:
        progress(Launched(window, f"e{window.index}", 1))
    assert progress.estimate is None
    progress.assume(earlier.prior)
    estimate = progress.estimate
    assert estimate
    assert estimate.low < 90 < estimate.high < 180


def test_the_plan_says_what_its_estimate_stands_on(tmp_path: Path) -> None:
    shift = (datetime.now(UTC) - timedelta(days=1)).timestamp() - AT
    pull = made(40, 90.0)
    pull.moments = [one._replace(at=one.at + shift) for one in pull.moments]
    write_manifest(tmp_path / "a.csv", pull.timeline())
    command = ["plan", "--start", "2024-01-01", "--end", "2024-01-11", "--window", "1d", "--exports", "2"]
    command += ["--base-url", SITE, "--out", str(tmp_path / "b.csv")]
    shown = CliRunner().invoke(cli, command)
    assert shown.exit_code == 0, shown.output
    last = shown.stdout.splitlines()[-1]
    assert re.fullmatch(
        r"\d+ to \d+ min, from 40 exports of the pull to a\.csv that ended (yesterday|today): they took about 1:[23]\d "
        r"each; up to 2 are expected to run concurrently",
        last,
    ), last
    found = json.loads(CliRunner().invoke(cli, [*command, "--json"]).stdout)
    assert found["earlier_pull"]["exports"] == 40
    assert 5 * 60 < found["seconds_low"] < 5 * 90 < found["seconds_high"] < 5 * 180
