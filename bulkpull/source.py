"""A source: what a pull needs of the service that holds the rows. `bulkpull.Clickwrap` is one; any object with these
members is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self

from bulkpull.errors import ApiError
from bulkpull.events import OnEvent
from bulkpull.retry import RetryPolicy
from bulkpull.window import Window

State = Literal["queued", "running", "succeeded", "failed"]


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that mean something to a pull.

    `key` tells rows apart, `time` holds the instant (ISO 8601) by which windows select rows. `required` are asked for
    in every export and come first in the output.
    """

    key: str
    time: str
    required: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Export:
    """An export task.

    `state` is what the pull acts on, `status` the source's own word for it, `message` its explanation of a failure.
    `links` lead to the files of a succeeded export; they may be signed, so they stay out of the repr.
    """

    id: str
    state: State
    status: str = ""
    message: str | None = None
    links: tuple[str, ...] = field(default=(), repr=False)

    @property
    def succeeded(self) -> bool:
        return self.state == "succeeded"

    @property
    def failed(self) -> bool:
        return self.state == "failed"


@dataclass(frozen=True, slots=True)
class Body:
    """An opened file, or the rest of one.

    `chunks` are its bytes, decoded; an empty chunk is a sign of life. `offset` is where they begin in the file (0
    unless a range was granted), `length` the size of the whole file in bytes, if known, `validator` what a later
    request for the rest may name the file by (a strong ETag), if anything. `is_framed` says that the end of the body
    is marked by more than the end of its connection, `is_checked` that a truncated body cannot pass for a whole one
    (compressed bodies), `is_empty` that it has no bytes.
    """

    chunks: AsyncIterator[bytes] = field(repr=False)
    offset: int = 0
    length: int | None = None
    validator: str | None = None
    is_framed: bool = True
    is_checked: bool = False
    is_empty: bool = False


class ContradictedCountError(ApiError):
    """The source counts no rows and lists some."""


class Source(Protocol):
    """The methods raise the errors of `bulkpull.errors.ApiError`; `download` and the bodies raise those of `PartError`:
    `TransferError` for what should be retried.

    `base_url` names the source: a pull resumes only from the one it started with. `retry` is how often and how long
    failed downloads are retried, `requests_per_minute` the budget that polls and launches share.
    """

    retry: RetryPolicy
    columns: Columns

    @property
    def base_url(self) -> str: ...

    @property
    def requests_per_minute(self) -> int: ...

    def observed(self, on_event: OnEvent) -> Self:
        """Return the same source, whose requests are announced to `on_event`."""
        ...

    def check_filter(self, filter: str | None) -> str | None:
        """Return the user's filter without surrounding blanks, None if it is empty. Raises UsageError."""
        ...

    def window_filter(self, window: Window, filter: str | None) -> str:
        """Return one expression for the rows of the window that also match `filter`."""
        ...

    async def count(self, filter: str | None = None) -> int:
        """Return how many rows match a filter. Raises ApiError if the source does not tell."""
        ...

    async def any_activity(self, filter: str | None = None) -> bool:
        """Return whether any row matches a filter."""
        ...

    async def start_export(self, filter: str, fields: Sequence[str] = ()) -> Export:
        """Start an export of the rows that match a filter."""
        ...

    async def get_export(self, export_id: str) -> Export:
        """Return the export as it is now, with its links if it has succeeded. Raises NotFoundError."""
        ...

    async def export_fields(self, site: str | int) -> list[str]:
        """Return the names of the columns that exports of a site offer."""
        ...

    def download(
        self, link: str, *, offset: int = 0, validator: str | None = None
    ) -> AbstractAsyncContextManager[Body]:
        """Open a link, from byte `offset` on if `validator` still names the same file, else from its start."""
        ...
