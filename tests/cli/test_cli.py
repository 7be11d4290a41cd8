"""The command line in a process of its own, against a sandbox in another."""

from __future__ import annotations

import ast
import json
import os
import pty
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull import Clickwrap, CountMismatch, OutputError, Result, Window, __version__
from bulkpull.cli.next_step import next_step, quoted, taking_values, without_fresh
from bulkpull.cli.pull import pull
from bulkpull.cli.running import Interrupted
from bulkpull.cli.summary import summary
from bulkpull.sandbox.process import SandboxProcess
from tests import commands
from tests.commands import sandbox_process

RANGE = ["--start", "2024-01-01", "--end", "2024-07-01"]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    options = ["--rows", "3000", "--end", "2024-07-01", "--export-seconds", "0.1"]
    with sandbox_process(*options) as running:
        yield running


def environment(sandbox: SandboxProcess | None, **more: str) -> dict[str, str]:
    """A plain environment; with a sandbox, its URL and token in it."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("BULKPULL")}
    if sandbox:
        variables |= {"BULKPULL_TOKEN": sandbox.token, "BULKPULL_BASE_URL": sandbox.url}
    return variables | more


def bulkpull(sandbox: SandboxProcess | None, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return commands.run(*arguments, environment=environment(sandbox, **more))


def test_pull_writes_the_file_and_says_so_on_standard_error(sandbox: SandboxProcess, tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    done = bulkpull(sandbox, "pull", *RANGE, "--out", str(out), "--fields", "event_type,custom_data.vip")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "3,000 rows in" in done.stderr
    assert "duplicates dropped" in done.stderr
    assert "\x1b" not in done.stderr
    assert out.read_text().startswith("id,signer_id,created_time,event_type,custom_data.vip\n")


def test_json_is_the_last_line_of_standard_output(sandbox: SandboxProcess, tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    done = bulkpull(sandbox, "pull", *RANGE, "--out", str(out), "--json", "-v", "--window", "1mo")
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) == {
        *("rows", "duplicates", "conflicts", "outside", "windows", "exports", "parts", "requests", "throttled"),
        *("retries", "bytes", "runs", "seconds", "output", "counted", "probes", "splits", "skipped", "short"),
        *("over", "complete", "completeness", "doubt", "empty_columns", "manifest"),
    }
    assert (result["rows"], result["windows"], result["output"]) == (3000, 6, str(out))
    assert result["manifest"] == f"{out}.manifest.json"
    assert len(done.stdout.splitlines()) == 1
    assert "window 6 [2024-06-01, 2024-07-01): merged" in done.stderr


def test_quiet_is_quiet(sandbox: SandboxProcess, tmp_path: Path) -> None:
    done = bulkpull(sandbox, "pull", *RANGE, "--out", str(tmp_path / "a.csv"), "-q", "--window", "1y")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_on_a_terminal_there_is_live_progress(sandbox: SandboxProcess, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [*commands.program(), "pull", *RANGE, "--out", str(tmp_path / "a.csv"), "--json"]
    more = {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    with subprocess.Popen(  # noqa: S603
        command, env=environment(sandbox, **more), stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # the other end has closed
                break
        assert process.stdout is not None
        assert json.loads(process.stdout.read())["rows"] == 3000
    os.close(ours)
    for stage in (b"starting", b"exports  ", b" merged", b"of 3,000 rows", b"in the last minute"):
        assert stage in shown
    assert b"3,000 rows in" in shown


def test_plan_shows_the_windows_and_makes_no_request() -> None:
    done = bulkpull(None, "plan", *RANGE, "--window", "3mo", "--out", "x.csv", "--exports", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:3] == [
        "     1  2024-01-01T00:00:00.000Z  2024-04-01T00:00:00.000Z",
        "     2  2024-04-01T00:00:00.000Z  2024-07-01T00:00:00.000Z",
    ]
    assert "2 exports, at least 4 requests" in done.stdout
    done = bulkpull(None, "plan", *RANGE, "--window", "3mo", "--json")
    found = json.loads(done.stdout)
    assert 40 < found.pop("seconds_low") < 60 < found.pop("seconds_high") < 120
    assert 55 < found.pop("seconds") < 80
    assert found == {
        "windows": [
            {"start": "2024-01-01T00:00:00.000Z", "end": "2024-04-01T00:00:00.000Z", "counted": None},
            {"start": "2024-04-01T00:00:00.000Z", "end": "2024-07-01T00:00:00.000Z", "counted": None},
        ],
        "rows": None,
        "exports": 2,
        "probes": 0,
        "requests": 4,
        "assumed_seconds_per_export": 60.0,
        "earlier_pull": None,
        "uncounted": None,
        "doubt": None,
        "max_extra_exports": 101,
    }


def test_the_plan_by_volume_is_a_table_with_bars(sandbox: SandboxProcess) -> None:
    done = bulkpull(sandbox, "plan", *RANGE, "--rows-per-export", "1000")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["window", "start", "end", "rows", "share"]
    assert [line.split()[0] for line in lines[1:4]] == ["1", "2", "3"]
    assert all(20 <= line.count("█") <= 24 and "33." in line for line in lines[1:4])
    assert lines[4] == "3,000 activities, counted with 3 requests"
    assert lines[5].startswith("3 exports, at least 6 requests: ")
    assert lines[6] == "Up to 101 more exports if some fail or are incomplete (--max-extra-exports)"
    assert re.match(r"\d+ to \d+ s, assuming one minute per export and up to 128 concurrent exports", lines[7])
    found = json.loads(bulkpull(sandbox, "plan", *RANGE, "--rows-per-export", "1000", "--json").stdout)
    assert sum(window["counted"] for window in found["windows"]) == found["rows"] == 3000
    assert (found["exports"], found["probes"], found["requests"], found["uncounted"]) == (3, 3, 6, None)
    assert found["seconds_low"] < found["seconds"] < found["seconds_high"]
    assert found["assumed_seconds_per_export"] == 60.0


def test_a_plan_that_cannot_count_says_so() -> None:
    with sandbox_process("--rows", "100", "--end", "2024-07-01", "--no-counting") as sandbox:
        done = bulkpull(sandbox, "plan", *RANGE)
        found = json.loads(bulkpull(sandbox, "plan", *RANGE, "--json").stdout)
    assert "Activity could not be counted; windows have equal length: " in done.stdout
    assert "6 exports, at least 12 requests" in done.stdout
    assert "lacks the permission" in found["uncounted"]
    assert (found["rows"], len(found["windows"])) == (None, 6)


def test_a_shortfall_is_told_with_its_windows(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    out.write_bytes(b"id\n")
    day = datetime(2024, 1, 1, tzinfo=UTC)
    windows = [Window(number, day + timedelta(number), day + timedelta(number + 1), 100) for number in range(12)]
    counts: dict[str, Any] = dict.fromkeys([field.name for field in fields(Result) if field.type == "int"], 0)
    result = Result(
        **counts,
        seconds=1.0,
        output=out,
        counted=1200,
        skipped=(),
        short=tuple(CountMismatch(window, 100, 95) for window in windows),
        over=(CountMismatch(windows[0], 100, 101),),
        completeness="short",
        doubt="",
        empty_columns=("custom_data.vipp",),
    )
    assert not result.complete
    told = summary(result)
    assert "warning: incomplete: window 1 [2024-01-01, 2024-01-02): 95 of 100 counted; window 2 " in told
    assert "window 10 [2024-01-10, 2024-01-11): 95 of 100 counted; and 2 more. Pull these ranges again" in told
    assert "warning: no row has a value in custom_data.vipp. Does the site have these fields?" in told
    assert "more rows than counted: window 1 [2024-01-01, 2024-01-02): 101 of 100 counted" in told


def test_windows_that_are_left_out_are_code_6_and_named(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    options = ["--rows", "3000", "--end", "2024-07-01", "--export-seconds", "0.05", "--faults", "export-always-fails:2"]
    command = ["pull", *RANGE, "--out", str(out), "--rows-per-export", "100", "--max-extra-exports", "2"]
    with sandbox_process(*options) as sandbox:
        done = bulkpull(sandbox, *command)
        assert done.returncode == 4, done.stderr
        assert "all 2 exports allowed beyond the plan are used; allow more with --max-extra-exports" in done.stderr
        assert "skip the window (--skip-failed)" in done.stderr
        done = bulkpull(sandbox, *command, "--skip-failed", "--json")
    assert done.returncode == 6, done.stderr
    result = json.loads(done.stdout)
    assert result["rows"] + sum(window["counted"] for window in result["skipped"]) == result["counted"] == 3000
    assert f"[{result['skipped'][0]['start'][:10]}" in done.stderr
    assert ": skipped: all 2 exports allowed beyond the plan" in done.stderr
    assert "warning: skipped because they could not be exported: window " in done.stderr
    assert out.exists()


def test_fields_and_activity(sandbox: SandboxProcess) -> None:
    assert bulkpull(sandbox, "fields", "--site", "5193").stdout.splitlines()[:3] == ["id", "signer_id", "created_time"]
    done = bulkpull(sandbox, "activity", "--filter", "event_type==sent", "--limit", "120", "--fields", "id,event_type")
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(entries) == 120
    assert all(list(entry) == ["id", "event_type"] and entry["event_type"] == "sent" for entry in entries)


def test_a_reader_that_has_enough_is_no_error(sandbox: SandboxProcess) -> None:
    command = [*commands.program(), "activity"]
    with subprocess.Popen(  # noqa: S603
        command, env=environment(sandbox), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        json.loads(process.stdout.readline())
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["pull", "--start", "2024-02-31", "--out", "{dir}/a.csv"], 2, "is not a date"),
        (["pull", *RANGE, "--out", "{dir}/a.csv", "--filter", "a==1 or b==2"], 2, "'or'"),
        (["pull", *RANGE, "--out", "{dir}/a.csv", "--exports", "0"], 2, "--exports"),
        (
            ["pull", *RANGE, "--out", "{dir}/a.csv", "--export-timeout", "nan"],
            2,
            "'nan' is not a duration",
        ),
        (["pull", *RANGE], 2, "--out"),
        (["pull", *RANGE, "--out", "{dir}/a.csv", "--base-url", "http://api.pactsafe.com"], 2, "must be https"),
        (["plan", *RANGE, "--window", "1parsec"], 2, "is not a length"),
        (["plan", *RANGE, "--filter", "agreed"], 2, "comparisons"),
        (["pull", *RANGE, "--out", "{dir}/a.csv", "--filter", "nonsense==1"], 4, "unknown field"),
        (["activity", "--filter", "nonsense==1"], 4, "unknown field"),
        (["pull", *RANGE, "--out", "{dir}"], 5, "directory"),
        (["pull", *RANGE, "--out", "{dir}/missing/a.csv"], 5, "No such file"),
        (["pull", *RANGE, "--out", "{dir}/exists.csv"], 5, "--overwrite"),
        (["sandbox", "--port", "{port}"], 5, "address already in use"),
        (["sandbox", "--start", "2026-01-01"], 2, "must be before its end"),
        (["nonsense"], 2, "nonsense"),
        (["plna"], 2, "Did you mean plan?"),
    ],
)
def test_errors_are_a_sentence_and_a_code(
    sandbox: SandboxProcess, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "exists.csv").write_bytes(b"precious")
    port = sandbox.url.rpartition(":")[2].partition("/")[0]
    done = bulkpull(sandbox, *(argument.format(dir=tmp_path, port=port) for argument in arguments))
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["exists.csv"]


def test_a_wrong_token_is_code_3_and_is_not_shown(sandbox: SandboxProcess, tmp_path: Path) -> None:
    done = bulkpull(sandbox, "pull", *RANGE, "--out", str(tmp_path / "a.csv"), "-v", BULKPULL_TOKEN="wrong-token-7")
    assert done.returncode == 3
    assert "the API rejects the token" in done.stderr
    assert "wrong-token-7" not in done.stderr


def test_the_token_may_be_in_a_file(sandbox: SandboxProcess, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(f"{sandbox.token}\n")
    url = {"BULKPULL_BASE_URL": sandbox.url}
    assert bulkpull(None, "fields", "--site", "1", BULKPULL_TOKEN_FILE=str(token), **url).returncode == 0
    assert bulkpull(None, "fields", "--site", "1", **url).returncode == 2
    done = bulkpull(None, "fields", "--site", "1", BULKPULL_TOKEN_FILE=str(tmp_path / "none"), **url)
    assert (done.returncode, "cannot be read" in done.stderr) == (2, True)
    printed = f"echo {sandbox.token}"
    assert bulkpull(None, "fields", "--site", "1", BULKPULL_TOKEN_COMMAND=printed, **url).returncode == 0
    done = bulkpull(None, "fields", "--site", "1", "--token-command", f"{printed} {sandbox.token}", **url)
    assert (done.returncode, "the token contains spaces" in done.stderr, sandbox.token in done.stderr) == (
        2,
        True,
        False,
    )
    for bad in ("", "line\nend"):
        done = bulkpull(None, "fields", "--site", "1", BULKPULL_TOKEN=bad, **url)
        assert (done.returncode, "token" in done.stderr) == (2, True)


def launched(journal: Path) -> bool:
    """Whether the journal of a running pull holds an export that was launched."""
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"{journal.as_uri()}?mode=ro", uri=True)) as db:
        return bool(db.execute("SELECT count(*) FROM export WHERE id NOT NULL").fetchone()[0])
    return False


def interrupted(
    sandbox: SandboxProcess, tmp_path: Path, *numbers: signal.Signals, more: Sequence[str] = ()
) -> tuple[int, str, list[str]]:
    """A pull that was sent these signals once it was under way: its exit code, its standard error, its command."""
    command = ["pull", *RANGE, "--out", str(tmp_path / "a.csv"), "--exports", "1", "--window", "1mo", *more]
    with subprocess.Popen(  # noqa: S603
        [*commands.program(), *command], env=environment(sandbox), stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while not launched(tmp_path / "a.csv.bulkpull" / "journal.sqlite"):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.002)
        _, stderr = process.communicate(timeout=30)
    return process.returncode, stderr, command


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_pull_is_code_130_and_goes_on(
    sandbox: SandboxProcess, tmp_path: Path, number: signal.Signals
) -> None:
    code, stderr, command = interrupted(sandbox, tmp_path, number)
    assert code == 130
    assert "interrupted" in stderr
    assert f"Resume with: bulkpull {' '.join(command)}\n" in stderr
    assert "Traceback" not in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv.bulkpull"]
    done = bulkpull(sandbox, *command)
    assert done.returncode == 0, done.stderr
    assert "resuming: " in done.stderr
    assert "3,000 rows in" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.csv.manifest.json"]


def test_the_command_to_resume_does_not_start_over(sandbox: SandboxProcess, tmp_path: Path) -> None:
    odd = "it's\n\x1b[1m\\ü"
    more = ["--fresh", "--filter", f"custom_data.vip!={odd}"]
    code, stderr, command = interrupted(sandbox, tmp_path, signal.SIGINT, more=more)
    assert code == 130
    to_resume = stderr.partition("Resume with: ")[2].rstrip("\n")
    assert "\n" not in to_resume
    assert "\x1b" not in to_resume
    shell = shutil.which("bash")
    assert shell
    read = subprocess.run([shell, "-c", f"printf '%s\\0' {to_resume}"], capture_output=True, text=True, check=True)  # noqa: S603
    command.remove("--fresh")
    assert read.stdout.split("\0")[:-1] == ["bulkpull", *command]
    done = bulkpull(sandbox, *command)
    assert (done.returncode, "resuming: " in done.stderr) == (0, True), done.stderr


def test_an_option_whose_value_is_the_word_fresh_keeps_it() -> None:
    arguments = ["pull", "--fresh", "--filter", "--fresh", "--out=--fresh", "-v", "--fresh", "--out", "x"]
    assert list(without_fresh(arguments, taking_values(pull.params))) == [
        "pull",
        "--filter",
        "--fresh",
        "--out=--fresh",
        "-v",
        "--out",
        "x",
    ]


@given(st.text(st.characters(exclude_characters="\0")))
def test_an_argument_that_is_quoted_is_one_line_for_the_shell(text: str) -> None:
    surely = os.fsdecode(text.encode("utf-8", "surrogatepass"))
    word = quoted(surely)
    assert word.isprintable()
    assert word.encode().isascii() or not word.startswith("$'")
    if word.startswith("$'"):
        assert ast.literal_eval(f"b{word[1:]}") == os.fsencode(surely)
    else:
        assert shlex.split(word) == [surely]


def test_a_fresh_start_that_did_not_come_to_it_is_still_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / "a.csv.bulkpull"
    left.mkdir()
    (left / "journal.sqlite").touch()
    monkeypatch.setattr("sys.argv", ["bulkpull", "pull", "--fresh"])
    for begun, command in ((False, "bulkpull pull --fresh"), (True, "bulkpull pull")):
        note = next_step(tmp_path / "a.csv", Interrupted(), pull.params, begun=begun, fresh=True)
        assert note == f"Progress is saved in {left}. Resume with: {command}"
    busy = OutputError("another pull is writing")
    assert next_step(tmp_path / "a.csv", busy, pull.params, begun=False, fresh=True) is None


def test_a_second_signal_ends_a_pull_at_once_and_it_goes_on(sandbox: SandboxProcess, tmp_path: Path) -> None:
    code, stderr, command = interrupted(sandbox, tmp_path, signal.SIGINT, signal.SIGINT, signal.SIGINT)
    # A signal while Python shuts down kills it, which a shell reports as 130 too.
    assert code in (130, -signal.SIGINT)
    assert "Traceback" not in stderr
    done = bulkpull(sandbox, *command, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 3000


def test_the_status_of_an_unfinished_pull(sandbox: SandboxProcess, tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    done = bulkpull(None, "status", str(out))
    assert (done.returncode, "no unfinished pull" in done.stderr) == (5, True)
    _, _, command = interrupted(sandbox, tmp_path, signal.SIGINT)
    shown = bulkpull(None, "status", str(out))
    assert shown.returncode == 0, shown.stderr
    assert len([line for line in shown.stdout.splitlines() if "2024-0" in line and "waiting" in line]) >= 3
    assert f"{out}: start 2024-01-01" in shown.stdout
    assert "not running, run 1; 6 windows: " in shown.stdout
    status = json.loads(bulkpull(None, "status", str(out), "--json").stdout)
    assert (status["output"], status["running"], status["runs"]) == (str(out), False, 1)
    assert [window["start"][:7] for window in status["windows"]] == [f"2024-0{month}" for month in range(1, 7)]
    assert status["windows"][-1] == {
        "start": "2024-06-01T00:00:00.000Z",
        "end": "2024-07-01T00:00:00.000Z",
        "counted": None,
        "state": "waiting",
        "launches": 0,
        "export_id": None,
        "parts": 0,
        "whole": 0,
        "rows": 0,
        "failure": None,
        "launched": None,
    }
    assert status["since"] == min(window["launched"] for window in status["windows"] if window["launched"])
    assert status["directory"] == f"{out}.bulkpull"
    assert status["launches"] == sum(window["launches"] for window in status["windows"]) > 0
    done = bulkpull(sandbox, *command, "--fresh", "--json", "--window", "3mo")
    assert (done.returncode, json.loads(done.stdout)["runs"]) == (0, 1)
    assert bulkpull(None, "status", str(out)).returncode == 5


def test_an_outage_longer_than_retry_for_is_code_4_and_the_pull_goes_on(tmp_path: Path) -> None:
    options = ["--rows", "3000", "--end", "2024-07-01", "--export-seconds", "0.5", "--workers", "1"]
    with sandbox_process(*options, "--faults", "outage:2", "--fault-seconds", "2") as running:
        command = ["pull", *RANGE, "--window", "1mo", "--out", str(tmp_path / "a.csv")]
        done = bulkpull(running, *command, "--retry-for", "1", "--exports", "1")
        assert done.returncode == 4, done.stderr
        assert "Resume with: bulkpull pull" in done.stderr
        done = bulkpull(running, *command, "--json")
        assert done.returncode == 0, done.stderr
    assert (json.loads(done.stdout)["rows"], json.loads(done.stdout)["runs"]) == (3000, 2)


def test_version_help_and_completion() -> None:
    scanner = "compiled" if find_spec("bulkpull.rows._kernel") else "NumPy"
    assert bulkpull(None, "--version").stdout == f"bulkpull {__version__} (scanner: {scanner})\n"
    shown = bulkpull(None, "--help").stdout
    for word in ("BULKPULL_TOKEN", "Exit codes", "130", "pull", "plan", "fields", "activity", "sandbox", "completion"):
        assert word in shown
    for shell in ("bash", "zsh", "fish"):
        assert "_BULKPULL_COMPLETE" in bulkpull(None, "completion", shell).stdout
    done = bulkpull(None, _BULKPULL_COMPLETE="bash_complete", COMP_WORDS="bulkpull pull --exp", COMP_CWORD="2")
    assert "--exports" in done.stdout


async def test_the_sandbox_tells_what_it_saw() -> None:
    with sandbox_process("--rows", "10") as running:
        async with Clickwrap(running.token, base_url=running.url) as clickwrap:
            assert await clickwrap.count() == 10
    assert running.stats["requests"] == {"GET /v1.1/activity": 1}
