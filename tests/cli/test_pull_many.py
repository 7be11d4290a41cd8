"""`bulkpull pull-many`: a file of jobs, one summary, one exit code."""

from __future__ import annotations

import inspect
import json
import os
import signal
import socket
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

import bulkpull
from bulkpull.cli import cli, main
from bulkpull.cli.exit_codes import EXIT_SHRINK, worst
from bulkpull.cli.many_metrics import ManyMetrics, Watched
from bulkpull.cli.many_progress import ManyProgress
from bulkpull.cli.many_summary import counts
from bulkpull.cli.pull_many import pull_many as command
from bulkpull.cli.token import TokenSource
from bulkpull.events import Event, Launched, Planned, Requested
from bulkpull.journal import EarlierPull
from bulkpull.journal import earlier_pull as find_earlier_pull
from bulkpull.sandbox import Sandbox
from bulkpull.window import Window
from tests.cli.test_observers import monitor

JOBS = """
[defaults]
start = 2024-01-01
window = "6mo"
[jobs.site-a]
end = "2025"
out = "a.csv"
[jobs.site-b]
start = "2025"
end = "2026"
out = "b.ndjson"
token_env = "TOKEN_B"
"""
ONE = "[jobs.a]\nstart = 2024-01-01\nout = 'a.csv'\n"
ECHO = "[defaults]\ntoken_command = 'echo secret'\n"
Run = Callable[..., int]


def samples(path: str) -> dict[tuple[str, str | None, str | None], float]:
    """The values of a file of metrics, by metric, job and state."""
    families = list(text_string_to_metric_families(Path(path).read_text()))
    names = [family.name for family in families]
    assert len(set(names)) == len(names)
    found = [sample for family in families for sample in family.samples]
    by_labels = {(sample.name, *sorted(sample.labels.items())) for sample in found}
    assert len(by_labels) == len(found)
    assert {sample.labels["pull"] for sample in found} == {Path(path).stem}
    return {(one.name, one.labels.get("job"), one.labels.get("state")): one.value for one in found}


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, an empty home, and an environment without our variables."""
    for name in [name for name in os.environ if name.startswith("BULKPULL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in this process; returns its exit code."""

    def run(text: str, *arguments: str) -> int:
        Path("jobs.toml").write_text(text)
        monkeypatch.setattr("sys.argv", ["bulkpull", "pull-many", "jobs.toml", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return ended.value.code

    return run


def test_jobs_are_summed_up_and_resumed(
    clickwrap_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], run: Run
) -> None:
    learned: list[tuple[str, bool]] = []

    def earlier_pull(out: Path, state: Path | None, base_url: str) -> EarlierPull | None:
        learned.append((Path(out).name, current_thread() is main_thread()))
        return find_earlier_pull(out, state, base_url)

    monkeypatch.setattr("bulkpull.cli.many_estimates.earlier_pull", earlier_pull)
    monkeypatch.setenv("TOKEN_B", "wrong")
    assert run(JOBS, "--jobs", "1", "--log-file", "log", "--log-format", "json") == 3
    said = capfd.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert lines[0].startswith("site-a: 2024-01-01T00:00:00.000Z to 2025-01-01")
    assert any(line.startswith("site-a: complete: 500 rows in ") for line in lines)
    assert any(line.startswith("site-b: failed: ") for line in lines)
    head = next(at for at, line in enumerate(lines) if line.startswith("job  "))
    table = {line.split()[0]: line.split()[1:] for line in lines[head:]}
    assert table["site-a"][:3] == ["complete", "500", "2"]
    assert table["site-b"][:2] == ["failed", "b.ndjson"]
    assert lines[-2:] == [
        "2 jobs: 1 complete, 1 failed; 500 rows",
        "Resume with: bulkpull pull-many jobs.toml --jobs 1 --log-file log --log-format json",
    ]
    records = [json.loads(line) for line in Path("log").read_text().splitlines()]
    ended = {one["job"]: one for one in records if one["event"] == "job_ended"}
    assert (ended["site-a"]["level"], ended["site-a"]["rows"]) == ("info", 500)
    assert (ended["site-b"]["level"], ended["site-b"]["error"]) == ("error", "AuthenticationError")
    assert {one["job"] for one in records if one["event"] == "launched"} == {"site-a"}

    monkeypatch.setenv("TOKEN_B", clickwrap_sandbox.token)
    assert run(JOBS, "--json", "--quiet") == 0
    said = capfd.readouterr()
    assert said.err == ""
    found = json.loads(said.out)
    assert found["complete"]
    site_a, site_b = found["jobs"]["site-a"], found["jobs"]["site-b"]
    assert (site_a["was_finished"], site_a["rows"], site_a["result"]) == (True, 500, None)
    assert (site_b["was_finished"], site_b["rows"], site_b["result"]["exports"]) == (False, 500, 2)
    assert clickwrap_sandbox.stats.exports == 4
    # Once for a directory, off the event loop, and not of finished jobs.
    assert learned == [("a.csv", False), ("b.ndjson", False)]
    assert run(JOBS, "--overwrite", "--quiet") == 0
    assert clickwrap_sandbox.stats.exports == 8


def test_an_interruption_stops_all_jobs_and_says_how_to_resume(
    clickwrap_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], run: Run
) -> None:
    monkeypatch.setenv("TOKEN_B", clickwrap_sandbox.token)
    launched: set[str] = set()
    count = ManyProgress.__call__

    def interrupt(progress: ManyProgress, name: str, event: Event) -> None:
        count(progress, name, event)
        if isinstance(event, Launched) and name not in launched:
            launched.add(name)
            if len(launched) == 2:
                signal.raise_signal(signal.SIGINT)
                assert not ended_at_once
                signal.raise_signal(signal.SIGINT)

    ended_at_once: list[int] = []
    monkeypatch.setattr("bulkpull.cli.running.os._exit", ended_at_once.append)
    monkeypatch.setattr(ManyProgress, "__call__", interrupt)
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert run(JOBS, "--fresh", "--metrics-file", "m.prom") == 130
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    assert ended_at_once == [130]
    states = {key[2]: value for key, value in samples("m.prom").items() if key[0] == "bulkpull_jobs" and value}
    assert states == {"interrupted": 2}
    said = capfd.readouterr().err
    assert "2 jobs: 2 interrupted; 0 rows" in said
    assert said.endswith("Resume with: bulkpull pull-many jobs.toml --metrics-file m.prom\n")
    assert Path("a.csv.bulkpull").exists()
    assert Path("b.ndjson.bulkpull").exists()


