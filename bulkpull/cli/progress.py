"""Progress of a pull on standard error: live bars on a terminal, otherwise a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from bulkpull.cli.lines import line
from bulkpull.events import Event, OnEvent
from bulkpull.progress import Progress

_LINE_INTERVAL_S = 10.0  # if standard error is not a terminal


@contextmanager
def progress(*, verbose: bool) -> Iterator[OnEvent]:
    """Yield a listener that shows a pull's events on standard error."""
    console = Console(stderr=True)
    if sys.stderr.isatty() and not console.is_dumb_terminal:
        with _live(console, verbose=verbose) as listener:
            yield listener
    else:
        yield _lines(console, verbose=verbose)


@contextmanager
def _live(console: Console, *, verbose: bool) -> Iterator[OnEvent]:
    figures = Progress()
    bars = Bars(
        TextColumn("{task.description}"), BarColumn(bar_width=20), _Figures(figures), console=console, transient=True
    )
    exports, download, merge = (bars.add_task(stage, total=None) for stage in ("export", "download", "merge"))
    render = bars.add_task("render", total=None, visible=False)

    def listener(event: Event) -> None:
        figures(event)
        if text := line(event, verbose=verbose):
            bars.console.print(escape(text))
        bars.update(exports, completed=figures.exports_done, total=figures.windows or None)
        bars.update(download, completed=figures.parts_downloaded, total=figures.parts or None)
        bars.update(merge, completed=figures.windows_merged, total=figures.windows or None)
        if figures.rendered:
            bars.update(render, completed=figures.rendered[0], total=figures.rendered[1], visible=True)

    with bars:
        yield listener


class _Figures(ProgressColumn):
    """The figures beside each bar."""

    def __init__(self, figures: Progress) -> None:
        super().__init__()
        self._figures = figures

    def render(self, task: Task) -> Text:
        figures = self._figures
        if task.description == "export" and not figures.windows:
            return Text(f"counting: {figures.counting_requests:,} requests")
        if task.description == "export":
            return Text(
                f"{figures.exports_launched:,}/{figures.windows:,} launched, {figures.exports_in_flight:,} in flight"
                + (f" (limit {figures.export_limit:,})" if figures.export_limit else "")
                + f", {figures.exports_done:,} exported"
            )
        if task.description == "download":
            return Text(
                f"{figures.parts_downloaded:,}/{figures.parts:,} parts, {decimal(figures.bytes)}, "
                f"{decimal(int(figures.rate))}/s"
            )
        if task.description == "render":
            size, merged = figures.rendered or (0, 0)
            return Text(f"{decimal(size)} of {decimal(merged)} merged")
        remaining = "?" if figures.remaining is None else _clock(figures.remaining)
        return Text(f"{figures.rows:,} rows, {_clock(figures.elapsed)} elapsed, {remaining} left")


def _lines(console: Console, *, verbose: bool) -> OnEvent:
    figures = Progress()
    last = time.monotonic()

    def listener(event: Event) -> None:
        nonlocal last
        figures(event)
        if text := line(event, verbose=verbose):
            console.print(text, markup=False, highlight=False, soft_wrap=True)
        if time.monotonic() - last >= _LINE_INTERVAL_S:
            last = time.monotonic()
            remaining = "" if figures.remaining is None else f", about {_clock(figures.remaining)} left"
            console.print(
                f"{_clock(figures.elapsed)}: {figures.exports_launched:,} of {figures.windows:,} windows launched, "
                f"{figures.exports_in_flight:,} in flight, {figures.exports_done:,} exported; "
                f"{decimal(figures.bytes)} downloaded; {figures.rows:,} rows merged"
                + (
                    f", {decimal(figures.rendered[0])} of {decimal(figures.rendered[1])} rendered"
                    if figures.rendered
                    else ""
                )
                + remaining,
                markup=False,
                highlight=False,
                soft_wrap=True,
            )

    return listener


def _clock(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
