"""Traces and metrics of pulls with OpenTelemetry: needs the extra `otel`, and providers of the program."""

from __future__ import annotations

import time
from collections import deque
from contextlib import ExitStack
from types import TracebackType
from typing import Any, NamedTuple, Self

from opentelemetry import metrics, trace
from opentelemetry.trace import Link, Span, SpanContext, StatusCode

from bulkpull import __version__, events
from bulkpull.events import Event
from bulkpull.logs import event_fields
from bulkpull.window import Window

_QUOTA_SPAN_S = 60.0
_LONG_BUCKETS_S = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0)
_SHORT_BUCKETS_S = (0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0)


class _Export(NamedTuple):
    span: Span
    state: str


class _Download(NamedTuple):
    span: Span
    started: float


class Telemetry:
    """A listener that records spans and metrics, and a context manager around the pull whose events it gets:

        with Telemetry() as telemetry:
            await bulkpull.pull(clickwrap, start="2024-01-01", out="a.csv", on_event=telemetry)

    The span of the pull is current inside, so that those of HTTP requests are its children. Windows are children of the
    pull; exports, downloads and merges are children of their window, each linked to what it follows. An error that
    leaves the context is recorded. Attributes have the names of log fields, with `bulkpull.` before them.

    Args:
        name: The name of the outermost span.
        requests_per_minute: The client's budget, for `bulkpull.quota.remaining`; without it, that is not recorded.
        tracer_provider: Defaults to the global one.
        meter_provider: Defaults to the global one.
    """

    def __init__(
        self,
        name: str = "bulkpull.pull",
        *,
        requests_per_minute: int | None = None,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._name = name
        self._requests_per_minute = requests_per_minute
        self._tracer = trace.get_tracer("bulkpull", __version__, tracer_provider)
        self._instruments = _Instruments(metrics.get_meter("bulkpull", __version__, meter_provider))
        self._span: Span = trace.INVALID_SPAN
        self._stack = ExitStack()
        self._windows: dict[int, Span] = {}
        self._exports: dict[int, _Export] = {}
        self._exported: dict[int, SpanContext] = {}  # by index of the window, as all of these
        self._downloads: dict[int, dict[int, _Download]] = {}  # also by part
        self._downloaded: dict[int, list[SpanContext]] = {}
        self._requests: deque[float] = deque()

    def __enter__(self) -> Self:
        self._span = self._tracer.start_span(self._name)
        self._stack.enter_context(trace.use_span(self._span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()
        for index in list(self._exports):
            self._end_export(index)
        for index in list(self._windows):
            self._end_window(index)
        if error is not None:
            self._span.record_exception(error)
            self._span.set_status(StatusCode.ERROR, str(error) or type(error).__name__)
        self._span.end()

    def __call__(self, event: Event) -> None:
        """Record an event."""
        match event:
            case events.Received():
                self._begin_download(event.window, event.part)
            case events.Requested():
                self._note_request()
            case events.Retried():
                self._instruments.retries.add(1)
                self._span.add_event("retry", _attributes(event))
            case events.Throttled():
                self._instruments.throttled.add(1)
                self._span.add_event("throttled", _attributes(event))
            case events.Planned() | events.Resumed() | events.CountsDoubted() | events.Published():
                self._span.add_event(event_fields(event)["event"], _attributes(event))
            case events.Launched():
                self._begin_export(event.window, "queued", event)
            case events.Polled():
                self._note_poll(event)
            case events.Exported():
                self._end_export(event.window.index, event)
            case events.ExportFailed():
                self._end_export(event.window.index, event, event.reason)
                self._forget_downloads(event.window.index)
            case events.PartFetched():
                self._end_download(event)
            case events.WindowAppended():
                self._record_merge(event)
            case events.PartMerged():
                self._instruments.rows.add(event.rows)
                self._instruments.duplicates.add(event.duplicates)
                self._window(event.window).add_event("part_merged", _attributes(event))
            case events.WindowMerged():
                self._end_window(event.window.index)
            case events.Skipped():
                self._end_window(event.window.index, event.reason)
            case events.Split():
                self._window(event.window).add_event("split", _attributes(event))
                self._end_window(event.window.index)
            case events.Refused() | events.Reconciling() | events.ColumnsDiffer():
                self._window(event.window).add_event(event_fields(event)["event"], _attributes(event))

    def _window(self, window: Window) -> Span:
        """The span of a window, which begins with its first event."""
        span = self._windows.get(window.index)
        if span is None:
            span = self._windows[window.index] = self._child(self._span, "bulkpull.window", window)
        return span

    def _child(self, parent: Span, name: str, window: Window, links: list[Link] | None = None, **more: Any) -> Span:
        attributes = _attributes(events.WindowMerged(window)) | {"bulkpull.counted": window.rows}
        known = {key: value for key, value in attributes.items() if value is not None}
        return self._tracer.start_span(name, trace.set_span_in_context(parent), attributes=known, links=links, **more)

    def _end_window(self, index: int, reason: str = "") -> None:
        self._forget_downloads(index)
        self._exported.pop(index, None)
        if span := self._windows.pop(index, None):
            _end(span, reason)

    def _begin_export(self, window: Window, state: str, event: Event) -> None:
        self._end_export(window.index)
        span = self._child(self._window(window), "bulkpull.export", window)
        span.set_attributes(_attributes(event))
        self._exports[window.index] = _Export(span, state)
        self._instruments.in_flight.add(1, {"bulkpull.state": state})

    def _note_poll(self, event: events.Polled) -> None:
        if event.state not in ("queued", "running"):
            return
        export = self._exports.get(event.window.index)
        if export is None:  # of an earlier run
            self._begin_export(event.window, event.state, event)
        elif export.state != event.state:
            export.span.add_event(event.state)
            self._instruments.in_flight.add(-1, {"bulkpull.state": export.state})
            self._instruments.in_flight.add(1, {"bulkpull.state": event.state})
            self._exports[event.window.index] = export._replace(state=event.state)

    def _end_export(self, index: int, event: Event | None = None, reason: str = "") -> None:
        """End the span of an export, if there is one: it may have failed after it had succeeded."""
        if isinstance(event, events.Exported):
            self._instruments.export_duration.record(event.seconds)
        if event is not None:
            self._instruments.ended.add(1, {"bulkpull.outcome": "failed" if reason else "succeeded"})
        if export := self._exports.pop(index, None):
            self._instruments.in_flight.add(-1, {"bulkpull.state": export.state})
            if event is not None:
                export.span.set_attributes(_attributes(event))
            self._exported[index] = export.span.get_span_context()
            _end(export.span, reason)

    def _begin_download(self, window: Window, part: int) -> _Download:
        of_window = self._downloads.setdefault(window.index, {})
        if part not in of_window:
            links = [Link(self._exported[window.index])] if window.index in self._exported else []
            span = self._child(self._window(window), "bulkpull.download", window, links)
            span.set_attribute("bulkpull.part", part)
            of_window[part] = _Download(span, time.monotonic())
        return of_window[part]

    def _end_download(self, event: events.PartFetched) -> None:
        download = self._begin_download(event.window, event.part)
        del self._downloads[event.window.index][event.part]
        self._downloaded.setdefault(event.window.index, []).append(download.span.get_span_context())
        download.span.set_attributes(_attributes(event))
        download.span.end()
        self._instruments.downloaded.add(event.size)
        self._instruments.download_duration.record(time.monotonic() - download.started)

    def _forget_downloads(self, index: int) -> None:
        for download in self._downloads.pop(index, {}).values():
            download.span.end()
        self._downloaded.pop(index, None)

    def _record_merge(self, event: events.WindowAppended) -> None:
        ended = time.time_ns()
        links = [Link(context) for context in self._downloaded.pop(event.window.index, [])]
        parent = self._window(event.window)
        started = ended - int(event.seconds * 1e9)
        self._child(parent, "bulkpull.merge", event.window, links, start_time=started).end(ended)
        self._instruments.merge_duration.record(event.seconds)

    def _note_request(self) -> None:
        self._instruments.requests.add(1)
        if self._requests_per_minute is None:
            return
        now = time.monotonic()
        self._requests.append(now)
        while now - self._requests[0] > _QUOTA_SPAN_S:
            self._requests.popleft()
        self._instruments.quota.set(max(0, self._requests_per_minute - len(self._requests)))


class _Instruments:
    def __init__(self, meter: metrics.Meter) -> None:
        self.rows = meter.create_counter("bulkpull.rows", "{row}", "Rows merged into the output.")
        self.duplicates = meter.create_counter("bulkpull.duplicates", "{row}", "Rows whose id occurred before.")
        self.downloaded = meter.create_counter("bulkpull.download.io", "By", "Bytes of downloaded files.")
        self.requests = meter.create_counter("bulkpull.requests", "{request}", "Requests to the API.")
        self.retries = meter.create_counter("bulkpull.retries", "{retry}", "Retries of requests and downloads.")
        self.throttled = meter.create_counter("bulkpull.throttled", "{request}", "Requests answered with 429.")
        self.ended = meter.create_counter("bulkpull.exports.ended", "{export}", "Exports that ended, by outcome.")
        self.in_flight = meter.create_up_down_counter(
            "bulkpull.exports.in_flight", "{export}", "Exports in flight, by state."
        )
        self.quota = meter.create_gauge("bulkpull.quota.remaining", "{request}", "Requests left of the budget.")
        self.export_duration = meter.create_histogram(
            "bulkpull.export.duration",
            "s",
            "Time from the launch of an export to its success.",
            explicit_bucket_boundaries_advisory=_LONG_BUCKETS_S,
        )
        self.download_duration = meter.create_histogram(
            "bulkpull.download.duration",
            "s",
            "Time from the first byte of a file to the last.",
            explicit_bucket_boundaries_advisory=_SHORT_BUCKETS_S,
        )
        self.merge_duration = meter.create_histogram(
            "bulkpull.merge.duration",
            "s",
            "Time that the merge of a window takes.",
            explicit_bucket_boundaries_advisory=_SHORT_BUCKETS_S,
        )


def _attributes(event: Event) -> dict[str, Any]:
    return {
        f"bulkpull.{name}": value
        for name, value in event_fields(event).items()
        if name != "event" and value is not None
    }


def _end(span: Span, reason: str) -> None:
    if reason:
        span.set_status(StatusCode.ERROR, reason)
    span.end()
