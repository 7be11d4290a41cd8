"""What watches a run on the command line: logs, metrics, a monitor of scheduled jobs, systemd."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from bulkpull import OutputError, Progress, UsageError
from bulkpull.cli import cli, healthcheck
from bulkpull.cli.healthcheck import Healthcheck
from bulkpull.cli.log import logging_to
from bulkpull.cli.metrics import Metrics, MetricsFile, MetricsServer
from bulkpull.cli.observers import Observers
from bulkpull.cli.service_manager import ServiceManager
from bulkpull.events import Event, Exported, Launched, Planned, Requested, Retried
from bulkpull.sandbox.process import SandboxProcess
from tests import commands
from tests.commands import sandbox_process
from tests.test_logs import WINDOW

RANGE = ("--start", "2024-01-01", "--end", "2024-07-01")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with sandbox_process("--rows", "1000", "--end", "2024-07-01", "--export-seconds", "0.1") as running:
        yield running


@contextmanager
def monitor(*codes: int) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A monitor that answers with these codes, then with 200; yields its URL and the pings that come."""
    pings: list[tuple[str, str]] = []
    answers = list(codes)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            pings.append((self.path, self.rfile.read(int(self.headers["Content-Length"])).decode()))
            self.send_response(answers.pop(0) if answers else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/secret-id", pings
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run(sandbox: SandboxProcess, *arguments: str, **more: str) -> Any:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("BULKPULL")}
    variables |= {"BULKPULL_TOKEN": sandbox.token, "BULKPULL_BASE_URL": sandbox.url}
    return commands.run("pull", *RANGE, *arguments, environment=variables | more)


def test_a_pull_tells_all_who_watch_it(sandbox: SandboxProcess, tmp_path: Path) -> None:
    out, log, prom, notify = (tmp_path / name for name in ("a.csv", "a.log", "a.prom", "notify"))
    with monitor() as (url, pings), closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(str(notify))
        watching = ("--log-file", str(log), "--log-format", "json", "--metrics-file", str(prom), "-q", "-v")
        more = {"BULKPULL_HEALTHCHECK": url, "NOTIFY_SOCKET": str(notify), "WATCHDOG_USEC": "1000000"}
        done = run(sandbox, "--out", str(out), *watching, **more)
        again = run(sandbox, "--out", str(out), *watching, **more)
        manager.setblocking(False)
        first = manager.recv(4096).decode()
        told = [manager.recv(4096).decode()]
        while "STOPPING=1" not in told[-1]:
            told.append(manager.recv(4096).decode())
    assert (done.returncode, done.stderr, again.returncode) == (0, "", 5)
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert {"requested", "launched", "part_merged", "finished", "failed"} <= {record["event"] for record in records}
    assert records[-1]["error"] == "OutputError"
    assert records[0]["time"].endswith("Z")
    assert sandbox.token not in log.read_text() and "secret-id" not in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
    assert [path for path, _ in pings] == [f"/secret-id{end}" for end in ("/start", "", "/start", "/fail")]
    assert "1,000 rows" in pings[1][1] and "exists" in pings[3][1]
    assert first == "READY=1"
    assert any(one.startswith("WATCHDOG=1\nSTATUS=") for one in told)
    values = samples(prom.read_text(encoding="utf-8"))
    assert values["bulkpull_last_run_success"] == 0
    assert values["bulkpull_last_success_timestamp_seconds"] < values["bulkpull_end_timestamp_seconds"]


def test_the_log_replaces_the_progress_without_a_file(sandbox: SandboxProcess, tmp_path: Path) -> None:
    out = str(tmp_path / "a.csv")
    lines = run(sandbox, "--out", out, "--log-format", "json").stderr.splitlines()
    lines += run(sandbox, "--out", out, "--log-format", "json").stderr.splitlines()
    assert [json.loads(line)["event"] for line in lines][-1] == "failed"


def test_a_log_that_cannot_be_written_is_told_before_the_pull(sandbox: SandboxProcess, tmp_path: Path) -> None:
    done = run(sandbox, "--out", str(tmp_path / "a.csv"), "--log-file", str(tmp_path / "missing" / "log"))
    assert done.returncode == 5
    assert done.stderr == f"bulkpull: cannot write the log file {tmp_path}/missing/log: No such file or directory\n"
    assert not (tmp_path / "a.csv").exists()


@contextmanager
def log_at(path: Path, format: str = "text", max_bytes: int = 1_000_000) -> Iterator[logging.Logger]:
    with logging_to(path, format, is_verbose=False, max_bytes=max_bytes, kept_files=2):
        yield logging.getLogger("bulkpull.test")


def test_a_log_never_follows_a_link_nor_waits_for_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(OutputError, match="cannot write the log file"), log_at(tmp_path / name):
            pass
    assert not (tmp_path / "target").exists()


def test_a_log_rotates_and_a_record_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with log_at(path, max_bytes=300) as logger:
        for number in range(20):
            logger.info("line %d\nforged", number)
        logger.debug("not verbose")
    files = sorted(file.name for file in tmp_path.iterdir())
    assert files == ["log", "log.1", "log.2"]
    assert all((tmp_path / name).stat().st_mode & 0o777 == 0o600 for name in files)
    lines = [line for name in files for line in (tmp_path / name).read_text().splitlines()]
    assert all(line.endswith("\\nforged") for line in lines)


