"""Data classes that are quick to define, since a command defines more than a hundred before it starts.

`dataclasses` compiles six methods for each frozen class. Here only `__init__` is compiled; the others are the same
functions for all classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from reprlib import recursive_repr
from typing import Any, TypeVar, dataclass_transform, overload

T = TypeVar("T")


@overload
def record(cls: type[T], /) -> type[T]: ...


@overload
def record(*, frozen: bool) -> Callable[[type[T]], type[T]]: ...


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T] | None = None, /, *, frozen: bool = True) -> type[T] | Callable[[type[T]], type[T]]:
    """Make a class a data class with slots, whose objects are compared and shown by their fields.

    If it is frozen, they are hashed by their fields, too, and type checkers refuse assignments; nothing does at
    runtime.
    """

    def made(cls: type[T]) -> type[T]:
        own = set(cls.__dict__)
        cls = dataclass(slots=True, eq=False, repr=False)(cls)
        made: Any = cls
        made._shown = tuple(one.name for one in fields(made) if one.repr)
        made._compared = tuple(one.name for one in fields(made) if one.compare)
        methods = {"__repr__": _repr, "__eq__": _eq, "__hash__": _hash if frozen else None}
        if made.__hash__ is None:  # set by Python, beside an `__eq__` of the class's own
            own.discard("__hash__")
        for name in methods.keys() - own:
            setattr(cls, name, methods[name])
        return cls

    return made if cls is None else made(cls)


@recursive_repr()
def _repr(self: Any) -> str:
    shown = (f"{name}={getattr(self, name)!r}" for name in self._shown)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _eq(self: Any, other: Any) -> Any:
    if type(other) is not type(self):
        return NotImplemented
    return _values(self) == _values(other)


def _hash(self: Any) -> int:
    return hash(_values(self))


def _values(self: Any) -> tuple[Any, ...]:
    return tuple([getattr(self, name) for name in self._compared])
