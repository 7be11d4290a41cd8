"""The configuration file: where it is, whether it can be trusted, and what it sets."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from datetime import date, datetime
from pathlib import Path
from typing import Any

from bulkpull.errors import UsageError
from bulkpull.record import record
from bulkpull.suggestions import did_you_mean

_MAX_BYTES = 1_000_000
_PROJECT_FILES = (Path("bulkpull.toml"), Path("pyproject.toml"))
_TOKEN_SOURCES = ("token_file", "token_command")


@record
class Configured:
    """The value of an option as a text, as on the command line, and where it is from."""

    text: str
    origin: str


@record
class Configuration:
    """What a configuration file sets, by name."""

    path: Path | None = None
    profile: str | None = None
    profiles: tuple[str, ...] = ()
    values: Mapping[str, Configured] = field(default_factory=dict)


def load(named: str | None, profile: str | None, known: Callable[[], Mapping[str, bool]]) -> Configuration:
    """Return what the configuration file sets.

    Args:
        named: The path of the file; by default the first in the usual places.
        profile: The name of the profile; by default the one that the file names, if any.
        known: Returns the names that a file may have, and whether they are those of flags.

    Raises:
        UsageError: The file cannot be read, is not to be trusted, or makes no sense.
    """
    path, table = _named(Path(named)) if named else _found()
    if path is None:
        if profile:
            raise UsageError(f"there is no configuration file, so no profile {profile!r}: see `bulkpull config --help`")
        return Configuration()
    profiles = table.pop("profiles", {})
    if not (isinstance(profiles, dict) and all(isinstance(one, dict) for one in profiles.values())):
        raise UsageError(f"{path}: profiles must be tables, such as [profiles.eu]")
    default_profile = table.pop("profile", None)
    profile = profile or default_profile
    names = known()
    common = values(table, str(path), names)
    each = {name: values(one, f"{path}, profile {name}", names) for name, one in profiles.items()}
    if profile is None:
        return Configuration(path, None, tuple(each), common)
    if profile not in each:
        listed = ", ".join(each) or "none"
        raise UsageError(f"{path} has no profile {profile!r}; it has: {listed}.{did_you_mean(str(profile), each)}")
    chosen = each[profile]
    if chosen.keys() & _TOKEN_SOURCES:
        common = {name: value for name, value in common.items() if name not in _TOKEN_SOURCES}
    return Configuration(path, profile, tuple(each), common | chosen)


def _named(path: Path) -> tuple[Path, dict[str, Any]]:
    """Read the file that the user has named, whoever owns it."""
    text, _status = read(path)
    return path, _table(path, text) or {}


def _found() -> tuple[Path | None, dict[str, Any]]:
    """Read the first of the files in the usual places; no path if there is none.

    A file of another user could send the token elsewhere, or run a command: it is an error, as with git's
    `safe.directory`.
    """
    home = Path(os.environ.get("XDG_CONFIG_HOME") or f"{os.environ.get('HOME', '')}/.config")
    for path in (*_PROJECT_FILES, home / "bulkpull" / "config.toml"):
        if _is_file(path):
            text, status = read(path)
            table = _table(path, text)
            if table is not None:
                _check_owner(path, status)
                return path, table
    return None, {}


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:  # of a directory above it
        return False


def read(path: Path, what: str = "configuration file") -> tuple[bytes, os.stat_result]:
    """Return the bytes and the status of a file. Raises UsageError."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES), os.fstat(file.fileno())
    except OSError as error:
        raise UsageError(f"the {what} {path} cannot be read: {error.strerror}") from None


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in (os.geteuid(), 0):
        problem = f"belongs to another user (uid {status.st_uid})"
    elif status.st_mode & stat.S_IWOTH:
        problem = "can be written by every user"
    else:
        return
    raise UsageError(
        f"the configuration file {path} {problem}, so it is not used: it could send your token elsewhere. If you trust "
        f"it, name it: --config {path}"
    )


def _table(path: Path, text: bytes) -> dict[str, Any] | None:
    """Return what the file has for bulkpull; None for a pyproject.toml without it."""
    is_shared = path.name == "pyproject.toml"
    if is_shared and b"bulkpull" not in text:
        return None
    import tomllib

    try:
        content = tomllib.loads(text.decode())
    except ValueError as error:  # of TOML, or of UTF-8
        raise UsageError(f"the configuration file {path} is not valid TOML: {error}") from None
    if not is_shared:
        return content
    table = content.get("tool", {}).get("bulkpull")
    if not (table is None or isinstance(table, dict)):
        raise UsageError(f"{path}: tool.bulkpull must be a table")
    return table


def values(
    table: Mapping[str, Any], origin: str, known: Mapping[str, bool], suggested: Iterable[str] = ("profile", "profiles")
) -> dict[str, Configured]:
    """Return what a table sets, by name.

    Args:
        table: The table.
        origin: Where it is, for messages.
        known: The names that it may have, and whether they are those of flags.
        suggested: More names that a mistyped one may stand for.

    Raises:
        UsageError: A name is unknown, or a value of the wrong type.
    """
    found = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name == "token":
            raise UsageError(
                f"{origin}: the token must not be in a configuration file, which is easily shared. Use token_file, the "
                "path of a file that only you can read, or token_command"
            )
        if name not in known:
            raise UsageError(f"{origin}: unknown option {key!r}.{did_you_mean(name, (*known, *suggested))}")
        found[name] = Configured(_text(value, f"{origin}: {key}", is_flag=known[name]), origin)
    if found.keys() >= set(_TOKEN_SOURCES):
        raise UsageError(f"{origin}: has both {' and '.join(_TOKEN_SOURCES)}; choose one")
    return found


def _text(value: object, what: str, *, is_flag: bool) -> str:
    """Return a value of TOML as the command line would have it."""
    if isinstance(value, bool) is not is_flag:
        raise UsageError(f"{what} must be {'true or false' if is_flag else 'a value, not true or false'}")
    if isinstance(value, list) and all(isinstance(one, str) and "," not in one for one in value):
        return ",".join(value)
    if isinstance(value, date | datetime):
        return value.isoformat()
    if isinstance(value, str | int | float):
        return str(value)
    raise UsageError(f"{what} must be a text, a number, a date, or a list of texts")
