"""Checks of what was downloaded."""

from __future__ import annotations

from anyio import from_thread

from bulkpull.errors import MalformedPartError
from bulkpull.rows.records import CsvError, File, read_header


def verify_csv(file: File, *, key: str) -> None:
    """Check that a file is empty or begins with a CSV header with the column `key`. Blocks on the disk.

    Raises:
        MalformedPartError: It is something else, such as an error page.
        OSError: It cannot be read.
    """
    try:
        read_header(file, from_thread.check_cancelled, key)
    except CsvError as error:
        raise MalformedPartError(str(error)) from None
