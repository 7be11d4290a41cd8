"""Declare options once: frozen dataclasses whose fields carry help, checks and defaults.

The library's keyword arguments, the command line and the journal read names, defaults, help and checks from there.
"""

from __future__ import annotations

import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, ClassVar, Concatenate, ParamSpec, Protocol, TypeVar

from bulkpull.durations import seconds_of
from bulkpull.errors import UsageError
from bulkpull.record import record
from bulkpull.sizes import bytes_of

P = ParamSpec("P")
SourceT = TypeVar("SourceT")
OptionsT = TypeVar("OptionsT", bound="Options")
ResultT = TypeVar("ResultT")

# The groups of a command's help, in their order.
WHAT = "What"
WHERE_TO = "Where to"
HOW_FAST = "How fast"
TROUBLE = "When things go wrong"
DISPLAY = "Display"
MONITORING = "Logs and metrics"
GROUPS = (WHAT, WHERE_TO, HOW_FAST, TROUBLE, DISPLAY, MONITORING)

_KEY = "option"
_DOC_WIDTH = 112
_UNITS: dict[str, tuple[str, Callable[[Any], float]]] = {
    "bytes": ("In bytes, or a text such as 500MB or 1GiB.", bytes_of),
    "seconds": ("In seconds, or a text such as 90s or 1h30m.", seconds_of),
}


class Options(Protocol):
    """A dataclass whose fields are declared with `option`."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


@record
class Option:
    """What a field declares besides its type and its default: see `option`."""

    help: str
    group: str = ""
    details: str = ""
    metavar: str | None = None
    unit: str | None = None
    minimum: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    recorded: Callable[[Any, Any], str] | None = None
    in_cli: bool = True

    def check(self, name: str, value: Any) -> None:
        """Raise UsageError for a value out of bounds; None is the absence of one."""
        if value is None:
            return
        if self.unit and isinstance(value, str):
            try:
                value = _UNITS[self.unit][1](value)
            except UsageError as error:
                raise UsageError(f"the option {name}: {error}") from None
        unit = f" {self.unit}" if self.unit else ""
        if self.minimum is not None and not value >= self.minimum:  # nan is not, either
            raise UsageError(f"the option {name} is {value}: it must be at least {self.minimum:,}{unit}")
        if self.above is not None and not value > self.above:
            raise UsageError(f"the option {name} is {value}: it must be greater than {self.above:,}{unit}")
        if self.choices and value not in self.choices:
            raise UsageError(f"the option {name} is {value!r}: it must be one of {', '.join(self.choices)}")


def option(
    help: str,
    *,
    group: str = "",
    details: str = "",
    metavar: str | None = None,
    unit: str | None = None,
    minimum: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
    recorded: Callable[[Any, Any], str] | None = None,
    in_cli: bool = True,
) -> Mapping[str, Option]:
    """Return the metadata of a dataclass field that is an option.

    Args:
        help: One or two sentences. Another option is referred to as `--other-option`.
        group: One of GROUPS, if the command line has the option.
        details: What the reference adds to the help.
        metavar: What stands for the value in the command line's help, where neither type nor unit tells.
        unit: `bytes` or `seconds`: the value is a number of them, or a text that `bytes_of` or `seconds_of` reads.
        minimum: The lowest value allowed.
        above: An exclusive lower bound.
        choices: The values allowed.
        recorded: Given for an option that identifies a pull: returns the value, from all options and the source, as
            the journal records it.
        in_cli: Whether the command line has the option under this name.
    """
    return {_KEY: Option(help, group, details, metavar, unit, minimum, above, choices, recorded, in_cli)}


def declared(options: type[Options] | Options) -> Iterator[tuple[Field[Any], Option]]:
    """Yield each field with what it declares."""
    for field in fields(options):
        yield field, field.metadata[_KEY]


def check(options: Options) -> None:
    """Check every value against what its field declares. Raises UsageError."""
    for field, declaration in declared(options):
        declaration.check(field.name, getattr(options, field.name))


def identity(options: Options, source: object) -> dict[str, str]:
    """Return the options that identify a pull from a source, as the journal records them."""
    return {
        field.name: declaration.recorded(options, source)
        for field, declaration in declared(options)
        if declaration.recorded
    }


def as_keywords(options: Options) -> dict[str, Any]:
    """Return a shallow dict of all fields; `dataclasses.asdict` would copy the values, listeners included."""
    return {field.name: getattr(options, field.name) for field in fields(options)}


def described(options: type[Options]) -> str:
    """Return an entry for each option, as an `Args:` section lists them."""
    return "\n".join(
        textwrap.fill(
            f"{field.name}: {_reference(field, declaration)}",
            _DOC_WIDTH,
            subsequent_indent="    ",
            break_on_hyphens=False,
        )
        for field, declaration in declared(options)
    )


def _reference(field: Field[Any], declaration: Option) -> str:
    """Help and details with the names that a caller uses, the unit, and the default unless it says nothing."""
    text = " ".join(filter(None, (declaration.help, declaration.details)))
    text = re.sub(r"--([a-z-]+)", lambda flag: f"`{flag[1].replace('-', '_')}`", text)
    unit = f" {_UNITS[declaration.unit][0]}" if declaration.unit else ""
    is_silent = field.default is MISSING or field.default is None or callable(field.default)
    return text + unit + ("" if is_silent else f" Default: {field.default!r}.")


def documented(options: type[OptionsT]) -> type[OptionsT]:
    """Add an `Args:` section to the docstring of an options' class."""
    options.__doc__ = (
        f"{inspect.cleandoc(options.__doc__ or '')}\n\nArgs:\n{textwrap.indent(described(options), '    ')}\n"
    )
    return options


def with_keywords(
    options: Callable[P, OptionsT],
) -> Callable[[Callable[[SourceT, OptionsT], ResultT]], Callable[Concatenate[SourceT, P], ResultT]]:
    """Return a decorator that replaces the second parameter, `options`, with the keywords of the options' class.

    Type checkers see them through the ParamSpec, `help` and `inspect.signature` through `__signature__`. In the
    docstring they replace the line on `options`.
    """

    def decorate(function: Callable[[SourceT, OptionsT], ResultT]) -> Callable[Concatenate[SourceT, P], ResultT]:
        def plain(source: SourceT, /, *args: P.args, **kwargs: P.kwargs) -> ResultT:
            return function(source, options(*args, **kwargs))

        async def coroutine(source: SourceT, /, *args: P.args, **kwargs: P.kwargs) -> Any:
            return await function(source, options(*args, **kwargs))  # type: ignore[misc]

        face: Any = functools.wraps(function)(coroutine if inspect.iscoroutinefunction(function) else plain)
        of_function, of_options = inspect.signature(function), inspect.signature(options)
        source = next(iter(of_function.parameters.values())).replace(kind=inspect.Parameter.POSITIONAL_ONLY)
        face.__signature__ = of_function.replace(parameters=[source, *of_options.parameters.values()])
        face.__doc__ = _with_args(function.__doc__ or "", options)  # type: ignore[arg-type]
        return face  # type: ignore[no-any-return]

    return decorate


def _with_args(docstring: str, options: type[Options]) -> str:
    """The docstring with an entry for each option instead of the one line on `options`."""
    head, _, tail = inspect.cleandoc(docstring).partition("    options: ")
    rest = tail.partition("\n")[2]
    return f"{head}{textwrap.indent(described(options), '    ')}\n{rest}"
