"""Relative dates on the command line: what they stand for is shown, recorded and resumed."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bulkpull import Clickwrap, PullOptions, Window
from bulkpull.cli import main
from bulkpull.cli.next_step import next_step, taking_values, with_dates
from bulkpull.cli.pull import pull
from bulkpull.cli.running import Interrupted
from bulkpull.journal import Journal

NOWHERE = "http://127.0.0.1:1/v1.1"
START = "2024-03-24T00:00:00.000Z"


def unfinished(out: Path, start: str, end: str | None) -> None:
    """Leave an unfinished pull that began some days ago."""
    options = PullOptions(start=start, end=end, out=out)
    directory = out.with_name(f"{out.name}.bulkpull")
    directory.mkdir()
    journal = Journal(directory / "journal.sqlite")
    first = datetime(2024, 3, 24, tzinfo=UTC)
    window = Window(0, first, first + timedelta(1))
    identity = options.identity(Clickwrap("t", base_url=NOWHERE))
    journal.begin(identity, window.end, [window])
    journal.start_run()
    journal.record_launch(window)
    journal.close()


@pytest.mark.parametrize(
    ("end", "arguments", "resume"),
    [
        (None, ["--start", "-7d"], ["--start", START]),
        ("2024-04-01", ["--start=-7d", "--end", "today"], [f"--start={START}", "--end", "2024-04-01T00:00:00.000Z"]),
        (None, ["--start", "-7d", "--end=today"], ["--start", START, "--end=now"]),
    ],
)
def test_a_later_day_is_told_how_to_resume(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    end: str | None,
    arguments: list[str],
    resume: list[str],
) -> None:
    out = tmp_path / "a.csv"
    unfinished(out, START, end)
    monkeypatch.setenv("BULKPULL_TOKEN", "t")
    monkeypatch.setenv("BULKPULL_BASE_URL", NOWHERE)
    command = ["bulkpull", "pull", *arguments, "--out", str(out)]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    said = capfd.readouterr().err
    assert ended.value.code == 2
    today = datetime.now(UTC).strftime("%Y-%m-")
    assert re.search(
        rf"^range: \d{{4}}-\d\d-\d\dT00:00:00.000Z to (now|{today}.*Z) \(UTC, the end excluded\)$", said, re.M
    )
    assert "the pull to be resumed was started with " in said
    assert f"Resume it with: bulkpull pull {' '.join(resume)} --out {out}\n" in said


def test_the_command_to_resume_has_the_dates_that_the_journal_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.csv"
    unfinished(out, START, None)
    for given, expected in (
        (["--start", "-7d", "-v"], ["--start", START, "-v"]),
        (["-v"], ["-v", "--start", START]),  # from the environment or a file
    ):
        monkeypatch.setattr("sys.argv", ["bulkpull", "pull", *given])
        note = next_step(out, Interrupted(), pull.params, begun=True, fresh=False, resolved={"--start": START})
        assert note is not None
        assert note.endswith(f"Resume with: bulkpull pull {' '.join(expected)}")


def test_a_value_that_looks_like_a_flag_is_none() -> None:
    arguments = ["--filter", "--start", "--start", "-1d", "--end=today", "--start", "-2d"]
    changed = with_dates(arguments, {"--start": "S", "--end": "E"}, taking_values(pull.params))
    assert changed == ["--filter", "--start", "--start", "S", "--end=E", "--start", "S"]
