"""The errors that bulkpull raises on purpose, as one tree.

    BulkpullError
     ├─ UsageError             the request makes no sense: dates, window, filter, options, token
     ├─ ApiError               the API refused a request, or failed
     │   ├─ AuthenticationError    401 or 403: the token is wrong, or lacks permission
     │   ├─ NotFoundError          404: no such export or site
     │   ├─ ThrottledError         429, and the wait would exceed the retry limit
     │   ├─ UnavailableError       no usable answer within the retry limit
     │   └─ ExportError            the exports of a window failed as often as is allowed
     ├─ ClusterError           the cluster cannot be reached, or its workers cannot do the work
     ├─ PartError              a file of an export could not be downloaded
     │   ├─ MalformedPartError     the file is not a valid CSV, or cannot be decompressed
     │   ├─ LinkExpiredError       the host rejects the link (400, 401, 403, 404, 410): get a fresh one
     │   └─ TransferError          no answer, 408, 429, 5xx, or the transfer broke: retry
     │       ├─ FileNotReadyError      the host does not have the file yet (202, 204, 409, 425): retry later
     │       └─ RangeRefusedError      the host does not resume the file at this offset: download all of it
     └─ OutputError            the local disk or object storage: output exists, no space, no permission
         ├─ FormatError            a value that the output format cannot hold
         ├─ ShrinkError            more rows of a copy would go than is allowed: nothing was changed
         └─ ReaderGoneError        the program that reads a pipe has exited

A message says what failed, for which window or part, and what to do. It never contains the token or a signed link.
"""

from __future__ import annotations


class BulkpullError(Exception):
    """Base class of all errors that bulkpull raises on purpose."""


class UsageError(BulkpullError, ValueError):
    """An invalid date, window, filter, option or token."""


class ApiError(BulkpullError):
    """The API refused a request, or failed.

    `status` is the HTTP status of the last answer, None if there was none. `undone` is True if the request certainly
    had no effect: it was refused, or never arrived.
    """

    def __init__(self, message: str, *, status: int | None = None, undone: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.undone = undone


class AuthenticationError(ApiError):
    """Status 401 or 403. Never retried; ends a pull at once."""


class NotFoundError(ApiError):
    """Status 404: the export or the site does not exist, or the token cannot see it."""


class ThrottledError(ApiError):
    """Status 429, and the wait for the rate limit would exceed the retry limit."""


class UnavailableError(ApiError):
    """Connection failures, timeouts, 5xx or unusable answers until the retry limit was reached."""


class ExportError(ApiError):
    """The exports of one window failed as often as is allowed."""


class ClusterError(BulkpullError):
    """The cluster cannot be reached, has no workers, or they cannot do the work."""


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
    """A problem of the local disk or object storage: the output exists, no space is left, or permission is missing."""


class ReaderGoneError(OutputError):
    """The program that reads the output, a pipe, has exited or closed it before the end."""


class FormatError(OutputError):
    """A value that the output format cannot hold. `row` counts from 1; `reason` names the column."""

    def __init__(self, row: int, id: str, reason: str) -> None:
        super().__init__(f"row {row:,} (id {id}): {reason}")
        self.row = row
        self.id = id
        self.reason = reason


class ShrinkError(OutputError):
    """More rows of a copy would go than its limit allows, so nothing was changed.

    `gone` is the number of rows that would go, `held` that of the rows which the window or the windows hold.
    """

    def __init__(self, message: str, *, gone: int, held: int) -> None:
        super().__init__(message)
        self.gone = gone
        self.held = held
