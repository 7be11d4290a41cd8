"""The jobs of `bulkpull pull-many`: a TOML file in which each job has the options of `bulkpull pull`."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

import bulkpull
from bulkpull.cli.config_file import Configured, read, values
from bulkpull.cli.observers import NAMES as OF_OBSERVERS
from bulkpull.cli.options import RUN_NAMES
from bulkpull.cli.pull import options_from, pull
from bulkpull.cli.settings import Setting
from bulkpull.cli.token import TokenSource, token_source
from bulkpull.record import record
from bulkpull.suggestions import did_you_mean
from bulkpull.sync import table_of

_DEFAULTS, _JOBS = "defaults", "jobs"
_TOKEN_KINDS = ("token", "token_env", "token_file", "token_command")
_OF_CLIENT = ("base_url", "requests_per_minute", "retry_for")
_DESTINATIONS = frozenset({"out", "to"})
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")


@record
class JobSettings:
    """What the file, the environment and the configuration file set for a job.

    Args:
        name: The name of the job.
        origin: The file and the job, for messages.
        options: The options of its pull into a file or a table.
        token: Where its token is from; None if nothing says so.
        base_url: The API.
        requests_per_minute: The request budget.
        retry_for: How long to keep retrying, in seconds.
        output: The output, or the name of the table, as messages call it.
    """

    name: str
    origin: str
    options: bulkpull.PullOptions | bulkpull.LoadOptions
    token: TokenSource | None
    base_url: str
    requests_per_minute: int
    retry_for: float
    output: str


def read_jobs(path: Path, context: click.Context, *, fresh: bool) -> list[JobSettings]:
    """Return the jobs of a file, in its order. Blocks on the disk.

    The first of these decides: the job, `[defaults]`, the environment, the configuration file, the default.

    Args:
        path: The file.
        context: That of the command.
        fresh: Whether to discard the progress of earlier runs.

    Raises:
        UsageError: The file cannot be read, or a job makes no sense.
    """
    text, status = read(path, "jobs file")
    try:
        content = tomllib.loads(text.decode())
    except ValueError as error:  # of TOML, or of UTF-8
        raise bulkpull.UsageError(f"the jobs file {path} is not valid TOML: {error}") from None
    for key in content.keys() - {_DEFAULTS, _JOBS}:
        hint = did_you_mean(key, (_DEFAULTS, _JOBS))
        raise bulkpull.UsageError(f"{path}: unknown key {key!r}: it has [{_DEFAULTS}] and [{_JOBS}.NAME] tables.{hint}")
    defaults, jobs = content.get(_DEFAULTS, {}), content.get(_JOBS, {})
    if not (
        isinstance(defaults, dict) and isinstance(jobs, dict) and all(isinstance(one, dict) for one in jobs.values())
    ):
        raise bulkpull.UsageError(f"{path}: jobs must be tables, such as [{_JOBS}.site-a]")
    if not jobs:
        raise bulkpull.UsageError(f"{path} has no jobs: add a table for each, such as [{_JOBS}.site-a]")
    is_private = not stat.S_IMODE(status.st_mode) & (stat.S_IRWXG | stat.S_IRWXO)
    file = _File(context, is_private=is_private, fresh=fresh)
    common_given, common_token = file.table(defaults, f"{path}: [{_DEFAULTS}]")
    found = []
    for name, table in jobs.items():
        origin = f"{path}: job {name!r}"
        given, token = file.table(table, origin)
        replaced = _DESTINATIONS if given.keys() & _DESTINATIONS else ()
        shared = {key: value for key, value in common_given.items() if key not in replaced}
        found.append(file.settings(name, origin, shared | given, token or common_token))
    return found


class _File:
    """How the tables of a file are read.

    Args:
        context: That of the command.
        is_private: Whether only its owner can read the file.
        fresh: Whether to discard the progress of earlier runs.
    """

    def __init__(self, context: click.Context, *, is_private: bool, fresh: bool) -> None:
        self._context = context
        self._is_private = is_private
        self._fresh = fresh
        self._settings = {
            option.key: option
            for option in pull.params
            if isinstance(option, Setting) and option.is_persistent and option.key not in RUN_NAMES | OF_OBSERVERS
        }
        self._command = click.Command("pull", params=[*self._settings.values()], add_help_option=False)

    def table(self, table: Mapping[str, Any], origin: str) -> tuple[dict[str, Configured], TokenSource | None]:
        """Return the values of a table, and where it says that the token is. Raises UsageError."""
        named = {key.replace("-", "_"): value for key, value in table.items()}
        for name in named.keys() & (RUN_NAMES | OF_OBSERVERS):
            raise bulkpull.UsageError(f"{origin}: {name} is an option of all jobs: give it to the command")
        kinds = [kind for kind in _TOKEN_KINDS if kind in named]
        if len(kinds) > 1:
            raise bulkpull.UsageError(f"{origin}: has both {' and '.join(kinds)}; choose one")
        token = None
        for kind in kinds:
            value = named.pop(kind)
            if not isinstance(value, str):
                raise bulkpull.UsageError(f"{origin}: {kind} must be a text")
            token = self._token(kind, value, origin)
        known = {key: option.is_flag for key, option in self._settings.items() if key not in _TOKEN_KINDS}
        return values(named, origin, known, _TOKEN_KINDS), token

    def _token(self, kind: str, value: str, origin: str) -> TokenSource:
        if kind == "token" and not self._is_private:
            raise bulkpull.UsageError(
                f"{origin}: the file has a token, and other users can read it: chmod 600, or use token_env, token_file "
                "or token_command"
            )
        if kind == "token_env":
            if not (found := os.environ.get(value)):
                # What does not look like a name may be the token itself.
                named = f" {value!r}" if _VARIABLE.fullmatch(value) else ""
                raise bulkpull.UsageError(f"{origin}: the environment variable{named} of token_env is not set")
            return TokenSource("token", found, origin)
        return TokenSource(kind, value, origin)

    def settings(
        self,
        name: str,
        origin: str,
        given: Mapping[str, Configured],
        token: TokenSource | None,
    ) -> JobSettings:
        """Return the settings of a job: what is not given is taken as `bulkpull pull` would. Raises UsageError."""
        is_off = {key for key in given if self._settings[key].is_flag and given[key].text == "False"}
        arguments = [
            flag if self._settings[key].is_flag else f"{flag}={given[key].text}"
            for key in given.keys() - is_off
            for flag in (max(self._settings[key].opts, key=len),)
        ]
        with _said_of(origin):
            context = self._command.make_context("pull", arguments, parent=self._context)
            parsed = context.params | {self._settings[key].name: False for key in is_off}
            of_client = {name: parsed.pop(name) for name in _OF_CLIENT}
            if destination := given.keys() & _DESTINATIONS:  # that of the environment, such as of a sync, is another
                parsed |= dict.fromkeys(_DESTINATIONS - destination)
            if parsed["out"] is None and parsed["to"] is None:
                raise bulkpull.UsageError('say where the rows go: out = "FILE", or to = "URL" for a table')
            options = options_from(parsed, fresh=self._fresh)
            if isinstance(options, bulkpull.LoadOptions):
                output = table_of(options, bulkpull.Clickwrap.columns).name
            else:
                output = str(options.out)
            return JobSettings(name, origin, options, token or token_source(context), **of_client, output=output)


@contextmanager
def _said_of(origin: str) -> Iterator[None]:
    """Let errors name the job that they are about. Raises UsageError."""
    try:
        yield
    except click.ClickException as error:
        raise bulkpull.UsageError(f"{origin}: {error.format_message()}") from None
    except bulkpull.UsageError as error:
        raise bulkpull.UsageError(f"{origin}: {error}") from None
