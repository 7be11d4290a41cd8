"""The rooms of the house: imports run one way, and other rooms come in by the door only."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import grimp
import pytest
from importlinter.application.use_cases import lint_imports
from importlinter.configuration import configure

ROOMS = (
    "clickwrap",
    "cli",
    "cluster",
    "download",
    "journal",
    "many",
    "pacing",
    "planning",
    "pull",
    "report",
    "store",
    "sync",
    "tables",
)


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("bulkpull", cache_dir=None)


def test_imports_run_one_way() -> None:
    configure()
    assert lint_imports(str(Path(__file__).parents[1] / "pyproject.toml"), cache_dir=None, no_logo=True)


@pytest.mark.parametrize("room", ROOMS)
def test_other_rooms_import_only_what_the_door_exports(graph: grimp.ImportGraph, room: str) -> None:
    inside = f"bulkpull.{room}"
    # A function may have the name of its module: the door exports the function.
    exported = {f"{inside}.{name}" for name in getattr(import_module(inside), "__all__", ())}
    past_the_door = {
        f"{importer} imports {module}"
        for module in graph.find_descendants(inside) - exported
        for importer in graph.find_modules_that_directly_import(module)
        if not importer.startswith(f"{inside}.") and importer != inside
    }
    assert not past_the_door
