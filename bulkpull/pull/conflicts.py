"""Conflicts: rows with the id of another row, but other values."""

from __future__ import annotations

from pathlib import Path

import orjson

from bulkpull.disk import disk_errors, replacing
from bulkpull.journal import Journal
from bulkpull.window import instant


def write_conflicts(journal: Journal, path: Path) -> None:
    """Write the conflicts of a pull as NDJSON, in the order of the output. The file appears once complete.

    Raises:
        OutputError: The disk failed.
    """
    with replacing(path) as draft, disk_errors(f"write {path}", at=path), draft.open("wb") as file:
        for window, kept, other in journal.conflicts():
            line = {
                "window": [instant(window.start), instant(window.end)],
                "kept": orjson.Fragment(kept),
                "other": orjson.Fragment(other),
            }
            file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
