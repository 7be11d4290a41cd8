"""Orders: what a sync is about to export, kept on disk until it is in the table."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import orjson

from bulkpull.disk import disk_errors, replace_file
from bulkpull.errors import OutputError, UsageError
from bulkpull.journal import JournalReader
from bulkpull.store import WorkDirectory
from bulkpull.sync.state import SyncState
from bulkpull.window import Window, instant

Kind = Literal["first", "increment", "full recheck", "add field", "rebuild"]

_VERSION = 1
_MAX_NAME = 80  # characters of a directory's name; file systems allow 255 bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is exported in one go, and committed in one transaction.

    Args:
        kind: Why.
        windows: The windows, in order of time, without overlaps. One whose export must not be compared with a count
            has none.
        expected: The state that the table has meanwhile; None if it was never synced.
        state: The state to be committed, apart from what turns out to be missing.
        believed: Windows whose export may be empty although the table has rows there: it was empty before.
    """

    kind: Kind
    windows: tuple[Window, ...]
    expected: str | None
    state: SyncState
    believed: tuple[Window, ...] = ()

    @property
    def settled_until(self) -> datetime:
        """The end of what the table has."""
        return self.state.start if self.expected is None else SyncState.parse(self.expected).frontier

    def save(self, directory: WorkDirectory) -> None:
        """Write the order into the work directory, which is claimed. Raises OutputError."""
        values = {
            "version": _VERSION,
            "kind": self.kind,
            "windows": _listed(self.windows),
            "expected": self.expected,
            "state": self.state.text(),
            "believed": _listed(self.believed),
        }
        path = _path(directory)
        with disk_errors(f"write {path}", at=path):
            replace_file(path, orjson.dumps(values), path.with_name("order.new"))

    @classmethod
    def load(cls, directory: WorkDirectory) -> Order | None:
        """Read the order that an interrupted run has left; None if there is none that this version can go on with."""
        path = _path(directory)
        try:
            with disk_errors(f"read {path}"):
                values = orjson.loads(path.read_bytes())
            if values["version"] != _VERSION:
                return None
            JournalReader(directory.journal).close()
            return cls(
                kind=values["kind"],
                windows=_windows(values["windows"]),
                expected=values["expected"],
                state=SyncState.parse(values["state"]),
                believed=_windows(values["believed"]),
            )
        except (OutputError, UsageError, ValueError, KeyError, TypeError):
            return None


def work_directory(
    table: str, state: str | os.PathLike[str] | None, purpose: str = "sync", *, creates_state: bool = True
) -> WorkDirectory:
    """Return the directory, in `state` or the current one, for the progress of what is done with the table of this
    name. Raises OutputError."""
    parent = Path(state or ".")
    with disk_errors(f"create {parent}"):
        if creates_state:
            parent.mkdir(parents=True, exist_ok=True)
        parent = parent.resolve()
    readable = re.sub(r"[^A-Za-z0-9._]+", "-", table).strip("-.")[-_MAX_NAME:]
    digest = hashlib.sha256(table.encode()).hexdigest()[:8]
    return WorkDirectory(parent / f"{readable}-{digest}.{purpose}.bulkpull", table, is_kept=True)


def discard_progress(directory: WorkDirectory) -> None:
    """Remove a work directory. A no-op if there is none. Raises OutputError."""
    if directory.path.exists():
        directory.claim()
        directory.release(remove=True)


def _path(directory: WorkDirectory) -> Path:
    return directory.path / "order.json"


def _listed(windows: tuple[Window, ...]) -> list[list[object]]:
    return [[instant(window.start), instant(window.end), window.rows] for window in windows]


def _windows(listed: list[list[object]]) -> tuple[Window, ...]:
    return tuple(
        Window(index, datetime.fromisoformat(str(start)), datetime.fromisoformat(str(end)), rows)  # type: ignore[arg-type]
        for index, (start, end, rows) in enumerate(listed)
    )
