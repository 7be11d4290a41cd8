"""What several commands print: tables, and windows as JSON."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import bulkpull
from bulkpull.window import instant

if TYPE_CHECKING:
    from rich.table import Table

_NUMBERS = ("window", "counted", "share", "launches", "files", "rows")
_WIDTH_OF_A_PIPE = 200  # characters


def table(*headers: str) -> Table:
    """Return a table without lines, whose numbers are aligned on the right."""
    from rich.table import Table

    table = Table(*headers, box=None, pad_edge=False)
    for column in table.columns:
        if column.header in _NUMBERS:
            column.justify = "right"
    return table


def show(table: Table, *, to_stderr: bool = False) -> None:
    """Print a table to standard output or standard error."""
    from rich.console import Console

    is_terminal = (sys.stderr if to_stderr else sys.stdout).isatty()
    Console(width=None if is_terminal else _WIDTH_OF_A_PIPE, highlight=False, stderr=to_stderr).print(table)


def window_json(window: bulkpull.Window) -> dict[str, object]:
    """Return a window as an object for JSON."""
    return {"start": instant(window.start), "end": instant(window.end), "counted": window.rows}


def path_json(path: Path | str) -> str:
    """Return a path for JSON, which cannot hold the bytes of a file name that are not text."""
    return os.fsencode(path).decode("utf-8", "replace")
