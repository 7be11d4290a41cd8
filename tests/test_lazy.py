"""Packages that import lazily look like others."""

from __future__ import annotations

import subprocess
import sys

import pytest

import bulkpull


def run(code: str) -> str:
    """What the code prints in a process that has imported nothing yet."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout  # noqa: S603


def test_importing_the_package_imports_no_library() -> None:
    code = "import sys, bulkpull; print(*sorted(name for name in sys.modules if name.startswith('bulkpull')))"
    assert run(code).split() == ["bulkpull", "bulkpull.lazy", "bulkpull.pull", "bulkpull.rows", "bulkpull.sync"]


def test_each_public_name_is_listed_and_can_be_used_first() -> None:
    """In a process for each name, forked from one that has imported libraries, but nothing of the package."""
    names = [*bulkpull.__all__, "sandbox"]
    code = f"""
import gc, os, sys
import aiohttp, anyio, click, numpy, orjson
assert "bulkpull" not in sys.modules
gc.freeze()
for name in {names}:
    if not (child := os.fork()):
        import bulkpull
        print(name, name in dir(bulkpull), getattr(bulkpull, name) is not None, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
    assert run(code).splitlines() == [f"{name} True True" for name in names]


def test_a_star_imports_all_public_names() -> None:
    code = "import bulkpull; from bulkpull import *; print(set(bulkpull.__all__) <= globals().keys())"
    assert run(code) == "True\n"


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'bulkpull' has no attribute 'Clickwarp'"):
        getattr(bulkpull, "Clickwarp")  # noqa: B009 - mypy knows that there is none


def test_no_module_hides_what_a_package_exports() -> None:
    """Importing a module sets its name in the package, which may be that of a function."""
    code = """
import importlib, pkgutil, types, bulkpull
packages = [bulkpull]
for found in pkgutil.walk_packages(bulkpull.__path__, "bulkpull."):
    if not found.name.endswith("__main__"):
        module = importlib.import_module(found.name)
        packages += [module] if found.ispkg else []
for package in packages:
    for name in getattr(package, "__all__", ()):
        if isinstance(getattr(package, name), types.ModuleType):
            print(package.__name__, name)
"""
    assert run(code) == "bulkpull errors\nbulkpull events\n"
