"""The room answers from numbers alone: it imports nothing that waits, reads a clock, draws lots or does I/O."""

from __future__ import annotations

import ast
from pathlib import Path

from bulkpull import pacing

PURE = {
    "__future__",
    "bisect",
    "collections",
    "collections.abc",
    "dataclasses",
    "datetime",
    "functools",
    "heapq",
    "itertools",
    "math",
    "statistics",
    "bulkpull.record",
    "bulkpull.window",
}


def test_pacing_imports_nothing_that_waits_or_does_io() -> None:
    imported: set[str] = set()
    for file in Path(pacing.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                imported |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module or "")
    assert {name for name in imported if not name.startswith("bulkpull.pacing")} <= PURE
