"""`bulkpull sync` in this process, against a sandbox in another."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import bulkpull
from bulkpull import Recheck, SyncResult, Window, patience
from bulkpull.cli import main
from bulkpull.cli.sync import summary
from bulkpull.clickwrap import Clickwrap
from bulkpull.sandbox.process import SandboxProcess
from bulkpull.tables import table_at
from tests.commands import sandbox_process

START, END = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 7, 1, tzinfo=UTC)
RESULT = SyncResult(
    table="activity", start=START, frontier=END, inserted=1204, changed=3, deleted=1, exports=1, requests=5, seconds=9.2
)
WINDOW = Window(0, START, END)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with sandbox_process("--rows", "500", "--end", "2024-07-01", "--export-seconds", "0") as running:
        yield running


@pytest.fixture
def run(
    sandbox: SandboxProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs `bulkpull sync` into SQLite; returns its exit code, and what it wrote."""
    monkeypatch.setenv("BULKPULL_TOKEN", sandbox.token)
    monkeypatch.setenv("BULKPULL_BASE_URL", sandbox.url)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(patience, "LAG", 0.1)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(
            sys, "argv", ["bulkpull", "sync", "--to", "sqlite:///a.db", "--end", "2024-07-01", *arguments]
        )
        with pytest.raises(SystemExit) as ended:
            main()
        written = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, written.out, written.err

    return run


def test_the_first_sync_fills_the_table_and_the_next_finds_it_filled(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, out, errors = run("--start", "2024-01-01", "--fields", "event_type", "--json")
    assert code == 0, errors
    assert "synced to 2024-07-01T00:00Z: 500 new, 0 changed, 0 deleted at the source; 1 export, " in errors
    found = json.loads(out)
    assert (found["inserted"], found["frontier"], found["complete"]) == (500, "2024-07-01T00:00:00.000Z", True)
    assert found["windows"][0]["counted"] == 500
    code, _, errors = run("--dry-run")
    assert code == 0
    assert "would sync to 2024-07-01T00:00Z with 0 exports; nothing was changed" in errors
    code, out, errors = run("--quiet")
    assert (code, out, errors) == (0, "", "")
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.endswith(".bulkpull")] == []


def test_exit_codes(run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, errors = run()
    assert (code, "--start 2020-01-01" in errors) == (2, True)
    run("--start", "2024-01-01", "--fields", "event_type")
    code, _, errors = run("--start", "2024-02-01")
    assert (code, "--rebuild" in errors) == (2, True)
    with closing(sqlite3.connect("a.db")) as database, database:
        database.executemany(
            "INSERT INTO activity (id, signer_id, created_time) VALUES (?, '1', '2024-06-01T00:00:00.000Z')",
            [(f"more-{number}",) for number in range(300)],
        )
    code, _, errors = run()
    assert (code, "--max-shrink" in errors, "Go on with" in errors) == (7, True, False)
    code, _, errors = run("--max-shrink", "1")
    assert (code, "300 deleted at the source" in errors) == (0, True)
    held = table_at("sqlite:///a.db", columns=Clickwrap("none").columns)
    held.open(create=False)
    try:
        code, _, errors = run()
    finally:
        held.close()
    assert (code, "another" in errors, "Go on with: bulkpull sync --to" in errors) == (5, True, True)
    monkeypatch.setenv("BULKPULL_TOKEN", "wrong")
    assert run()[0] == 3


def test_a_run_with_missing_windows_exits_with_6(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sync(*_arguments: object, **_options: Any) -> SyncResult:
        return replace(RESULT, missing=(WINDOW,))

    monkeypatch.setattr(bulkpull, "sync", sync)
    code, _, errors = run("--start", "2024-01-01")
    assert code == 6
    assert "incomplete, to be exported again by the next run: [2024-01-01T00:00:00.000Z, " in errors


def test_the_summary_says_what_there_is_to_know() -> None:
    assert summary(RESULT) == [
        "synced to 2024-07-01T00:00Z: 1,204 new, 3 changed, 1 deleted at the source; 1 export, 5 requests, 9 s"
    ]
    recheck = Recheck(stretches=24, differing=2, unreliable=(WINDOW,) * 12, unavailable="counting timed out")
    lines = summary(replace(RESULT, recheck=recheck, doubt="they contradict each other", outside=1))
    assert lines[1] == "2 of 24 stretches of the past differ: exported again"
    assert lines[2] == "warning: the past was not compared: counting timed out"
    assert lines[3].endswith("2024-07-01T00:00:00.000Z) and 2 more")
    assert lines[4:] == [
        "warning: the API's counts are unreliable: they contradict each other",
        "warning: 1 row of exports outside their windows: left out",
    ]


def test_pull_fills_a_table_instead_of_a_file(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def pull(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["bulkpull", "pull", "--start", "2024-01-01", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, capfd.readouterr().err

    code, errors = pull("--end", "2024-07-01", "--to", "sqlite:///a.db", "--fields", "event_type")
    assert (code, "500 rows in activity in " in errors) == (0, True), errors
    with closing(sqlite3.connect("a.db")) as database:
        assert database.execute("SELECT count(*) FROM activity").fetchone() == (500,)
    assert pull("--to", "sqlite:///a.db", "--out", "a.csv", "--flat")[1].startswith("bulkpull: --out, --flat is for f")
    assert pull() == (2, "bulkpull: say where the rows go: --out FILE, or --to URL for a table\n")
