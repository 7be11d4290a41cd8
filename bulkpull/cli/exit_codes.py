"""The exit codes of errors."""

from __future__ import annotations

from collections.abc import Iterable

from bulkpull.errors import AuthenticationError, BulkpullError, OutputError, ReaderGoneError, ShrinkError, UsageError

EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_AUTHENTICATION = 3
EXIT_API = 4
EXIT_LOCAL = 5
EXIT_INCOMPLETE = 6
EXIT_SHRINK = 7
EXIT_READER_GONE = 141  # what a shell reports of a program that SIGPIPE ended

_OF_ERRORS: tuple[tuple[type[BulkpullError], int], ...] = (  # subclasses first
    (UsageError, EXIT_USAGE),
    (AuthenticationError, EXIT_AUTHENTICATION),
    (ReaderGoneError, EXIT_READER_GONE),
    (ShrinkError, EXIT_SHRINK),
    (OutputError, EXIT_LOCAL),
    (BulkpullError, EXIT_API),
)
# What another run cannot mend comes first, then what it may.
_WORST_FIRST = (
    *(EXIT_BUG, EXIT_USAGE, EXIT_AUTHENTICATION, EXIT_SHRINK),
    *(EXIT_LOCAL, EXIT_API, EXIT_READER_GONE, EXIT_INCOMPLETE, 0),
)


def exit_code(error: Exception) -> int:
    """Return the exit code of a command that an error ends."""
    return next((code for kind, code in _OF_ERRORS if isinstance(error, kind)), EXIT_BUG)


def worst(codes: Iterable[int]) -> int:
    """Return the exit code of a command that ran several pulls, from those of the pulls."""
    return min(codes, key=_WORST_FIRST.index, default=0)
