"""OpenTelemetry where the environment configures it, for the command line."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

_FLUSH_TIMEOUT_MS = 5_000
_OTLP = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}


def configure() -> Callable[[], None]:
    """Set providers as the environment says, unless the program has some, as under `opentelemetry-instrument`.

    Returns:
        A function that exports what has been recorded.

    Raises:
        ImportError: The SDK, or an exporter, is not installed.
    """
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        is_named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get(
            "OTEL_RESOURCE_ATTRIBUTES", ""
        )
        resource = Resource.create(None if is_named else {"service.name": "bulkpull"})
        tracer_provider = TracerProvider(resource=resource)
        for exporter in _exporters("traces"):
            tracer_provider.add_span_processor(BatchSpanProcessor(exporter()))
        readers = [PeriodicExportingMetricReader(exporter()) for exporter in _exporters("metrics")]
        trace.set_tracer_provider(tracer_provider)
        metrics.set_meter_provider(MeterProvider(readers, resource=resource))
    providers: list[Any] = [trace.get_tracer_provider(), metrics.get_meter_provider()]

    def flush() -> None:
        for provider in providers:
            if hasattr(provider, "force_flush"):
                provider.force_flush(_FLUSH_TIMEOUT_MS)

    return flush


def _exporters(signal: str) -> list[Callable[[], Any]]:
    """The classes of the exporters that OTEL_TRACES_EXPORTER or OTEL_METRICS_EXPORTER names, by default OTLP's."""
    names = os.environ.get(f"OTEL_{signal.upper()}_EXPORTER") or "otlp"
    installed = {one.name: one for one in entry_points(group=f"opentelemetry_{signal}_exporter")}
    found = []
    for name in (name.strip() for name in names.split(",")):
        if name == "none":
            continue
        protocol = (
            os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL")
            or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
            or next((protocol for protocol in _OTLP if _OTLP[protocol] in installed), "http/protobuf")
        )
        wanted = _OTLP.get(protocol, protocol) if name == "otlp" else name
        if wanted not in installed:
            raise ImportError(f"no exporter {name} of {signal} is installed")
        found.append(installed[wanted].load())
    return found
