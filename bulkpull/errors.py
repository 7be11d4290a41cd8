"""Everything that can go wrong, as one tree.

    BulkpullError
     ├─ UsageError             what was asked makes no sense: dates, window, filter, options, token
     ├─ ApiError               the API refused or failed
     │   ├─ AuthenticationError    401 or 403: the token is wrong, or may not do this
     │   ├─ NotFoundError          404: no such export or site
     │   ├─ ThrottledError         429, and the quota did not come back within the limits
     │   ├─ UnavailableError       no usable answer within the limits of attempts and time
     │   └─ ExportError            a window's export failed or timed out, as often as is allowed
     ├─ PartError              a file of an export could not be downloaded
     │   ├─ MalformedPartError     the file is not a valid CSV, or does not decompress
     │   ├─ LinkExpiredError       the host rejects the link (400, 401, 403, 404, 410): get a fresh one
     │   └─ TransferError          no answer, 408, 429, 5xx, or the transfer broke: retry
     │       ├─ FileNotReadyError      the host does not have the file yet (202, 204, 409, 425): retry later
     │       └─ RangeRefusedError      the host does not resume the file at this offset: download all of it
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
    """A downloaded file is not a valid CSV, or does not decompress."""


class LinkExpiredError(PartError):
    """The host rejects the link with `status`: get the export again for a fresh one."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class TransferError(PartError):
    """A download failed, and may succeed when retried.

    `status` is the HTTP status, or None where there was no answer or the body broke off. `wait` is the minimum number
    of seconds until the next attempt that the host asked for.
    """

    def __init__(self, message: str, *, status: int | None = None, wait: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.wait = wait


class FileNotReadyError(TransferError):
    """The host does not have the file yet: retry later."""


class RangeRefusedError(TransferError):
    """The host does not resume the file at the requested offset: download it from its start."""


class OutputError(BulkpullError):
    """Local trouble: the output exists, or the disk does not take it."""


class FormatError(OutputError):
    """A value that the output's format cannot hold: `reason` names the column, `row` counts its rows from 1."""

    def __init__(self, row: int, id: str, reason: str) -> None:
        super().__init__(f"row {row:,} (id {id}): {reason}")
        self.row = row
        self.id = id
        self.reason = reason
