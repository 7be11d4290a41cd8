"""Hostile responses over real sockets: each ends with one of our errors, leaks no secret, and takes bounded memory."""

from __future__ import annotations

import gzip
import random
import resource
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import orjson
import pytest
from anyio.abc import SocketAttribute, SocketStream

from bulkpull import (
    ApiError,
    BulkpullError,
    Clickwrap,
    MalformedPartError,
    PartError,
    RetryPolicy,
    TransferError,
    UnavailableError,
)
from bulkpull.clickwrap.models import MAX_LINKS, parse_export
from bulkpull.download.encoding import MIN_EXPANSION_BYTES, PIECE_BYTES, Decoder, encodings

TOKEN = "a-secret-token"
MIB = 1024 * 1024
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
ONCE = RetryPolicy(attempts=2, base=0.0)


@asynccontextmanager
async def sending(first: bytes, forever: bytes = b"", pause: float = 0.0) -> AsyncIterator[str]:
    """The URL of a server that responds to every request with `first`, then `forever` repeated after each `pause`."""

    async def serve(client: SocketStream) -> None:
        with suppress(anyio.BrokenResourceError, anyio.EndOfStream):
            async with client:
                await client.receive()
                await client.send(first)
                while forever:
                    await client.send(forever)
                    await anyio.sleep(pause)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        yield f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"  # noqa: S610
        group.cancel_scope.cancel()


def client(url: str) -> Clickwrap:
    return Clickwrap(TOKEN, base_url=url, retry=ONCE, request_timeout=0.2, stall_timeout=0.2)


async def asked(first: bytes, forever: bytes = b"", pause: float = 0.0) -> BulkpullError:
    """The error raised by `get_export`."""
    async with sending(first, forever, pause) as url, client(url) as clickwrap:
        with anyio.fail_after(30), pytest.raises(BulkpullError) as caught:
            await clickwrap.get_export("1")
    assert TOKEN not in repr(caught.value) + str(caught.value.__cause__)
    assert len(str(caught.value)) < 700
    return caught.value


async def downloaded(first: bytes, forever: bytes = b"", pause: float = 0.0) -> tuple[Exception, int]:
    """The error raised by a download, and the number of bytes received before it."""
    size = 0
    async with sending(first, forever, pause) as url, client(url) as clickwrap:
        with anyio.fail_after(60), pytest.raises(PartError) as caught:
            async with clickwrap.download(f"{url}/f?signature=very-secret") as download:
                async for chunk in download.chunks:
                    size += len(chunk)
                    assert len(chunk) <= PIECE_BYTES
    assert "very-secret" not in str(caught.value)
    return caught.value, size


