"""The manifest of a data set that is kept up to date: its current files, and the state of the sync."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from datetime import datetime

import orjson

from bulkpull.errors import OutputError
from bulkpull.record import record
from bulkpull.store import MANIFEST

FORMAT, VERSION = "bulkpull synced data set", 1


@record
class CurrentFile:
    """A file of the data set. Of its rows, `gone` are no longer at the source; of these, those with the ids `kept` are
    not marked. Times are instants in canonical form, which sort as text. They and the ids are None without rows."""

    path: str
    rows: int
    bytes: int
    sha256: str
    gone: int
    first_time: str | None
    last_time: str | None
    first_id: str | None
    last_id: str | None
    kept: tuple[str, ...] = ()


@record
class RetiredFile:
    """A file that is not current any more, and since when."""

    path: str
    since: str


@record
class CurrentFiles:
    """What a manifest says. `columns` are those of the source, in the order of the files; `has_marks` is whether the
    files have the column that marks rows which are gone."""

    columns: tuple[str, ...] = ()
    has_marks: bool = False
    state: str | None = None
    files: tuple[CurrentFile, ...] = ()
    retired: tuple[RetiredFile, ...] = ()

    @property
    def paths(self) -> set[str]:
        """All files that must stay."""
        return {file.path for file in self.files} | {file.path for file in self.retired}

    def to_bytes(self) -> bytes:
        """Return the manifest as JSON."""
        head = {"format": FORMAT, "version": VERSION}
        return orjson.dumps(head | asdict(self), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def read_current(manifest: bytes, place: str) -> CurrentFiles:
    """Return what a manifest says. Raises OutputError if it is not one of a data set that a sync keeps up to date."""
    damaged = OutputError(f"{place}/{MANIFEST} is damaged: restore it from a backup, or choose another output")
    try:
        found = orjson.loads(manifest)
        kind, version = found.get("format"), found.get("version")
    except (orjson.JSONDecodeError, AttributeError):
        raise damaged from None
    if kind != FORMAT:
        raise OutputError(f"the data set at {place} was not written by a sync: choose another output")
    if version != VERSION:
        raise OutputError(
            f"{place}/{MANIFEST} has version {version!r}, and this version of bulkpull reads {VERSION}: use the "
            "bulkpull that wrote it"
        )
    try:
        files = tuple(CurrentFile(**{**one, "kept": tuple(one["kept"])}) for one in found["files"])
        retired = tuple(RetiredFile(**one) for one in found["retired"])
        others = {one.name: found[one.name] for one in fields(CurrentFiles) if one.name not in ("files", "retired")}
        return CurrentFiles(**{**others, "columns": tuple(found["columns"])}, files=files, retired=retired)
    except (KeyError, TypeError):
        raise damaged from None


def retired_files(old: CurrentFiles, new: Iterable[CurrentFile], at: str, days: int) -> tuple[RetiredFile, ...]:
    """Return the files that readers of a former manifest may still read: those replaced now, or in the last days."""
    current = {file.path for file in new}
    now = datetime.fromisoformat(at)
    recent = [one for one in old.retired if (now - datetime.fromisoformat(one.since)).days < days]
    found = {one.path: one for one in (*recent, *(RetiredFile(file.path, at) for file in old.files))}
    return tuple(one for path, one in sorted(found.items()) if path not in current)
