"""What a pull looks like while it runs: live bars on a terminal, rare lines elsewhere, all on standard error."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from bulkpull import CountMismatch, Result, Window, events
from bulkpull.events import Event, OnEvent, ignore
from bulkpull.window import total_count

_LINE_EVERY = 10.0  # seconds, where there is no terminal
_RATE_OVER = 5.0  # seconds
_NAMED = 10  # windows


@contextmanager
def progress(*, verbose: bool, quiet: bool) -> Iterator[OnEvent]:
    """A listener that shows a pull's events in the way that fits standard error."""
    console = Console(stderr=True)
    if quiet:
        yield ignore
    elif sys.stderr.isatty() and not console.is_dumb_terminal:
        with _live(console, verbose=verbose) as listener:
            yield listener
    else:
        yield _lines(console, verbose=verbose)


def summary(result: Result) -> str:
    """A finished pull in a few lines."""
    lines = [
        f"{result.rows:,} rows in {result.output} ({decimal(_size(result.output))}), in {result.seconds:.1f} s"
        + (f" in run {result.runs:,}" if result.runs > 1 else ""),
        f"{result.windows:,} windows, {result.exports:,} exports, {result.parts:,} parts, "
        f"{decimal(result.bytes)} received, {result.requests:,} requests, {result.retries:,} retries, "
        f"{result.throttled:,} throttled",
        f"{result.duplicates:,} duplicates left out, {result.conflicts:,} of them conflicts "
        "(same id, other values: the first was kept)",
    ]
    if result.splits:
        lines.insert(2, f"{result.splits:,} windows were cut, since their exports failed or ended early")
    if result.short:
        lines.append(
            f"warning: incomplete: {_mismatches(result.short)}. Pull these ranges again later, or accept what came "
            "(--accept-short)"
        )
    if result.over:
        lines.append(f"more activities came than were counted: {_mismatches(result.over)}")
    if result.skipped:
        lines.append(f"warning: left out, since they could not be exported: {_named(result.skipped)}")
    if result.outside:
        lines.append(f"warning: {result.outside:,} rows lie outside their window: the API ignored the filter there")
    if result.empty_columns:
        lines.append(
            f"warning: no row has a value in {', '.join(result.empty_columns)}: does the site know these fields? "
            "(bulkpull fields)"
        )
    if result.throttled:
        lines.append("warning: the API's quota was hit; lower --requests-per-minute if others share the token")
    return "\n".join(lines)


def _mismatches(found: Sequence[CountMismatch]) -> str:
    """The first of them, in words."""
    named = [
        f"{one.window}: {one.delivered:,} "
        + ("(the export may have ended early)" if one.counted is None else f"of {one.counted:,} counted")
        for one in found[:_NAMED]
    ]
    return "; ".join(named) + (f"; and {len(found) - _NAMED:,} more" if len(found) > _NAMED else "")


def _named(windows: Sequence[Window]) -> str:
    """The first of them by name."""
    more = f" and {len(windows) - _NAMED:,} more" if len(windows) > _NAMED else ""
    return ", ".join(map(str, windows[:_NAMED])) + more


def _size(output: Path) -> int:
    """Bytes of a file, or of all files in a data set."""
    files = output.rglob("*.parquet") if output.is_dir() else [output]
    return sum(file.stat().st_size for file in files)


