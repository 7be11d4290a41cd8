"""What the terminal shows of a pull: its width, its characters, and how much it says."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from io import BytesIO, StringIO, TextIOWrapper

import pytest
from rich.cells import cell_len
from rich.console import Console

from bulkpull import Progress, Window
from bulkpull.cli import progress as shown_progress
from bulkpull.cli.live import LiveScreen, is_unicode
from bulkpull.cli.progress import progress
from bulkpull.cli.screen import duration_range, lines, sentence
from bulkpull.eta import Estimate
from bulkpull.events import (
    Event,
    Exported,
    ExportFailed,
    Launched,
    Limited,
    PartFetched,
    PartMerged,
    Planned,
    Polled,
    QuotaExhausted,
    Received,
    Recovered,
    Rendered,
    Requested,
    Retried,
    WindowMerged,
)

NO_VARIABLES: Mapping[str, str] = {}
DAY = datetime(2024, 1, 1, tzinfo=UTC)
WINDOWS = tuple(Window(at, DAY + timedelta(at), DAY + timedelta(at + 1), 1_234_567) for at in range(1000))
OUTAGE = "the certificate of the proxy in Zürich — 東京 — has expired: " + "x" * 80


def retried(attempt: int) -> Retried:
    return Retried("GET /tasks/export/e", attempt, 5.0, OUTAGE, 900.0 - 5 * attempt)


def running() -> Iterator[tuple[float, Event]]:
    """A pull that is under way, with large numbers everywhere."""
    yield 0, Planned(WINDOWS)
    yield 0, Limited(128, 16)
    for at in range(128):
        yield 0, Launched(WINDOWS[at], f"e{at}", 1)
        yield 1, Requested("GET /tasks")
    for at in range(60):
        yield 3, Polled(WINDOWS[at], f"e{at}", "success", "succeeded", 190.0)
        yield 0, Exported(WINDOWS[at], f"e{at}", 9, 190.0)
        for part in range(1, 10):
            yield 0, Received(WINDOWS[at], part, 123_456_789)
            yield 0, PartFetched(WINDOWS[at], part, 123_456_789)
            yield 0, PartMerged(WINDOWS[at], part, 123_456, 12_345, 0, 0)
        yield 0, WindowMerged(WINDOWS[at])
    yield 0, ExportFailed(WINDOWS[70], "e70", 1, "failed")
    yield 0, Polled(WINDOWS[71], "e71", "started", "running", 100.0)


def troubled() -> Iterator[tuple[float, Event]]:
    yield from running()
    yield 0, retried(1)


def paused() -> Iterator[tuple[float, Event]]:
    yield from running()
    yield 0, QuotaExhausted(58.0)
    yield 0, Rendered(123_456_789, 9_876_543_210)


def counting() -> Iterator[tuple[float, Event]]:
    yield 0, Requested("GET /activity")


@cache
def figures(story: Callable[[], Iterator[tuple[float, Event]]]) -> Progress:
    clock = [0.0]
    found = Progress(lambda: clock[0])
    for seconds, event in story():
        clock[0] += seconds
        found(event)
    return found


@pytest.mark.parametrize("story", [counting, running, troubled, paused])
@pytest.mark.parametrize("width", [20, 40, 80, 120])
@pytest.mark.parametrize("is_unicode", [True, False])
def test_no_line_is_wider_than_the_terminal(
    story: Callable[[], Iterator[tuple[float, Event]]], width: int, is_unicode: bool
) -> None:
    found = [line.plain for line in lines(figures(story), width, is_unicode=is_unicode, requests_per_minute=1800)]
    assert max(map(cell_len, found)) <= width
    assert is_unicode or "".join(found).isascii()
    assert len(found) == (2 if story is counting else 5)


def test_a_terminal_of_80_columns_cuts_nothing_of_a_pull_that_is_under_way() -> None:
    found = [line.plain for line in lines(figures(running), 80, is_unicode=True, requests_per_minute=1800)]
    assert not any("…" in line for line in found)
    assert found[0] == "waiting for 67 exports (oldest 4:08, usually 3:10)"
    assert re.fullmatch(r"━+ +6%  5:08, (about|\d+ to) \d+ min left", found[1])
    assert found[2] == "exports  60 of 1,000 done, 1 running, 67 queued (limit 128), 1 failed"
    assert found[3].startswith("windows  60 merged; 66,666,240 of 1,234,567,000 rows")
    assert found[4] == "requests 0 of 1,800 in the last minute, 128 in all; 6,666,300 duplicates dropped"


def test_one_line_says_it_all() -> None:
    assert sentence(figures(troubled)).startswith("5:08: API fails")
    assert "; 60 of 1,000 windows merged; 66,666,240 of 1,234,567,000 rows" in sentence(figures(troubled))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (3, 14, "less than 15 s"),
        (21, 48, "20 to 50 s"),
        (0, 60, "up to 60 s"),
        (540, 830, "9 to 14 min"),
        (700, 740, "about 12 min"),
        (4000, 9000, "1.1 to 2.5 h"),
        (40_000, 90_000, "11 to 25 h"),
    ],
)
def test_an_estimate_is_a_range_while_it_is_uncertain(low: float, high: float, expected: str) -> None:
    assert duration_range(Estimate(low, high)) == expected


@contextmanager
def shown(
    monkeypatch: pytest.MonkeyPatch,
    variables: Mapping[str, str] = NO_VARIABLES,
    *,
    is_terminal: bool = False,
    verbose: bool = False,
) -> Iterator[tuple[Callable[[Event], None], StringIO]]:
    """A listener, and what it writes to a terminal, or to a log."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"TERM": "xterm-256color", "COLUMNS": "80"} | dict(variables)).items():
        monkeypatch.setenv(name, value)
    written = StringIO()
    monkeypatch.setattr(written, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stderr", written)
    with progress(verbose=verbose) as listener:
        yield listener, written


def test_an_outage_is_two_lines_however_often_it_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    with shown(monkeypatch) as (listener, written):
        for event in (Planned(WINDOWS[:1]), Launched(WINDOWS[0], "e", 1), *map(retried, range(1, 50))):
            listener(event)
        listener(Recovered("GET /tasks/export/e", 50))
        told = written.getvalue().splitlines()
    assert len(told) == 2
    assert told[0].startswith("API fails, retrying for 15 min more: the certificate")
    assert told[1] == "API answers again after 0:00"


def test_verbose_tells_each_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    with shown(monkeypatch, verbose=True) as (listener, written):
        for attempt in (1, 2, 3):
            listener(retried(attempt))
        assert written.getvalue().count("GET /tasks/export/e: attempt ") == 3


def test_a_single_failure_is_not_worth_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with shown(monkeypatch) as (listener, written):
        listener(Planned(WINDOWS[:1]))
        listener(retried(1))
        listener(Recovered("GET /tasks/export/e", 2))
        assert written.getvalue() == ""


@pytest.mark.parametrize("variables", [{}, {"TERM": "dumb"}], ids=["a log", "a dumb terminal"])
def test_a_log_gets_lines_while_nothing_happens_and_the_last_state(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    monkeypatch.setattr(shown_progress, "MIN_LINE_INTERVAL_S", 0.01)
    monkeypatch.setattr(shown_progress, "LINE_INTERVAL_S", 0.03)
    with shown(monkeypatch, variables, is_terminal=bool(variables)) as (listener, written):
        listener(Planned(WINDOWS[:2]))
        listener(Launched(WINDOWS[0], "e", 1))
        deadline = time.monotonic() + 30
        while written.getvalue().count("waiting for 1 export") < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    told = written.getvalue()
    assert "\x1b" not in told
    assert told.splitlines()[-1].startswith("0:00: waiting for 1 export (oldest 0:00); 0 of 2 windows merged")


@pytest.mark.parametrize("no_color", [True, False])
def test_no_color_means_none(monkeypatch: pytest.MonkeyPatch, no_color: bool) -> None:
    with shown(monkeypatch, {"NO_COLOR": "1"} if no_color else {}, is_terminal=True) as (listener, written):
        for _, event in running():
            listener(event)
    colours = re.findall(r"\x1b\[[\d;]*m", written.getvalue())
    assert [code for code in colours if re.search(r"\b[349]\d\b", code)] == [] if no_color else colours
    assert "1,000 done" in written.getvalue()  # the last state stays


def test_signals_are_restored_after_a_run_that_was_not_interrupted() -> None:
    from bulkpull.cli.running import run

    async def work() -> int:
        return 7

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert run(work) == 7
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_the_console_of_a_plain_locale_gets_ascii() -> None:
    for encoding, expected in (("utf-8", True), ("ascii", False)):
        file = TextIOWrapper(BytesIO(), encoding)
        assert is_unicode(Console(file=file)) is expected


def test_a_terminal_that_gets_narrower_keeps_no_wrapped_lines() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=80, height=30, _environ={"TERM": "xterm"})
    assert isinstance(console.file, StringIO)
    pull = figures(running)

    def erased_lines() -> int:
        assert isinstance(console.file, StringIO)
        before = len(console.file.getvalue())
        live.refresh()
        return console.file.getvalue()[before:].count("\x1b[1A\x1b[2K")

    with LiveScreen(lambda: pull, console) as live:
        live.refresh()
        drawn = [cell_len(line.plain) for line in lines(pull, 79, is_unicode=True)]
        assert erased_lines() == len(drawn) - 1
        console.width = 40
        assert erased_lines() == sum(-(-cells // 40) for cells in drawn) - 1 > len(drawn)
        assert erased_lines() == len(drawn) - 1
        console.width = 120
        assert erased_lines() == len(drawn) - 1


def test_a_terminal_that_is_not_interactive_is_shown_the_end_only() -> None:
    variables = {"TERM": "xterm", "TTY_INTERACTIVE": "0"}
    console = Console(file=StringIO(), force_terminal=True, force_interactive=False, width=80, _environ=variables)
    pull = figures(running)
    with LiveScreen(lambda: pull, console) as live:
        live.refresh()
        console.width = 40
        live.refresh()
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue().count("exports") == 2
