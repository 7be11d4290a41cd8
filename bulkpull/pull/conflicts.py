"""Conflicts: rows with the id of another row, but other values."""

from __future__ import annotations

from pathlib import Path

import orjson

from bulkpull.disk import disk_errors, sync_directory, sync_file
from bulkpull.journal import Journal
from bulkpull.window import instant


def write_conflicts(journal: Journal, path: Path) -> None:
    """Write the conflicts of a pull as NDJSON, in the order of the output. The file appears once complete.

    Raises:
        OutputError: The disk failed.
    """
    draft = path.with_name(f".{path.name}.partial")
    with disk_errors(f"write {path}", at=path):
        with draft.open("wb") as file:
            for window, kept, other in journal.conflicts():
                line = {
                    "window": [instant(window.start), instant(window.end)],
                    "kept": orjson.Fragment(kept),
                    "other": orjson.Fragment(other),
                }
                file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
            file.flush()
            sync_file(file.fileno())
        draft.replace(path)
        sync_directory(path.parent)
