"""What the API's routes and the file downloads share about aiohttp."""

from __future__ import annotations

from ipaddress import ip_address

import aiohttp
from aiohttp import ClientHandlerType, ClientMiddlewareType
from aiohttp.http_exceptions import LineTooLong

# A request may wait for a connection where the session is the caller's: its headers have this many timeouts in all.
PATIENCE = 10
MAX_HEADER = 64 * 1024  # bytes of one header of an answer: content security policies alone may have a dozen thousand
MAX_HEADERS = 512  # of one answer


def sent_once() -> ClientMiddlewareType:
    """A middleware for one request, which forbids what aiohttp does on its own: sending a GET again when a kept-alive
    connection turns out to be closed. The quota must know of every request, and the retry policy decides on them."""
    sent = False

    async def middleware(request: aiohttp.ClientRequest, handler: ClientHandlerType) -> aiohttp.ClientResponse:
        nonlocal sent
        if sent:
            raise aiohttp.ServerDisconnectedError
        sent = True
        return await handler(request)

    return middleware


def describe(error: BaseException) -> str:
    """A transport error in a few words, without URLs: aiohttp puts them, queries included, into its messages."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect ({error.os_error.strerror or type(error.os_error).__name__})"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server closed the connection"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the body ended early"
    return type(error).__name__


def has_long_header(error: BaseException) -> bool:
    """Whether an answer was refused for a header beyond the limits: it will be no shorter the next time."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, LineTooLong) or "Too many headers" in str(cause):
            return True
        cause = cause.__cause__
    return False


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: what is sent there does not travel."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
