"""The client of the Clickwrap REST API: one async method per documented route."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import anyio
import orjson
from yarl import URL

from bulkpull.clickwrap.filters import check_filter, window_filter
from bulkpull.clickwrap.models import (
    UnexpectedResponse,
    parse_count,
    parse_export,
    parse_export_fields,
    parse_json,
    parse_page,
)
from bulkpull.clickwrap.quota import DEFAULT_PER_MINUTE, BudgetExhausted, RequestBudget
from bulkpull.download import open_link
from bulkpull.errors import (
    ApiError,
    AuthenticationError,
    NotFoundError,
    ThrottledError,
    UnavailableError,
    UsageError,
)
from bulkpull.events import OnEvent, Requested, Throttled, ignore
from bulkpull.http import (
    HEADER_TIMEOUTS,
    MAX_HEADER,
    MAX_HEADERS,
    describe,
    has_long_header,
    is_loopback,
    sent_once,
)
from bulkpull.retry import RetryPolicy, TransientError, retry_after
from bulkpull.source import Body, Columns, Export

BASE_URL = "https://api.pactsafe.com/v1.1"
MAX_PER_PAGE = 100  # source: Clickwrap's "Pagination"
MAX_SOCKETS = 64  # concurrent requests: a 429 response then still stops those that have not been sent
_READ_BUFFER_BYTES = 1024 * 1024  # of a file, before backpressure stops its connection
MAX_RESPONSE_BYTES = 16 * 1024 * 1024  # of JSON; a page of 100 activities has a few hundred thousand
MAX_MESSAGE_CHARS = 300  # of the API's messages that are included in errors
LAUNCH_TIMEOUT_S = 600.0  # long, since repeating a launch starts a second export
LAUNCH_BACKOFF_CAP_S = 300.0
NOT_READY = frozenset({202, 204, 409, 425})  # statuses that the status route may return while an export runs
STARTUP_RETRY_S = 30.0  # an API that has never responded is more likely a wrong URL than an outage
_ONE = {"page": "1", "per_page": "1"}

T = TypeVar("T")


class Clickwrap:
    """A client of the Clickwrap REST API, used as an async context manager.

    Args:
        token: The API token.
        base_url: The root URL of the API.
        session: An `aiohttp.ClientSession` to use, which stays open. By default the client opens and closes its own.
            The session's connector also serves file downloads, so its connection limit should exceed their number. Its
            headers, cookies and proxy are not used for file hosts, its middlewares not at all.
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
        requests_per_minute: int = DEFAULT_PER_MINUTE,
        retry: RetryPolicy | None = None,
        request_timeout: float = 60.0,
        launch_timeout: float = LAUNCH_TIMEOUT_S,
        stall_timeout: float = 60.0,
    ) -> None:
        self._token = _check_token(token)
        self._base_url = _check_base_url(base_url)
        self._own_session = session is None
        self._session = session
        self._link_session: aiohttp.ClientSession | None = None
        self._rangeless: set[str] = set()  # file hosts that do not support ranges
        self._sockets: anyio.CapacityLimiter | None = None
        self._budget = RequestBudget(requests_per_minute)
        self._reached = anyio.Event()  # the API has responded; shared with observed clients
        self._on_event: OnEvent = ignore
        self._request_timeout = request_timeout
        self._launch_timeout = launch_timeout
        self._stall_timeout = stall_timeout
        self.retry = retry or RetryPolicy()

    def __repr__(self) -> str:
        return f"Clickwrap({str(self._base_url)!r})"

    @property
    def base_url(self) -> str:
        """The root URL of the API."""
        return str(self._base_url)

    @property
    def requests_per_minute(self) -> int:
        """The budget for all requests of this client."""
        return self._budget.requests_per_minute

    @property
    def throttled_at(self) -> float | None:
        """When the API last answered 429, on the event loop's clock; None if it never did."""
        return self._budget.throttled_at

    async def __aenter__(self) -> Self:
        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        elif self._session.auth is not None:
            raise UsageError(
                "the session has its own auth, which conflicts with the token. Use a session without auth."
            )
        connector = self._session.connector
        limit = min(MAX_SOCKETS, connector.limit or MAX_SOCKETS) if connector else MAX_SOCKETS
        self._sockets = anyio.CapacityLimiter(limit)
        # Downloads have their own connection pool, so that they cannot starve API requests, unless the caller provides
        # a connector.
        self._link_session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0) if self._own_session else connector,
            connector_owner=self._own_session,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=_timeout(self._stall_timeout, total=None),
            auto_decompress=False,
            read_bufsize=_READ_BUFFER_BYTES,
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
            max_headers=MAX_HEADERS,
        )
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        # Shielded, since a cancelled close would leak sockets.
        with anyio.CancelScope(shield=True):
            if self._link_session:
                await self._link_session.close()
            if self._own_session and self._session:
                await self._session.close()
                self._session = None

    def observed(self, on_event: OnEvent) -> Self:
        """Return a client that shares this one's session, budget and limits, and reports its requests.

        Args:
            on_event: Called with an event for each request and retry.

        Returns:
            The observed client. It need not be opened or closed.
        """
        client = copy.copy(self)
        client._on_event = on_event
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
        return await self._call(
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
            return await self._call(
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
        return await self._call("GET", f"/sites/{quote(str(site), safe='')}/exportFields", parse_export_fields)

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
            page = await self._call("GET", "/activity", parse_page, query | {"page": str(page_number)})
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
        return await self._call("GET", "/activity", parse_count, _query(filter, ()) | _ONE)

    async def any_activity(self, filter: str | None = None) -> bool:
        """Check whether any activity matches a filter, with one request and without counting: `GET /activity`.

        Args:
            filter: The filter expression. Defaults to all activities.

        Returns:
            Whether there is at least one.

        Raises:
            ApiError: See the class.
        """
        page = await self._call("GET", "/activity", parse_page, _query(filter, ()) | _ONE | {"no_count": "true"})
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
        allow_http = self._base_url.scheme == "http"
        return open_link(
            self._link_session,
            link,
            base=URL(f"{self._base_url}/tasks/export/id", encoded=True),
            allow_http=allow_http,
            stall_timeout=self._stall_timeout,
            rangeless=self._rangeless,
            offset=offset,
            validator=validator,
        )

    def _export(self, answer: Any, export_id: str | None = None) -> Export:
        export = parse_export(answer, export_id)
        return (
            export
            if export.message is None
            else replace(export, message=self._clean(export.message)[:MAX_MESSAGE_CHARS])
        )

    async def _call(
        self,
        method: str,
        path: str,
        parse: Callable[[Any], T],
        query: dict[str, str] | None = None,
        *,
        seconds: float | None = None,
        retry: RetryPolicy | None = None,
    ) -> T:
        route = f"{method} {path}"
        url = URL(f"{self._base_url}{path}", encoded=True)
        if query:
            # Percent-encode everything: a plus sign means a space in forms only, not in URLs.
            url = URL(f"{url}?{urlencode(query, quote_via=quote, safe='')}", encoded=True)

        undone = True  # no attempt so far was processed by the API

        async def attempt() -> T:
            nonlocal undone
            try:
                return await self._send(method, url, route, parse, seconds or self._request_timeout)
            except UnexpectedResponse as error:
                undone = False
                raise TransientError(f"unexpected response: {error}", status=200) from error
            except (TransientError, ApiError) as error:
                undone = undone and error.undone
                raise

        retry = retry or self.retry
        if not self._reached.is_set():
            retry = replace(retry, seconds=min(retry.seconds, STARTUP_RETRY_S))
        try:
            return await retry.retrying(route, self._on_event)(attempt)
        except ApiError as error:
            error.undone = undone
            raise
        except TransientError as error:
            if error.status == 429:
                raise ThrottledError(
                    f"{route}: the API's quota is exhausted ({error}). Lower the requests per minute if other programs "
                    "share the token.",
                    status=429,
                    undone=undone,
                ) from error
            hint = "" if self._reached.is_set() else f"; is {self._base_url} the API?"
            reason = f"{route}: the API is unavailable: {error}{hint}"
            raise UnavailableError(reason, status=error.status, undone=undone) from error

    async def _send(self, method: str, url: URL, route: str, parse: Callable[[Any], T], seconds: float) -> T:
        """Send one request and parse its response, which must arrive within `seconds` once there is a connection.

        Raises TransientError for failures worth a retry, and ApiError for others.
        """
        if self._session is None or self._sockets is None or self._session.closed:
            raise UsageError("the client, or its session, is not open: use it inside 'async with'")
        try:
            async with self._sockets, self._budget.slot(self.retry.seconds):
                self._on_event(Requested(route))
                async with self._session.request(
                    method,
                    url,
                    headers={"Authorization": f"Bearer {self._token}", "Accept": "application/json"},
                    allow_redirects=False,
                    raise_for_status=False,
                    timeout=_timeout(seconds, total=seconds + HEADER_TIMEOUTS * self._request_timeout),
                    middlewares=(sent_once(),),
                    max_line_size=MAX_HEADER,
                    max_field_size=MAX_HEADER,
                    max_headers=MAX_HEADERS,
                ) as response:
                    with anyio.fail_after(seconds):
                        body = await _read(response, route)
        except BudgetExhausted as exhausted:
            raise TransientError("the quota is exhausted", status=429, wait=exhausted.seconds, undone=True) from None
        except aiohttp.ClientConnectorCertificateError:
            raise UnavailableError(f"{route}: the certificate of {url.host} is not valid", undone=True) from None
        except (aiohttp.ClientError, TimeoutError) as error:
            if has_long_header(error):
                raise UnavailableError(
                    f"{route}: {url.host} sent a header of more than {MAX_HEADER:,} bytes, or more than {MAX_HEADERS} "
                    f"headers, which is not accepted; is {self._base_url} the API?"
                ) from None
            # Raised without its cause, since aiohttp's errors hold the request with its headers.
            raise TransientError(describe(error), undone=isinstance(error, aiohttp.ClientConnectorError)) from None
        wait = retry_after(response.headers.get("Retry-After"))
        if response.status == 429:
            wait = self._budget.note_throttled(wait)
            self._on_event(Throttled(route, wait))
        else:
            self._budget.note_accepted()
        return self._parsed(response.status, body, route, wait or 0.0, parse)

    def _parsed(self, status: int, body: bytes, route: str, wait: float, parse: Callable[[Any], T]) -> T:
        """Parse a 2xx response. Raises TransientError or ApiError for any other status, or an error in the body."""
        if 200 <= status < 300:
            try:
                answer = parse_json(body)
                self._reached.set()
                error = answer.get("error") if isinstance(answer, dict) and not answer.get("data") else None
                if not error:
                    return parse(answer)
            except (ValueError, UnexpectedResponse) as unusable:
                if status in NOT_READY:
                    raise ApiError(f"{route}: {status} and {self._excerpt(body)}", status=status) from None
                if isinstance(unusable, ValueError):
                    raise UnexpectedResponse(f"not JSON but {self._excerpt(body)}") from None
                raise
            inner = error.get("status") if isinstance(error, dict) else None
            status = inner if isinstance(inner, int) and 400 <= inner < 600 else 400
        reason = f"{status} {self._message(body)}"
        if status in (408, 429) or status >= 500:
            raise TransientError(reason, status=status, wait=wait, undone=status == 429)
        kind, what = ApiError, "the API rejected the request; check the filter and the fields"
        if status == 401:
            kind, what = AuthenticationError, "the API rejects the token"
        elif status == 403:
            kind, what = AuthenticationError, "the token's user lacks the permission; check it on the site"
        elif status == 404:
            kind, what = NotFoundError, "not found"
        elif 300 <= status < 400:
            what = "the API redirects, which is not followed, since the token must not be sent elsewhere"
        raise kind(f"{route}: {what}: {reason}", status=status, undone=True)

    def _message(self, body: bytes) -> str:
        """Return the message of an error response: from the API's JSON, or an excerpt of anything else."""
        try:
            message = str(orjson.loads(body)["error"]["message"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return self._excerpt(body)
        self._reached.set()
        return self._clean(message)[:MAX_MESSAGE_CHARS]

    def _excerpt(self, body: bytes) -> str:
        text = self._clean(body[:4096].decode("utf-8", "replace"))
        return repr(text[:80]) if text else "an empty body"

    def _clean(self, text: str) -> str:
        """Remove the token, line breaks and control characters from text of the server."""
        text = text.replace(self._token, "***")
        return " ".join("".join(character if character.isprintable() else " " for character in text).split())


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


def _timeout(seconds: float, total: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=total, sock_connect=seconds, sock_read=seconds)


async def _read(response: aiohttp.ClientResponse, route: str) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_RESPONSE_BYTES:
            raise ApiError(f"{route}: the response is larger than {MAX_RESPONSE_BYTES:,} bytes", status=response.status)
    return bytes(body)


def _check_token(token: str) -> str:
    if not token:
        raise UsageError("the token is empty")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError("the token contains spaces, line breaks or characters that are not allowed in an HTTP header")
    return token


def _check_base_url(base_url: str) -> URL:
    try:
        url = URL(base_url.rstrip("/"))
        host = url.host or ""
        host.encode("idna")
        usable = url.scheme in ("http", "https") and host and url.port is not None
    except ValueError:
        raise UsageError(f"the base URL is not a valid URL: it must look like {BASE_URL}") from None
    if url.user is not None or url.password is not None:
        raise UsageError("the base URL contains credentials: remove them; only the token is sent")
    if not usable or url.query_string or url.fragment:
        raise UsageError(f"the base URL {base_url!r} must look like {BASE_URL}")
    if url.scheme == "http" and not is_loopback(host):
        raise UsageError(f"the base URL {base_url!r} must be https: over http the token would be sent unencrypted")
    return url
