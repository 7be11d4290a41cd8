"""Command-line options made from the fields of an options' class: see `bulkpull.options`."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import click

from bulkpull.cli.settings import Setting
from bulkpull.durations import duration_text, seconds_of
from bulkpull.errors import UsageError
from bulkpull.options import DISPLAY, TROUBLE, WHERE_TO, Option, Options, declared
from bulkpull.sizes import bytes_of, size_text

F = TypeVar("F", bound=Callable[..., Any])

JSON_HELP = "Print one JSON object."

_RUN_OPTIONS = (
    (("-q", "--quiet"), DISPLAY, True, "Show errors only."),
    (("-v", "--verbose"), DISPLAY, True, "Show every event."),
    (("--json", "as_json"), DISPLAY, True, "Print one JSON object as the last line of stdout."),
    # Not of a file or the environment, or each run would start over.
    (("--fresh",), TROUBLE, False, "Discard the progress of earlier runs and start over."),
    (("--accept-short",), TROUBLE, True, "Exit with 0 even if windows have fewer rows than counted."),
)
# The names of these options in files and the environment.
RUN_NAMES = frozenset(
    flag.removeprefix("--").replace("-", "_") for flags, *_ in _RUN_OPTIONS for flag in flags if flag.startswith("--")
)


class Size(click.ParamType[int]):
    """A number of bytes: 4GB, 1GiB, or a bare number."""

    name = "size"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int:
        try:
            return bytes_of(value)
        except UsageError as error:
            self.fail(str(error), parameter, context)


class Duration(click.ParamType[float]):
    """A number of seconds: 90s, 1h30m, or a bare number.

    Args:
        minimum: The lowest value allowed.
        above: An exclusive lower bound.
    """

    name = "duration"

    def __init__(self, *, minimum: float | None = None, above: float | None = None) -> None:
        self._minimum = minimum
        self._above = above

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        try:
            seconds = seconds_of(value)
        except UsageError as error:
            self.fail(str(error), parameter, context)
        if self._minimum is not None and not seconds >= self._minimum:
            self.fail(f"{value} is less than {duration_text(self._minimum)}", parameter, context)
        if self._above is not None and not seconds > self._above:
            self.fail(f"{value} is not more than {duration_text(self._above)}", parameter, context)
        return seconds


class Output(click.Path):
    """A path, or a URL, which is not one."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        return value if isinstance(value, str) and "://" in value else super().convert(value, parameter, context)


class Names(click.ParamType[list[str]]):
    """Names separated by commas."""

    name = "names"

    def convert(self, value: object, _parameter: click.Parameter | None, _context: click.Context | None) -> list[str]:
        return [name.strip() for name in str(value).split(",") if name.strip()]


def options_of(
    options: type[Options], *, optional: Collection[str] = (), shown: Collection[str] | None = None
) -> Callable[[F], F]:
    """Return a decorator that gives a command an option for each field which the command line has.

    Args:
        options: The class.
        optional: Fields without a default that the command does not require either.
        shown: Fields that the help shows; the command accepts the others too. By default all.
    """
    hints = get_type_hints(options)

    def decorate(command: F) -> F:
        for field, declaration in reversed(list(declared(options))):
            if declaration.in_cli:
                required = field.default is MISSING and field.name not in optional
                is_hidden = shown is not None and field.name not in shown
                option = _click_option(field, hints[field.name], declaration, required=required, is_hidden=is_hidden)
                command = option(command)
        return command

    return decorate


def run_options(command: F, *, shown: Collection[str] | None = None) -> F:
    """Add what only a run on the command line has: how it starts, what it prints, its exit code.

    Args:
        command: The command.
        shown: Flags that the help shows; the command accepts the others too. By default all.
    """
    for spellings, group, is_persistent, text in _RUN_OPTIONS:
        command = click.option(
            *spellings,
            cls=Setting,
            group=group,
            is_persistent=is_persistent,
            is_flag=True,
            hidden=shown is not None and not set(shown) & set(spellings),
            help=text,
        )(command)
    return command


def state_option(command: F) -> F:
    """Add `--state` to a command that looks at a pull."""
    return click.option(
        "--state",
        cls=Setting,
        group=WHERE_TO,
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Directory of the progress, as given to a pull to object storage.",
    )(command)


def _click_option(
    field: Field[Any], hint: Any, declaration: Option, *, required: bool, is_hidden: bool
) -> Callable[[F], F]:
    flag = f"--{field.name.replace('_', '-')}"
    settings: dict[str, Any] = {"cls": Setting, "group": declaration.group, "hidden": is_hidden}
    settings["help"] = declaration.help
    if hint is bool:
        return click.option(flag, is_flag=True, **settings)
    if field.default is not MISSING and field.default is not None:  # click takes a default of None for a value
        settings |= {"default": _default(field.default, declaration), "show_default": True}
    kind, metavar = _type(hint, declaration)
    return click.option(flag, type=kind, required=required, metavar=declaration.metavar or metavar, **settings)


def _default(value: Any, declaration: Option) -> Any:
    """The default as the help shows it."""
    return {"bytes": size_text, "seconds": duration_text}[declaration.unit](value) if declaration.unit else value


def _type(hint: Any, declaration: Option) -> tuple[click.ParamType[Any], str | None]:
    """The type of an option's value, and what stands for it in the help; None for the type's own."""
    if declaration.choices:
        return click.Choice(declaration.choices), None
    if declaration.unit == "bytes":
        return Size(), None
    if declaration.unit == "seconds":
        return Duration(minimum=declaration.minimum, above=declaration.above), None
    kinds = {getattr(kind, "__origin__", kind) for kind in (hint, *get_args(hint))}
    if os.PathLike in kinds:
        return Output(), None
    if Sequence in kinds:
        return Names(), None
    if str in kinds:
        return click.STRING, None
    if int in kinds:
        return click.IntRange(min=None if declaration.minimum is None else int(declaration.minimum)), "N"
    if float in kinds:
        return click.FloatRange(min=declaration.minimum), None
    raise TypeError(f"the command line has no type for {hint}")
