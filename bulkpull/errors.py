"""Everything that can go wrong, as one tree.

    BulkpullError
     ├─ UsageError             what was asked makes no sense: dates, window, filter, options, token
     ├─ ApiError               the API refused or failed
     │   ├─ AuthenticationError    401 or 403: the token is wrong, or may not do this
     │   ├─ NotFoundError          404: no such export or site
     │   ├─ ThrottledError         429, and the quota did not come back within the limits
     │   ├─ UnavailableError       no usable answer within the limits of attempts and time
     │   └─ ExportError            a window's export failed or timed out, as often as is allowed
     ├─ PartError              a file behind a link could not be had
     │   └─ MalformedPartError     a file is no CSV that could be merged
     └─ OutputError            the local disk: file exists, no room, no permission
         └─ FormatError            a value that the output's format cannot hold

Messages say what happened, to which window or part, and what to do. None holds the token or a signed link.
"""

from __future__ import annotations


class BulkpullError(Exception):
    """Base of all errors that bulkpull raises on purpose."""


class UsageError(BulkpullError, ValueError):
    """The caller asked for something that cannot be done."""


class ApiError(BulkpullError):
    """The API refused a request, or failed.

    `status` is the HTTP status of the last answer, or None where there was none. `undone` says that the request was
    certainly not acted upon: it was refused, or never arrived.
    """

    def __init__(self, message: str, *, status: int | None = None, undone: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.undone = undone


class AuthenticationError(ApiError):
    """401 or 403: never retried, and it ends a pull at once."""


class NotFoundError(ApiError):
    """404: the export or the site does not exist, or the token cannot see it."""


class ThrottledError(ApiError):
    """429, and waiting for the quota would take longer than the client may retry."""


class UnavailableError(ApiError):
    """Connection failures, time-outs, 5xx or unusable answers until the attempts or the time ran out."""


class ExportError(ApiError):
    """The export of one window did not succeed, however often it was launched."""


class PartError(BulkpullError):
    """A file of an export could not be downloaded."""


class MalformedPartError(PartError):
    """A file was downloaded, but it is not a CSV that could be merged."""


class OutputError(BulkpullError):
    """Local trouble: the output exists, or the disk does not take it."""


class FormatError(OutputError):
    """A value that the output's format cannot hold: `reason` names the column, `row` counts its rows from 1."""

    def __init__(self, row: int, id: str, reason: str) -> None:
        super().__init__(f"row {row:,} (id {id}): {reason}")
        self.row = row
        self.id = id
        self.reason = reason
