"""Progress of several pulls on standard error: a line for each that runs, and one for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from threading import Event as Flag
from threading import RLock

from rich.console import Console
from rich.filesize import decimal
from rich.text import Text

from bulkpull import JobResult
from bulkpull.cli.live import LiveLines, is_unicode
from bulkpull.cli.many_summary import error_text
from bulkpull.cli.progress import LINE_INTERVAL_S, REFRESHES_PER_SECOND, in_background, line_listener, line_printer
from bulkpull.cli.screen import MIN_BAR, fitted, sentence, share_done, time_left
from bulkpull.events import Event, OnEvent
from bulkpull.progress import Progress
from bulkpull.waits import clock, plural

_MAX_NAME = 24  # cells


class ManyProgress:
    """The progress of several pulls, counted from their events; it can be read from any thread. `figures` are those of
    each job, by name.

    Args:
        names: Those of all jobs.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.figures = {name: Progress() for name in self.names}
        self._begun: set[str] = set()
        self._ended: dict[str, JobResult] = {}
        self._show: Callable[[str], None] | None = None
        self._listener: Callable[[str, Progress], OnEvent] = lambda _name, figures: figures
        self._listeners: dict[str, OnEvent] = {}
        self._lock = RLock()

    def show_lines(self, show: Callable[[str], None], *, verbose: bool, is_live: bool) -> None:
        """Print the events that have a line with `show`, each after the name of its job."""
        self._show = show
        self._listener = lambda name, figures: line_listener(
            partial(_show_named, show, name), figures, verbose=verbose, is_live=is_live
        )

    def __call__(self, name: str, event: Event) -> None:
        """Count an event of a job."""
        listener = self._listeners.get(name)
        if listener is None:
            with self._lock:
                self._begun.add(name)
            listener = self._listeners[name] = self._listener(name, self.figures[name])
        listener(event)

    def end(self, result: JobResult) -> None:
        """Note that a job has ended."""
        with self._lock:
            self._ended[result.name] = result
        if self._show:
            self._show(f"{result.name}: {_end(result)}")

    @property
    def running(self) -> dict[str, Progress]:
        """The jobs that have begun and not ended, by name, in their order."""
        with self._lock:
            running = self._begun - self._ended.keys()
            return {name: self.figures[name] for name in self.names if name in running}

    def sentence(self) -> str:
        """Return the state of all jobs as one line."""
        with self._lock:
            running = self.running
            ended, failed = len(self._ended), sum(one.state == "failed" for one in self._ended.values())
            rows = sum(one.rows or 0 for one in self._ended.values()) + sum(one.rows for one in running.values())
            size = sum(one.bytes for one in self.figures.values())
        rate = sum(one.rate for one in running.values())
        waiting = len(self.names) - ended - len(running)
        parts = [
            f"{ended:,} of {plural(len(self.names), 'job')} ended" + (f" ({failed:,} failed)" if failed else ""),
            f"{len(running):,} running, {waiting:,} waiting",
            plural(rows, "row"),
            f"{decimal(size)} downloaded" + (f", {decimal(int(rate))}/s" if rate else ""),
        ]
        return "; ".join(parts)

    def lines(self, width: int, *, is_unicode: bool) -> list[Text]:
        """Return a line for each running job, and one for all, none wider than `width`."""
        running = self.running
        of_names = min(_MAX_NAME, max(map(len, running), default=0))
        found = [_line(name[:of_names].ljust(of_names), one, is_unicode) for name, one in running.items()]
        found.append(Text(self.sentence(), "bold"))
        return [fitted(line, width, is_unicode=is_unicode) for line in found]


@contextmanager
def shown(progress: ManyProgress, *, verbose: bool) -> Iterator[None]:
    """Show the progress on standard error: live on a terminal, otherwise a line now and then."""
    console = Console(stderr=True, highlight=False)
    show = line_printer(console, is_unicode=is_unicode(console))
    if console.is_terminal and not console.is_dumb_terminal:
        progress.show_lines(show, verbose=verbose, is_live=True)
        live = LiveLines(
            lambda width, is_unicode: progress.lines(width, is_unicode=is_unicode),
            console,
            refreshes_per_second=REFRESHES_PER_SECOND,
        )
        live.transient = True
        with live:
            yield
        return
    progress.show_lines(show, verbose=verbose, is_live=False)
    with _regular_lines(progress, show):
        yield


@contextmanager
def _regular_lines(progress: ManyProgress, show: Callable[[str], None]) -> Iterator[None]:
    """Show the state now and then, also while nothing happens."""

    def run(ended: Flag) -> None:
        while not ended.wait(LINE_INTERVAL_S):
            for name, figures in progress.running.items():
                show(f"{name}: {sentence(figures)}")
            show(progress.sentence())

    with in_background(run):
        yield


def _line(name: str, progress: Progress, is_unicode: bool) -> Text:
    """The line of a running job: a bar, its share, its time, what it waits for."""
    share = share_done(progress) if progress.windows else 0.0
    done = round(MIN_BAR * share)
    full, empty = ("\u2501", "\u2501") if is_unicode else ("#", ".")
    left = time_left(progress.estimate)
    figures = f" {share:4.0%}  {clock(progress.elapsed)}" + (f", {left}" if left else "")
    wait = progress.wait
    style = {"outage": "bold red", "quota": "yellow", "backlog": "yellow"}.get(wait.kind, "")
    return Text.assemble(
        f"{name}  ",
        (full * done, "green"),
        (empty * (MIN_BAR - done), "bright_black"),
        f"{figures}  ",
        (wait.brief, style),
    )


def _show_named(show: Callable[[str], None], name: str, text: str) -> None:
    show(f"{name}: {text}")


def _end(result: JobResult) -> str:
    if result.error is not None:
        return f"failed: {error_text(result.error)}"
    if result.rows is None:
        return result.state
    before = ", finished by an earlier run" if result.was_finished else ""
    return f"{result.state}: {plural(result.rows, 'row')} in {result.output}{before}"
