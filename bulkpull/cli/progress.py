"""Progress of a pull on standard error: live on a terminal, otherwise a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Event as Flag
from threading import Thread

from rich.console import Console
from rich.text import Text

from bulkpull.cli.lines import line
from bulkpull.cli.live import LiveScreen, is_unicode
from bulkpull.cli.screen import ascii_only, sentence
from bulkpull.events import Event, OnEvent, Requested, Retried
from bulkpull.progress import Progress
from bulkpull.waits import Wait, clock

REFRESHES_PER_SECOND = 4
LINE_INTERVAL_S = 60.0  # if standard error is not a terminal
MIN_ATTEMPTS = 2  # that failed, before an outage is worth a line
MIN_LINE_INTERVAL_S = 10.0  # between two such lines, although what the pull waits for has changed


@contextmanager
def progress(
    *,
    verbose: bool,
    requests_per_minute: int | None = None,
    is_transient: bool = False,
    figures: Progress | None = None,
) -> Iterator[OnEvent]:
    """Yield a listener that shows a pull's events on standard error, and counts them in `figures`.

    The last state stays on the screen, unless the output was published or it `is_transient`.
    """
    console = Console(stderr=True, highlight=False)
    figures = figures or Progress()
    if sys.stderr.isatty() and not console.is_dumb_terminal:
        with _live(console, figures, requests_per_minute, verbose=verbose, is_transient=is_transient) as listener:
            yield listener
        return
    show = line_printer(console, is_unicode=is_unicode(console))
    listener = line_listener(show, figures, verbose=verbose)
    with _regular_lines(show, figures):
        yield listener


@contextmanager
def _live(
    console: Console, figures: Progress, requests_per_minute: int | None, *, verbose: bool, is_transient: bool
) -> Iterator[OnEvent]:
    live = LiveScreen(
        lambda: figures,
        console,
        refreshes_per_second=REFRESHES_PER_SECOND,
        requests_per_minute=requests_per_minute,
    )
    show = line_printer(live.console, is_unicode=is_unicode(console))
    listener = line_listener(show, figures, verbose=verbose, is_live=True)
    with live:
        try:
            yield listener
        finally:
            live.transient = figures.is_published or is_transient


def line_printer(console: Console, *, is_unicode: bool) -> Callable[[str], None]:
    """Return a function that prints one line."""

    def show(text: str) -> None:
        console.print(Text(text if is_unicode else ascii_only(text)), soft_wrap=True)

    return show


def line_listener(show: Callable[[str], None], figures: Progress, *, verbose: bool, is_live: bool = False) -> OnEvent:
    """Return a listener that counts, and shows the events that have a line. Retries have none, unless `verbose`: an
    outage has one when it begins, unless it `is_live`, where the state counts it up, and one when it ends."""
    outage: Wait | None = None  # that was told
    began = 0.0

    def listener(event: Event) -> None:
        nonlocal outage, began
        figures(event)
        if text := line(event, verbose=verbose):
            show(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {text}" if verbose else text)
        if verbose:
            return
        if outage is None:
            if isinstance(event, Retried) and event.attempt >= MIN_ATTEMPTS and figures.wait.kind == "outage":
                outage, began = figures.wait, figures.elapsed - figures.wait.since
                if not is_live:
                    show(str(outage))
        elif not isinstance(event, (Requested, Retried)):
            now = figures.wait
            if now.kind != "outage":
                show(f"{outage.host} answers again after {clock(figures.elapsed - began)}")
                outage = None

    return listener


@contextmanager
def in_background(run: Callable[[Flag], None]) -> Iterator[None]:
    """Run a function in a thread until the end of the block, when its flag is set."""
    ended = Flag()
    thread = Thread(target=run, args=(ended,), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _regular_lines(show: Callable[[str], None], figures: Progress) -> Iterator[None]:
    """Show the state now and then, also while nothing happens, and at the end of a pull that was not published."""

    def run(ended: Flag) -> None:
        shown_at, shown = time.monotonic(), ""
        while not ended.wait(MIN_LINE_INTERVAL_S):
            kind = figures.wait.kind
            if kind != shown or time.monotonic() - shown_at >= LINE_INTERVAL_S:
                shown_at, shown = time.monotonic(), kind
                show(sentence(figures))

    try:
        with in_background(run):
            yield
    finally:
        if figures.windows and not figures.is_published:
            show(sentence(figures))
