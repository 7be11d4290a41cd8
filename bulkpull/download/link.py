"""Opening a signed link: another host, which must never see the token.

The session carries no default headers, cookies or credentials, even if the caller's own session does, and does not
decode bodies. Redirects are followed here, since each hop must obey the rules.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import aiohttp
import anyio
from yarl import URL

from bulkpull.download.encoding import MAGIC_BYTES, ZIP_MAGIC, Decoder, encodings, is_compressed
from bulkpull.download.protocols import Opener
from bulkpull.download.receive import Chunks, Receiver
from bulkpull.download.urls import legal, resolved
from bulkpull.errors import (
    FileNotReadyError,
    LinkExpiredError,
    MalformedPartError,
    PartError,
    RangeRefusedError,
    TransferError,
)
from bulkpull.http import (
    HEADER_TIMEOUTS,
    MAX_HEADER,
    MAX_HEADERS,
    describe,
    environment_proxy,
    has_long_header,
    is_loopback,
    timeout,
)
from bulkpull.record import record
from bulkpull.retry import retry_after
from bulkpull.source import Body

MAX_REDIRECTS = 5
_READ_BUFFER_BYTES = 1024 * 1024  # of a file, before backpressure stops its connection
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_EXPIRED = frozenset({400, 401, 403, 404, 410})
_NOT_READY = frozenset({202, 204, 409, 425})
_NO_RANGES = frozenset({405, 501})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", re.ASCII)
_UNSATISFIED_RANGE = re.compile(r"bytes \*/(\d{1,18})", re.ASCII)


async def _with_head(head: bytes, chunks: Chunks) -> Chunks:
    """Iterate over a body whose first bytes are `head`."""
    if head:
        yield head
    async for chunk in chunks:
        yield chunk


async def _decoded(head: bytes, chunks: Chunks, decoder: Decoder, *, framed: bool) -> Chunks:
    """Iterate over a decoded body whose first bytes are `head`. An empty chunk says that bytes arrived.

    Raises:
        TransferError: The body broke off or stalled.
        MalformedPartError: It does not decode.
        PartError: It expands too much.
    """
    for piece in decoder.pieces(head):
        yield piece
    async for chunk in chunks:
        yield b""
        for piece in decoder.pieces(bytes(chunk)):
            yield piece
    try:
        for piece in decoder.finish():
            yield piece
    except MalformedPartError as error:
        if framed:
            raise
        raise TransferError(f"the transfer broke: {error}") from None


@record
class LinkSettings:
    """How links are opened: what another process needs to know. It holds no secrets.

    Args:
        base: The URL of the answers that hold links, without user and password.
        allow_http: Whether http is allowed on loopback.
        stall_timeout: Seconds without a byte of the body after which the transfer counts as broken.
        trust_env: Whether proxies of the environment are used for https.
    """

    base: str
    allow_http: bool
    stall_timeout: float
    trust_env: bool


def link_session(
    stall_timeout: float, connector: aiohttp.BaseConnector, *, owns_connector: bool
) -> aiohttp.ClientSession:
    """Return a session for file hosts, which knows no credentials.

    Args:
        stall_timeout: Seconds without a byte after which a transfer counts as broken.
        connector: Its connections.
        owns_connector: Whether they are closed with it.
    """
    return aiohttp.ClientSession(
        connector=connector,
        connector_owner=owns_connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=timeout(stall_timeout, total=None),
        auto_decompress=False,
        read_bufsize=_READ_BUFFER_BYTES,
        max_line_size=MAX_HEADER,
        max_field_size=MAX_HEADER,
        max_headers=MAX_HEADERS,
    )


@asynccontextmanager
async def link_opener(settings: LinkSettings) -> AsyncIterator[Opener]:
    """Open links in a process that has no client; yields what `open_link` does, as a downloader needs it."""
    connector = aiohttp.TCPConnector(limit=0)
    async with link_session(settings.stall_timeout, connector, owns_connector=True) as session:
        yield partial(
            open_link,
            session,
            base=URL(settings.base, encoded=True),
            allow_http=settings.allow_http,
            stall_timeout=settings.stall_timeout,
            rangeless=set(),
            trust_env=settings.trust_env,
        )


@asynccontextmanager
async def open_link(
    session: aiohttp.ClientSession,
    link: str,
    *,
    base: URL,
    allow_http: bool,
    stall_timeout: float,
    rangeless: set[str],
    trust_env: bool = False,
    offset: int = 0,
    validator: str | None = None,
) -> AsyncIterator[Body]:
    """Open `link` from byte `offset` on if `validator` still identifies the file, else from its start.

    Args:
        session: The session for file hosts.
        link: The link. A relative one is resolved against `base`.
        base: The URL of the answer that held the link.
        allow_http: Whether http is allowed on loopback.
        stall_timeout: Seconds without a byte of the body after which the transfer counts as broken.
        rangeless: Hosts without support for ranges, which are asked for the whole file. Extended here.
        trust_env: Whether proxies of the environment are used for https.
        offset: The first byte.
        validator: The ETag of the bytes before `offset`.

    Raises:
        LinkExpiredError: The host answered 400, 401, 403, 404 or 410.
        FileNotReadyError: The host answered 202, 204, 409 or 425.
        RangeRefusedError: The host does not resume the file at `offset`.
        TransferError: Another failure that may pass.
        PartError: The link must not be followed, or the answer cannot be used.
    """
    try:
        url = check_link(resolved(base, link), allow_http=allow_http)
    except ValueError:
        raise PartError("the link is not a valid URL") from None
    for _hop in range(MAX_REDIRECTS + 1):
        headers = {"Accept-Encoding": "identity"}
        ranged = bool(offset and validator) and url.host not in rangeless
        if ranged and validator:
            headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
        try:
            with anyio.fail_after(HEADER_TIMEOUTS * stall_timeout):
                proxy = environment_proxy(url) if trust_env and url.scheme == "https" else None
                response = await session.get(url, headers=headers, allow_redirects=False, proxy=proxy)
        except aiohttp.ClientConnectorCertificateError:
            raise PartError(f"the file host {url.host} has no valid certificate") from None
        except (aiohttp.ClientError, TimeoutError) as error:
            if has_long_header(error):
                raise PartError(
                    f"the file host {url.host} sent a header of more than {MAX_HEADER:,} bytes, or more than "
                    f"{MAX_HEADERS} headers, which is refused. Is it a file server?"
                ) from None
            raise TransferError(f"no answer from {url.host}: {describe(error)}") from None
        async with response:
            if response.status not in _REDIRECTS:
                yield await _body(response, stall_timeout, rangeless, ranged=ranged)
                return
            url = check_link(_target(url, response), allow_http=allow_http)
    raise PartError(f"the file host redirected more than {MAX_REDIRECTS} times")


def check_link(link: str, *, allow_http: bool) -> URL:
    """Return the link as a URL. Raises PartError if it must not be followed, without its query, which is a secret."""
    try:
        url = URL(legal(link), encoded=True)  # signed as it stands: no re-quoting
        host, usable = url.host or "", url.port is not None
        host.encode("idna")
    except ValueError:
        raise PartError("the link is not a valid URL") from None
    if url.scheme == "http" and not (allow_http and is_loopback(host)):
        raise PartError(f"the link to {host} uses http, not https: not followed")
    if url.scheme not in ("http", "https") or not host or not usable:
        raise PartError(f"the link has the scheme {url.scheme!r}: only https is followed")
    if url.user is not None or url.password is not None:
        raise PartError(f"the link to {host} contains credentials: not followed")
    return url


def _target(url: URL, response: aiohttp.ClientResponse) -> str:
    location = response.headers.get("Location", "")
    try:
        target = resolved(url, location)
        URL(target, encoded=True)
    except ValueError:
        raise PartError(f"the file host {url.host} redirected to an invalid URL") from None
    if not target:
        raise PartError(f"the file host {url.host} redirected without a Location")
    return target


async def _body(response: aiohttp.ClientResponse, stall_timeout: float, rangeless: set[str], *, ranged: bool) -> Body:
    """Return the body of an answer; `ranged` says whether a range was requested."""
    status, host, receiver = response.status, response.url.host or "", Receiver(response, stall_timeout)
    if status in _EXPIRED:
        raise LinkExpiredError(f"the file host answered {status}", status=status)
    granted = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if status == 200 or (status == 206 and not ranged and (granted is None or granted[1] == "0")):
        return await _whole(response, receiver)
    if status == 206:
        if not granted or encodings(_label(response)):
            rangeless.add(host)
            raise RangeRefusedError(f"{host} sent a range without Content-Range", status=status)
        length = None if granted[2] == "*" else int(granted[2])
        framed = _framed(response)
        return Body(
            receiver.chunks(),
            int(granted[1]),
            length,
            _validator(response),
            is_framed=framed,
            receive_into=receiver.receive_into,
        )
    if status == 416:
        if told := _UNSATISFIED_RANGE.fullmatch(response.headers.get("Content-Range", "").strip()):
            return Body(receiver.chunks(), int(told[1]), int(told[1]), _validator(response), is_empty=True)
        raise RangeRefusedError(f"{host} answered 416", status=status)
    wait = retry_after(response.headers.get("Retry-After")) or 0.0
    if status in _NOT_READY:
        raise FileNotReadyError(f"{host} does not have the file yet ({status})", status=status, wait=wait)
    if status in (408, 429) or (status >= 500 and not (ranged and status in _NO_RANGES)):
        raise TransferError(f"{host} answered {status}", status=status, wait=wait)
    if ranged:
        if status in _NO_RANGES:
            rangeless.add(host)
        raise RangeRefusedError(f"{host} answered {status} to a range request", status=status)
    raise PartError(f"the file host {host} answered {status}")


async def _whole(response: aiohttp.ClientResponse, receiver: Receiver) -> Body:
    """Return a file from its start. Waits for its first bytes, which tell whether it is compressed."""
    head, chunks = b"", receiver.chunks()
    async for chunk in chunks:
        head += chunk
        if len(head) >= MAGIC_BYTES:
            break
    framed, labels = _framed(response), encodings(_label(response))
    # A deflated body cannot be identified by its first bytes.
    if not is_compressed(head) and "deflate" not in labels:
        return Body(
            _with_head(head, chunks),
            length=response.content_length,
            validator=_validator(response),
            is_framed=framed,
            is_checked=head.startswith(ZIP_MAGIC),
            is_empty=not head,
            receive_into=receiver.receive_into,
        )
    # Length and ranges of a compressed body are not those of the file.
    return Body(
        _decoded(head, chunks, Decoder(labels), framed=framed), is_framed=framed, is_checked=True, is_empty=not head
    )


def _label(response: aiohttp.ClientResponse) -> str:
    return ",".join(response.headers.getall("Content-Encoding", ()))


def _framed(response: aiohttp.ClientResponse) -> bool:
    """Return whether length or chunks mark the end of the body (RFC 9112, 6.3), not just that of the connection."""
    coding = response.headers.get("Transfer-Encoding", "").lower()
    return response.content_length is not None or coding.endswith("chunked")


def _validator(response: aiohttp.ClientResponse) -> str | None:
    """Return the strong ETag, the only validator that proves byte equality (RFC 9110, 8.8.1 and 13.1.5)."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else None
