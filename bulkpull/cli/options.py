"""Command-line options made from the fields of an options' class: see `bulkpull.options`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import click

from bulkpull.options import Option, Options, declared

F = TypeVar("F", bound=Callable[..., Any])

_PREFIXES = " kMGT"


class Size(click.ParamType[int]):
    """A number of bytes: 4GB, 500MB, or a bare number."""

    name = "size"

    def convert(self, value: object, _parameter: click.Parameter | None, _context: click.Context | None) -> int:
        match = re.fullmatch(r"([1-9]\d{0,14})(|k|M|G|T)B?", str(value).strip())
        if not match:
            self.fail(f"{value!r} is not a size such as 500MB or 4GB")
        return int(match[1]) * int(1000 ** _PREFIXES.index(match[2] or " "))

    @staticmethod
    def text(value: int) -> str:
        """Return the shortest size that `convert` reads as `value`."""
        power = 0
        while value % 1000 == 0 and power < len(_PREFIXES) - 1:
            value //= 1000
            power += 1
        return f"{value}{_PREFIXES[power].strip()}B"


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


def options_of(options: type[Options], *, optional: Collection[str] = ()) -> Callable[[F], F]:
    """Return a decorator that gives a command an option for each field which the command line has.

    Args:
        options: The class.
        optional: Fields without a default that the command does not require either.
    """
    hints = get_type_hints(options)

    def decorate(command: F) -> F:
        for field, declaration in reversed(list(declared(options))):
            if declaration.in_cli:
                required = field.default is MISSING and field.name not in optional
                command = _click_option(field, hints[field.name], declaration, required=required)(command)
        return command

    return decorate


def run_options(command: F) -> F:
    """Add what only a run on the command line has: how it starts, what it prints, its exit code."""
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="Show errors only."),
        click.option("-v", "--verbose", is_flag=True, help="Show every event."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line of stdout."),
        click.option("--fresh", is_flag=True, help="Discard the progress of earlier runs and start over."),
        click.option("--accept-short", is_flag=True, help="Exit with 0 even if windows have fewer rows than counted."),
    ):
        command = option(command)
    return command


def _click_option(field: Field[Any], hint: Any, declaration: Option, *, required: bool) -> Callable[[F], F]:
    flag = f"--{field.name.replace('_', '-')}"
    if hint is bool:
        return click.option(flag, is_flag=True, help=declaration.help)
    kind, metavar = _type(hint, declaration)
    shown: dict[str, Any] = {}
    if field.default is not MISSING and field.default is not None:  # click takes a default of None for a value
        shown = {"default": kind.text(field.default) if isinstance(kind, Size) else field.default, "show_default": True}
    return click.option(
        flag,
        type=kind,
        required=required,
        metavar=declaration.metavar or metavar,
        help=declaration.help,
        **shown,
    )


def _type(hint: Any, declaration: Option) -> tuple[click.ParamType[Any], str | None]:
    """The type of an option's value, and what stands for it in the help; None for the type's own."""
    if declaration.choices:
        return click.Choice(declaration.choices), None
    if declaration.unit == "bytes":
        return Size(), "SIZE"
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
        exclusive = declaration.above is not None
        minimum = declaration.above if exclusive else declaration.minimum
        return click.FloatRange(min=minimum, min_open=exclusive), (declaration.unit or "x").upper()
    raise TypeError(f"the command line has no type for {hint}")
