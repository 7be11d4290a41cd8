"""Traces and metrics of a pull with OpenTelemetry's SDK, in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest
from opentelemetry.instrumentation.aiohttp_client import create_trace_config
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

import bulkpull
from bulkpull import Clickwrap
from bulkpull.events import Exported, ExportFailed, Launched, Polled, Retried, Skipped
from bulkpull.otel import Telemetry
from bulkpull.sandbox import Sandbox
from tests.test_logs import WINDOW


class Recorded:
    """Providers that keep what is recorded."""

    def __init__(self) -> None:
        self._exporter, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)

    def telemetry(self, **options: Any) -> Telemetry:
        return Telemetry(tracer_provider=self.tracer_provider, meter_provider=self.meter_provider, **options)

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def values(self) -> dict[tuple[str, str], float]:
        """The sum or the count of each metric, by name and attributes."""
        data = self._reader.get_metrics_data()
        assert data
        return {
            (metric.name, ",".join(map(str, (point.attributes or {}).values()))): getattr(
                point, "value", getattr(point, "count", 0)
            )
            for metric in data.resource_metrics[0].scope_metrics[0].metrics
            for point in metric.data.data_points
        }


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


async def test_a_pull_has_spans_and_metrics_and_its_token_is_in_none(
    clickwrap_sandbox: Sandbox, tmp_path: Path, recorded: Recorded
) -> None:
    with recorded.telemetry(requests_per_minute=1000) as telemetry:
        tracing = create_trace_config(
            tracer_provider=recorded.tracer_provider, url_filter=lambda url: str(url.with_query(None))
        )
        async with (
            aiohttp.ClientSession(trace_configs=[tracing]) as session,
            Clickwrap.from_env(session=session) as clickwrap,
        ):
            result = await bulkpull.pull(
                clickwrap,
                start="2024-01-01",
                end="2026-01-01",
                out=tmp_path / "a.csv",
                window="12mo",
                filter="event_type==agreed",
                on_event=telemetry,
            )
    (root,) = recorded.spans("bulkpull.pull")
    windows = {span.context.span_id: span for span in recorded.spans("bulkpull.window") if span.context}
    assert root.context and len(windows) == 2
    assert all(span.parent and span.parent.span_id == root.context.span_id for span in windows.values())
    links: dict[str, set[str]] = {}
    names = {
        span.context.span_id: span.name
        for name in ("bulkpull.export", "bulkpull.download", "bulkpull.merge")
        for span in recorded.spans(name)
        if span.context and span.parent and span.parent.span_id in windows
    }
    assert sorted(names.values()) == sorted(2 * ["bulkpull.download", "bulkpull.export", "bulkpull.merge"])
    for name in ("bulkpull.download", "bulkpull.merge"):
        for span in recorded.spans(name):
            links.setdefault(name, set()).update(names[link.context.span_id] for link in span.links)
    assert links == {"bulkpull.download": {"bulkpull.export"}, "bulkpull.merge": {"bulkpull.download"}}
    assert all(span.end_time >= span.start_time for span in windows.values() if span.end_time and span.start_time)
    requests = [*recorded.spans("GET"), *recorded.spans("POST")]
    assert len(requests) >= result.requests
    assert all(span.parent for span in requests)
    text = "".join(span.to_json() for span in [*requests, root, *windows.values()])
    assert clickwrap_sandbox.token not in text and "event_type" not in text
    values = recorded.values()
    assert values["bulkpull.rows", ""] == result.rows
    assert values["bulkpull.download.io", ""] == result.bytes
    assert values["bulkpull.requests", ""] == result.requests
    assert values["bulkpull.exports.ended", "succeeded"] == values["bulkpull.export.duration", ""] == 2
    assert values["bulkpull.exports.in_flight", "queued"] == 0
    assert values["bulkpull.quota.remaining", ""] == 1000 - result.requests


def test_errors_are_recorded_and_every_span_ends(recorded: Recorded) -> None:
    with pytest.raises(bulkpull.OutputError), recorded.telemetry() as telemetry:
        for event in (
            Launched(WINDOW, "first", 1),
            Polled(WINDOW, "first", "working", "running", 1.0),
            ExportFailed(WINDOW, "first", 1, "it vanished"),
            Retried("GET /activity", 1, 0.5, "503", 10.0),
            Launched(WINDOW, "second", 2),
        ):
            telemetry(event)
        raise bulkpull.OutputError("the disk is full")
    first, second = recorded.spans("bulkpull.export")
    assert (first.status.status_code, first.status.description) == (StatusCode.ERROR, "it vanished")
    assert first.attributes and second.attributes
    assert (first.attributes["bulkpull.reason"], second.attributes["bulkpull.attempt"]) == ("it vanished", 2)
    (root,) = recorded.spans("bulkpull.pull")
    assert root.status.description == "the disk is full"
    assert {event.name for event in root.events} == {"retry", "exception"}
    assert len(recorded.spans("bulkpull.window")) == 1
    values = recorded.values()
    assert values["bulkpull.exports.in_flight", "queued"] == values["bulkpull.exports.in_flight", "running"] == 0
    assert (values["bulkpull.exports.ended", "failed"], values["bulkpull.retries", ""]) == (1, 1)


def test_an_export_of_an_earlier_run_has_a_span(recorded: Recorded) -> None:
    with recorded.telemetry() as telemetry:
        telemetry(Polled(WINDOW, "an-id", "working", "running", 60.0))
        telemetry(Exported(WINDOW, "an-id", 1, 90.0))
        telemetry(Skipped(WINDOW, "no rows"))
    (export,) = recorded.spans("bulkpull.export")
    (window,) = recorded.spans("bulkpull.window")
    assert export.attributes and export.attributes["bulkpull.seconds"] == 90.0
    assert window.status.description == "no rows"