def test_all_who_watch_a_run_hear_of_each_job_and_of_all(
    clickwrap_sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    run: Run,
) -> None:
    monkeypatch.setenv("TOKEN_B", "wrong-token")
    monkeypatch.setenv("BULKPULL_TO", "sqlite:///of-a-sync.db")
    jobs = JOBS + "[jobs.table]\nend = '2025'\nto = 'sqlite:///a.db'\ntable = 'site'\n"
    watching = ("--log-file", "log", "-v", "--metrics-file", "m.prom", "--metrics-port", "0")
    with monitor() as (url, pings), closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("BULKPULL_HEALTHCHECK", url)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert run(jobs, *watching) == 3
        told = [manager.recv(4096).decode()]
        while "STOPPING=1" not in told[-1]:
            told.append(manager.recv(4096).decode())
        first = samples("m.prom")
        said = capfd.readouterr().err
        monkeypatch.setenv("TOKEN_B", clickwrap_sandbox.token)
        assert run(jobs, "--quiet", "--metrics-file", "m.prom") == 0
    assert said.startswith("metrics: port ")
    assert (
        "table: 2024-01-01T00:00:00.000Z to 2025-01-01T00:00:00.000Z (UTC, the end excluded), to site in a.db" in said
    )
    assert told[0] == "READY=1"
    assert "STATUS=0 of 3 jobs ended" in told[1]
    assert [path for path, _ in pings] == [f"/secret-id{end}" for end in ("/start", "/fail", "/start", "")]
    assert pings[1][1].startswith("exit code 3: 3 jobs: 2 complete, 1 failed; 1,000 rows\nsite-b: failed: ")
    assert pings[3][1].startswith("3 jobs: 3 complete; 1,500 rows")
    assert {job: first[name, job, None] for name, job, _ in first if name == "bulkpull_last_run_success"} == {
        None: 0,
        "site-a": 1,
        "site-b": 0,
        "table": 1,
    }
    assert {key[2]: value for key, value in first.items() if key[0] == "bulkpull_jobs" and value} == {
        "complete": 2,
        "failed": 1,
    }
    assert first["bulkpull_rows", "site-a", None] == first["bulkpull_rows", "table", None] == 500
    again, name = samples("m.prom"), "bulkpull_last_success_timestamp_seconds"
    assert (name, None, None) not in first
    assert {key[1] for key in again if key[0] == name} == {None, "site-a", "site-b", "table"}
    assert again["bulkpull_rows", "site-b", None] == 500
    assert again[name, "site-a", None] == first[name, "site-a", None]  # which was finished before
    bodies = "".join(body for _, body in pings)
    everything = "".join([said, Path("log").read_text(), Path("m.prom").read_text(), bodies, *told])
    for secret in (clickwrap_sandbox.token, "wrong-token", "secret-id"):
        assert secret not in everything
    assert clickwrap_sandbox.stats.exports == 6  # two of each job: none was pulled twice
    assert not Path("of-a-sync.db").exists()


