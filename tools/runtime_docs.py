"""An extension of griffe for what decorators make: options are read from the running code, records are data classes."""

from __future__ import annotations

import inspect
from typing import Any

import griffe

import bulkpull

# The docstrings of these list options that are put together when the package is imported.
MADE_AT_RUNTIME = (bulkpull.plan, bulkpull.pull, bulkpull.PlanOptions, bulkpull.PullOptions)


class RuntimeDocs(griffe.Extension):
    """Replaces what the source says of the objects in `MADE_AT_RUNTIME`, and shows records as data classes."""

    def __init__(self) -> None:
        super().__init__()
        self._runtime = {f"{value.__module__}.{value.__qualname__}": value for value in MADE_AT_RUNTIME}

    def on_class_instance(self, *, cls: griffe.Class, **_context: Any) -> None:
        """Let griffe, which knows the decorator of data classes alone, take a record for one."""
        for decorator in cls.decorators:
            if decorator.callable_path == "bulkpull.record.record":
                decorator.value = griffe.ExprName("dataclass", parent="dataclasses")

    def on_object(self, *, obj: griffe.Object, **_context: Any) -> None:
        """Replace the docstring, and the parameters of a function."""
        value = self._runtime.get(obj.path)
        if value is None:
            return
        obj.docstring = griffe.Docstring(inspect.getdoc(value) or "", parent=obj)
        if isinstance(obj, griffe.Function):
            parameters = inspect.signature(value).parameters.values()
            obj.parameters = griffe.Parameters(*map(_parameter, parameters))


def _parameter(parameter: inspect.Parameter) -> griffe.Parameter:
    kind = griffe.ParameterKind(parameter.kind.description)
    default = None if parameter.default is parameter.empty else getattr(parameter.default, "__name__", None)
    if default is None and parameter.default is not parameter.empty:
        default = repr(parameter.default)
    return griffe.Parameter(parameter.name, annotation=str(parameter.annotation), kind=kind, default=default)
