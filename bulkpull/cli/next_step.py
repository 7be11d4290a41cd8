"""What a user can do after a pull that failed or was interrupted."""

from __future__ import annotations

import os
import shlex
import string
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import click

from bulkpull.cli.running import Interrupted
from bulkpull.errors import AuthenticationError, BulkpullError, OutputError, ShrinkError, UsageError


def next_step(
    out: Path | str,
    end: Exception,
    options: Sequence[click.Parameter],
    *,
    begun: bool,
    fresh: bool,
    state: Path | None = None,
    resolved: Mapping[str, str] | None = None,
) -> str | None:
    """Return a sentence for the user; None if that of the error `end` says enough.

    Args:
        out: The output.
        end: What ended the pull.
        options: Those of the command.
        begun: Whether it has read, or cleared, the progress of earlier runs.
        fresh: Whether it was to clear it.
        state: The directory of the progress, if it was given.
        resolved: The dates given relative to the current time, by flag, as what they stand for.
    """
    from bulkpull.store import WorkDirectory, byte_stream_at

    resolved = resolved or {}
    if isinstance(end, UsageError):
        return None if begun or fresh else _other_range(out, state, resolved, options)
    if isinstance(end, OutputError) and not begun:
        return None
    if stream := byte_stream_at(out):
        return f"The output to {stream.name} is incomplete, and cannot be resumed."
    unfinished = WorkDirectory.of(out, state)
    if unfinished.journal.exists():
        with_value = taking_values(options)
        arguments = sys.argv[1:]
        if begun or not fresh:
            arguments = list(without_fresh(arguments, with_value))
        command = _command(with_dates(arguments, resolved, with_value))
        return f"Progress is saved in {unfinished.path}. Resume with: {command}"
    if isinstance(end, Interrupted):
        complete = isinstance(unfinished.output, Path) and unfinished.output.exists()
        return f"The output {unfinished.output} exists." if complete else "Nothing was started; no progress to resume."
    return None


def next_step_of_table(end: Exception, options: Sequence[click.Parameter]) -> str | None:
    """Return a sentence for the user whose rows were to go into a table; None if that of the error `end` says enough.

    Args:
        end: What ended the run.
        options: Those of the command.
    """
    if isinstance(end, UsageError | AuthenticationError | ShrinkError):
        return None
    return f"What was exported so far is kept. Go on with: {resuming_command(options)}"


def resuming_command(options: Sequence[click.Parameter]) -> str:
    """Return the command that resumes what this one has begun.

    Args:
        options: Those of the command.
    """
    return _command(without_fresh(sys.argv[1:], taking_values(options)))


def _other_range(
    out: Path | str, state: Path | None, resolved: Mapping[str, str], options: Sequence[click.Parameter]
) -> str | None:
    """How to resume a pull whose relative dates meant something else when it began; None if there is none."""
    import bulkpull

    try:
        recorded = bulkpull.status(out, state).options
    except BulkpullError:
        return None
    dates = {flag: recorded[flag.removeprefix("--")] for flag in resolved}
    if dates == resolved:
        return None
    command = _command(with_dates(sys.argv[1:], dates, taking_values(options)))
    return f"Relative dates mean another range now than when the pull began. Resume it with: {command}"


def _command(arguments: Iterable[str]) -> str:
    return " ".join(map(quoted, ("bulkpull", *arguments)))


def with_dates(arguments: Sequence[str], dates: Mapping[str, str], with_value: Collection[str]) -> list[str]:
    """Return the arguments with other dates, by flag: in place of the former ones, or else at the end."""
    found: list[str] = []
    left = dict(dates)
    rest = iter(arguments)
    for argument in rest:
        flag, equals, _ = argument.partition("=")
        if flag in dates and equals:
            found.append(f"{flag}={left.pop(flag, dates[flag])}")
        elif argument in dates:
            next(rest, None)
            found += [argument, left.pop(argument, dates[argument])]
        else:
            found.append(argument)
            if argument in with_value:
                found += islice(rest, 1)
    return found + [word for flag, value in left.items() for word in (flag, value)]


def taking_values(options: Sequence[click.Parameter]) -> frozenset[str]:
    """Return the flags that are followed by a value."""
    return frozenset(name for option in options if not getattr(option, "is_flag", True) for name in option.opts)


def without_fresh(arguments: Sequence[str], with_value: Collection[str]) -> Iterator[str]:
    """Yield the arguments without the flag `--fresh`, which would discard the progress to be resumed."""
    rest = iter(arguments)
    for argument in rest:
        if argument != "--fresh":
            yield argument
        if argument in with_value:
            yield from islice(rest, 1)


def quoted(argument: str) -> str:
    """Return the argument quoted for a shell.

    Control characters, and bytes that are not text, would not survive being printed: they are escaped as octal numbers
    in `$'...'`, which bash, zsh, ksh and POSIX.1-2024 know.
    """
    if argument.isprintable():
        return shlex.quote(argument)
    plain = frozenset(string.printable.encode()) - frozenset(b"\\'" + string.whitespace.encode()) | {ord(" ")}
    return "$'" + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in os.fsencode(argument)) + "'"
