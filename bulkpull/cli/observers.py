"""What watches a run besides the terminal: logs, metrics, traces, a monitor of scheduled jobs, systemd.

None of it can end a run: a failure is told once.
"""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bulkpull.cli.options import Size
from bulkpull.cli.running import Interrupted
from bulkpull.cli.settings import Setting
from bulkpull.errors import BulkpullError
from bulkpull.events import Event, OnEvent
from bulkpull.options import MONITORING

if TYPE_CHECKING:
    from bulkpull.cli.healthcheck import Healthcheck
    from bulkpull.cli.many_metrics import ManyMetrics
    from bulkpull.cli.service_manager import ServiceManager
    from bulkpull.progress import Progress

F = TypeVar("F", bound=Callable[..., int])

METRICS_INTERVAL_S = 15.0
STATUS_INTERVAL_S = 5.0
_META = "bulkpull.observers"
_LOGGER = "bulkpull.cli"
_OTEL_VARIABLES = ("OTEL_EXPORTER_OTLP_", "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER")
_MASK = "********"

_FILE = click.Path(dir_okay=False, path_type=Path)
_OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "--log-file",
        {"type": _FILE, "metavar": "FILE", "help": "Log each event to a file that rotates; with -v also requests."},
    ),
    (
        "--log-format",
        {
            "type": click.Choice(["text", "json"]),
            "help": "Format of --log-file. Without a file, the log replaces the progress on stderr.",
        },
    ),
    (
        "--log-size",
        {"type": Size(), "default": "10MB", "show_default": True, "help": "Size at which --log-file rotates."},
    ),
    (
        "--log-keep",
        {
            "type": click.IntRange(1),
            "default": 5,
            "show_default": True,
            "metavar": "N",
            "help": "How many rotated log files are kept.",
        },
    ),
    (
        "--metrics-file",
        {"type": _FILE, "metavar": "FILE", "help": "Write Prometheus metrics to a file every 15 s, and at the end."},
    ),
    (
        "--metrics-port",
        {"type": click.IntRange(0, 65535), "metavar": "N", "help": "Serve Prometheus metrics on this port."},
    ),
    (
        "--metrics-host",
        {
            "default": "127.0.0.1",
            "show_default": True,
            "metavar": "HOST",
            "help": "Address that --metrics-port listens on.",
        },
    ),
    (
        "--healthcheck",
        {"metavar": "URL", "help": "Ping URL/start, then URL or URL/fail. Rather use BULKPULL_HEALTHCHECK."},
    ),
)
NAMES = frozenset(flag.removeprefix("--").replace("-", "_") for flag, _ in _OPTIONS)


def figures_of(result: object) -> dict[str, Any]:
    """Return the numbers of a result, for the log."""
    assert is_dataclass(result)
    values = ((one.name, getattr(result, one.name)) for one in fields(result))
    numbers = {name: value for name, value in values if isinstance(value, int | float)}
    return numbers | {"complete": getattr(result, "complete", True)}


def observed(command: F) -> F:
    """Add the options for monitoring to a command, which gets its `observers`.

    It must have `verbose` and `quiet`, and return its exit code. One without `requests_per_minute` runs several pulls:
    its metrics are `many_metrics`, and there are no traces, which are those of one pull.
    """

    @functools.wraps(command)
    def wrapper(*, verbose: bool, quiet: bool, **values: Any) -> int:
        context = click.get_current_context()
        settings = context.meta[_META]
        budget: int | None = values.get("requests_per_minute")
        with _observing(settings, context.command.name or "", budget, is_verbose=verbose) as observers:
            code = command(
                verbose=verbose,
                quiet=quiet or observers.log_is_on_stderr,
                observers=observers,
                **values,
            )
            observers.ended(code)
        return code

    decorated: Any = wrapper
    for flag, declared in reversed(_OPTIONS):
        decorated = click.option(
            flag, cls=Setting, group=MONITORING, expose_value=False, callback=_remember, **declared
        )(decorated)
    return decorated  # type: ignore[no-any-return]


def _remember(context: click.Context, parameter: click.Parameter, value: object) -> None:
    context.meta.setdefault(_META, {})[parameter.name] = value


