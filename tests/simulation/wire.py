"""An in-memory network: the real client on aiohttp, and a server whose responses are scripted byte by byte.

    def serve(request: Request) -> Iterable[Step]:
        yield 0.2  # seconds
        yield response(200, b"id\\n1\\n")

    async with connected(serve) as clickwrap: ...

Nothing leaves the process and TLS is left out, so that it works on any event loop, a jumping clock's too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import parse_qsl

import aiohttp
import orjson
from aiohttp.client_proto import ResponseHandler

from bulkpull import Clickwrap

API = "https://api.example/v1.1"
TOKEN = "a-token"


class End(Enum):
    """The abnormal ends of a response."""

    CLOSE = "close"  # the connection is closed
    RESET = "reset"  # the connection is reset
    HANG = "hang"  # no further bytes


Step = bytes | float | End  # bytes to send, seconds to wait, or the end of the connection
Serve = Callable[["Request"], Iterable[Step]]


@dataclass(frozen=True, slots=True)
class Request:
    """A request as received; `target` is the raw path and query, header names are in lower case."""

    method: str
    host: str
    target: str
    headers: dict[str, str]

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))


def response(
    status: int,
    body: bytes = b"",
    headers: Iterable[tuple[str, str]] = (),
    *,
    framing: str = "length",
    version: str = "1.1",
    announced: int | None = None,
) -> bytes:
    """Return the bytes of a response.

    `framing` is length, chunked or close (until the connection ends). `announced` is a `Content-Length` that may differ
    from that of the body.
    """
    lines = [f"HTTP/{version} {status} {'OK' if status < 400 else 'No'}", *(f"{name}: {v}" for name, v in headers)]
    if framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
        middle = len(body) // 2
        pieces = [piece for piece in (body[:middle], body[middle:]) if piece]
        body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    elif framing == "length" and status != 204:
        lines.append(f"Content-Length: {len(body) if announced is None else announced}")
    elif framing == "close" and version == "1.1":
        lines.append("Connection: close")
    return "\r\n".join((*lines, "", "")).encode("latin-1") + body


def json_response(status: int, value: Any, headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """Return the bytes of a response with a JSON body."""
    return response(status, orjson.dumps(value), [("Content-Type", "application/json"), *headers])


class Wire(aiohttp.BaseConnector):
    """A connector that connects every host to `serve`, except the `refused` hosts."""

    def __init__(self, serve: Serve, *, refused: Iterable[str] = ()) -> None:
        # Idle connections are kept: aiohttp expires them by the real clock, not the virtual one.
        super().__init__(limit=0, keepalive_timeout=None)
        self._serve = serve
        self._refused = frozenset(refused)

    async def _create_connection(self, req: aiohttp.ClientRequest, *_: Any) -> ResponseHandler:
        host = req.url.host or ""
        if host in self._refused:
            raise aiohttp.ClientConnectorError(req.connection_key, ConnectionRefusedError(111, "Connection refused"))
        protocol: ResponseHandler = self._factory()
        protocol.connection_made(_Connection(self._loop, protocol, host, self._serve))
        return protocol


@asynccontextmanager
async def connected(serve: Serve, **options: Any) -> AsyncIterator[Clickwrap]:
    """Return a real client whose hosts are all `serve`, with options of `bulkpull.Clickwrap`."""
    async with (
        aiohttp.ClientSession(connector=Wire(serve), cookie_jar=aiohttp.DummyCookieJar()) as session,
        Clickwrap(TOKEN, base_url=API, session=session, **options) as clickwrap,
    ):
        yield clickwrap


class _Connection(asyncio.Transport):
    """The client's side of a connection to the server."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: ResponseHandler, host: str, serve: Serve) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self._host = host
        self._serve = serve
        self._sent = b""  # bytes sent by the client and not yet read
        self._steps: Iterator[Step] | None = None
        self._timer: asyncio.Handle | None = None
        self._paused = self._closing = False

    # The client's side

    def write(self, data: Any) -> None:
        self._sent += bytes(data)
        if self._steps is None and not self._closing:
            self._read()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            if self._steps is not None and self._timer is None:
                self._next_in(0.0)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._lose(None)

    def abort(self) -> None:
        self._lose(None)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    # The server's side

    def _read(self) -> None:
        head, end, rest = self._sent.partition(b"\r\n\r\n")
        if not end:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        method, _, target = first.partition(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return
        self._sent = rest[length:]
        target = target.rpartition(" ")[0]
        self._steps = iter(self._serve(Request(method, self._host, target, headers)))
        self._next_in(0.0)

    def _next_in(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._play) if seconds else self._loop.call_soon(self._play)

    def _play(self) -> None:
        self._timer = None
        while self._steps is not None and not self._paused and not self._closing:
            step = next(self._steps, None)
            match step:
                case bytes():
                    self._protocol.data_received(step)
                case float() | int():
                    self._next_in(step)
                    return
                case End.HANG:
                    return
                case End.CLOSE:
                    self._protocol.eof_received()
                    self._lose(None)
                case End.RESET:
                    self._lose(ConnectionResetError(104, "Connection reset by peer"))
                case None:
                    self._steps = None
                    self._read()

    def _lose(self, error: Exception | None) -> None:
        if self._closing:
            return
        self._closing = True
        self._steps = None
        if self._timer:
            self._timer.cancel()
        self._loop.call_soon(self._protocol.connection_lost, error)