@dataclass(slots=True)
class _State:
    """How far a pull has come, counted from its events."""

    began: float = field(default_factory=time.monotonic)
    probes: int = 0
    windows: int = 0
    merged_before: int = 0  # windows, by earlier runs
    launched: set[int] = field(default_factory=set)  # windows, by index, of this run
    exported: dict[int, int] = field(default_factory=dict)  # and how many parts they have
    fetched: Counter[int] = field(default_factory=Counter)  # parts, of each window
    merged: int = 0  # or left out
    limit: int = 0  # exports in flight, at most
    rows: int = 0
    rendered: tuple[int, int] | None = None  # bytes of CSV, and how many there are so far
    bytes: int = 0
    arrivals: deque[tuple[float, int]] = field(default_factory=deque)

    def __call__(self, event: Event) -> None:
        match event:
            case events.Requested(route="GET /activity"):
                self.probes += 1
            case events.Planned():
                self.windows = len(event.windows)
            case events.Resumed():
                self.merged = self.merged_before = event.merged + event.skipped
                self.rows = event.rows
            case events.Launched() | events.Polled():
                self.launched.add(event.window.index)
            case events.Exported():
                self.launched.add(event.window.index)
                self.exported[event.window.index] = event.parts
            case events.ExportFailed():
                self.exported.pop(event.window.index, None)
                self.fetched.pop(event.window.index, None)
            case events.Split():
                self.windows += len(event.pieces) - (not event.is_merged)
                self.launched.discard(event.window.index)
            case events.Skipped():
                self.merged += 1
                self.exported[event.window.index] = 0
            case events.Limited():
                self.limit = event.exports
            case events.Received():
                self.bytes += event.size
                self.arrivals.append((time.monotonic(), self.bytes))
                self.forget_old_arrivals()
            case events.PartFetched():
                self.fetched[event.window.index] += 1
            case events.PartMerged():
                self.rows += event.rows
            case events.WindowMerged():
                self.merged += 1
            case events.Rendered():
                self.rendered = (event.size, event.merged)

    @property
    def waiting(self) -> int:
        """Exports in flight."""
        return len(self.launched) - len(self.exported)

    @property
    def exports_launched(self) -> int:
        """Windows that have an export, or had one and are merged."""
        return self.merged_before + len(self.launched)

    @property
    def exports_done(self) -> int:
        """Windows whose export is done."""
        return self.merged_before + len(self.exported)

    @property
    def parts(self) -> int:
        """Files of the exports that are done."""
        return sum(self.exported.values())

    @property
    def rate(self) -> float:
        """Bytes a second, of late."""
        self.forget_old_arrivals()
        if not self.arrivals:
            return 0.0
        since, before = self.arrivals[0]
        return (self.bytes - before) / max(1.0, time.monotonic() - since)

    def forget_old_arrivals(self) -> None:
        """Keeps what the rate is made of, and no more."""
        now = time.monotonic()
        while self.arrivals and now - self.arrivals[0][0] > _RATE_OVER:
            self.arrivals.popleft()

    @property
    def elapsed(self) -> float:
        """Seconds."""
        return time.monotonic() - self.began

    @property
    def left(self) -> float | None:
        """Seconds that the rest will take if it goes on as it did, or None where nothing tells yet."""
        merged = self.merged - self.merged_before
        return self.elapsed / merged * (self.windows - self.merged) if merged else None


@contextmanager
def _live(console: Console, *, verbose: bool) -> Iterator[OnEvent]:
    state = _State()
    bars = Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=20), _Figures(state), console=console, transient=True
    )
    exports, fetch, merge = (bars.add_task(stage, total=None) for stage in ("export", "fetch", "merge"))
    render = bars.add_task("render", total=None, visible=False)

    def listener(event: Event) -> None:
        state(event)
        if line := _line(event, verbose=verbose):
            bars.console.print(escape(line))
        bars.update(exports, completed=state.exports_done, total=state.windows or None)
        bars.update(fetch, completed=state.fetched.total(), total=state.parts or None)
        bars.update(merge, completed=state.merged, total=state.windows or None)
        if state.rendered:
            bars.update(render, completed=state.rendered[0], total=state.rendered[1], visible=True)

    with bars:
        yield listener


class _Figures(ProgressColumn):
    """The figures behind each bar."""

    def __init__(self, state: _State) -> None:
        super().__init__()
        self._state = state

    def render(self, task: Task) -> Text:
        state = self._state
        if task.description == "export" and not state.windows:
            return Text(f"counting: {state.probes:,} requests")
        if task.description == "export":
            return Text(
                f"{state.exports_launched:,}/{state.windows:,} launched, {state.waiting:,} waiting"
                + (f" of {state.limit:,} at most" if state.limit else "")
                + f", {state.exports_done:,} done"
            )
        if task.description == "fetch":
            return Text(
                f"{state.fetched.total():,}/{state.parts:,} parts, {decimal(state.bytes)}, {decimal(int(state.rate))}/s"
            )
        if task.description == "render":
            size, merged = state.rendered or (0, 0)
            return Text(f"{decimal(size)} of {decimal(merged)} merged")
        left = "?" if state.left is None else _clock(state.left)
        return Text(f"{state.rows:,} rows, {_clock(state.elapsed)} elapsed, {left} left")


