"""Bodies received past aiohttp's parser, over real sockets: the same bytes, and each way in which they can end."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from bulkpull import Clickwrap, TransferError
from bulkpull.download import link, receive
from bulkpull.source import Body

BODY = bytes(random.Random(1).randbytes(3_000_000))
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def host(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[tuple[str, list[object]]]:
    """A server that answers each connection with what `serve` writes; its URL, and its connections."""
    connections: list[object] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        try:
            await reader.readuntil(b"\r\n\r\n")
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        scheme = "https" if context else "http"
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}", connections


def client(url: str, session: aiohttp.ClientSession | None = None) -> Clickwrap:
    return Clickwrap("t", base_url=url.replace("https", "http"), stall_timeout=0.5, session=session)


async def write(writer: asyncio.StreamWriter, *pieces: bytes) -> None:
    for piece in pieces:
        writer.write(piece)
        await writer.drain()


async def whole(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends the body in pieces of all sizes, the first with the header."""
    await write(writer, HEAD + BODY[:10])
    at, sizes = 10, random.Random(2)
    while at < len(BODY):
        size = sizes.choice((1, 100, 5000, 70_000, 400_000))
        await write(writer, BODY[at : at + size])
        at += size
        if sizes.random() < 0.3:
            await anyio.sleep(0.001)


async def received(url: str, pause: float = 0, session: aiohttp.ClientSession | None = None) -> bytes:
    found = bytearray()
    async with client(url, session) as clickwrap, clickwrap.download(f"{url}/file") as body:
        async for chunk in body.chunks:
            found += chunk
            await anyio.sleep(pause)
            found += b""
    return bytes(found)


@pytest.mark.parametrize("pause", [0, 0.01])
async def test_brings_all_bytes_in_order_to_a_reader_of_any_speed(pause: float) -> None:
    async with host(whole) as (url, _):
        assert await received(url, pause) == BODY


def certify(directory: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(hours=1), now + timedelta(hours=1))
    address = x509.IPAddress(IPv4Address("127.0.0.1"))
    made = made.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    paths = directory / "certificate", directory / "key"
    paths[0].write_bytes(made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


async def test_brings_the_same_bytes_over_tls(tmp_path: Path) -> None:
    paths = certify(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*paths)
    trusting = ssl.create_default_context(cafile=paths[0])
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting))
    async with host(whole, context) as (url, _), session:
        assert await received(url, session=session) == BODY


async def test_takes_no_more_than_the_length_says() -> None:
    async def too_much(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await write(writer, HEAD, BODY + b"more")

    async with host(too_much) as (url, _):
        assert await received(url) == BODY


async def test_receives_into_the_memory_that_it_is_given() -> None:
    area, at, sizes, in_place = memoryview(bytearray(len(BODY))), 0, random.Random(3), 0

    async def room() -> memoryview:
        return area[at : at + sizes.choice((1, 1000, 300_000))]

    async with host(whole) as (url, _), client(url) as clickwrap, clickwrap.download(f"{url}/file") as body:
        assert body.receive_into
        body.receive_into(room)
        async for chunk in body.chunks:
            if isinstance(chunk, memoryview) and chunk.obj is area.obj:
                in_place += len(chunk)
            else:
                area[at : at + len(chunk)] = chunk
            at += len(chunk)
    assert bytes(area) == BODY
    assert in_place > len(BODY) / 2


async def test_nothing_is_received_while_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiohttp has parsed two chunks before the body is taken over, and resumes the transport when they are read."""

    async def in_pieces(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await write(writer, HEAD, BODY[:70_000])
        for at in range(70_000, len(BODY), 100_000):
            await anyio.sleep(0.02)
            await write(writer, BODY[at : at + 100_000])

    found, area = bytearray(), memoryview(bytearray(1_000_000))

    async def room() -> memoryview:
        await anyio.sleep(0.05)
        return area

    read_body = link._body

    async def read_late(*arguments: Any, **options: Any) -> Body:
        await anyio.sleep(0.15)  # meanwhile aiohttp receives several chunks
        return await read_body(*arguments, **options)

    monkeypatch.setattr(link, "_body", read_late)
    async with host(in_pieces) as (url, _), client(url) as clickwrap, clickwrap.download(f"{url}/file") as body:
        assert body.receive_into
        body.receive_into(room)
        async for chunk in body.chunks:
            found += chunk
            await anyio.sleep(0.03)
    assert bytes(found) == BODY


@pytest.mark.parametrize("end", ["cancelled", "stalled"])
async def test_memory_is_left_alone_once_a_reader_has_stopped(end: str) -> None:
    stopped, area = anyio.Event(), memoryview(bytearray(len(BODY)))

    async def in_two_halves(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await write(writer, HEAD, BODY[:100_000])
        await stopped.wait()
        await write(writer, BODY[100_000:])

    async def room() -> memoryview:
        return area

    async with host(in_two_halves) as (url, _), client(url) as clickwrap:
        with anyio.move_on_after(0.2 if end == "cancelled" else 10):
            async with clickwrap.download(f"{url}/file") as body:
                assert body.receive_into
                body.receive_into(room)
                try:
                    async for _chunk in body.chunks:
                        pass
                except TransferError:
                    pass
                finally:
                    found = bytes(area)
                    stopped.set()
                    with anyio.CancelScope(shield=True):
                        await anyio.sleep(0.2)
                    assert bytes(area) == found
    assert stopped.is_set()


@pytest.mark.parametrize("sent", [10, 100_000, 2_999_999])
async def test_a_body_that_ends_early_is_an_error(sent: int) -> None:
    async def broken(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await write(writer, HEAD, BODY[:sent])

    async with host(broken) as (url, _):
        with pytest.raises(TransferError, match="the transfer broke"):
            await received(url)


async def test_a_connection_that_is_reset_is_an_error() -> None:
    async def reset(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await write(writer, HEAD, BODY[:100_000])
        await anyio.sleep(0.1)
        writer.transport.abort()

    async with host(reset) as (url, _):
        with pytest.raises(TransferError, match="the transfer broke"):
            await received(url)


async def test_a_body_that_stalls_is_an_error() -> None:
    async def stalling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await write(writer, HEAD, BODY[:100_000])
        await reader.read()

    async with host(stalling) as (url, _):
        with anyio.fail_after(10), pytest.raises(TransferError, match="the transfer broke"):
            await received(url)


async def test_a_reader_that_stops_closes_the_connection() -> None:
    closed = anyio.Event()

    async def watched(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await write(writer, HEAD, BODY[:100_000])
        await reader.read()
        closed.set()

    async with host(watched) as (url, _), client(url) as clickwrap:
        async with clickwrap.download(f"{url}/file") as body:
            async for _chunk in body.chunks:
                break
        with anyio.fail_after(10):
            await closed.wait()


async def test_a_small_body_leaves_its_connection_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receive, "MIN_DIRECT_BYTES", 10**9)

    async def several(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await write(writer, HEAD, BODY)
            await reader.readuntil(b"\r\n\r\n")

    async with host(several) as (url, connections), client(url) as clickwrap:
        for _ in range(3):
            async with clickwrap.download(f"{url}/file") as body:
                assert b"".join([bytes(chunk) async for chunk in body.chunks]) == BODY
        assert len(connections) == 1
