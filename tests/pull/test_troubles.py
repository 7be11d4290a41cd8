"""What a pull waits out is in its journal, for `status` to read."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner

from bulkpull import Window, status
from bulkpull.cli import cli
from bulkpull.cli.watch import Follower
from bulkpull.events import Polled, QuotaExhausted, Received, Recovered, Retried
from bulkpull.journal import Journal, JournalReader, Trouble
from bulkpull.pull import troubles
from bulkpull.pull.troubles import TroubleRecorder
from bulkpull.store import WorkDirectory
from bulkpull.waits import Wait
from tests.waiting import until

DAY = datetime(2024, 1, 1, tzinfo=UTC)
WINDOW = Window(0, DAY, DAY + timedelta(1), 10)
FAILED = Retried("GET /tasks/export/e", 3, 5.0, "503 at https://files.example/a?sig=secret for jane@example.com", 600.0)


def begun(out: Path) -> tuple[WorkDirectory, Journal]:
    work = WorkDirectory.beside(out)
    work.claim()
    journal = Journal(work.journal)
    journal.begin({"start": "2024-01-01T00:00:00Z"}, WINDOW.end, [WINDOW])
    journal.start_run()
    return work, journal


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(troubles, "INTERVAL_S", 0.02)


@pytest.mark.usefixtures("soon")
async def test_an_outage_is_recorded_while_it_lasts(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    work, journal = begun(out)
    recorder = TroubleRecorder()
    async with recorder.recorded(journal):
        recorder(FAILED)
        await until(lambda: journal.trouble is not None)
        shown = status(out).trouble
        assert shown
        assert shown.kind == "outage"
        assert str(shown).startswith("API answers 503, retrying for 10 min more")
        recorder(Received(WINDOW, 1, 10))  # a download goes on, but so do the retries
        recorder(Recovered(FAILED.what, 3))
        await until(lambda: journal.trouble is None)
        recorder(QuotaExhausted(30.0))
        await until(lambda: journal.trouble is not None)
        assert str(status(out).trouble) in ("quota: next request in 30 s", "quota: next request in 29 s")
    journal.close()
    assert status(out).trouble is not None
    work.release(remove=False)
    assert status(out).trouble is None  # it does not run


async def test_a_trouble_that_is_over_soon_is_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(troubles, "INTERVAL_S", 0.1)
    _, journal = begun(tmp_path / "a.csv")
    recorded: list[Trouble | None] = []
    monkeypatch.setattr(Journal, "record_trouble", lambda _journal, trouble: recorded.append(trouble))
    recorder = TroubleRecorder()
    async with recorder.recorded(journal):
        recorder(FAILED)
        await anyio.sleep(0.01)
        recorder(Recovered(FAILED.what, 4))
        recorder(Polled(WINDOW, "e", "RUNNING", "running", 1.0))
        await anyio.sleep(0.3)
    journal.close()
    assert recorded == []


def test_a_run_starts_without_the_trouble_of_the_one_before(tmp_path: Path) -> None:
    _, journal = begun(tmp_path / "a.csv")
    journal.record_trouble(Trouble("outage", 1.0, None, "API", "answers 503"))
    assert JournalReader(journal._path).trouble is not None
    journal.start_run()
    assert journal.trouble is None
    journal.close()


def test_a_trouble_holds_nothing_private() -> None:
    wait = Wait("outage", left=60.0, since=5.0, host="file host", reason=f"fails: {FAILED.reason}")
    trouble = Trouble.of(wait, 1000.0)
    assert trouble
    text = trouble.encoded()
    assert "secret" not in text
    assert "jane" not in text
    later = Trouble.decoded(text).wait(1030.0)
    assert later
    assert (later.left, later.since, later.host) == (30.0, 35.0, "file host")
    assert Trouble.of(Wait("exports", 3), 0.0) is None
    quota = Trouble.of(Wait("quota", left=10.0), 1000.0)
    assert quota
    assert quota.wait(1005.0) == Wait("quota", left=5.0)
    assert quota.wait(1010.0) is None


def test_status_shows_it_and_so_does_its_watch(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    work, journal = begun(out)
    now = datetime.now(UTC).timestamp()
    journal.record_trouble(Trouble("outage", now - 120, now + 600, "API", "answers 503"))
    found = status(out)
    follower = Follower()
    follower.follow(found, now)
    assert follower.figures.waits_for == "API answers 503 for 2:00, retrying for 10 min more"
    assert follower.figures.estimate is None
    assert "\nAPI answers 503 for 2:0" in CliRunner().invoke(cli, ["status", str(out)]).stdout
    as_json = json.loads(CliRunner().invoke(cli, ["status", str(out), "--json"]).stdout)
    assert as_json["trouble"]["kind"] == "outage"
    journal.close()
    work.release(remove=True)
