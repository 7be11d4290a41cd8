"""The manifest of an output: where its rows come from, how complete they are, and the checksum of each file.

It is a JSON file beside the output, also if that is a directory: not all readers of data sets ignore other files in
them. It holds neither tokens nor links. The same data gives the same manifest, except for `created`, the ids of the
exports and the `timeline`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import MISSING, asdict, fields, is_dataclass
from datetime import datetime
from functools import cache
from pathlib import Path, PurePosixPath
from types import UnionType
from typing import Any, Protocol, get_args, get_origin, get_type_hints, runtime_checkable

import orjson

from bulkpull.disk import disk_errors
from bulkpull.errors import OutputError
from bulkpull.record import record
from bulkpull.rows.format import FORMATS, Format
from bulkpull.rows.records import File

VERSION = 1  # of the manifest; any change of its members is another version
FORMAT = "bulkpull manifest"
MANIFEST_SUFFIX = ".manifest.json"  # after the name of the output
_START = re.compile(rb'\s*\{\s*"format"\s*:\s*"bulkpull manifest"')
_START_BYTES = 256  # in which `_START` must match
_MAX_BYTES = 1_000_000_000
_BUFFER_BYTES = 64 * 1024  # fits into the first-level cache of a core: larger reads took up to 40 % more
_SHA256 = re.compile(r"[0-9a-f]{64}")


@record
class ManifestFile:
    """One file of an output. `path` is relative to the directory of the manifest, with `/` between names: the first is
    that of the output."""

    path: str
    rows: int
    bytes: int
    sha256: str


@record
class ManifestWindow:
    """A window as it was merged. `counted` is its count by the API, None if there is none. `delivered` is the number of
    different ids that its exports delivered, None if it was skipped. `rows` of them were new, and are in the output.
    `exports` are the ids of the exports that succeeded, `skipped` is why the window was left out."""

    start: str
    end: str
    counted: int | None
    delivered: int | None
    rows: int
    exports: tuple[str, ...]
    skipped: str | None


@record
class ManifestMismatch:
    """A span that delivered another number of activities than was counted; see `bulkpull.CountMismatch`."""

    start: str
    end: str
    counted: int | None
    delivered: int


@record
class ManifestCompleteness:
    """How complete the rows are; see `bulkpull.Result`. `skipped` is the number of windows left out."""

    complete: bool
    known_by: str
    doubt: str
    skipped: int
    short: tuple[ManifestMismatch, ...]
    over: tuple[ManifestMismatch, ...]


@record
class Manifest:
    """What a manifest says.

    Args:
        bulkpull: The version of bulkpull that wrote it.
        created: When it was written, an instant.
        source: The identity of the source: the API's base URL.
        key: The column that identifies a row.
        start: The start of the range, an instant.
        end: The end of the range, exclusive.
        filter: The user's filter; empty if there was none.
        fields: The columns that were asked for after the required ones; empty for all.
        columns: The columns of the output.
        written_as: The format.
        rows: How many rows the output has.
        duplicates: How many rows were dropped because of their id.
        conflicts: How many of them had other values.
        outside: How many rows are outside their window.
        completeness: How complete the rows are.
        windows: The windows, in order of time.
        files: The files, in order of their paths.
        timeline: How the pull went, in the form of `bulkpull.journal.encoded`; empty if that is not known.
    """

    bulkpull: str
    created: str
    source: str
    key: str
    start: str
    end: str
    filter: str
    fields: tuple[str, ...]
    columns: tuple[str, ...]
    written_as: Format
    rows: int
    duplicates: int
    conflicts: int
    outside: int
    completeness: ManifestCompleteness
    windows: tuple[ManifestWindow, ...]
    files: tuple[ManifestFile, ...]
    timeline: str = ""


@runtime_checkable
class ManifestWriter(Protocol):
    """A destination that has a place for the manifest of its output."""

    def write_manifest(self, manifest: Manifest) -> Path | str:
        """Add the files of the published output to a manifest, and write it, durably and in one step.

        Called after `publish`, and in a run for which `Destination.holds` is true: an earlier run may have been killed
        before this. Returns where the manifest is: a path, or the URL of an object. Blocks. Raises OutputError.
        """


def manifest_path(output: Path) -> Path:
    """Return where the manifest of a local output is."""
    return output.with_name(f"{output.name}{MANIFEST_SUFFIX}")


def is_manifest(path: Path) -> bool:
    """Return whether a file was written as a manifest, by any version of bulkpull, damaged or not. Raises OSError."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return bool(_START.match(file.read(_START_BYTES)))


