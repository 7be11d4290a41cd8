"""Status: the progress of an unfinished pull, for people to read."""

from __future__ import annotations

import os
import time
from pathlib import Path

from bulkpull.errors import OutputError
from bulkpull.journal.reading import JournalReader, has_journal
from bulkpull.journal.records import Figures, Progress
from bulkpull.record import record
from bulkpull.store import WorkDirectory
from bulkpull.waits import Wait
from bulkpull.window import Window

SUFFIX = ".bulkpull"  # of the directories that hold progress


@record
class WindowStatus:
    """The progress of one window.

    `state` is one of waiting, launching (the API's answer is not recorded), exporting, failed (to be launched again),
    exported, fetched, merged and skipped. `parts` counts the files of its exports, `whole` those that are complete on
    the disk, `rows` its rows in the output. `failure` is why its last export cannot be used, or why it is left out.
    `launched` is when its last export was launched, an instant.
    """

    window: Window
    state: str
    launches: int
    export_id: str | None
    parts: int
    whole: int
    rows: int
    failure: str | None
    launched: str | None = None


@record
class Status:
    """An unfinished pull.

    `pid` is the process that is `running` it, in that process's own PID namespace; None if none is. `runs` counts its
    runs, `launches` its exports, `splits` the windows that were split. `merged` are the figures of its merged windows,
    whose rows take `size` bytes of CSV. Its progress is in `directory`; its first export was launched `since`, an
    instant. `trouble` is what it waits out, if it is running: an outage, or the request budget.
    """

    output: Path | str
    running: bool
    pid: int | None
    options: dict[str, str]
    runs: int
    launches: int
    splits: int
    merged: Figures
    size: int
    windows: tuple[WindowStatus, ...]
    directory: Path
    since: str | None
    trouble: Wait | None = None


def status(out: str | os.PathLike[str], state: str | os.PathLike[str] | None = None) -> Status:
    """Return the status of the unfinished pull to `out`.

    Blocks on the disk, and changes nothing there: a pull that is running, or starts, is not disturbed.

    Args:
        out: The output.
        state: The directory of the progress, if the output is in object storage.

    Raises:
        UsageError: `out` is not a URL of object storage.
        OutputError: there is no unfinished pull, or its journal cannot be read.
    """
    return _status(WorkDirectory.of(out, state))


def unfinished(directory: str | os.PathLike[str] = ".") -> tuple[list[Status], dict[Path, str]]:
    """Find the unfinished pulls below a directory. Blocks on the disk, and changes nothing there.

    An output in object storage is unknown to its progress: it is named by the last part of its key.

    Args:
        directory: Where to look. Links are not followed.

    Returns:
        Their status, in the order of their paths; and why the progress in other directories cannot be read.

    Raises:
        OutputError: `directory` is not one.
    """
    if not Path(directory).is_dir():
        raise OutputError(f"{os.fspath(directory)} is not a directory")
    found, unreadable = [], {}
    for at, directories, _ in os.walk(directory):
        of_pulls = {name for name in directories if name.endswith(SUFFIX) and name != SUFFIX}
        directories[:] = sorted(set(directories) - of_pulls)
        for path in (Path(at, name) for name in sorted(of_pulls)):
            work = WorkDirectory(path, path.with_name(path.name.removesuffix(SUFFIX)))
            if not work.journal.exists():
                continue
            try:
                found.append(_status(work))
            except OutputError as error:
                unreadable[path] = str(error)
    return found, unreadable


def _status(work: WorkDirectory) -> Status:
    """Raises OutputError."""
    if not has_journal(work):
        raise OutputError(f"there is no unfinished pull to {work.output}")
    journal = JournalReader(work.journal)
    try:
        frontier, pid, running = journal.frontier, journal.pid, is_running(work, journal)
        trouble = journal.trouble if running else None
        return Status(
            output=work.output,
            running=running,
            pid=pid if running else None,
            options=journal.options,
            runs=journal.runs,
            launches=journal.launches,
            splits=journal.splits,
            merged=frontier.figures,
            size=frontier.offset,
            windows=tuple(map(_window_status, journal.progress())),
            directory=work.path,
            since=journal.since,
            trouble=trouble.wait(time.time()) if trouble else None,
        )
    finally:
        journal.close()


def is_running(work: WorkDirectory, journal: JournalReader) -> bool:
    """Return whether a process is running the pull. Raises OutputError."""
    pid, is_claimed = journal.pid, work.is_claimed()
    return is_claimed if is_claimed is not None else pid is not None and _is_alive(pid)


def _window_status(progress: Progress) -> WindowStatus:
    merged = progress.merged
    return WindowStatus(
        window=progress.window,
        state=_state(progress),
        launches=progress.launches,
        export_id=progress.export_id,
        parts=merged.parts if merged else progress.parts,
        whole=merged.parts if merged else progress.complete_parts,
        rows=merged.rows if merged else 0,
        failure=progress.skip_reason or progress.failure,
        launched=progress.launched,
    )


def _state(progress: Progress) -> str:
    if progress.skip_reason is not None:
        return "skipped"
    if progress.merged:
        return "merged"
    if not progress.launches:
        return "waiting"
    if progress.failure is not None:
        return "failed"
    if progress.export_id is None:
        return "launching"
    if not progress.has_succeeded:
        return "exporting"
    return "fetched" if progress.complete_parts == progress.parts else "exported"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
