"""Receiving the bytes of a body.

A large body whose length is known is received from the transport straight into the memory of its file. aiohttp's parser
would allocate and copy every chunk, which takes longer than all else that a download does with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import anyio

from bulkpull.errors import TransferError
from bulkpull.http import describe
from bulkpull.record import record
from bulkpull.source import Room

MIN_DIRECT_BYTES = 4 * 1024 * 1024  # left of a body; less is not worth its connection, which is used for one body only
_BUFFER_BYTES = 1024 * 1024
_HOLD_S = 0.005  # that a chunk waits to be full: the work for one hardly depends on its size

Chunks = AsyncIterator[bytes | memoryview]


@record(frozen=False)
class Receiver:
    """Receives a body, which is broken once it has stalled for `stall_timeout` seconds."""

    response: aiohttp.ClientResponse
    stall_timeout: float
    _room: Room | None = None

    def receive_into(self, room: Room) -> None:
        """Receive what may be received directly into the memory that `room` returns; chunks are views of it then."""
        self._room = room

    async def chunks(self) -> Chunks:
        """Iterate over the body as it arrives. A chunk is valid until the next one is requested.

        Raises:
            TransferError: The body broke off, or stalled.
        """
        content = self.response.content
        try:
            while True:
                # aiohttp's own timeout is reset by any byte, even of a chunk size that never ends.
                with anyio.fail_after(self.stall_timeout):
                    chunk, _ = await content.readchunk()  # not copied together, as read() would
                if chunk:  # empty at the end of an HTTP chunk
                    parsed, direct = _direct(self.response)
                    yield chunk
                    if parsed:
                        yield parsed
                    if direct:
                        async for view in direct.chunks(self._room or _buffer(), self.stall_timeout):
                            yield view
                        return
                elif content.at_eof():
                    return
        except (aiohttp.ClientError, OSError) as error:  # which a TimeoutError is
            raise TransferError(f"the transfer broke: {describe(error)}") from None


def _buffer() -> Room:
    """Return room that is used again for each chunk."""
    buffer = memoryview(bytearray(_BUFFER_BYTES))

    async def room() -> memoryview:
        return buffer

    return room


def _direct(response: aiohttp.ClientResponse) -> tuple[bytes, _Direct | None]:
    """Take the rest of a body over from aiohttp, if that is possible and worthwhile. Returns the bytes that aiohttp has
    parsed before. Raises aiohttp.ClientError."""
    connection, length, content = response.connection, response.content_length, response.content
    if connection is None or length is None or "Transfer-Encoding" in response.headers or content.exception():
        return b"", None
    transport, protocol = connection.transport, connection.protocol
    if transport is None or protocol is None or not isinstance(transport, asyncio.Transport):
        return b"", None
    if length - content.total_raw_bytes < MIN_DIRECT_BYTES:
        return b"", None
    # Before the transport is taken over: reading lets aiohttp parse more, and resume the transport.
    parsed = b"".join(iter(content.read_nowait, b""))
    left = length - content.total_raw_bytes
    if left <= 0 or content.exception() or getattr(protocol, "_tail", None):  # bytes that aiohttp has not parsed yet
        return parsed, None
    return parsed, _Direct(transport, protocol, left)


class _Direct(asyncio.BufferedProtocol):
    """Receives the `left` bytes of a body from a transport, in place of aiohttp's protocol."""

    def __init__(self, transport: asyncio.Transport, replaced: asyncio.BaseProtocol, left: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._replaced = replaced
        self._left = left
        self._room = memoryview(b"")  # for the next chunk; the transport is paused while there is none
        self._filled = 0
        self._changed = asyncio.Event()
        self._change: asyncio.TimerHandle | None = None  # that comes anyway
        self._is_lost = False
        self._error: BaseException | None = None
        transport.pause_reading()
        transport.set_protocol(self)

    async def chunks(self, room: Room, stall_timeout: float) -> Chunks:
        """Iterate over the bytes that aiohttp has not received, in the memory that `room` returns for each chunk."""
        while self._left:
            if self._is_lost:
                if isinstance(self._error, OSError):
                    raise self._error
                raise aiohttp.ClientPayloadError(f"{self._left:,} bytes are missing") from self._error
            self._room, self._filled = (await room())[: self._left], 0
            self._changed.clear()
            self._transport.resume_reading()
            try:
                with anyio.fail_after(stall_timeout):
                    await self._changed.wait()
            finally:  # the memory may go to another file next
                self._transport.pause_reading()
            if self._filled:
                self._left -= self._filled
                yield self._room[: self._filled]

    # asyncio calls these

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._room[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if self._filled == len(self._room):
            self._transport.pause_reading()
            self._announce()
        elif self._change is None:
            self._change = self._loop.call_later(_HOLD_S, self._announce)

    def eof_received(self) -> None:
        self._lose(None)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._lose(exc)
        self._replaced.connection_lost(exc if isinstance(exc, Exception) else None)

    def _lose(self, error: BaseException | None) -> None:
        self._is_lost, self._error = True, self._error or error
        self._announce()

    def _announce(self) -> None:
        if self._change:
            self._change.cancel()
            self._change = None
        self._changed.set()