def samples(text: str) -> dict[str, float]:
    """The value of each metric; of one with several samples, the last."""
    return {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}


def metrics() -> Metrics:
    figures = Progress()
    found = Metrics(figures, "pull", 1800)
    for event in (
        Planned((WINDOW,)),
        Requested("GET /activity"),
        Launched(WINDOW, "an-id", 1),
        Retried("GET /activity", 1, 0.5, "503", 10.0),
        Exported(WINDOW, "an-id", 1, 42.0),
    ):
        figures(event)
        found(event)
    return found


def test_metrics_are_valid_and_have_help_and_types() -> None:
    text = metrics().text({"pull": 'a "b"\\c\nd'})
    families = list(text_string_to_metric_families(text))
    assert all(family.documentation and family.type in ("gauge", "counter", "histogram") for family in families)
    assert {sample.labels["pull"] for family in families for sample in family.samples} == {'a "b"\\c\nd'}
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    (histogram,) = (family for family in families if family.type == "histogram")
    buckets = [(one.labels["le"], one.value) for one in histogram.samples if one.name.endswith("_bucket")]
    assert [value for bound, value in buckets if bound in ("30", "60", "+Inf")] == [0, 1, 1]
    values = samples(text)
    assert (values["bulkpull_retries_total"], values["bulkpull_rows_counted"]) == (1, 7)
    assert values["bulkpull_quota_remaining_requests"] == 1799


def test_the_file_of_metrics_is_replaced_and_remembers_the_last_success(tmp_path: Path) -> None:
    path = tmp_path / "nightly.prom"
    first = metrics()
    file = MetricsFile(path, first)
    file.write()
    assert "bulkpull_last_run_success" not in samples(path.read_text())
    first.end(is_success=True)
    file.write()
    later = metrics()
    again = MetricsFile(path, later)
    later.end(is_success=False)
    again.write()
    values = samples(path.read_text())
    assert values["bulkpull_last_run_success"] == 0
    assert values["bulkpull_last_success_timestamp_seconds"] == first.ended_at
    assert [file.name for file in tmp_path.iterdir()] == ["nightly.prom"]
    assert path.stat().st_mode & 0o777 == 0o644
    with pytest.raises(OutputError, match="cannot write the metrics file"):
        MetricsFile(tmp_path / "missing" / "a.prom", later).write()


def test_metrics_are_served_on_a_port() -> None:
    server = MetricsServer("127.0.0.1", 0, metrics())
    with closing(server):
        with urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as answer:
            assert samples(answer.read().decode())["bulkpull_windows"] == 1
        with pytest.raises(HTTPError) as refused:
            urlopen(f"http://127.0.0.1:{server.port}/", timeout=10)
        refused.value.close()
        assert refused.value.code == 404
        with pytest.raises(UsageError, match="cannot listen on"):
            MetricsServer("127.0.0.1", server.port, metrics())


def test_a_monitor_that_fails_is_asked_again_and_then_told_without_its_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healthcheck, "RETRY_WAIT_S", 0.0)
    with monitor(503) as (url, pings):
        assert Healthcheck(f"{url}?rid=1").end("the disk is full") == ""
    assert pings == 2 * [("/secret-id/fail?rid=1", "the disk is full")]
    with monitor(404) as (url, pings):
        assert Healthcheck(url).end(None, "done") == "it answered 404"
    assert len(pings) == 1
    assert Healthcheck(url).end(None) == "Connection refused"
    with pytest.raises(UsageError) as refused:
        Healthcheck("file:///etc/secret-id")
    assert "secret-id" not in str(refused.value)


def test_systemd_may_have_an_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"bulkpull-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listener:
        listener.bind(f"\0{name}")
        manager = ServiceManager.of_environment()
        assert manager and manager.watchdog_s is None
        with closing(manager):
            manager.notify("STATUS=two\nlines", "READY=1")
            assert listener.recv(4096) == b"STATUS=two lines\nREADY=1"
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    manager = ServiceManager.of_environment()
    assert manager and manager.watchdog_s == 3.0
    with closing(manager):
        manager.notify("READY=1")  # nobody listens


def test_an_observer_that_fails_is_told_once_and_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[Event] = []

    def fail(_event: Event) -> None:
        raise ValueError("broken")

    observers = Observers()
    observers.add("metrics", fail)
    observers.add("others", heard.append)
    for _ in range(2):
        observers(Requested("GET /activity"))
    assert len(heard) == 2
    assert capsys.readouterr().err.count("metrics failed") == 1


def test_the_url_of_the_monitor_is_not_shown() -> None:
    shown = CliRunner().invoke(cli, ["config"], env={"BULKPULL_HEALTHCHECK": "https://hc-ping.com/secret-id"})
    assert "healthcheck" in shown.output
    assert "secret-id" not in shown.output


def test_the_command_to_resume_with_is_logged_without_the_url(caplog: pytest.LogCaptureFixture) -> None:
    error = OutputError("the disk is full")
    error.add_note("Resume with: bulkpull pull --healthcheck https://hc-ping.com/secret-id --out a.csv")
    Observers(secret="https://hc-ping.com/secret-id").failed(error)
    (record,) = caplog.records
    assert "Resume with: bulkpull pull --healthcheck ******** --out a.csv" in record.getMessage()
    assert "secret-id" not in str(vars(record))
