"""Write the report of a pull that is running, has failed or is complete."""

from __future__ import annotations

import os
import time
from contextlib import closing
from pathlib import Path

from bulkpull import __version__
from bulkpull.disk import disk_errors, replacing
from bulkpull.errors import OutputError
from bulkpull.journal import JournalReader, Timeline, decoded, has_journal, is_running
from bulkpull.report.figures import figures_of
from bulkpull.report.page import MARK, page
from bulkpull.store import (
    MANIFEST_SUFFIX,
    ObjectUrl,
    WorkDirectory,
    manifest_path,
    read_manifest,
    read_remote_manifest,
    resolved,
)

SUFFIX = ".report.html"  # after the name of the output
_START_CHARACTERS = 100  # in which a report says that it is one


def write_report(
    out: str | os.PathLike[str],
    to: str | os.PathLike[str] | None = None,
    *,
    state: str | os.PathLike[str] | None = None,
) -> Path:
    """Write the report of the pull to `out`: one HTML page of figures and charts. Returns its path.

    Of an unfinished pull it is made from the progress beside the output, of a finished one from the manifest. Blocks
    on the disk, and for a finished output in object storage on the network; changes nothing else there: a pull that is
    running is not disturbed. The page holds no rows, no filter, no links and no tokens.

    Args:
        out: The output.
        to: The page. Defaults to `<out>.report.html`. An existing report is replaced.
        state: The directory of the progress, if the output is in object storage.

    Raises:
        OutputError: There is no pull to `out`, what is known of it cannot be read, or `to` cannot be written.
    """
    work = WorkDirectory.of(out, state)
    path = _default_path(work) if to is None else Path(to)
    check_report_path(path)
    if has_journal(work):
        with closing(JournalReader(work.journal)) as journal:
            timeline, running = journal.timeline(), is_running(work, journal)
        text = report_page(timeline, work.output, now=time.time() if running else None)
    else:
        text = report_page(_timeline_of_manifest(out, work), work.output)
    save_report(path, text)
    return path


def report_page(timeline: Timeline, output: Path | str, *, now: float | None = None) -> str:
    """Return the report of a pull. `now`, in seconds since 1970, is given for one that is running."""
    name = output.name if isinstance(output, Path) else output.rpartition("/")[2]
    return page(figures_of(timeline, now=now), name, __version__)


def save_report(path: Path, text: str) -> None:
    """Write a report in one step. Blocks. Raises OutputError, also if `path` has become something else: the output."""
    path = resolved(path)
    check_report_path(path)
    with replacing(path) as draft, disk_errors(f"write the report {path}", at=path):
        draft.write_text(text, encoding="utf-8", errors="replace")


def check_report_path(path: Path) -> None:
    """Raise OutputError if no report can be written to `path`: it is something else, or there is no such directory."""
    with disk_errors(f"write the report {path}"):
        if not path.parent.is_dir():
            raise OutputError(f"cannot write the report {path}: there is no directory {path.parent}")
        if not path.exists():
            return
        if path.is_file():
            with path.open(encoding="utf-8", errors="replace") as file:
                if MARK in file.read(_START_CHARACTERS):
                    return
        raise OutputError(f"{path} exists and is not a report: choose another path")


def _default_path(work: WorkDirectory) -> Path:
    """Beside a local output; for one in object storage, beside the progress of its pull."""
    if isinstance(work.output, Path):
        return work.output.with_name(f"{work.output.name}{SUFFIX}")
    return work.path.with_name(f"{work.path.name.removesuffix('.bulkpull')}{SUFFIX}")


def _timeline_of_manifest(out: str | os.PathLike[str], work: WorkDirectory) -> Timeline:
    if url := ObjectUrl.of(out):
        path, manifest = f"{url}{MANIFEST_SUFFIX}", read_remote_manifest(url)
    else:
        beside = manifest_path(Path(work.output))
        path, manifest = str(beside), read_manifest(beside) if beside.exists() else None
    if manifest is None:
        raise OutputError(f"there is neither an unfinished pull to {work.output}, nor a manifest {path}")
    if not manifest.timeline:
        raise OutputError(f"the manifest {path} does not say how the pull went: an older bulkpull has written it")
    try:
        return decoded(manifest.timeline)
    except ValueError as error:
        raise OutputError(f"the manifest {path} is damaged: {error}") from error
