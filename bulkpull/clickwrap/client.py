"""The client of the Clickwrap REST API: one async method per documented route."""

from __future__ import annotations

import copy
import os
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp
import anyio
from yarl import URL

from bulkpull.background import require_asyncio
from bulkpull.clickwrap.api import MAX_MESSAGE_CHARS, NOT_READY, Api
from bulkpull.clickwrap.defaults import BASE_URL, read_token_file
from bulkpull.clickwrap.filters import check_filter, window_filter
from bulkpull.clickwrap.models import parse_count, parse_export, parse_export_fields, parse_page
from bulkpull.clickwrap.quota import DEFAULT_PER_MINUTE, RequestBudget
from bulkpull.download import LinkSettings, link_session, open_link
from bulkpull.errors import ApiError, UsageError
from bulkpull.events import OnEvent
from bulkpull.retry import RetryPolicy
from bulkpull.source import Body, Columns, Export

MAX_PER_PAGE = 100  # source: Clickwrap's "Pagination"
LAUNCH_TIMEOUT_S = 600.0  # long, since repeating a launch starts a second export
LAUNCH_BACKOFF_CAP_S = 300.0
_ONE = {"page": "1", "per_page": "1"}


class Clickwrap:
    """A client of the Clickwrap REST API, used as an async context manager.

    Args:
        token: The API token.
        base_url: The root URL of the API.
        session: An `aiohttp.ClientSession` to use, which stays open. By default the client opens and closes its own.
            The session's connector also serves file downloads, so its connection limit should exceed their number. Its
            headers, cookies and proxy are not used for file hosts, its middlewares not at all.
        ssl_context: The TLS context for the API and file hosts, for example with a private CA. Without `session`.
        trust_env: Use the proxies of the environment (`HTTPS_PROXY`, `NO_PROXY`) for the API and file hosts. Also true
            if the `session` has it.
        requests_per_minute: The budget for all requests of this client, including retries. The API allows 2000 per
            token, which other programs may share, and sends an email to the site's administrators beyond that.
        retry: How often and how long failed requests and downloads are retried. An API that has never responded is
            retried for 30 seconds at most.
        request_timeout: Seconds for one request and its response.
        launch_timeout: Seconds for the launch of an export, which should be long: repeating a launch starts another
            export.
        stall_timeout: Seconds without a byte after which a download is interrupted.

    Raises:
        UsageError: The token, the base URL or the budget is invalid.

    Every request raises AuthenticationError (401, 403), NotFoundError (404), ThrottledError (429) or UnavailableError
    (5xx, timeouts, connection errors) if retries did not help, and ApiError for any other error response.
    """

    columns = Columns(key="id", time="created_time", required=("id", "signer_id", "created_time"))
    check_filter = staticmethod(check_filter)
    window_filter = staticmethod(window_filter)

    def __init__(
        self,
        token: str,
        *,
        base_url: str = BASE_URL,
        session: aiohttp.ClientSession | None = None,
        ssl_context: ssl.SSLContext | None = None,
        trust_env: bool = False,
        requests_per_minute: int = DEFAULT_PER_MINUTE,
        retry: RetryPolicy | None = None,
        request_timeout: float = 60.0,
        launch_timeout: float = LAUNCH_TIMEOUT_S,
        stall_timeout: float = 60.0,
    ) -> None:
        budget = RequestBudget(requests_per_minute)
        self.retry = retry or RetryPolicy()
        self._api = Api(
            token, base_url, session, budget, self.retry, request_timeout, ssl_context=ssl_context, trust_env=trust_env
        )
        self._link_session: aiohttp.ClientSession | None = None
        self._rangeless: set[str] = set()  # file hosts that do not support ranges
        self._launch_timeout = launch_timeout
        self._stall_timeout = stall_timeout

    @classmethod
    def from_env(cls, **options: Any) -> Self:
        """Return a client with the token and the base URL that the environment has.

        The token is in `BULKPULL_TOKEN`, or in the file whose path is in `BULKPULL_TOKEN_FILE`; the base URL is in
        `BULKPULL_BASE_URL`, and defaults to the production API.

        Args:
            options: Arguments of the class. `token` and `base_url` override the environment.

        Returns:
            The client.

        Raises:
            UsageError: There is no token, its file cannot be read, or see the class.
        """
        token = options.pop("token", None)
        base_url = options.pop("base_url", None) or os.environ.get("BULKPULL_BASE_URL") or BASE_URL
        return cls(_environment_token() if token is None else token, base_url=base_url, **options)

    def __repr__(self) -> str:
        return f"Clickwrap({self.base_url!r})"

    @property
    def base_url(self) -> str:
        """The root URL of the API."""
        return str(self._api.base_url)

    @property
    def requests_per_minute(self) -> int:
        """The budget for all requests of this client."""
        return self._api.budget.requests_per_minute

    @property
    def throttled_at(self) -> float | None:
        """When the API last answered 429, on the event loop's clock; None if it never did."""
        return self._api.budget.throttled_at

    async def __aenter__(self) -> Self:
        require_asyncio()
        connector = self._api.open()
        # Downloads have their own connection pool, so that they cannot starve API requests, unless the caller provides
        # a connector.
        self._link_session = link_session(
            self._stall_timeout,
            connector or aiohttp.TCPConnector(limit=0, ssl=self._api.ssl),
            owns_connector=connector is None,
        )
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        # Shielded, since a cancelled close would leak sockets.
        with anyio.CancelScope(shield=True):
            if self._link_session:
                await self._link_session.close()
            await self._api.close()

    def observed(self, on_event: OnEvent) -> Self:
        """Return a client that shares this one's session, budget and limits, and reports its requests.

        Args:
            on_event: Called with an event for each request and retry.

        Returns:
            The observed client. It need not be opened or closed.
        """
        client = copy.copy(self)
        client._api = copy.copy(self._api)
        client._api.on_event = on_event
        return client

    async def start_export(self, filter: str, fields: Sequence[str] = ()) -> Export:
        """Start an export: `POST /tasks/export/activity`.

        Each export sends an email to the token's user. If the response to the POST is lost, the request is retried
        after a long backoff, and may start a second export: the API offers no way to find out.

        Args:
            filter: The filter expression that selects activities.
            fields: The columns of the export. Defaults to the site's default columns.

        Returns:
            The export.

        Raises:
            ApiError: See the class.
        """
        return await self._api.call(
            "POST",
            "/tasks/export/activity",
            self._export,
            _query(filter, fields),
            seconds=self._launch_timeout,
            retry=replace(self.retry, cap=max(self.retry.cap, LAUNCH_BACKOFF_CAP_S)),
        )

    async def get_export(self, export_id: str) -> Export:
        """Get an export: `GET /tasks/export/{id}`.

        Args:
            export_id: The id of the export.

        Returns:
            The export with its status, and with fresh links once it has succeeded. The status is `not_ready` if the
            response is only a status code that says so (202, 204, 409, 425).

        Raises:
            NotFoundError: The export does not exist.
            ApiError: See the class.
        """
        try:
            return await self._api.call(
                "GET", f"/tasks/export/{_segment(export_id)}", partial(self._export, export_id=export_id)
            )
        except ApiError as error:
            if error.status in NOT_READY:
                return Export(export_id, "running", "not_ready")
            raise

    async def export_fields(self, site: str | int) -> list[str]:
        """Get the fields that a site's exports offer: `GET /sites/{id}/exportFields`.

        Args:
            site: The id of the site.

        Returns:
            The names of the fields.

        Raises:
            NotFoundError: The site does not exist.
            ApiError: See the class.
        """
        return await self._api.call("GET", f"/sites/{quote(str(site), safe='')}/exportFields", parse_export_fields)

    async def activity(
        self,
        filter: str | None = None,
        *,
        fields: Sequence[str] = (),
        sort: str | None = None,
        no_count: bool = True,
        lean: bool = False,
        per_page: int = MAX_PER_PAGE,
    ) -> AsyncIterator[dict[str, Any]]:
        """Iterate over activities, page by page: `GET /activity`.

        Args:
            filter: The filter expression. Defaults to all activities.
            fields: The fields of each activity. Defaults to all.
            sort: The field to sort by; a leading `-` reverses the order.
            no_count: Skip counting, which makes the request cheaper for the server.
            lean: Return smaller objects, which makes the request cheaper for the server.
            per_page: Activities per request, 1 to 100.

        Yields:
            The activities, as JSON objects.

        Raises:
            UsageError: `per_page` is out of range.
            ApiError: See the class.
        """
        if not 1 <= per_page <= MAX_PER_PAGE:
            raise UsageError(f"per_page must be between 1 and {MAX_PER_PAGE}, not {per_page}")
        query = _query(filter, fields) | {"per_page": str(per_page)}
        if sort:
            query["sort"] = sort
        query |= {name: "true" for name, wanted in (("no_count", no_count), ("lean", lean)) if wanted}
        page_number = 1
        while True:
            page = await self._api.call("GET", "/activity", parse_page, query | {"page": str(page_number)})
            for activity in page.data:
                yield activity
            more = len(page.data) == per_page if page.has_more is None else page.has_more
            if not more or not page.data:
                return
            page_number += 1

    async def count(self, filter: str | None = None) -> int:
        """Count the activities that match a filter, with one request: `GET /activity`.

        Args:
            filter: The filter expression. Defaults to all activities.

        Returns:
            The number of activities.

        Raises:
            ApiError: The response has no count; also see the class.
        """
        return await self._api.call("GET", "/activity", parse_count, _query(filter, ()) | _ONE)

    async def any_activity(self, filter: str | None = None) -> bool:
        """Check whether any activity matches a filter, with one request and without counting: `GET /activity`.

        Args:
            filter: The filter expression. Defaults to all activities.

        Returns:
            Whether there is at least one.

        Raises:
            ApiError: See the class.
        """
        page = await self._api.call("GET", "/activity", parse_page, _query(filter, ()) | _ONE | {"no_count": "true"})
        return bool(page.data)

    def download(
        self, link: str, *, offset: int = 0, validator: str | None = None
    ) -> AbstractAsyncContextManager[Body]:
        """Open a link of an export. The token is not sent to the file host.

        Args:
            link: The link. A relative one is resolved against `{base_url}/tasks/export/{id}`.
            offset: The byte to start from, if the host supports ranges.
            validator: The `Body.validator` of an earlier download; the file is sent from its start if it has changed.

        Returns:
            A context manager for the body of the file.

        Raises:
            UsageError: The client is not open.
            TransferError: The download may succeed when retried (also FileNotReadyError and RangeRefusedError). Reading
                the body raises it too, if it breaks off.
            LinkExpiredError: The host rejects the link.
            MalformedPartError: The body does not decompress; raised when it is read.
            PartError: The link must not be followed, or the host refuses the file.
        """
        if self._link_session is None or self._link_session.closed:
            raise UsageError("the client is not open: use it inside 'async with'")
        settings = self.link_settings
        return open_link(
            self._link_session,
            link,
            base=URL(settings.base, encoded=True),
            allow_http=settings.allow_http,
            stall_timeout=settings.stall_timeout,
            rangeless=self._rangeless,
            trust_env=settings.trust_env,
            offset=offset,
            validator=validator,
        )

    @property
    def link_settings(self) -> LinkSettings:
        """How links are opened, for processes that download without the token."""
        return LinkSettings(
            base=f"{self._api.base_url}/tasks/export/id",
            allow_http=self._api.base_url.scheme == "http",
            stall_timeout=self._stall_timeout,
            trust_env=self._api.trust_env,
        )

    def environment(self) -> dict[str, str]:
        """Return the environment of this process without what holds the token, for processes that must not have it."""
        return self._api.without_token(os.environ)

    def _export(self, answer: Any, export_id: str | None = None) -> Export:
        export = parse_export(answer, export_id)
        return (
            export
            if export.message is None
            else replace(export, message=self._api.clean(export.message)[:MAX_MESSAGE_CHARS])
        )


def _environment_token() -> str:
    token, path = os.environ.get("BULKPULL_TOKEN"), os.environ.get("BULKPULL_TOKEN_FILE")
    if token is not None:
        return token
    if path is None:
        raise UsageError("no token: set BULKPULL_TOKEN, or BULKPULL_TOKEN_FILE to the path of a file that contains it")
    return read_token_file(path)


def _segment(id: str) -> str:
    """Encode an id as one path segment; `.` and `..` must not be resolved."""
    return quote(id, safe="") if id.strip(".") else "%2E" * len(id)


def _query(filter: str | None, fields: Sequence[str]) -> dict[str, str]:
    query = {}
    if filter:
        query["filter"] = filter
    if fields:
        query["fields"] = ",".join(fields)
    return query