@dataclass
class Observers:
    """The observers of one run, as a listener.

    `figures` count its events, if an observer needs them: the command passes events to these before the observers.
    """

    log_is_on_stderr: bool = False
    figures: Progress | None = None
    service_manager: ServiceManager | None = None
    healthcheck: Healthcheck | None = None
    write_metrics: Callable[[], None] | None = None
    many_metrics: ManyMetrics | None = None  # of a command that runs several pulls
    status: Callable[[], str] | None = None  # for systemd, instead of that of the figures
    on_end: list[Callable[[bool], None]] = field(default_factory=list)
    secret: str = ""
    summary: str = ""
    _listeners: dict[str, OnEvent] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)

    def add(self, name: str, listener: OnEvent) -> None:
        """Let a listener hear of all events, until it fails."""
        self._listeners[name] = listener

    def __call__(self, event: Event) -> None:
        """Pass an event to each listener."""
        for name, listener in list(self._listeners.items()):
            try:
                listener(event)
            except Exception as error:
                del self._listeners[name]
                self.warn(name, f"{name} failed, and gets no more events: {error!r}")

    def finished(self, text: str, figures: Mapping[str, Any]) -> None:
        """Log what the command has done, and remember it for the monitor."""
        self.summary = text
        self.log("info", text.replace("\n", "; "), {"event": "finished", **figures})

    def ended(self, code: int) -> None:
        """Tell all that the command ends with an exit code of its own."""
        self._end(None if code == 0 else f"exit code {code}: {self.summary or 'the run is incomplete'}")

    def failed(self, error: BaseException) -> None:
        """Tell all that an error ends the command."""
        is_known = isinstance(error, BulkpullError | Interrupted)
        text = (str(error) or "interrupted") if is_known else f"a bug in bulkpull: {error!r}"
        figures = {"event": "failed", "error": type(error).__name__, "notes": list(getattr(error, "__notes__", ()))}
        self.log("error", "; ".join([text, *figures["notes"]]), figures, with_traceback=not is_known)
        self._end(text)

    def warn(self, name: str, text: str) -> None:
        """Say what is wrong with an observer, once, on standard error and in the log."""
        if name in self._told:
            return
        self._told.add(name)
        self.log("warning", text, {"event": "observer_failed", "observer": name})
        if not self.log_is_on_stderr:
            click.echo(f"bulkpull: {self._masked(text)}", err=True)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """While the run goes on, write metrics now and then, and tell systemd how it goes."""
        if self.service_manager is None and self.write_metrics is None:
            yield
            return
        from bulkpull.background import Background

        if self.service_manager:
            self.service_manager.notify("READY=1")
        background = Background(self._watch)
        await background.start()
        try:
            yield
        finally:
            await background.stop()

    async def _watch(self, ready: Callable[[], None]) -> None:
        import anyio

        ready()
        async with anyio.create_task_group() as group:
            if self.write_metrics:
                group.start_soon(self._write_regularly, self.write_metrics)
            if self.service_manager:
                group.start_soon(self._notify_regularly, self.service_manager)

    async def _write_regularly(self, write: Callable[[], None]) -> None:
        import anyio

        while True:
            await anyio.sleep(METRICS_INTERVAL_S)
            await anyio.to_thread.run_sync(lambda: self.attempt("metrics file", write))

    async def _notify_regularly(self, manager: ServiceManager) -> None:
        """From the event loop, so that the watchdog barks if that hangs."""
        import anyio

        from bulkpull.cli.screen import sentence

        assert self.figures
        messages = ["WATCHDOG=1"] if manager.watchdog_s else []
        interval = min(STATUS_INTERVAL_S, (manager.watchdog_s or STATUS_INTERVAL_S) / 2)
        while True:
            status = self.status() if self.status else sentence(self.figures)
            manager.notify(*messages, f"STATUS={status}")
            await anyio.sleep(interval)

    def _end(self, failure: str | None) -> None:
        for call in self.on_end:
            self.attempt("telemetry", lambda call=call: call(failure is None))  # type: ignore[misc]
        if self.write_metrics:
            self.attempt("metrics file", self.write_metrics)
        if self.service_manager:
            self.service_manager.notify("STOPPING=1", f"STATUS={failure or 'complete'}")
        if self.healthcheck and (reason := self.healthcheck.end(failure, self.summary)):
            self.warn("healthcheck", f"the healthcheck could not be pinged: {reason}")

    def attempt(self, name: str, call: Callable[[], None]) -> None:
        """Call a function of an observer; say so if it fails."""
        try:
            call()
        except Exception as error:
            self.warn(name, str(error) if isinstance(error, BulkpullError) else f"{name} failed: {error!r}")

    def log(
        self, level: str, text: str, figures: Mapping[str, Any], *, with_traceback: bool | Exception = False
    ) -> None:
        """Log a text and its fields, at a level such as `info`; also the traceback of an exception, or of the current
        one."""
        import logging

        from bulkpull.logs import FIELDS_KEY

        values = {name: self._masked_value(value) for name, value in figures.items()}
        getattr(logging.getLogger(_LOGGER), level)(
            "%s", self._masked(text), extra={FIELDS_KEY: values}, exc_info=with_traceback
        )

    def _masked_value(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._masked_value(one) for one in value]
        return self._masked(value) if isinstance(value, str) else value

    def _masked(self, text: str) -> str:
        """The text without the URL of the monitor, which the command to resume with has."""
        return text.replace(self.secret, _MASK) if self.secret else text


