"""The client: one async method per documented route. It knows nothing of pulls and never meets a file."""

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
    UnexpectedAnswer,
    parse_count,
    parse_export,
    parse_export_fields,
    parse_json,
    parse_page,
)
from bulkpull.clickwrap.quota import DEFAULT_PER_MINUTE, Exhausted, Governor
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
MAX_SOCKETS = 64  # requests on the wire at a time: what the quota admits is sent at once, and so held back by a 429
_READ = 1024 * 1024  # bytes of a file that may wait for the disk before its connection does
MAX_ANSWER = 16 * 1024 * 1024  # bytes of JSON; a page of 100 activities has a few hundred thousand
MAX_MESSAGE = 300  # characters of what the API says that go into errors
LAUNCH_TIMEOUT = 600.0  # seconds: a launch that is repeated makes a second export, so its answer is waited for
LAUNCH_CAP = 300.0  # seconds between two repetitions of a launch at most
NOT_READY = frozenset({202, 204, 409, 425})  # what a status route may answer while an export runs
START_SECONDS = 30.0  # for which an API is tried that has never answered: more likely, its URL is wrong
_ONE = {"page": "1", "per_page": "1"}

T = TypeVar("T")


class Clickwrap:
    """A client of the Clickwrap REST API, to be used with `async with`.

    `session`: an `aiohttp.ClientSession` to use and leave open; without one the client makes and closes its own. Its
    connector serves the files too, so that its limit should be above the downloads; its headers, cookies, proxy and
    middlewares do not reach the files' hosts, nor its middlewares the API.
    `requests_per_minute`: the budget for all requests of this client, retries included; the API allows 2000 to a
    token and mails the site's admins above, and other programs may share the token.
    `retry`: how often and how long failed requests and transfers are tried again; an API that has not answered yet
    is given up after 30 seconds.
    `request_timeout`: seconds for one request and its answer; `launch_timeout` those for a launch, whose repetition
    makes another export; `stall_timeout`: seconds without a byte after which
    a download counts as broken.

    Every method raises AuthenticationError (401, 403), NotFoundError (404), ApiError (any other refusal),
    ThrottledError or UnavailableError (retried in vain).
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
        launch_timeout: float = LAUNCH_TIMEOUT,
        stall_timeout: float = 60.0,
    ) -> None:
        self._token = _check_token(token)
        self._base_url = _check_base_url(base_url)
        self._own_session = session is None
        self._session = session
        self._link_session: aiohttp.ClientSession | None = None
        self._rangeless: set[str] = set()  # file hosts that know no ranges
        self._sockets: anyio.CapacityLimiter | None = None
        self._governor = Governor(requests_per_minute)
        self._reached = anyio.Event()  # an answer of the API's came, shared with the twins
        self._on_event: OnEvent = ignore
        self._request_timeout = request_timeout
        self._launch_timeout = launch_timeout
        self._stall_timeout = stall_timeout
        self.retry = retry or RetryPolicy()

    def __repr__(self) -> str:
        return f"Clickwrap({str(self._base_url)!r})"

    @property
    def base_url(self) -> str:
        """The API that this client speaks to."""
        return str(self._base_url)

    @property
    def requests_per_minute(self) -> int:
        """The budget for all requests."""
        return self._governor.requests_per_minute

    async def __aenter__(self) -> Self:
        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        elif self._session.auth is not None:
            raise UsageError("the session has an auth of its own, which collides with the token")
        connector = self._session.connector
        limit = min(MAX_SOCKETS, connector.limit or MAX_SOCKETS) if connector else MAX_SOCKETS
        self._sockets = anyio.CapacityLimiter(limit)
        # Files must not keep the API waiting for a connection: they have connections of their own, unless the caller
        # has said how connections are made.
        self._link_session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0) if self._own_session else connector,
            connector_owner=self._own_session,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=_timeout(self._stall_timeout, total=None),
            auto_decompress=False,
            read_bufsize=_READ,
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
            max_headers=MAX_HEADERS,
        )
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        # Shielded, since a cancelled close would leave sockets behind.
        with anyio.CancelScope(shield=True):
            if self._link_session:
                await self._link_session.close()
            if self._own_session and self._session:
                await self._session.close()
                self._session = None

    def observed(self, on_event: OnEvent) -> Self:
        """The same client (session, quota, limits), whose requests are announced to `on_event`."""
        twin = copy.copy(self)
        twin._on_event = on_event
        return twin

    async def start_export(self, filter: str, fields: Sequence[str] = ()) -> Export:
        """`POST /tasks/export/activity`: starts an export of the activities that `filter` matches.

        Without `fields` the site's default columns come. Each export mails the token's user. A POST whose answer
        was lost is sent again, late and seldom, and may so start a second export: the API has no way to tell.
        """
        return await self._call(
            "POST",
            "/tasks/export/activity",
            self._export,
            _query(filter, fields),
            seconds=self._launch_timeout,
            retry=replace(self.retry, cap=max(self.retry.cap, LAUNCH_CAP)),
        )

    async def get_export(self, export_id: str) -> Export:
        """`GET /tasks/export/{id}`: an export's status, and fresh links once it succeeded.

        The status is `not_ready` where the API answers only that (202, 204, 409, 425).
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
        """`GET /sites/{id}/exportFields`: the names of the fields that a site's exports offer."""
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
        """`GET /activity`: iterates over the activities, page after page while `has_more`.

        `no_count` leaves the counting out, `lean` shrinks the objects: both make the call cheaper for the server.
        `per_page` is 1 to 100.
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
        """`GET /activity` with one activity a page: how many a filter matches, for one request.

        Raises ApiError too where the API answers without a count.
        """
        return await self._call("GET", "/activity", parse_count, _query(filter, ()) | _ONE)

    async def any_activity(self, filter: str | None = None) -> bool:
        """`GET /activity` with one activity a page, uncounted: whether a filter matches any, for one request."""
        page = await self._call("GET", "/activity", parse_page, _query(filter, ()) | _ONE | {"no_count": "true"})
        return bool(page.data)

    def download(
        self, link: str, *, offset: int = 0, validator: str | None = None
    ) -> AbstractAsyncContextManager[Body]:
        """Open a link of an export, without the token, from byte `offset` on if `validator` still identifies the file.

        A relative link is resolved against the URL of the export, `{base_url}/tasks/export/{id}`.

        Raises LinkExpiredError, FileNotReadyError, RangeRefusedError or TransferError, which may pass, and PartError
        for a link that must not be followed. Reading the body raises TransferError if it breaks off, and
        MalformedPartError if it does not decompress.
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
        return export if export.message is None else replace(export, message=self._clean(export.message)[:MAX_MESSAGE])

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
            # Percent-encoding throughout: a plus sign for a blank is the custom of forms, not of URLs.
            url = URL(f"{url}?{urlencode(query, quote_via=quote, safe='')}", encoded=True)

        undone = True  # by all attempts so far

        async def attempt() -> T:
            nonlocal undone
            try:
                return await self._send(method, url, route, parse, seconds or self._request_timeout)
            except UnexpectedAnswer as error:
                undone = False
                raise TransientError(f"the answer is unusable: {error}", status=200) from error
            except (TransientError, ApiError) as error:
                undone = undone and error.undone
                raise

        retry = retry or self.retry
        if not self._reached.is_set():
            retry = replace(retry, seconds=min(retry.seconds, START_SECONDS))
        try:
            return await retry.retrying(route, self._on_event)(attempt)
        except ApiError as error:
            error.undone = undone
            raise
        except TransientError as error:
            if error.status == 429:
                raise ThrottledError(
                    f"{route}: the API's quota stayed exhausted ({error}); lower the requests per minute if other "
                    "programs share the token",
                    status=429,
                    undone=undone,
                ) from error
            hint = "" if self._reached.is_set() else f"; is {self._base_url} the API?"
            reason = f"{route}: no usable answer: {error}{hint}"
            raise UnavailableError(reason, status=error.status, undone=undone) from error

    async def _send(self, method: str, url: URL, route: str, parse: Callable[[Any], T], seconds: float) -> T:
        """One request: what its answer is parsed to, which may take `seconds` once it has a connection. Raises what
        stands for any other answer, or for none."""
        if self._session is None or self._sockets is None or self._session.closed:
            raise UsageError("the client, or the session it was given, is not open: use it inside 'async with'")
        try:
            async with self._sockets, self._governor.place(self.retry.seconds):
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
        except Exhausted as exhausted:
            raise TransientError("the quota is exhausted", status=429, wait=exhausted.seconds, undone=True) from None
        except aiohttp.ClientConnectorCertificateError:
            raise UnavailableError(f"{route}: {url.host} has no valid certificate", undone=True) from None
        except (aiohttp.ClientError, TimeoutError) as error:
            if has_long_header(error):
                raise UnavailableError(
                    f"{route}: {url.host} answers with a header of more than {MAX_HEADER:,} bytes, or more than "
                    f"{MAX_HEADERS} headers, which is refused; is {self._base_url} the API?"
                ) from None
            # Without its cause: aiohttp's errors hold the request, headers included.
            raise TransientError(describe(error), undone=isinstance(error, aiohttp.ClientConnectorError)) from None
        wait = retry_after(response.headers.get("Retry-After"))
        if response.status == 429:
            wait = self._governor.throttled(wait)
            self._on_event(Throttled(route, wait))
        else:
            self._governor.accepted()
        return self._parsed(response.status, body, route, wait or 0.0, parse)

    def _parsed(self, status: int, body: bytes, route: str, wait: float, parse: Callable[[Any], T]) -> T:
        """What a 2xx answer holds; the error that stands for any other, or that such an answer holds."""
        if 200 <= status < 300:
            try:
                answer = parse_json(body)
                self._reached.set()
                error = answer.get("error") if isinstance(answer, dict) and not answer.get("data") else None
                if not error:
                    return parse(answer)
            except (ValueError, UnexpectedAnswer) as unusable:
                if status in NOT_READY:
                    raise ApiError(f"{route}: {status} and {self._excerpt(body)}", status=status) from None
                if isinstance(unusable, ValueError):
                    raise UnexpectedAnswer(f"no JSON but {self._excerpt(body)}") from None
                raise
            told = error.get("status") if isinstance(error, dict) else None
            status = told if isinstance(told, int) and 400 <= told < 600 else 400
        reason = f"{status} {self._message(body)}"
        if status in (408, 429) or status >= 500:
            raise TransientError(reason, status=status, wait=wait, undone=status == 429)
        kind, what = ApiError, "the API refused it; check the filter and the fields"
        if status == 401:
            kind, what = AuthenticationError, "the API does not accept the token"
        elif status == 403:
            kind, what = AuthenticationError, "the token's user may not do this; check its permissions on the site"
        elif status == 404:
            kind, what = NotFoundError, "not found"
        elif 300 <= status < 400:
            what = "the API redirects; the token is not taken elsewhere"
        raise kind(f"{route}: {what}: {reason}", status=status, undone=True)

    def _message(self, body: bytes) -> str:
        """The message of an error answer: the API's JSON, or whatever a proxy wrote."""
        try:
            message = str(orjson.loads(body)["error"]["message"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return self._excerpt(body)
        self._reached.set()
        return self._clean(message)[:MAX_MESSAGE]

    def _excerpt(self, body: bytes) -> str:
        text = self._clean(body[:4096].decode("utf-8", "replace"))
        return repr(text[:80]) if text else "an empty body"

    def _clean(self, text: str) -> str:
        """`text` from outside, fit for messages: without the token, line ends and what a terminal would obey."""
        text = text.replace(self._token, "***")
        return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def _segment(id: str) -> str:
    """An id as one segment of a path, whatever it holds: not even dots alone lead elsewhere."""
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
        if len(body) > MAX_ANSWER:
            raise ApiError(f"{route}: the answer is larger than {MAX_ANSWER:,} bytes", status=response.status)
    return bytes(body)


def _check_token(token: str) -> str:
    if not token:
        raise UsageError("the token is empty")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError("the token holds blanks, line ends or characters that no HTTP header may carry")
    return token


def _check_base_url(base_url: str) -> URL:
    try:
        url = URL(base_url.rstrip("/"))
        host = url.host or ""
        host.encode("idna")
        usable = url.scheme in ("http", "https") and host and url.port is not None
    except ValueError:
        raise UsageError(f"the base URL is no URL: it must look like {BASE_URL}") from None
    if url.user is not None or url.password is not None:
        raise UsageError("the base URL holds credentials: the token is all that is sent")
    if not usable or url.query_string or url.fragment:
        raise UsageError(f"the base URL {base_url!r} must look like {BASE_URL}")
    if url.scheme == "http" and not is_loopback(host):
        raise UsageError(f"the base URL {base_url!r} must be https: the token would travel in the open")
    return url