def test_a_job_that_was_stopped_has_not_succeeded(
    clickwrap_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], run: Run
) -> None:
    monkeypatch.setenv("WRONG", "wrong-token")
    jobs = f"{ONE}token_env = 'WRONG'\n[jobs.b]\nstart = 2024-01-01\nout = 'b.csv'\n"
    assert run(jobs, "--jobs", "1", "--fail-fast", "--metrics-file", "m.prom") == 3
    assert "2 jobs: 1 failed, 1 stopped; 0 rows" in capfd.readouterr().err
    found = samples("m.prom")
    assert [found["bulkpull_last_run_success", job, None] for job in (None, "a", "b")] == [0, 0, 0]


def test_metrics_of_jobs_keep_apart_what_they_share() -> None:
    names = ["a", 'b "2"\\n\n', "waiting", "other"]
    progress = ManyProgress(names)
    metrics = ManyMetrics("pull-many")
    text = "".join(
        f"bulkpull_last_success_timestamp_seconds{{{labels}}} 7\n"
        for labels in (
            'pull="x"',
            'pull="x",job="waiting"',
            'pull="x",job="b \\"2\\"\\\\n\\n"',
            'pull="x",job="gone"',
        )
    )
    metrics.remember(text)
    assert 'job="gone"' in metrics.text()  # until the jobs are known
    tokens = dict(zip(names, "ttto", strict=True))
    metrics.watch({name: Watched(progress.figures[name], 100, tokens[name]) for name in names})
    for name in (names[0], names[1], names[1], names[3]):
        progress(name, Requested("GET /activity"))
        metrics(name, Requested("GET /activity"))
    metrics.end_job("a", "complete", is_success=True)
    found = {
        (sample.name, sample.labels.get("job"), sample.labels.get("state")): sample.value
        for family in text_string_to_metric_families(metrics.text({"pull": "x"}))
        for sample in family.samples
    }
    left = {job: value for (name, job, _), value in found.items() if name == "bulkpull_quota_remaining_requests"}
    assert left == {"a": 97, names[1]: 97, "other": 99}
    success = {job: at for (name, job, _), at in found.items() if name == "bulkpull_last_success_timestamp_seconds"}
    assert {job for job, at in success.items() if at == 7} == {None, names[1], "waiting"}
    assert success["a"] > 7
    running = {job: at for (name, job, _), at in found.items() if name == "bulkpull_running"}
    assert running == {None: 1, "a": 0, names[1]: 1, "other": 1}
    states = {state: value for (name, _, state), value in found.items() if name == "bulkpull_jobs" and value}
    assert states == {"waiting": 1, "running": 2, "complete": 1}


