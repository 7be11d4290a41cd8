"""Where the command line has the token from: the environment, a file, or a program that prints it."""

from __future__ import annotations

import os
import shlex
from typing import NamedTuple

import click
from click.core import ParameterSource

from bulkpull.cli.settings import configuration
from bulkpull.clickwrap import read_token_file
from bulkpull.errors import UsageError

TOKEN_COMMAND_TIMEOUT_S = 60.0  # someone may have to unlock the secret manager
_OPTIONS = ("token_file", "token_command")
_MISSING = (
    "no token: set BULKPULL_TOKEN, or give the path of a file that contains it (BULKPULL_TOKEN_FILE, --token-file), or "
    "a command that prints it (BULKPULL_TOKEN_COMMAND, --token-command)"
)


class TokenSource(NamedTuple):
    """Where the token is from.

    `kind` is token, token_file or token_command, `value` the token itself, the path, or the command. `origin` is what
    named it: a variable, a flag, or a configuration file.
    """

    kind: str
    value: str
    origin: str

    def __repr__(self) -> str:
        """Return a text without the token."""
        return f"TokenSource(kind={self.kind!r}, origin={self.origin!r})"


def token_source(context: click.Context) -> TokenSource | None:
    """Return the source with the highest precedence: flag, environment, profile, file. Raises UsageError."""
    given = {kind: context.get_parameter_source(kind) for kind in _OPTIONS if context.meta.get(kind)}
    flags = [kind for kind, source in given.items() if source is ParameterSource.COMMANDLINE]
    if len(flags) > 1:
        raise UsageError("--token-file and --token-command exclude each other")
    if flags:
        return TokenSource(flags[0], context.meta[flags[0]], f"--{flags[0].replace('_', '-')}")
    if (token := os.environ.get("BULKPULL_TOKEN")) is not None:
        return TokenSource("token", token, "BULKPULL_TOKEN")
    for kind in sorted(given, key=lambda kind: given[kind] is not ParameterSource.ENVIRONMENT):  # stable
        is_variable = given[kind] is ParameterSource.ENVIRONMENT
        origin = f"BULKPULL_{kind.upper()}" if is_variable else configuration(context).values[kind].origin
        return TokenSource(kind, context.meta[kind], origin)
    return None


async def read_token(source: TokenSource | None) -> str:
    """Return the token. Raises UsageError, which never contains it."""
    if source is None:
        raise UsageError(_MISSING)
    if source.kind == "token":
        return source.value
    return read_token_file(source.value) if source.kind == "token_file" else await _printed_by(source)


async def _printed_by(source: TokenSource) -> str:
    """Return what the command prints, without surrounding whitespace.

    It runs without a shell. It may ask for a password on the terminal, and its standard error is shown.
    """
    import anyio

    try:
        words = shlex.split(source.value)
    except ValueError as error:
        raise UsageError(f"the token command of {source.origin} cannot be parsed: {error}") from None
    if not words:
        raise UsageError(f"the token command of {source.origin} is empty")
    what = f"the token command {words[0]!r} of {source.origin}"  # its arguments may be secret
    try:
        with anyio.fail_after(TOKEN_COMMAND_TIMEOUT_S):
            done = await anyio.run_process(words, check=False, stderr=None)
    except TimeoutError:
        raise UsageError(f"{what} did not end within {TOKEN_COMMAND_TIMEOUT_S:.0f} s") from None
    except OSError as error:
        raise UsageError(f"{what} cannot be run: {error.strerror}") from None
    if done.returncode:
        raise UsageError(f"{what} failed with exit code {done.returncode}")
    try:
        token = done.stdout.decode().strip()
    except UnicodeDecodeError:
        token = ""
    if not token:
        raise UsageError(f"{what} printed no token")
    return token