def check_replaceable(path: Path, *, overwrite: bool) -> None:
    """Raise OutputError for a file at a manifest's path that must not be replaced. Raises OSError."""
    try:
        path.lstat()  # fails for a name that is too long, before a pull rather than after it
    except FileNotFoundError:
        return
    if path.is_dir() or not (overwrite or is_manifest(path)):
        raise OutputError(
            f"{path}, where the output's manifest belongs, exists and is not a manifest: move it away"
            + ("" if path.is_dir() else ", or overwrite it with --overwrite")
        )


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return a manifest as JSON."""
    head = {"format": FORMAT, "version": VERSION}
    return orjson.dumps(head | asdict(manifest), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Args:
        path: The file.

    Raises:
        OutputError: There is none, it is damaged, or another version of bulkpull has written it.
    """
    if not path.exists():
        raise OutputError(f"there is no manifest {path}")
    with disk_errors(f"read the manifest {path}"):
        if not is_manifest(path):
            raise _not_a_manifest(path)
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES)
    return parse_manifest(text, path)


def parse_manifest(text: bytes, path: Path | str) -> Manifest:
    """Return the manifest that a text holds; `path` is where it is from. Raises OutputError: see `read_manifest`."""
    if not _START.match(text):
        raise _not_a_manifest(path)
    try:
        found = orjson.loads(text)
        if (version := found.pop("version", None)) != VERSION:
            raise OutputError(
                f"the manifest {path} has version {version!r}, and this version of bulkpull reads {VERSION}: use the "
                f"bulkpull that wrote it ({found.get('bulkpull')!r})"
            )
        del found["format"]
        manifest: Manifest = _loaded(Manifest, found, "the manifest")
        _check(manifest)
    except (ValueError, KeyError, TypeError) as error:  # orjson's error is a ValueError
        raise OutputError(f"the manifest {path} is damaged: {error}") from error
    return manifest


def _not_a_manifest(path: Path | str) -> OutputError:
    return OutputError(f"{path} is not a manifest of bulkpull")


def sha256_of(file: File, checkpoint: Callable[[], None]) -> str:
    """Return the SHA-256 of a file in hexadecimal. `checkpoint` is called between reads and may raise to stop."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(_BUFFER_BYTES))
    while size := file.readinto(buffer):
        checkpoint()
        digest.update(buffer[:size])
    return digest.hexdigest()


def path_text(path: Path) -> str:
    """Return a relative path as a manifest has it. JSON cannot hold the bytes of a file name that are not text."""
    return os.fsencode(path.as_posix()).decode("utf-8", "replace")


def _check(manifest: Manifest) -> None:
    """Raise ValueError for values of the right type that no pull writes."""
    bounds = {manifest.start, manifest.end}
    bounds.update(bound for window in manifest.windows for bound in (window.start, window.end))
    for bound in bounds:
        if datetime.fromisoformat(bound).tzinfo is None:
            raise ValueError(f"{bound!r} has no offset from UTC")
    if manifest.written_as.name not in FORMATS:
        raise ValueError(f"{manifest.written_as.name!r} is not a format")
    for file in manifest.files:
        path = PurePosixPath(file.path)
        is_inside = len(path.parts) > 1  # a directory that is the output
        if path.is_absolute() or ".." in path.parts or not path.name or is_inside != manifest.written_as.is_data_set:
            raise ValueError(f"{file.path!r} is not the path of a file in the output")
        if not _SHA256.fullmatch(file.sha256):
            raise ValueError(f"{file.sha256!r} is not a SHA-256")
    if len({file.path for file in manifest.files}) < len(manifest.files):
        raise ValueError("a file is named twice")
    if not manifest.files or not (manifest.written_as.is_data_set or len(manifest.files) == 1):
        raise ValueError(f"it names {len(manifest.files)} files")
    if sum(file.rows for file in manifest.files) != manifest.rows:
        raise ValueError("the rows of its files do not add up to those of the output")


def _loaded(kind: Any, value: Any, where: str) -> Any:
    """Return a value from JSON as a type that manifests use. Raises ValueError if it is not exactly of that type."""
    if isinstance(kind, type) and is_dataclass(kind):
        members = _members(kind)
        required = {field.name for field in fields(kind) if field.default is MISSING}
        if not isinstance(value, dict) or not required <= value.keys() <= members.keys():
            raise ValueError(f"{where} must have exactly the members {', '.join(members)}")
        return kind(**{name: _loaded(members[name], member, name) for name, member in value.items()})
    if isinstance(kind, UnionType):
        [some] = set(get_args(kind)) - {type(None)}
        return None if value is None else _loaded(some, value, where)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} is not a list")
        return tuple(_loaded(get_args(kind)[0], one, where) for one in value)
    if type(value) is not kind or (kind is int and value < 0):
        raise ValueError(f"{where} is {value!r}")
    return value


@cache
def _members(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's fields, by name."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}
