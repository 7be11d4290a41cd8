"""Status: what the journal of an unfinished pull says, for people to read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path

from bulkpull.errors import OutputError
from bulkpull.journal.journal import Figures, Journal
from bulkpull.store.file import Output
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
    """An unfinished pull: `running` or not, and if so in which process (`pid`, as that process sees itself), what it
    was asked for, `runs` so far, `launches` in all, how many windows were cut, what has been merged (into `size`
    bytes), and its windows."""

    output: Path
    running: bool
    pid: int | None
    options: dict[str, str]
    runs: int
    launches: int
    splits: int
    merged: Figures
    size: int
    windows: tuple[WindowStatus, ...]


def status(out: str | os.PathLike[str]) -> Status:
    """What is known of the unfinished pull to `out`. Blocks on the disk, and changes nothing there: a pull that is
    running, or starts, is not disturbed. Raises OutputError where there is none."""
    output = Output(out)
    if not output.journal.exists() or not all(map(_may_be_read, output.journal_files)):
        raise OutputError(f"there is no unfinished pull to {output.path}")
    journal = Journal(output.journal, read_only=True)
    try:
        frontier, pid = journal.frontier, journal.pid
        claimed = output.is_claimed()
        running = claimed if claimed is not None else pid is not None and _is_alive(pid)
        return Status(
            output=output.path,
            running=running,
            pid=pid if running else None,
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


def _may_be_read(path: Path) -> bool:
    """False for a pipe or a device, which would keep us waiting."""
    return not path.exists() or path.is_file()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
