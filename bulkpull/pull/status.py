"""Status: what the journal of an unfinished pull says, for people to read."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path

from bulkpull.errors import OutputError
from bulkpull.pull.journal import Figures, Journal
from bulkpull.pull.output import Output, disk_errors
from bulkpull.window import Window


@dataclass(frozen=True, slots=True)
class WindowStatus:
    """How far one window has come.

    `state` is one of waiting, launching (an answer of the API was not recorded), exporting, failed (to be launched
    again), exported, fetched, merged, skipped. `parts` are those of its export, `whole` of them on the disk; `rows`
    those that it brought. `failure` is why its last export will not do, or why it is left out.
    """

    window: Window
    state: str
    launches: int
    export_id: str | None
    parts: int
    whole: int
    rows: int
    failure: str | None


@dataclass(frozen=True, slots=True)
class Status:
    """An unfinished pull: `running` or not, what it was asked for, `runs` so far, `launches` in all, how many windows
    were cut in two, what has been merged (into `size` bytes), and its windows."""

    output: Path
    running: bool
    options: dict[str, str]
    runs: int
    launches: int
    splits: int
    merged: Figures
    size: int
    windows: tuple[WindowStatus, ...]


def status(out: str | os.PathLike[str]) -> Status:
    """What is known of the unfinished pull to `out`. Blocks on the disk. Raises OutputError where there is none."""
    output = Output(out)
    if not output.journal.exists():
        raise OutputError(f"there is no unfinished pull to {output.path}")
    journal = Journal(output.journal)
    try:
        frontier = journal.frontier
        return Status(
            output=output.path,
            running=_is_claimed(output.directory),
            options=journal.options,
            runs=journal.runs,
            launches=journal.launches,
            splits=journal.splits,
            merged=frontier.figures,
            size=frontier.offset,
            windows=tuple(starmap(_window, journal.by_window())),
        )
    finally:
        journal.close()


def _window(
    window: Window,
    launches: int,
    export_id: str | None,
    exported: int | None,
    failure: str | None,
    parts: int,
    whole: int,
    merged_parts: int | None,
    rows: int | None,
    skipped: str | None,
) -> WindowStatus:
    if skipped is not None:
        state, failure = "skipped", skipped
    elif merged_parts is not None:
        state, parts, whole = "merged", merged_parts, merged_parts
    elif not launches:
        state = "waiting"
    elif failure is not None:
        state = "failed"
    elif export_id is None:
        state = "launching"
    elif not exported:
        state = "exporting"
    else:
        state = "fetched" if whole == parts else "exported"
    return WindowStatus(window, state, launches, export_id, parts, whole, rows or 0, failure)


def _is_claimed(directory: Path) -> bool:
    with disk_errors(f"read {directory}"):
        handle = os.open(directory, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False
