"""Opening a signed link: another host, which must never see the token.

The session used here carries no default headers, cookies or credentials, even where the caller's own session
does, and leaves bodies encoded as they come. Redirects are followed by hand, so that each hop obeys the rules.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import anyio
from yarl import URL

from bulkpull.download.encoding import MAGIC, ZIPS, DamagedBodyError, Decoder, encodings, is_compressed
from bulkpull.download.urls import legal, resolved
from bulkpull.errors import PartError
from bulkpull.retry import TransientError, retry_after
from bulkpull.source import Body
from bulkpull.transport import MAX_HEADER, MAX_HEADERS, PATIENCE, describe, has_long_header, is_loopback

MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_EXPIRED = frozenset({400, 401, 403, 404, 410})
_NOT_READY = frozenset({202, 204, 409, 425})
_NO_RANGES = frozenset({405, 501})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", re.ASCII)
_UNSATISFIED_RANGE = re.compile(r"bytes \*/(\d{1,18})", re.ASCII)


class LinkExpiredError(Exception):
    """The host no longer takes the link: ask for the export again to get a fresh one."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the file host answered {status}")
        self.status = status


class RangeRefusedError(TransientError):
    """The host does not continue the file from where it was asked to: start again, without a range."""


class NotReadyError(TransientError):
    """The host has not got the file yet (202, 204, 409, 425): ask again a little later."""


async def _decoded(
    content: aiohttp.StreamReader,
    stall_timeout: float,
    head: bytes = b"",
    decoder: Decoder | None = None,
    *,
    framed: bool,
) -> AsyncIterator[bytes]:
    """A body whose first bytes are `head`, decoded; an empty chunk is a sign of life.

    Raises TransientError where it breaks or stalls, DamagedBodyError where it does not decode, PartError where it is
    refused.
    """
    if not decoder:
        if head:
            yield head
        async for chunk in _raw(content, stall_timeout):
            yield chunk
        return
    for piece in decoder.pieces(head):
        yield piece
    async for chunk in _raw(content, stall_timeout):
        nothing = b""
        yield nothing
        for piece in decoder.pieces(chunk):
            yield piece
    try:
        for piece in decoder.finish():
            yield piece
    except DamagedBodyError as error:
        if framed:
            raise
        raise TransientError(f"the transfer broke: {error}") from None


async def _raw(content: aiohttp.StreamReader, stall_timeout: float) -> AsyncIterator[bytes]:
    """A body as it comes."""
    try:
        while True:
            # aiohttp counts whatever comes, even what is no body: the size of a chunk without end.
            with anyio.fail_after(stall_timeout):
                chunk, _ = await content.readchunk()  # as it came, not copied together
            if chunk:  # nothing comes where an HTTP chunk ends
                yield chunk
            elif content.at_eof():
                return
    except (aiohttp.ClientError, TimeoutError) as error:
        raise TransientError(f"the transfer broke: {describe(error)}") from None


@asynccontextmanager
async def open_link(
    session: aiohttp.ClientSession,
    link: str,
    *,
    base: URL,
    allow_http: bool,
    stall_timeout: float,
    rangeless: set[str],
    offset: int = 0,
    validator: str | None = None,
) -> AsyncIterator[Body]:
    """Opens `link` from byte `offset` on, if `validator` still names the same file; else from its start.

    A relative link belongs to `base`. `allow_http` admits http on loopback. `rangeless` are the hosts that were found
    to know no ranges: they are asked for the whole file.

    Raises PartError for a link that must not be followed, LinkExpiredError (400, 401, 403, 404, 410),
    RangeRefusedError, NotReadyError (202, 204, 409, 425), and TransientError for what else may pass, such as
    `stall_timeout` seconds without a byte of the body.
    """
    try:
        url = check_link(resolved(base, link), allow_http=allow_http)
    except ValueError:
        raise PartError("the API gave a link that is no URL") from None
    for _hop in range(MAX_REDIRECTS + 1):
        headers = {"Accept-Encoding": "identity"}
        ranged = bool(offset and validator) and url.host not in rangeless
        if ranged and validator:
            headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
        try:
            with anyio.fail_after(PATIENCE * stall_timeout):
                response = await session.get(url, headers=headers, allow_redirects=False)
        except aiohttp.ClientConnectorCertificateError:
            raise PartError(f"the file host {url.host} has no valid certificate") from None
        except (aiohttp.ClientError, TimeoutError) as error:
            if has_long_header(error):
                raise PartError(
                    f"the file host {url.host} answers with a header of more than {MAX_HEADER:,} bytes, or more than "
                    f"{MAX_HEADERS} headers, which is refused: is it a server of files?"
                ) from None
            raise TransientError(f"no answer from {url.host}: {describe(error)}") from None
        async with response:
            if response.status not in _REDIRECTS:
                yield await _body(response, stall_timeout, rangeless, ranged=ranged)
                return
            url = check_link(_target(url, response), allow_http=allow_http)
    raise PartError(f"the file host redirected more than {MAX_REDIRECTS} times")


