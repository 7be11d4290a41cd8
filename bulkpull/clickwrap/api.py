"""Requests to the API: the token, the budget, retries, and what a response means."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import anyio
import orjson
from yarl import URL

from bulkpull.clickwrap.defaults import BASE_URL
from bulkpull.clickwrap.models import UnexpectedResponse, parse_json
from bulkpull.clickwrap.quota import BudgetExhausted, RequestBudget
from bulkpull.errors import (
    ApiError,
    AuthenticationError,
    NotFoundError,
    ThrottledError,
    UnavailableError,
    UsageError,
)
from bulkpull.events import OnEvent, QuotaExhausted, Recovered, Requested, Throttled, ignore
from bulkpull.http import (
    HEADER_TIMEOUTS,
    MAX_HEADER,
    MAX_HEADERS,
    describe,
    environment_proxy,
    has_long_header,
    is_loopback,
    sent_once,
    timeout,
)
from bulkpull.retry import RetryPolicy, TransientError, retry_after

MAX_SOCKETS = 64  # concurrent requests: a 429 response then still stops those that have not been sent
MAX_RESPONSE_BYTES = 16 * 1024 * 1024  # of JSON; a page of 100 activities has a few hundred thousand
MAX_MESSAGE_CHARS = 300  # of the API's messages that are included in errors
NOT_READY = frozenset({202, 204, 409, 425})  # statuses that the status route may return while an export runs
STARTUP_RETRY_S = 30.0  # an API that has never responded is more likely a wrong URL than an outage

T = TypeVar("T")


class Api:
    """Sends requests to the API with the token, within the budget, and retries them.

    The documentation of the arguments is that of `Clickwrap`.
    """

    def __init__(
        self,
        token: str,
        base_url: str,
        session: aiohttp.ClientSession | None,
        budget: RequestBudget,
        retry: RetryPolicy,
        request_timeout: float,
        *,
        ssl_context: ssl.SSLContext | None = None,
        trust_env: bool = False,
    ) -> None:
        if session and ssl_context:
            raise UsageError("ssl_context and session exclude each other: give the context to the session's connector")
        self._token = _check_token(token)
        self.base_url = _check_base_url(base_url)
        self.budget = budget
        self.retry = retry
        self.on_event: OnEvent = ignore
        self.ssl: ssl.SSLContext | bool = ssl_context or True
        self.trust_env = trust_env or bool(session and session.trust_env)
        self._session = session
        self._owns_session = session is None
        self._request_timeout = request_timeout
        self._sockets: anyio.CapacityLimiter | None = None
        self._reached = anyio.Event()  # the API has responded; shared with observed clients

    def open(self) -> aiohttp.BaseConnector | None:
        """Open the session, unless the caller gave one; return the connector of that."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self.ssl), cookie_jar=aiohttp.DummyCookieJar()
            )
        elif self._session.auth is not None:
            raise UsageError(
                "the session has its own auth, which conflicts with the token. Use a session without auth."
            )
        elif self._session.trust_env and self.base_url.scheme == "http" and environment_proxy(self.base_url):
            raise UsageError(
                f"the proxy of the environment would get the token unencrypted: add {self.base_url.host} to NO_PROXY"
            )
        connector = self._session.connector
        limit = min(MAX_SOCKETS, connector.limit or MAX_SOCKETS) if connector else MAX_SOCKETS
        self._sockets = anyio.CapacityLimiter(limit)
        return None if self._owns_session else connector

    async def close(self) -> None:
        """Close the session, unless the caller gave it."""
        if self._owns_session and self._session:
            await self._session.close()
            self._session = None

    async def call(
        self,
        method: str,
        path: str,
        parse: Callable[[Any], T],
        query: dict[str, str] | None = None,
        *,
        seconds: float | None = None,
        retry: RetryPolicy | None = None,
    ) -> T:
        """Send a request until its response can be parsed; return what `parse` makes of the JSON.

        `seconds` is the timeout of one request and its response.
        """
        route = f"{method} {path}"
        url = URL(f"{self.base_url}{path}", encoded=True)
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
            answer, attempts = await retry.retried(route, attempt, self.on_event)
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
            hint = "" if self._reached.is_set() else f"; is {self.base_url} the API?"
            reason = f"{route}: the API is unavailable: {error}{hint}"
            raise UnavailableError(reason, status=error.status, undone=undone) from error
        if attempts > 1:
            self.on_event(Recovered(route, attempts))
        return answer

    async def _send(self, method: str, url: URL, route: str, parse: Callable[[Any], T], seconds: float) -> T:
        """Send one request and parse its response, which must arrive within `seconds` once there is a connection.

        Raises TransientError for failures worth a retry, and ApiError for others.
        """
        if self._session is None or self._sockets is None or self._session.closed:
            raise UsageError("the client, or its session, is not open: use it inside 'async with'")
        proxy = environment_proxy(url) if self.trust_env and url.scheme == "https" else None
        try:
            async with self._sockets, self.budget.slot(self.retry.seconds, self._tell_quota):
                self.on_event(Requested(route))
                async with self._session.request(
                    method,
                    url,
                    headers={"Authorization": f"Bearer {self._token}", "Accept": "application/json"},
                    allow_redirects=False,
                    raise_for_status=False,
                    timeout=timeout(seconds, total=seconds + HEADER_TIMEOUTS * self._request_timeout),
                    middlewares=(sent_once(),),
                    proxy=proxy,
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
                    f"headers, which is not accepted; is {self.base_url} the API?"
                ) from None
            # Raised without its cause, since aiohttp's errors hold the request with its headers.
            unsent = isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError))
            raise TransientError(describe(error), undone=unsent) from None
        wait = retry_after(response.headers.get("Retry-After"))
        if response.status == 429:
            wait = self.budget.note_throttled(wait)
            self.on_event(Throttled(route, wait))
        else:
            self.budget.note_accepted()
        return self._parsed(response.status, body, route, wait or 0.0, parse)

    def _tell_quota(self, wait: float) -> None:
        self.on_event(QuotaExhausted(wait))

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
        return self.clean(message)[:MAX_MESSAGE_CHARS]

    def _excerpt(self, body: bytes) -> str:
        text = self.clean(body[:4096].decode("utf-8", "replace"))
        return repr(text[:80]) if text else "an empty body"

    def clean(self, text: str) -> str:
        """Remove the token, line breaks and control characters from text of the server."""
        text = text.replace(self._token, "***")
        return " ".join("".join(character if character.isprintable() else " " for character in text).split())

    def without_token(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return an environment without the variables that hold the token."""
        return {name: value for name, value in environment.items() if self._token not in value}


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
