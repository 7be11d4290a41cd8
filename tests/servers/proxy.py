"""A TCP proxy that simulates a bad network: it cuts connections off and limits their rate."""

from __future__ import annotations

import asyncio
import math
import random
import re
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import anyio

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
_PIECE = 64 * 1024
_RESET = struct.pack("ii", 1, 0)


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(slots=True)
class Proxy:
    """The configuration and the statistics of a proxy.

    Each connection, except the first `spared` ones, is cut off by FIN or RST after a random number of bytes from the
    server, drawn with `seed` from [0, `cut_within`), unless that is 0. Connections whose numbers, from 1, are in `held`
    are delayed by `hold_seconds`. `bytes_per_second` limits the rate of each, unless it is 0. `statuses` counts the
    server's responses by status.
    """

    port: int
    upstream: int
    seed: int = 0
    cut_within: int = 0
    spared: int = 0
    held: Collection[int] = ()
    hold_seconds: float = 0.0
    bytes_per_second: float = 0.0
    connections: int = 0
    cuts: int = 0
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection in both directions."""
        self.connections += 1
        number = self.connections
        draw = random.Random(f"{self.seed} {number}")
        cut = draw.randrange(self.cut_within) if self.cut_within and number > self.spared else None
        if number in self.held:
            await asyncio.sleep(self.hold_seconds)
        with suppress(OSError):  # either end may disconnect
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.upstream)
            try:
                sending = asyncio.create_task(self._send(reader, up_writer))
                try:
                    if await self._receive(up_reader, writer, cut) and draw.random() < 0.5:
                        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                        writer.transport.abort()
                finally:
                    sending.cancel()
                    await asyncio.gather(sending, return_exceptions=True)
            finally:
                up_writer.close()
        writer.close()

    async def _send(self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter) -> None:
        while data := await reader.read(_PIECE):
            upstream.write(data)
            await upstream.drain()
        upstream.close()

    async def _receive(self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: int | None) -> bool:
        """Forward bytes; return whether the connection was cut off before the server closed it."""
        while data := await upstream.read(_PIECE if cut is None else min(_PIECE, cut + 1)):
            self.statuses.update(int(status) for status in _STATUS.findall(data))
            if cut is not None:
                if len(data) > cut:
                    writer.write(data[:cut])
                    with suppress(OSError):
                        await writer.drain()
                    self.cuts += 1
                    return True
                cut -= len(data)
            writer.write(data)
            await writer.drain()
            if self.bytes_per_second:
                await asyncio.sleep(len(data) / self.bytes_per_second)
        return False


@asynccontextmanager
async def proxied(upstream: int, **options: Any) -> AsyncIterator[Proxy]:
    """Run a proxy on a free port for the server at port `upstream`, with the options of `Proxy`."""
    proxy = Proxy(0, upstream, **options)
    writers: list[asyncio.StreamWriter] = []
    try:
        async with anyio.create_task_group() as group:
            accepted, connections = anyio.create_memory_object_stream[Connection](math.inf)

            async def carry_all() -> None:
                with connections:
                    async for connection in connections:
                        group.start_soon(proxy.forward, *connection)

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                """Called outside of any task, where anyio starts none if sniffio is installed."""
                writers.append(writer)
                accepted.send_nowait((reader, writer))

            group.start_soon(carry_all)
            server = await asyncio.start_server(accept, "127.0.0.1", 0)
            proxy.port = server.sockets[0].getsockname()[1]
            try:
                with accepted:
                    yield proxy
            finally:
                server.close()
                group.cancel_scope.cancel()
    finally:
        for writer in writers:  # including those whose task was cancelled before it started
            writer.transport.abort()
        with anyio.CancelScope(shield=True):
            await asyncio.sleep(0)  # lets the transports close their sockets
