"""Data classes that are quick to define, since a command defines more than a hundred before it starts.

`dataclasses` compiles six methods for each frozen class. Here only `__init__` is compiled; the others are the same
functions for all classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, dataclass, field
from operator import attrgetter
from typing import Any, TypeVar, cast, dataclass_transform, overload

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
        fields: tuple[Field[Any], ...] = tuple(cast(Any, cls).__dataclass_fields__.values())
        compared = [one.name for one in fields if one.compare]
        cast(Any, cls)._compared = staticmethod(attrgetter(*compared) if compared else _nothing)
        methods = {"__repr__": _repr, "__eq__": _eq, "__hash__": _hash if frozen else None}
        for name in methods.keys() - own:
            setattr(cls, name, methods[name])
        return cls

    return made if cls is None else made(cls)


def _nothing(_self: object) -> tuple[()]:
    return ()


def _repr(self: Any) -> str:
    shown = (f"{one.name}={getattr(self, one.name)!r}" for one in self.__dataclass_fields__.values() if one.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _eq(self: Any, other: Any) -> Any:
    if type(other) is not type(self):
        return NotImplemented
    values = self._compared
    return values(self) == values(other)


def _hash(self: Any) -> int:
    return hash(self._compared(self))
