"""Checks of what was downloaded."""

from __future__ import annotations

from pathlib import Path

from anyio import from_thread

from bulkpull.disk import disk_errors
from bulkpull.errors import MalformedPartError
from bulkpull.rows.records import CsvError, read_chunks, read_columns, records


def verify_csv(path: Path, *, key: str) -> None:
    """Check that a file is empty or begins with a CSV header with the column `key`. Blocks on the disk.

    Raises:
        MalformedPartError: It is something else, such as an error page.
        OutputError: It cannot be read.
    """
    with disk_errors(f"read {path.name}"), path.open("rb") as file:
        try:
            read_columns(records(read_chunks(file, from_thread.check_cancelled)), key)
        except CsvError as error:
            raise MalformedPartError(str(error)) from None
