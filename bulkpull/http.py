"""HTTP over aiohttp: limits, errors and middlewares that the API's routes and the file downloads share."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.request import getproxies_environment, proxy_bypass

import aiohttp
from aiohttp import ClientHandlerType, ClientMiddlewareType
from aiohttp.http_exceptions import LineTooLong
from yarl import URL

from bulkpull.errors import UsageError

# Timeouts until the headers of an answer: a request may first wait for a connection of the caller's session.
HEADER_TIMEOUTS = 10
MAX_HEADER = 64 * 1024  # bytes of one response header; content security policies alone may take 12,000
MAX_HEADERS = 512  # response headers


def sent_once() -> ClientMiddlewareType:
    """Return a middleware for one request that stops aiohttp from resending it.

    aiohttp resends a GET when a kept-alive connection turns out to be closed. But the quota must count every request,
    and the retry policy decides which are repeated.
    """
    sent = False

    async def middleware(request: aiohttp.ClientRequest, handler: ClientHandlerType) -> aiohttp.ClientResponse:
        nonlocal sent
        if sent:
            raise aiohttp.ServerDisconnectedError
        sent = True
        return await handler(request)

    return middleware


def timeout(seconds: float, total: float | None) -> aiohttp.ClientTimeout:
    """Return the timeouts of one request, in seconds."""
    return aiohttp.ClientTimeout(total=total, sock_connect=seconds, sock_read=seconds)


def describe(error: BaseException) -> str:
    """Return a short description of a transport error, without URLs: aiohttp's messages include their queries."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy answered {error.status}"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect ({error.os_error.strerror or type(error.os_error).__name__})"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server closed the connection"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the body ended early"
    return type(error).__name__


def has_long_header(error: BaseException) -> bool:
    """Return whether an answer was refused because its headers exceed the limits. Retrying does not help then."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, LineTooLong) or "Too many headers" in str(cause):
            return True
        cause = cause.__cause__
    return False


def environment_proxy(url: URL) -> str | None:
    """Return the proxy that the environment names for a URL, unless NO_PROXY excludes its host. A session with
    `trust_env` does the same, but also sends the credentials that .netrc has for a host.

    Raises:
        UsageError: The proxy is not an HTTP proxy.
    """
    proxy = getproxies_environment().get(url.scheme)
    if not proxy or proxy_bypass(f"{url.host}:{url.port}"):
        return None
    scheme, separator, _ = proxy.partition("://")
    if not separator:
        return f"http://{proxy}"
    if scheme not in ("http", "https"):
        raise UsageError(f"the proxy for {url.scheme} in the environment is one for {scheme}: it must be an HTTP proxy")
    return proxy


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, so that nothing sent there crosses a network."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
