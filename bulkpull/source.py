"""The interface between a pull and the service that holds the rows.

`bulkpull.Clickwrap` implements it; any object with the same members can be used instead.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import field
from typing import Literal, Protocol, Self

from bulkpull.errors import ApiError, UsageError
from bulkpull.events import OnEvent
from bulkpull.record import record
from bulkpull.retry import RetryPolicy
from bulkpull.window import Window

State = Literal["queued", "running", "succeeded", "failed"]


@record
class Columns:
    """The columns that a pull depends on.

    Args:
        key: The column that identifies a row.
        time: The column with the instant (ISO 8601) by which windows select rows.
        required: The columns that every export requests; they come first in the output.

    Raises:
        UsageError: `key` or `time` is not among the required columns.
    """

    key: str
    time: str
    required: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in (self.key, self.time):
            if name not in self.required:
                raise UsageError(f"the column {name} of a source must be among its required columns")


@record
class Export:
    """An export task.

    Args:
        id: The id of the export.
        state: The state on which the pull acts.
        status: The source's own word for the state.
        message: The source's explanation of a failure.
        links: The links to the files of a succeeded export. They may be signed, so the repr omits them.
    """

    id: str
    state: State
    status: str = ""
    message: str | None = None
    links: tuple[str, ...] = field(default=(), repr=False)

    @property
    def succeeded(self) -> bool:
        """Whether the state is `succeeded`."""
        return self.state == "succeeded"

    @property
    def failed(self) -> bool:
        """Whether the state is `failed`."""
        return self.state == "failed"


Room = Callable[[], Awaitable[memoryview]]  # returns the memory for the next bytes of a file, one or more


@record
class Body:
    """The body of a file, or the rest of it.

    Args:
        chunks: The decoded bytes. An empty chunk only signals progress. One is valid until the next is requested.
        offset: The position of the first byte in the file; 0 unless the server granted a range.
        length: The size of the whole file in bytes, if known.
        validator: A strong ETag, which a later request for the rest can send in `If-Range`; None if there is none.
        is_framed: Whether the protocol marks the end of the body, rather than only closing the connection.
        is_checked: Whether truncation is always detected, as with compressed bodies.
        is_empty: Whether the body has no bytes.
        receive_into: Lets bytes be received straight into the memory of a file, where that is possible: chunks are
            views of it then.
    """

    chunks: AsyncIterator[bytes | memoryview] = field(repr=False)
    offset: int = 0
    length: int | None = None
    validator: str | None = None
    is_framed: bool = True
    is_checked: bool = False
    is_empty: bool = False
    receive_into: Callable[[Room], None] | None = None


class ContradictedCountError(ApiError):
    """The source counts no rows, but lists some."""


class Source(Protocol):
    """A service with exports of rows.

    Methods raise `bulkpull.errors.ApiError` or one of its subclasses; `download` also raises `PartError`.

    Attributes:
        retry: How often and how long failed downloads are retried.
        columns: The columns that a pull depends on.
        base_url: The identity of the source: a pull resumes only from the source it started with.
        requests_per_minute: The budget that launches and polls share.
        throttled_at: When a request was last answered 429, on the event loop's clock, in seconds; None if never.
    """

    retry: RetryPolicy
    columns: Columns

    @property
    def base_url(self) -> str: ...

    @property
    def requests_per_minute(self) -> int: ...

    @property
    def throttled_at(self) -> float | None: ...

    def observed(self, on_event: OnEvent) -> Self:
        """Return the same source, which reports its requests to `on_event`.

        Args:
            on_event: Called with each event.
        """
        ...

    def check_filter(self, filter: str | None) -> str | None:
        """Return the user's filter without surrounding whitespace; None if it is empty.

        Args:
            filter: The user's filter expression, or None.

        Raises:
            UsageError: The filter is not valid.
        """
        ...

    def window_filter(self, window: Window, filter: str | None) -> str:
        """Return one filter expression for the rows in a window that also match `filter`.

        Args:
            window: The window.
            filter: A filter checked by `check_filter`, or None.
        """
        ...

    async def count(self, filter: str | None = None) -> int:
        """Return the number of rows that match a filter.

        Args:
            filter: The filter expression. None matches all rows.

        Raises:
            ApiError: The source does not count.
        """
        ...

    async def any_activity(self, filter: str | None = None) -> bool:
        """Return whether any row matches a filter.

        Args:
            filter: The filter expression. None matches all rows.
        """
        ...

    async def start_export(self, filter: str, fields: Sequence[str] = ()) -> Export:
        """Start an export of the rows that match a filter.

        Args:
            filter: The filter expression.
            fields: The columns of the export. Empty for the source's default columns.
        """
        ...

    async def get_export(self, export_id: str) -> Export:
        """Return the current state of an export, with its links if it has succeeded.

        Args:
            export_id: The id of the export.

        Raises:
            NotFoundError: The export does not exist.
        """
        ...

    async def export_fields(self, site: str | int) -> list[str]:
        """Return the names of the columns that a site's exports offer.

        Args:
            site: The id of the site.
        """
        ...

    def download(
        self, link: str, *, offset: int = 0, validator: str | None = None
    ) -> AbstractAsyncContextManager[Body]:
        """Open a link, from byte `offset` on if the file has not changed, else from its start.

        Args:
            link: The link of a file.
            offset: The byte to start from.
            validator: The `Body.validator` of an earlier download of the file, if any.

        Returns:
            A context manager for the body.

        Raises:
            PartError: The file cannot be downloaded.
        """
        ...
