"""Progress of a pull on standard error: live bars on a terminal, otherwise a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from bulkpull.cli.lines import line
from bulkpull.cli.state import State
from bulkpull.events import Event, OnEvent

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
    state = State()
    bars = Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=20), _Figures(state), console=console, transient=True
    )
    exports, download, merge = (bars.add_task(stage, total=None) for stage in ("export", "download", "merge"))
    render = bars.add_task("render", total=None, visible=False)

    def listener(event: Event) -> None:
        state(event)
        if text := line(event, verbose=verbose):
            bars.console.print(escape(text))
        bars.update(exports, completed=state.exports_done, total=state.windows or None)
        bars.update(download, completed=state.downloaded.total(), total=state.parts or None)
        bars.update(merge, completed=state.merged, total=state.windows or None)
        if state.rendered:
            bars.update(render, completed=state.rendered[0], total=state.rendered[1], visible=True)

    with bars:
        yield listener


class _Figures(ProgressColumn):
    """The figures beside each bar."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self._state = state

    def render(self, task: Task) -> Text:
        state = self._state
        if task.description == "export" and not state.windows:
            return Text(f"counting: {state.probes:,} requests")
        if task.description == "export":
            return Text(
                f"{state.exports_launched:,}/{state.windows:,} launched, {state.in_flight:,} in flight"
                + (f" (limit {state.limit:,})" if state.limit else "")
                + f", {state.exports_done:,} exported"
            )
        if task.description == "download":
            return Text(
                f"{state.downloaded.total():,}/{state.parts:,} parts, {decimal(state.bytes)}, "
                f"{decimal(int(state.rate))}/s"
            )
        if task.description == "render":
            size, merged = state.rendered or (0, 0)
            return Text(f"{decimal(size)} of {decimal(merged)} merged")
        remaining = "?" if state.remaining is None else _clock(state.remaining)
        return Text(f"{state.rows:,} rows, {_clock(state.elapsed)} elapsed, {remaining} left")


def _lines(console: Console, *, verbose: bool) -> OnEvent:
    state = State()
    last = state.began

    def listener(event: Event) -> None:
        nonlocal last
        state(event)
        if text := line(event, verbose=verbose):
            console.print(text, markup=False, highlight=False, soft_wrap=True)
        if time.monotonic() - last >= _LINE_INTERVAL_S:
            last = time.monotonic()
            remaining = "" if state.remaining is None else f", about {_clock(state.remaining)} left"
            console.print(
                f"{_clock(state.elapsed)}: {state.exports_launched:,} of {state.windows:,} windows launched, "
                f"{state.in_flight:,} in flight, {state.exports_done:,} exported; {decimal(state.bytes)} downloaded; "
                f"{state.rows:,} rows merged"
                + (f", {decimal(state.rendered[0])} of {decimal(state.rendered[1])} rendered" if state.rendered else "")
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