def _lines(console: Console, *, verbose: bool) -> OnEvent:
    state = _State()
    last = state.began

    def listener(event: Event) -> None:
        nonlocal last
        state(event)
        if line := _line(event, verbose=verbose):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        if time.monotonic() - last >= _LINE_EVERY:
            last = time.monotonic()
            left = "" if state.left is None else f", about {_clock(state.left)} left"
            console.print(
                f"{_clock(state.elapsed)}: {state.exports_launched:,} of {state.windows:,} windows launched, "
                f"{state.waiting:,} waiting, {state.exports_done:,} exported; {decimal(state.bytes)} received; "
                f"{state.rows:,} rows merged"
                + (f", {decimal(state.rendered[0])} of {decimal(state.rendered[1])} rendered" if state.rendered else "")
                + left,
                markup=False,
                highlight=False,
                soft_wrap=True,
            )

    return listener


def _line(event: Event, *, verbose: bool) -> str | None:
    """What is worth a line: trouble always, all else only when asked for."""
    match event:
        case events.Resumed():
            return (
                f"resuming: {event.merged:,} windows are merged ({event.rows:,} rows), {event.exported:,} exported, "
                f"{event.exporting:,} being exported; {event.whole:,} files are whole, {event.half:,} half"
                + (f"; {event.skipped:,} windows are left out" if event.skipped else "")
            )
        case events.Planned() if event.uncounted:
            return f"activity could not be counted, so windows are of equal length: {event.uncounted}"
        case events.Split():
            again = ", and exported again" if event.is_merged else ""
            return f"{event.window} is cut into {len(event.pieces):,} windows{again}: {event.reason}"
        case events.CountsDoubted():
            return f"the API's counts cannot be trusted: {event.reason}"
        case events.Refused():
            return (
                f"{event.window}: launch refused while {event.exports:,} other exports are in flight; it waits until "
                f"one of them has ended: {event.reason}"
            )
        case events.Reconciling():
            counted = "activity is listed" if event.counted is None else f"{event.counted:,} activities are counted"
            return f"{event.window}: {event.ids:,} came, and {counted}; {event.step}"
        case events.Skipped():
            return f"{event.window} is left out: {event.reason}"
        case events.ExportFailed():
            return f"{event.window}: export {event.export_id} will not do: {event.reason}"
        case events.Throttled():
            return f"{event.route}: throttled; all requests hold for {event.wait:.0f} s"
        case events.Retried():
            return f"{event.what}: attempt {event.attempt}: {event.reason}; again in {event.wait:.1f} s"
        case events.ColumnsDiffer():
            return f"{event.window}, part {event.part}: " + "; ".join(
                f"{what}: {', '.join(names)}"
                for what, names in (("columns missing", event.missing), ("columns left out", event.unasked))
                if names
            )
        case events.PartMerged() if event.outside and not verbose:
            return f"{event.window}, part {event.part}: {event.outside:,} rows lie outside the window"
    return _verbose_line(event) if verbose else None


def _verbose_line(event: Event) -> str | None:
    match event:
        case events.Planned():
            rows = total_count(event.windows)
            probed = f", {rows:,} activities counted with {event.probes:,} requests" if rows and event.probes else ""
            return f"{len(event.windows):,} windows{probed}"
        case events.Limited():
            return f"at most {event.exports:,} exports in flight, and {event.downloads:,} files streamed"
        case events.Launched():
            return f"{event.window}: launched export {event.export_id}"
        case events.Polled():
            return f"{event.window}: {event.status} after {event.waited:.1f} s"
        case events.Exported():
            return f"{event.window}: exported to {event.parts} parts in {event.seconds:.1f} s"
        case events.PartFetched():
            return f"{event.window}, part {event.part}: fetched {decimal(event.size)}"
        case events.PartMerged():
            return (
                f"{event.window}, part {event.part}: {event.rows:,} rows, {event.duplicates:,} duplicates, "
                f"{event.conflicts:,} conflicts, {event.outside:,} outside the window"
            )
        case events.WindowMerged():
            return f"{event.window}: merged"
    return None


def _clock(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