def check_link(link: str, *, allow_http: bool) -> URL:
    """The link as a URL that may be followed; raises PartError, without the link's secret query, otherwise."""
    try:
        url = URL(legal(link), encoded=True)  # signed as it stands: no re-quoting
        host, usable = url.host or "", url.port is not None
        host.encode("idna")
    except ValueError:
        raise PartError("the API gave a link that is no URL") from None
    if url.scheme == "http" and not (allow_http and is_loopback(host)):
        raise PartError(f"the link to {host} is http, not https: not followed")
    if url.scheme not in ("http", "https") or not host or not usable:
        raise PartError(f"the API gave a link with the scheme {url.scheme!r}: only https is followed")
    if url.user is not None or url.password is not None:
        raise PartError(f"the link to {host} holds credentials: not followed")
    return url


def _target(url: URL, response: aiohttp.ClientResponse) -> str:
    location = response.headers.get("Location", "")
    try:
        target = resolved(url, location)
        URL(target, encoded=True)
    except ValueError:
        raise PartError(f"the file host {url.host} redirected to what is no URL") from None
    if not target:
        raise PartError(f"the file host {url.host} redirected without saying where to")
    return target


async def _body(response: aiohttp.ClientResponse, stall_timeout: float, rangeless: set[str], *, ranged: bool) -> Body:
    """The answer of a host, which was asked for a range if `ranged`."""
    status, host, content = response.status, response.url.host or "", response.content
    if status in _EXPIRED:
        raise LinkExpiredError(status)
    granted = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if status == 200 or (status == 206 and not ranged and (granted is None or granted[1] == "0")):
        return await _whole(response, stall_timeout)
    if status == 206:
        if not granted or encodings(_label(response)):
            rangeless.add(host)
            raise RangeRefusedError(f"{host} granted a range without saying which", status=status)
        length = None if granted[2] == "*" else int(granted[2])
        framed = _framed(response)
        chunks = _decoded(content, stall_timeout, framed=framed)
        return Body(chunks, int(granted[1]), length, _validator(response), is_framed=framed)
    if status == 416:
        if told := _UNSATISFIED_RANGE.fullmatch(response.headers.get("Content-Range", "").strip()):
            chunks = _decoded(content, stall_timeout, framed=True)
            return Body(chunks, int(told[1]), int(told[1]), _validator(response), is_empty=True)
        raise RangeRefusedError(f"{host} answered 416", status=status)
    wait = retry_after(response.headers.get("Retry-After")) or 0.0
    if status in _NOT_READY:
        raise NotReadyError(f"{host} has not got the file yet (it answered {status})", status=status, wait=wait)
    if status in (408, 429) or (status >= 500 and not (ranged and status in _NO_RANGES)):
        raise TransientError(f"{host} answered {status}", status=status, wait=wait)
    if ranged:
        if status in _NO_RANGES:
            rangeless.add(host)
        raise RangeRefusedError(f"{host} answered {status} to a range", status=status)
    raise PartError(f"the file host {host} answered {status}")


async def _whole(response: aiohttp.ClientResponse, stall_timeout: float) -> Body:
    """A file from its start. Its first bytes are awaited: they tell whether it is compressed."""
    head = b""
    async for chunk in _raw(response.content, stall_timeout):
        head += chunk
        if len(head) >= MAGIC:
            break
    framed, labels = _framed(response), encodings(_label(response))
    # The first bytes of gzip and zstd tell; those of a deflated body do not.
    if not is_compressed(head) and "deflate" not in labels:
        chunks = _decoded(response.content, stall_timeout, head, framed=framed)
        return Body(
            chunks,
            length=response.content_length,
            validator=_validator(response),
            is_framed=framed,
            is_checked=head.startswith(ZIPS),
            is_empty=not head,
        )
    # A compressed body has another length and other offsets than the file: no ranges, no length.
    chunks = _decoded(response.content, stall_timeout, head, Decoder(labels), framed=framed)
    return Body(chunks, is_framed=framed, is_checked=True, is_empty=not head)


def _label(response: aiohttp.ClientResponse) -> str:
    return ",".join(response.headers.getall("Content-Encoding", ()))


def _framed(response: aiohttp.ClientResponse) -> bool:
    """Whether the body's end is told by its length or its chunks (RFC 9112, 6.3), not by that of the connection."""
    coding = response.headers.get("Transfer-Encoding", "").lower()
    return response.content_length is not None or coding.endswith("chunked")


def _validator(response: aiohttp.ClientResponse) -> str | None:
    """A strong ETag: the only validator that proves byte equality (RFC 9110, 8.8.1 and 13.1.5)."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else None
