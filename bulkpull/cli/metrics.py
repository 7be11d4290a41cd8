"""Metrics for Prometheus, in its text format: in a file for the node exporter, or over HTTP."""

from __future__ import annotations

import os
import re
import tempfile
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from socket import AF_INET6
from socketserver import TCPServer
from threading import Thread
from typing import NamedTuple, Protocol

import bulkpull
from bulkpull import events
from bulkpull.errors import OutputError, UsageError
from bulkpull.events import Event
from bulkpull.progress import Progress, ProgressSnapshot
from bulkpull.record import record

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
DURATION_BUCKETS_S = (1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
LAST_SUCCESS = "last_success_timestamp_seconds"
_FILE_MODE = 0o644  # the node exporter is another user
_REQUEST_TIMEOUT_S = 10.0


class Sample(NamedTuple):
    """A value of a metric, whose `kind` is that of the text format. `suffix` is that of a histogram's sample."""

    kind: str
    name: str
    help: str
    labels: Mapping[str, str]
    value: float
    suffix: str = ""


class Exposed(Protocol):
    """The metrics of a run."""

    def text(self, labels: Mapping[str, str] | None = None) -> str:
        """Return the metrics in the text format, each with these labels."""

    def remember(self, text: str) -> None:
        """Take over when earlier runs succeeded, from their metrics."""


@record(frozen=False)
class Metrics:
    """The metrics of one run, as a listener. They can be read from any thread.

    Args:
        figures: Counts the same events.
        command: The name of the command.
        requests_per_minute: The request budget.
        sharing: Those that count the events of all pulls with the same budget. Defaults to `figures` alone.
    """

    figures: Progress
    command: str
    requests_per_minute: int
    sharing: Sequence[Progress] = ()
    started_at: float = field(default_factory=time.time)
    ended_at: float | None = None
    last_event_at: float = 0.0
    is_success: bool | None = None
    last_success_at: float | None = None
    counts: Counter[str] = field(default_factory=Counter)
    durations: list[int] = field(default_factory=lambda: [0] * (len(DURATION_BUCKETS_S) + 1))
    duration_sum: float = 0.0

    def __call__(self, event: Event) -> None:
        """Count an event."""
        self.last_event_at = time.time()
        match event:
            case events.Received():
                return
            case events.Retried():
                self.counts["retries"] += 1
            case events.Throttled():
                self.counts["throttled"] += 1
            case events.Launched():
                self.counts["launched"] += 1
            case events.Skipped():
                self.counts["skipped"] += 1
            case events.PartMerged():
                self.counts["outside"] += event.outside
                self.counts["conflicts"] += event.conflicts
            case events.Exported():
                self.durations[bisect_left(DURATION_BUCKETS_S, event.seconds)] += 1
                self.duration_sum += event.seconds

    def end(self, *, is_success: bool) -> None:
        """Record that the run has ended."""
        self.ended_at, self.is_success = time.time(), is_success
        if is_success:
            self.last_success_at = self.ended_at

    def text(self, labels: Mapping[str, str] | None = None) -> str:
        """Return the metrics in the text format, each with these labels."""
        return text_of(self.samples(), labels or {})

    def remember(self, text: str) -> None:
        """Take over when an earlier run succeeded, from its metrics."""
        self.last_success_at = next(iter(last_successes(text).values()), None)

    def samples(self) -> Iterator[Sample]:
        """Yield all samples."""
        yield from self.samples_of_run()
        yield from _samples(self)

    def samples_of_run(self) -> Iterator[Sample]:
        """Yield those of the run itself: whether it goes on, and how it ended."""
        info = {"version": bulkpull.__version__, "command": self.command}
        yield Sample("gauge", "info", "Version and command of the run.", info, 1)
        success = None if self.is_success is None else int(self.is_success)
        for name, help, value in (
            ("running", "Whether the run has not ended.", int(self.ended_at is None)),
            ("last_run_success", "Whether the run has succeeded; absent until it has ended.", success),
            ("start_timestamp_seconds", "When the run started.", self.started_at),
            ("end_timestamp_seconds", "When the run ended.", self.ended_at),
            (LAST_SUCCESS, "When a run last succeeded.", self.last_success_at),
            ("last_event_timestamp_seconds", "When something last happened.", self.last_event_at or None),
        ):
            if value is not None:
                yield Sample("gauge", name, help, {}, value)


def text_of(samples: Iterable[Sample], labels: Mapping[str, str]) -> str:
    """Return samples in the text format, those of a metric together, each with these labels."""
    families: dict[str, list[str]] = {}
    for one in samples:
        name = f"bulkpull_{one.name}"
        family = families.setdefault(name, [f"# HELP {name} {one.help}\n# TYPE {name} {one.kind}\n"])
        family.append(_line(f"{name}{one.suffix}", {**labels, **one.labels}, one.value))
    return "".join(chain.from_iterable(families.values()))


def last_successes(text: str) -> dict[str | None, float]:
    """Return when runs last succeeded, by the label `job`, from metrics in the text format."""
    found: dict[str | None, float] = {}
    for labels, value in re.findall(rf"^bulkpull_{LAST_SUCCESS}\{{(.*)\}} (\S+)$", text, re.MULTILINE):
        job = re.search(r'(?:^|,)job="((?:[^"\\]|\\.)*)"', labels)
        found[job and re.sub(r"\\(.)", lambda one: "\n" if one[1] == "n" else one[1], job[1])] = float(value)
    return found


def _samples(metrics: Metrics) -> Iterator[Sample]:
    shown = metrics.figures.snapshot()
    for kind, name, help, value in _plain(metrics, shown):
        if value is not None:
            yield Sample(kind, name, help, {}, value)
    for state, number in (("queued", shown.exports_queued), ("running", shown.exports_running)):
        yield Sample("gauge", "exports", "Exports in flight.", {"state": state}, number)
    for bound, seconds in (("low", shown.remaining_low), ("high", shown.remaining_high)):
        if seconds is not None:
            help = "Estimated seconds until the end, as a range."
            yield Sample("gauge", "remaining_seconds", help, {"bound": bound}, seconds)
    wait = {"for": metrics.figures.wait.kind}
    yield Sample("gauge", "waiting", "What the pull waits for, always 1.", wait, 1)
    histogram = "histogram", "export_duration_seconds", "Seconds from the launch of an export to its success."
    total = 0
    for bucket, number in zip((*map(str, DURATION_BUCKETS_S), "+Inf"), list(metrics.durations), strict=True):
        total += number
        yield Sample(*histogram, {"le": bucket}, total, "_bucket")
    yield Sample(*histogram, {}, metrics.duration_sum, "_sum")
    yield Sample(*histogram, {}, total, "_count")


def _plain(metrics: Metrics, shown: ProgressSnapshot) -> Iterator[tuple[str, str, str, float | None]]:
    """Yield type, name, help and value of the metrics without labels of their own; the value is None if unknown."""
    counts = metrics.counts
    yield "gauge", "windows", "Windows of the plan.", shown.windows
    yield "gauge", "windows_merged", "Windows merged or skipped, by earlier runs too.", shown.windows_merged
    yield "gauge", "rows", "Rows in the output, of earlier runs too.", shown.rows
    yield "gauge", "rows_counted", "Rows that the API has counted in the range.", shown.rows_counted
    yield "gauge", "duplicates", "Rows left out since their id occurred before.", shown.duplicates
    yield "gauge", "export_limit", "Maximum exports in flight.", shown.export_limit
    used = sum(one.requests_last_minute for one in metrics.sharing or (metrics.figures,))
    budget = max(0, metrics.requests_per_minute - used)
    yield "gauge", "quota_remaining_requests", "Requests left of the budget of this minute.", budget
    yield "counter", "exports_launched_total", "Exports launched.", counts["launched"]
    yield "counter", "exports_failed_total", "Exports that failed or were of no use.", shown.exports_failed
    yield "counter", "windows_skipped_total", "Windows that could not be exported.", counts["skipped"]
    yield "counter", "requests_total", "Requests to the API.", shown.requests
    yield "counter", "throttled_total", "Requests answered with 429.", counts["throttled"]
    yield "counter", "retries_total", "Retries of requests and downloads.", counts["retries"]
    yield "counter", "downloaded_bytes_total", "Bytes downloaded.", shown.bytes
    yield "counter", "rows_conflicting_total", "Duplicates with other values.", counts["conflicts"]
    yield "counter", "rows_outside_total", "Rows outside their window.", counts["outside"]


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    escaped = (
        '{}="{}"'.format(key, text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n"))
        for key, text in labels.items()
    )
    return f"{name}{{{','.join(escaped)}}} {value}\n" if labels else f"{name} {value}\n"


class MetricsFile:
    """A file for the node exporter's textfile collector, replaced as a whole.

    Its metrics have the label `pull`, the file's name without extension: several pulls may have files in one directory.
    """

    def __init__(self, path: Path, metrics: Exposed) -> None:
        self._path = path
        self._metrics = metrics
        with suppress(OSError, ValueError):
            metrics.remember(path.read_text(encoding="utf-8"))

    def write(self) -> None:
        """Write the metrics. Raises OutputError."""
        text = self._metrics.text({"pull": self._path.stem})
        try:
            descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    file.write(text)
                    os.fchmod(file.fileno(), _FILE_MODE)
                Path(name).replace(self._path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise OutputError(f"cannot write the metrics file {self._path}: {error.strerror}") from error


class MetricsServer:
    """Serves the metrics at `/metrics`, from a thread of its own. Raises UsageError if it cannot listen."""

    def __init__(self, host: str, port: int, metrics: Exposed) -> None:
        class Server(ThreadingHTTPServer):
            address_family = AF_INET6 if ":" in host else ThreadingHTTPServer.address_family
            daemon_threads = True

            def server_bind(self) -> None:
                TCPServer.server_bind(self)  # that of HTTPServer asks DNS for the name of the host

        class Handler(BaseHTTPRequestHandler):
            timeout = _REQUEST_TIMEOUT_S

            def do_GET(self) -> None:
                if self.path.partition("?")[0] != "/metrics":
                    self.send_error(404)
                    return
                body = metrics.text().encode()
                self.send_response(200)
                self.send_header("Content-Type", CONTENT_TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                """Log nothing."""

        try:
            self._server = Server((host, port), Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"--metrics-port: cannot listen on {host}, port {port}: {reason}") from error
        self.port: int = self._server.server_address[1]
        self._thread = Thread(target=self._server.serve_forever, args=(0.1,), name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
