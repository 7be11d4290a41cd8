"""What several commands print: tables, and windows as JSON."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

import bulkpull
from bulkpull.window import instant

_NUMBERS = ("window", "counted", "share", "launches", "files", "rows")
_WIDTH_OF_A_PIPE = 200  # characters


def table(*headers: str) -> Table:
    """Return a table without lines, whose numbers are aligned on the right."""
    table = Table(*headers, box=None, pad_edge=False)
    for column in table.columns:
        if column.header in _NUMBERS:
            column.justify = "right"
    return table


def show(table: Table) -> None:
    """Print a table to standard output."""
    Console(width=None if sys.stdout.isatty() else _WIDTH_OF_A_PIPE, highlight=False).print(table)


def window_json(window: bulkpull.Window) -> dict[str, object]:
    """Return a window as an object for JSON."""
    return {"start": instant(window.start), "end": instant(window.end), "counted": window.rows}


def path_json(path: Path) -> str:
    """Return a path for JSON, which cannot hold the bytes of a file name that are not text."""
    return os.fsencode(path).decode("utf-8", "replace")