@contextmanager
def _observing(
    settings: Mapping[str, Any], command: str, requests_per_minute: int | None, *, is_verbose: bool
) -> Iterator[Observers]:
    """Open the observers that are wanted; without a budget, those of several pulls. Raises BulkpullError where one
    cannot start."""
    observers = Observers(secret=settings["healthcheck"] or "")
    with ExitStack() as stack:
        if settings["log_file"] is not None or settings["log_format"] is not None:
            from bulkpull.cli.log import logging_to

            observers.log_is_on_stderr = settings["log_file"] is None
            log = logging_to(
                settings["log_file"],
                settings["log_format"] or "text",
                is_verbose=is_verbose,
                max_bytes=settings["log_size"],
                kept_files=settings["log_keep"],
            )
            stack.enter_context(log)
        try:
            _open_metrics(observers, settings, command, requests_per_minute, stack)
            _open_service_manager(observers, stack)
            if requests_per_minute is not None:
                _open_telemetry(observers, command, requests_per_minute, stack)
            if settings["healthcheck"]:
                from bulkpull.cli.healthcheck import Healthcheck

                observers.healthcheck = Healthcheck(settings["healthcheck"])
                observers.healthcheck.start()
            yield observers
        except Exception as error:
            observers.failed(error)
            # The log on standard error has it, and stays JSON.
            error.is_told = observers.log_is_on_stderr  # type: ignore[attr-defined]
            raise


def _open_metrics(
    observers: Observers, settings: Mapping[str, Any], command: str, requests_per_minute: int | None, stack: ExitStack
) -> None:
    if settings["metrics_file"] is None and settings["metrics_port"] is None:
        return
    from bulkpull.cli.metrics import Metrics, MetricsFile, MetricsServer

    metrics: Metrics | ManyMetrics
    if requests_per_minute is None:
        from bulkpull.cli.many_metrics import ManyMetrics

        metrics = observers.many_metrics = ManyMetrics(command)
    else:
        metrics = Metrics(_figures(observers), command, requests_per_minute)
        observers.add("metrics", metrics)
    observers.on_end.append(lambda is_success: metrics.end(is_success=is_success))
    if settings["metrics_file"] is not None:
        file = MetricsFile(settings["metrics_file"], metrics)
        file.write()
        observers.write_metrics = file.write
    if settings["metrics_port"] is not None:
        server = MetricsServer(settings["metrics_host"], settings["metrics_port"], metrics)
        stack.callback(server.close)
        if settings["metrics_port"] == 0 and not observers.log_is_on_stderr:
            click.echo(f"metrics: port {server.port}", err=True)


def _open_service_manager(observers: Observers, stack: ExitStack) -> None:
    if "NOTIFY_SOCKET" not in os.environ:
        return
    from bulkpull.cli.service_manager import ServiceManager

    manager = ServiceManager.of_environment()
    if manager:
        _figures(observers)
        observers.service_manager = manager
        stack.callback(manager.close)


def _figures(observers: Observers) -> Progress:
    from bulkpull.progress import Progress

    observers.figures = observers.figures or Progress()
    return observers.figures


def _open_telemetry(observers: Observers, command: str, requests_per_minute: int, stack: ExitStack) -> None:
    """Record traces and metrics if the environment configures OpenTelemetry and its SDK is installed."""
    is_disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if is_disabled or not any(name.startswith(_OTEL_VARIABLES) for name in os.environ):
        return
    try:
        from bulkpull.cli.telemetry import configure
        from bulkpull.otel import Telemetry

        flush = configure()
    except Exception as error:  # of an exporter that refuses its settings, too
        observers.warn("telemetry", f"OpenTelemetry is configured, but cannot be used: {error}")
        return
    stack.callback(observers.attempt, "telemetry", flush)
    telemetry = Telemetry(f"bulkpull.{command}", requests_per_minute=requests_per_minute)
    stack.enter_context(telemetry)
    observers.add("telemetry", telemetry)