@pytest.fixture
def bounded_memory() -> Iterator[None]:
    """Assert that peak memory grows by less than 128 MiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 128 * 1024


def bomb(size: int) -> bytes:
    """`size` MiB of spaces, compressed."""
    stream = zlib.compressobj(1, wbits=31)
    return b"".join([*(stream.compress(b" " * MIB) for _ in range(size)), stream.flush()])


def compressed(body: bytes, encoding: bytes = b"gzip") -> bytes:
    length = str(len(body)).encode()
    return HEAD + b"Content-Encoding: " + encoding + b"\r\nContent-Length: " + length + b"\r\n\r\n" + body


@pytest.mark.usefixtures("bounded_memory")
@pytest.mark.parametrize(
    ("first", "forever"),
    [
        (CHUNKED + b'10000\r\n{"data": [' + b" " * (0x10000 - 10) + b"\r\n", b"10000\r\n" + b" " * 0x10000 + b"\r\n"),
        (HEAD + b"Content-Length: 99999999999\r\n\r\n[", b"1," * 32768),
    ],
    ids=["chunked", "long"],
)
async def test_rejects_gigabytes_of_json(first: bytes, forever: bytes) -> None:
    error = await asked(first, forever)
    assert type(error) in (ApiError, UnavailableError)


@pytest.mark.usefixtures("bounded_memory")
async def test_rejects_json_that_decompresses_to_a_gigabyte() -> None:
    error = await asked(compressed(bomb(1000)), b"")
    assert type(error) in (ApiError, UnavailableError)


@pytest.mark.usefixtures("bounded_memory")
@pytest.mark.parametrize(
    ("first", "forever"),
    [
        (b"HTTP/1.1 200 O", b"K" * 65536),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65536),
        (b"HTTP/1.1 200 OK\r\n" + b"x" * 10, b"x" * 65536),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 8192),
        (CHUNKED, b"0" * 65536),
        (CHUNKED + b"1;", b"x" * 65536),
        (CHUNKED + b"0\r\n", b"X: y\r\n" * 8192),
        (b"\x16\x03\x01 garbage \x00\r\n\r\n", b""),
        (b"HTTP/1.1 99999 OK\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
        (b"", b"\r\n" * 32768),
    ],
    ids=[
        "status-line",
        "header-line",
        "header-name",
        "headers",
        "chunk-size",
        "chunk-extension",
        "trailers",
        "garbage",
        "status",
        "length",
        "negative-length",
        "continue",
        "blank-lines",
    ],
)
async def test_rejects_invalid_http(first: bytes, forever: bytes) -> None:
    pause = 0.01  # seconds: what is refused when it is first read need not come as fast as it can
    assert isinstance(await asked(first, forever, pause), UnavailableError)
    error, _ = await downloaded(first, forever, pause)
    assert isinstance(error, TransferError) or "which is refused" in str(error)


async def test_rejects_responses_that_are_not_json() -> None:
    for body in (
        b"[" * 100_000,
        b'{"data":{"id":"1","status":"' + b"x" * 100_000 + b'"}}',
        b"\xff\xfe",
        b"1e999999",
        b"",
    ):
        answer = HEAD + b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
        assert isinstance(await asked(answer), UnavailableError)


async def test_truncates_and_cleans_messages() -> None:
    body = orjson.dumps({"error": {"message": f"{TOKEN} \x1b[31m" * 10_000}})
    answer = b"HTTP/1.1 400 Bad\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
    error = await asked(answer)
    assert "\x1b" not in str(error)
    body = orjson.dumps({"data": {"id": "1", "status": "failed", "message": f"{TOKEN} \x1b[31m" * 10_000}})
    async with (
        sending(HEAD + b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body) as url,
        client(url) as clickwrap,
    ):
        message = (await clickwrap.get_export("1")).message
    assert message
    assert len(message) <= 300
    assert TOKEN not in message
    assert "\x1b" not in message


@pytest.mark.parametrize(
    "location",
    ["https://elsewhere.example/v1.1/x", "http://127.0.0.1:9/x", "//elsewhere.example", "file:///etc/passwd", ""],
)
async def test_does_not_follow_redirects_of_the_api(location: str) -> None:
    error = await asked(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())
    assert type(error) is ApiError
    assert "redirects" in str(error)


@pytest.mark.parametrize("wait", ["9" * 400, "-1", "1e9", "Fri, 31 Dec 9999 23:59:59 GMT", "\xb2", "soon"])
async def test_ignores_or_limits_absurd_retry_after_values(wait: str) -> None:
    answer = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\nRetry-After: " + wait.encode("latin-1") + b"\r\n\r\n"
    assert isinstance(await asked(answer), UnavailableError)
    error, _ = await downloaded(answer)
    assert isinstance(error, TransferError)


@pytest.mark.usefixtures("bounded_memory")
async def test_rejects_a_decompression_bomb() -> None:
    error, size = await downloaded(compressed(bomb(200)))
    assert isinstance(error, PartError)
    assert "expand" in str(error)
    assert size <= MIN_EXPANSION_BYTES + PIECE_BYTES


async def test_detects_damaged_compressed_files() -> None:
    whole = gzip.compress(b"id\n" + b"1\n" * 100_000)
    for body in (whole[:-9], whole[:40] + b"\x00\xff" * 20 + whole[80:]):
        error, _ = await downloaded(compressed(body))
        assert isinstance(error, MalformedPartError), body[:20]
    error, _ = await downloaded(compressed(whole, b"br"))
    assert isinstance(error, PartError)
    assert "br" in str(error)


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate"])
def test_decompresses_several_members(encoding: str) -> None:
    content = b"id\n" + b"1\n" * 300_000
    compress = zlib.compress if encoding == "deflate" else gzip.compress
    body = compress(content) + compress(b"2\n")
    decoder = Decoder(encodings(encoding))
    found = b"".join(piece for at in range(0, len(body), 7) for piece in decoder.pieces(body[at : at + 7]))
    found += b"".join(decoder.finish())
    assert found == content + b"2\n"


def test_rejects_an_export_with_too_many_links() -> None:
    def export(links: int) -> Any:
        return {"data": {"id": "1", "status": "success", "links": ["https://files.example/1"] * links}}

    assert len(parse_export(export(MAX_LINKS)).links) == MAX_LINKS
    with pytest.raises(ApiError, match="10,001 links"):
        parse_export(export(MAX_LINKS + 1))


async def test_gives_up_early_on_an_api_that_never_responded_and_names_its_url(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(random, "uniform", lambda _low, high: high)  # a short wait, drawn by chance, would be made
    clickwrap = Clickwrap(TOKEN, base_url="http://127.0.0.1:1/v1.1", retry=RetryPolicy(base=1000.0, cap=1000.0))
    async with clickwrap:
        with anyio.fail_after(5), pytest.raises(UnavailableError, match=r"is http://127\.0\.0\.1:1/v1\.1 the API\?"):
            await clickwrap.count()
