"""Packages that import what they export when it is first used (PEP 562), so that their own import takes no time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from sys import modules


def lazily(
    package: str, exported: Mapping[str, Collection[str]], submodules: Collection[str] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return the `__getattr__` and the `__dir__` of a package.

    Type checkers must see imports under `TYPE_CHECKING` instead, since they accept any name of a module that has a
    `__getattr__`. No name may be that of another module in the package, whose import would set it.

    Args:
        package: The name of the package.
        exported: The names that each module, relative to the package, defines.
        submodules: The modules that are exported themselves.
    """
    homes = {name: f".{module}" for module, names in exported.items() for name in names}

    def get(name: str) -> object:
        if name in submodules:
            return import_module(f".{name}", package)  # which also sets the name
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(homes[name], package), name)
        setattr(modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(modules[package]), *homes, *submodules})

    return get, names