def test_two_hundred_jobs_are_read_in_their_order_and_have_a_line_each(
    clickwrap_sandbox: Sandbox, capfd: pytest.CaptureFixture[str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[bulkpull.Job] = []

    async def pull_many(jobs: list[bulkpull.Job], **_more: Any) -> None:
        found.extend(jobs)

    monkeypatch.setattr(bulkpull, "pull_many", pull_many)
    names = [f"job-{number}" for number in range(200)]
    tables = (f"[jobs.{name}]\nout = '{name}.csv'\n" for name in names)
    assert run("[defaults]\nstart = '2024'\n" + "".join(tables)) == 0
    assert [job.name for job in found] == names
    assert len({id(job.source) for job in found}) == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 402
    assert lines[-1] == "200 jobs: 200 interrupted; 0 rows"


def test_each_token_has_one_client(
    clickwrap_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    found: dict[str, bulkpull.Job] = {}

    async def pull_many(jobs: list[bulkpull.Job], **_more: Any) -> None:
        found.update({job.name: job for job in jobs})

    monkeypatch.setattr(bulkpull, "pull_many", pull_many)
    monkeypatch.setenv("OF_B", clickwrap_sandbox.token)
    monkeypatch.setenv("BULKPULL_EXPORTS", "3")
    monkeypatch.setenv("BULKPULL_DOWNLOADS", "5")
    asked = tmp_path / "asked"
    Path("bulkpull.toml").write_text(
        f"token_command = \"sh -c 'echo once >> {asked}; echo other'\"\nmax_windows = 7\nskip_failed = true\n"
    )
    monkeypatch.delenv("BULKPULL_TOKEN")
    text = "[defaults]\nstart = 2024-01-01\nexports = 2\n"
    text += "[jobs.a]\nout = 'a'\nexports = 1\n[jobs.b]\nout = 'b'\ntoken_env = 'OF_B'\n"
    text += "[jobs.c]\nout = 'c'\nskip_failed = false"
    assert run(text, "-q") == 0
    assert found["a"].source is found["c"].source is not found["b"].source
    assert asked.read_text() == "once\n"
    options = {name: job.options for name, job in found.items()}
    assert [options[name].exports for name in "abc"] == [1, 2, 2]  # of the job, of [defaults]
    assert {(one.downloads, one.max_windows) for one in options.values()} == {(5, 7)}
    assert [options[name].skip_failed for name in "abc"] == [True, True, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[jobs.a]\nout = 'a'", "jobs.toml: job 'a': Missing option '--start'"),
        ("[jobs.a]\nstart = 2024-01-01", "jobs.toml: job 'a': say where the rows go: out = \"FILE\""),
        (f"{ONE}exprots = 2", "jobs.toml: job 'a': unknown option 'exprots'. Did you mean exports?"),
        (f"{ONE}exports = 0", "jobs.toml: job 'a': Invalid value for '--exports': 0 is not in the range"),
        (f"{ONE}exports = true", "jobs.toml: job 'a': exports must be a value, not true or false"),
        (f"{ONE}end = '2024-13'", "jobs.toml: job 'a': the end '2024-13' is not a date"),
        (f"{ONE}json = true", "jobs.toml: job 'a': json is an option of all jobs: give it to the command"),
        (f"{ONE}log_file = 'log'", "jobs.toml: job 'a': log_file is an option of all jobs"),
        (f"{ONE}to = 'sqlite:///a'", "jobs.toml: job 'a': --out is for files, and --to names a"),
        (
            "[defaults]\nto = 'sqlite:///a'\n[jobs.a]\nstart = '2024'\nformat = 'csv'",
            "jobs.toml: job 'a': --format is",
        ),
        (f"{ONE}exports = [1, 2]", "jobs.toml: job 'a': exports must be a text, a number, a date, or a list of texts"),
        (f"{ONE}fields = {{a = 1}}", "jobs.toml: job 'a': fields must be a text, a number"),
        (f"{ONE}memory = nan", "jobs.toml: job 'a': Invalid value for '--memory'"),
        (f"{ONE}window = '0d'", "jobs.toml: job 'a': the window '0d'"),
        (f"{ONE}token_file = 3", "jobs.toml: job 'a': token_file must be a text"),
        (f"{ECHO}[jobs.' ']\nstart = 2024-01-01\nout = 'a'", "' ' is not the name of a job"),
        ("defaults = 3\njobs = 4", "jobs.toml: jobs must be tables"),
        ("[jobs]\na = 3", "jobs.toml: jobs must be tables"),
        (f"{ONE}token_env = 'NONE'", "jobs.toml: job 'a': the environment variable 'NONE' of token_env is not set"),
        (f"{ONE}token_env = 'secret-1'", "jobs.toml: job 'a': the environment variable of token_env is not set"),
        (f"{ONE}token_env = 'A'\ntoken_file = 'b'", "jobs.toml: job 'a': has both token_env and token_file"),
        (f"{ONE}token = 'secret'", "jobs.toml: job 'a': the file has a token, and other users can read it: chmod 600"),
        (f"{ONE}token_file = 'none'", "jobs.toml: job 'a': the token file none cannot be read"),
        (ONE, "jobs.toml: job 'a': no token: set BULKPULL_TOKEN"),
        (f"[defaults]\nexprots = 2\n{ONE}", "jobs.toml: [defaults]: unknown option 'exprots'"),
        (f"[default]\nexports = 2\n{ONE}", "jobs.toml: unknown key 'default': it has"),
        ("[[jobs]]\nout = 'a'", "jobs.toml: jobs must be tables, such as [jobs.site-a]"),
        ("", "jobs.toml has no jobs: add a table for each"),
        ("[jobs", "the jobs file jobs.toml is not valid TOML"),
        (
            f"{ECHO}{ONE}[jobs.b]\nstart = 2024-01-01\nout = 'b'\nretry_for = '1m'",
            "jobs.toml: job 'b': it shares a token, and so a client, with the job 'a', whose retry_for is another",
        ),
        (
            f"{ECHO}{ONE}[jobs.b]\nstart = 2024-01-01\nout = 'a.csv'",
            "the jobs 'a' and 'b' both write ",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_name_of_the_job(
    text: str, message: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.setenv("A", "token-a")
    monkeypatch.setenv("BULKPULL_BASE_URL", "http://127.0.0.1:1/v1.1")
    assert run(text, "-q") == 2
    said = capfd.readouterr().err
    assert said.startswith(f"bulkpull: {message}")
    assert "secret" not in said
    assert list(Path().iterdir()) == [Path("jobs.toml")]


def test_a_file_that_only_its_owner_can_read_may_have_a_token(
    clickwrap_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BULKPULL_TOKEN")
    path = Path("jobs.toml")
    path.write_text(f"{ONE}token = '{clickwrap_sandbox.token}'\n")
    path.chmod(0o600)
    done = CliRunner().invoke(cli, ["pull-many", str(path)], standalone_mode=False)
    assert (done.exception, done.return_value) == (None, 0), done.output
    path.chmod(0o640)
    refused = CliRunner().invoke(cli, ["pull-many", str(path)], standalone_mode=False)
    assert isinstance(refused.exception, bulkpull.UsageError)


def test_the_command_runs_as_many_jobs_at_a_time_as_the_function() -> None:
    (jobs,) = (option for option in command.params if option.name == "jobs")
    assert jobs.default == inspect.signature(bulkpull.pull_many).parameters["limit"].default


def test_the_token_is_not_in_what_a_source_looks_like() -> None:
    assert "secret" not in repr([TokenSource("token", "secret", "a file")])


def test_the_worst_exit_code_is_what_another_run_cannot_mend() -> None:
    assert worst([0, 6, 4, 0]) == 4
    assert worst([6, 4, 5, 3]) == 3
    assert worst([5, EXIT_SHRINK, 6]) == EXIT_SHRINK
    assert worst([0, 6]) == 6
    assert worst([0, 0]) == worst([]) == 0
    assert worst([2, 1]) == 1


def test_live_lines_fit_and_name_the_running_jobs() -> None:
    names = ["a" * 40, "b", "c"]
    progress = ManyProgress(names)
    window = Window(0, datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC), rows=10)
    for name in names[:2]:
        progress(name, Planned((window,)))
    progress.end(bulkpull.JobResult("b", "b.csv", "complete", rows=1234))
    for width in (120, 60, 20):
        for is_unicode in (True, False):
            shown = progress.lines(width, is_unicode=is_unicode)
            assert all(line.cell_len <= width for line in shown)
            assert len(shown) == 2
    first, last = (line.plain for line in progress.lines(120, is_unicode=False))
    assert first.startswith(f"{'a' * 24}  ..........   0%  0:00")
    assert last == "1 of 3 jobs ended; 1 running, 1 waiting; 1,234 rows; 0 bytes downloaded"
    assert (
        counts([bulkpull.JobResult("b", "b.csv", "complete", rows=1)], 2) == "3 jobs: 1 complete, 2 interrupted; 1 row"
    )
