"""`bulkpull status --watch`: the progress of a pull that another process runs, from its journal alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import click
from rich.console import Console

import bulkpull
from bulkpull import events
from bulkpull.cli.live import LiveScreen
from bulkpull.cli.screen import sentence
from bulkpull.journal import Status, WindowStatus
from bulkpull.progress import Progress

INTERVAL_S = 2.0
LINE_INTERVAL_S = 60.0  # if standard output is not a terminal
_STAGES = {"exporting": 1, "exported": 2, "fetched": 3, "merged": 4}  # others: 0


class Follower:
    """Turns one status after the other into the events that lie between, so that `figures` count them.

    What the journal does not hold, such as the number of requests, stays unknown.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._before: dict[int, WindowStatus] = {}
        self.figures = Progress(lambda: self._now)

    def follow(self, found: Status, now: float) -> None:
        """Take account of a status, at this time in seconds since 1970."""
        if {one.window.index for one in found.windows} != self._before.keys():
            self._begin(found, now)
        for one in sorted(found.windows, key=lambda one: one.launched or ""):
            for at, event in _between(self._before[one.window.index], one, now):
                self._now = at
                self.figures(event)
            self._before[one.window.index] = one
        self._now = now
        self.figures.rows, self.figures.duplicates = found.merged.rows, found.merged.duplicates
        self.figures.bytes = found.size
        self.figures.reported = found.trouble

    def _begin(self, found: Status, now: float) -> None:
        """Begin with what is merged: at first, and when windows were split."""
        self._now = _seconds(found.since) or now
        self.figures = Progress(lambda: self._now)
        self.figures(events.Planned(tuple(one.window for one in found.windows)))
        ended = [one for one in found.windows if one.state in ("merged", "skipped")]
        skipped = sum(one.state == "skipped" for one in ended)
        self.figures(
            events.Resumed(
                run=found.runs,
                merged=len(ended) - skipped,
                skipped=skipped,
                rows=found.merged.rows,
                duplicates=found.merged.duplicates,
                **dict.fromkeys(_UNKNOWN, 0),
            )
        )
        self._before = {
            one.window.index: one if one in ended else WindowStatus(one.window, "waiting", 0, None, 0, 0, 0, None)
            for one in found.windows
        }


_UNKNOWN = ("parts", "conflicts", "outside", "exports", "exporting", "exported", "whole", "half", "splits")


def _between(before: WindowStatus, now_is: WindowStatus, now: float) -> Iterator[tuple[float, events.Event]]:
    """Yield what happened to a window, with the time."""
    window, export_id = now_is.window, now_is.export_id or ""
    stage, former = _STAGES.get(now_is.state, 0), _STAGES.get(before.state, 0)
    launched = _seconds(now_is.launched) or now
    if now_is.state == "skipped" != before.state:
        yield now, events.Skipped(window, now_is.failure or "")
        return
    if now_is.state == "failed" and former:
        yield now, events.ExportFailed(window, export_id, now_is.launches, now_is.failure or "")
    if stage and before.export_id != now_is.export_id:
        if former:
            yield now, events.ExportFailed(window, before.export_id or "", before.launches, "it was launched again")
        former = 0
        yield launched, events.Launched(window, export_id, now_is.launches)
    if stage == 1:
        yield now, events.Polled(window, export_id, "", "unfinished", now - launched)
    if stage >= 2 > former:
        yield now, events.Polled(window, export_id, "", "succeeded", now - launched)
        yield now, events.Exported(window, export_id, now_is.parts, now - launched)
    if stage >= 2:
        for part in range(before.whole + 1, now_is.whole + 1):
            yield now, events.PartFetched(window, part, 0)
    if stage == 4 > former:
        yield now, events.WindowMerged(window)


def _seconds(instant: str | None) -> float | None:
    return None if instant is None else datetime.fromisoformat(instant).timestamp()


def watch(file: Path | str, state: Path | None) -> None:
    """Show the progress of a pull until it ends, or the user interrupts.

    Args:
        file: The output of the pull.
        state: The directory of its progress, if it was given.
    """
    found = bulkpull.status(file, state)
    follower = Follower()
    console = Console(highlight=False)
    with suppress(KeyboardInterrupt):
        if console.is_terminal and not console.is_dumb_terminal:
            follower.follow(found, time.time())
            with LiveScreen(lambda: follower.figures, console) as live:
                for _ in _followed(follower, found, file, state):
                    live.refresh()
        else:
            shown_at = -LINE_INTERVAL_S
            for shown in _followed(follower, found, file, state):
                if time.monotonic() - shown_at >= LINE_INTERVAL_S:
                    shown_at = time.monotonic()
                    click.echo(sentence(shown))
    click.echo(_end(file, state))


def _followed(follower: Follower, found: Status, file: Path | str, state: Path | None) -> Iterator[Progress]:
    """Yield the figures, again and again while the pull runs."""
    while True:
        follower.follow(found, time.time())
        yield follower.figures
        if not found.running:
            return
        time.sleep(INTERVAL_S)
        try:
            found = bulkpull.status(file, state)
        except bulkpull.OutputError:  # it has ended
            return


def _end(file: Path | str, state: Path | None) -> str:
    """Return a sentence on how the pull is at the end of the watch."""
    try:
        found = bulkpull.status(file, state)
    except bulkpull.OutputError:
        return f"The pull to {file} has ended."
    if found.running:
        return f"The pull continues (pid {found.pid})."
    return f"The pull is not running. Its progress is saved in {found.directory}; rerun its command to resume."
