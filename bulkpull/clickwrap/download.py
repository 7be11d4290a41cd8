"""Opening a signed link: another host, which must never see the token.

The session used here carries no default headers, cookies or credentials, even where the caller's own session
does, and leaves bodies encoded as they come. Redirects are followed by hand, so that each hop obeys the rules.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import anyio
from yarl import URL

from bulkpull.clickwrap.encoding import Decoder
from bulkpull.clickwrap.retry import TransientError, retry_after
from bulkpull.clickwrap.transport import PATIENCE, describe, is_loopback
from bulkpull.errors import PartError

MAX_REDIRECTS = 5
_EXPIRED = frozenset({400, 401, 403, 404, 410})
IDENTITY = "identity"
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", re.ASCII)
_UNSATISFIED_RANGE = re.compile(r"bytes \*/(\d{1,18})", re.ASCII)


class LinkExpiredError(Exception):
    """The host no longer takes the link: ask for the export again to get a fresh one."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the file host answered {status}")
        self.status = status


class RangeRefusedError(TransientError):
    """The host does not continue the file from where it was asked to: start again, without a range."""


@dataclass(frozen=True, slots=True)
class Download:
    """The answer to an opened link.

    `offset` is where the body begins in the file (0 unless the host granted a range), `length` the whole file's
    bytes where the host tells it, `validator` what a later `If-Range` may hold, or None where there is no strong one.
    """

    offset: int
    length: int | None
    validator: str | None
    _content: aiohttp.StreamReader = field(repr=False)
    _stall_timeout: float
    _encoding: str = IDENTITY

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, decoded. Raises TransientError where it breaks or stalls, PartError where it is refused."""
        decoder = None if self._encoding == IDENTITY else Decoder(self._encoding)
        try:
            while True:
                # aiohttp counts whatever comes, even what is no body: the size of a chunk without end.
                with anyio.fail_after(self._stall_timeout):
                    chunk, _ = await self._content.readchunk()  # as it came, not copied together
                if not chunk and self._content.at_eof():
                    break
                if decoder is None:
                    if chunk:  # nothing comes where an HTTP chunk ends
                        yield chunk
                else:
                    for piece in decoder.pieces(chunk):
                        yield piece
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TransientError(f"the transfer broke: {describe(error)}") from None
        if decoder:
            decoder.finish()


@asynccontextmanager
async def open_link(
    session: aiohttp.ClientSession,
    link: str,
    *,
    allow_http: bool,
    stall_timeout: float,
    offset: int = 0,
    validator: str | None = None,
) -> AsyncIterator[Download]:
    """Opens `link` from byte `offset` on, if `validator` still names the same file; else from its start.

    `allow_http` admits http on loopback. Raises PartError for a link that must not be followed, LinkExpiredError
    (400, 401, 403, 404, 410), RangeRefusedError, and TransientError for what else may pass, such as `stall_timeout`
    seconds without a byte of the body.
    """
    headers = {"Accept-Encoding": IDENTITY}
    if offset and validator:
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    url = check_link(link, allow_http=allow_http)
    for _hop in range(MAX_REDIRECTS + 1):
        try:
            with anyio.fail_after(PATIENCE * stall_timeout):
                response = await session.get(url, headers=headers, allow_redirects=False)
        except aiohttp.ClientConnectorCertificateError:
            raise PartError(f"the file host {url.host} has no valid certificate") from None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TransientError(f"no answer from {url.host}: {describe(error)}") from None
        async with response:
            if response.status not in (301, 302, 303, 307, 308):
                yield _download(response, stall_timeout)
                return
            url = check_link(_target(url, response), allow_http=allow_http)
    raise PartError(f"the file host redirected more than {MAX_REDIRECTS} times")


def check_link(link: str, *, allow_http: bool) -> URL:
    """The link as a URL that may be followed; raises PartError, without the link's secret query, otherwise."""
    try:
        url = URL(link, encoded=True)  # signed as it stands: no re-quoting
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
    try:
        return str(url.join(URL(response.headers.get("Location", ""), encoded=True)))
    except ValueError:
        raise PartError(f"the file host {url.host} redirected to what is no URL") from None


def _download(response: aiohttp.ClientResponse, stall_timeout: float) -> Download:
    status, host = response.status, response.url.host
    if status in _EXPIRED:
        raise LinkExpiredError(status)
    # An encoded body has another length and other offsets than the file: no ranges, no length.
    encoding = response.headers.get("Content-Encoding", "").strip().lower() or IDENTITY
    plain = encoding == IDENTITY
    validator = _validator(response) if plain else None
    if status == 206:
        granted = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if not granted or not plain:
            raise RangeRefusedError(f"{host} granted a range without saying which", status=status)
        length = None if granted[2] == "*" else int(granted[2])
        return Download(int(granted[1]), length, validator, response.content, stall_timeout)
    if status == 200:
        return Download(
            0, response.content_length if plain else None, validator, response.content, stall_timeout, encoding
        )
    if status == 416:
        if told := _UNSATISFIED_RANGE.fullmatch(response.headers.get("Content-Range", "")):
            return Download(int(told[1]), int(told[1]), validator, response.content, stall_timeout)
        raise RangeRefusedError(f"{host} answered 416", status=status)
    if status == 429 or status >= 500:
        wait = retry_after(response.headers.get("Retry-After")) or 0.0
        raise TransientError(f"{host} answered {status}", status=status, wait=wait)
    raise PartError(f"the file host {host} answered {status}")


def _validator(response: aiohttp.ClientResponse) -> str | None:
    """A strong ETag: the only validator that proves byte equality (RFC 9110, 8.8.1 and 13.1.5)."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else None
