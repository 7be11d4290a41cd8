"""Links, over real sockets: the token stays at home, ranges are asked for rightly, odd links are refused."""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import BaseTestServer, TestServer

from bulkpull import Clickwrap, PartError
from bulkpull.clickwrap import LinkExpiredError, RangeRefusedError, TransientError
from bulkpull.clickwrap.download import check_link

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
BODY = b"id\n1\n2\n3\n"


def serving(handler: Handler) -> BaseTestServer:
    app = web.Application()
    app.router.add_get("/{tail:.*}", handler)
    return TestServer(app)


def client(server: BaseTestServer, session: aiohttp.ClientSession | None = None) -> Clickwrap:
    return Clickwrap("a-secret-token", base_url=str(server.make_url("/v1.1")), session=session)


async def read(
    clickwrap: Clickwrap, link: str, offset: int = 0, validator: str | None = None
) -> tuple[int, int | None, bytes]:
    async with clickwrap.download(link, offset=offset, validator=validator) as download:
        return download.offset, download.length, b"".join([chunk async for chunk in download.chunks()])


async def test_no_credential_of_any_kind_reaches_the_file_host() -> None:
    seen: list[aiohttp.typedefs.LooseHeaders] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(dict(request.headers))
        if "hop" not in request.path:
            raise web.HTTPFound("/hop")
        return web.Response(body=BODY)

    async with serving(handler) as server:
        session = aiohttp.ClientSession(
            headers={"Authorization": "Bearer a-secret-token", "X-Api-Key": "k"}, cookies={"session": "c"}
        )
        async with session, client(server, session=session) as clickwrap:
            assert await read(clickwrap, str(server.make_url("/file?signature=x"))) == (0, len(BODY), BODY)
    assert len(seen) == 2
    for headers in seen:
        assert not {"Authorization", "X-Api-Key", "Cookie"} & set(headers)


async def test_a_range_is_asked_for_with_its_validator() -> None:
    async def handler(request: web.Request) -> web.Response:
        assert request.headers["Range"] == "bytes=3-"
        assert request.headers["If-Range"] == '"v1"'
        return web.Response(status=206, body=BODY[3:], headers={"Content-Range": "bytes 3-8/9", "ETag": '"v1"'})

    async with serving(handler) as server, client(server) as clickwrap:
        assert await read(clickwrap, str(server.make_url("/f")), 3, '"v1"') == (3, 9, BODY[3:])


async def test_without_a_validator_the_whole_file_is_asked_for() -> None:
    async def handler(request: web.Request) -> web.Response:
        assert "Range" not in request.headers
        return web.Response(body=BODY)

    async with serving(handler) as server, client(server) as clickwrap:
        assert await read(clickwrap, str(server.make_url("/f")), 3, None) == (0, 9, BODY)


async def test_only_a_strong_etag_validates() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=BODY, headers={"ETag": request.query["etag"]})

    async with serving(handler) as server, client(server) as clickwrap:
        for etag, validator in (('"v1"', '"v1"'), ('W/"v1"', None)):
            async with clickwrap.download(str(server.make_url("/f").with_query(etag=etag))) as download:
                assert download.validator == validator


async def test_an_encoded_body_is_decoded_and_has_no_length_to_check() -> None:
    async def handler(_request: web.Request) -> web.Response:  # it compresses although it was asked not to
        return web.Response(body=gzip.compress(BODY), headers={"Content-Encoding": "gzip", "ETag": '"v1"'})

    async with serving(handler) as server, client(server) as clickwrap:
        assert await read(clickwrap, str(server.make_url("/f"))) == (0, None, BODY)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
async def test_statuses_of_an_expired_link(status: int) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=status)

    async with serving(handler) as server, client(server) as clickwrap:
        with pytest.raises(LinkExpiredError):
            await read(clickwrap, str(server.make_url("/f")))


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_statuses_that_may_pass(status: int) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Retry-After": "7"})

    async with serving(handler) as server, client(server) as clickwrap:
        with pytest.raises(TransientError) as caught:
            await read(clickwrap, str(server.make_url("/f")))
    assert caught.value.wait == 7


@pytest.mark.parametrize(
    ("status", "content_range"),
    [(416, ""), (416, "bytes */many"), (206, ""), (206, "bytes 3-"), (206, "rows 3-8/9")],
)
async def test_a_range_that_is_not_granted_as_asked(status: int, content_range: str) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Content-Range": content_range})

    async with serving(handler) as server, client(server) as clickwrap:
        with pytest.raises(RangeRefusedError):
            await read(clickwrap, str(server.make_url("/f")), 3, '"v1"')


async def test_a_range_behind_the_last_byte_tells_the_length() -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=416, headers={"Content-Range": "bytes */9"})

    async with serving(handler) as server, client(server) as clickwrap:
        assert await read(clickwrap, str(server.make_url("/f")), 9, '"v1"') == (9, 9, b"")


async def test_a_range_of_a_file_of_unknown_length() -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=206, body=BODY[3:], headers={"Content-Range": "bytes 3-8/*"})

    async with serving(handler) as server, client(server) as clickwrap:
        assert await read(clickwrap, str(server.make_url("/f")), 3, '"v1"') == (3, None, BODY[3:])


@pytest.mark.parametrize(
    "location", ["http://[bad", "http://host:99999/", "//[x", "https://h:abc/", "https://exa..mple/"]
)
async def test_a_redirect_to_what_is_no_url_is_refused(location: str) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": location})

    async with serving(handler) as server, client(server) as clickwrap:
        with pytest.raises(PartError, match="no URL"):
            await read(clickwrap, str(server.make_url("/f")))


async def test_a_redirect_from_loopback_to_http_elsewhere_is_refused() -> None:
    async def handler(_request: web.Request) -> web.Response:
        raise web.HTTPFound("http://files.example/secret?signature=x")

    async with serving(handler) as server, client(server) as clickwrap:
        with pytest.raises(PartError, match="not https") as caught:
            await read(clickwrap, str(server.make_url("/f")))
    assert "signature" not in str(caught.value)


async def test_endless_redirects_end() -> None:
    async def handler(_request: web.Request) -> web.Response:
        raise web.HTTPFound("/again")

    async with serving(handler) as server, client(server) as clickwrap:
        with pytest.raises(PartError, match="redirected"):
            await read(clickwrap, str(server.make_url("/f")))


async def test_a_redirect_to_another_scheme_is_refused() -> None:
    async def handler(_request: web.Request) -> web.Response:
        raise web.HTTPFound("ftp://files.example/secret?signature=x")

    async with serving(handler) as server, client(server) as clickwrap:
        with pytest.raises(PartError, match="ftp") as caught:
            await read(clickwrap, str(server.make_url("/f")))
    assert "signature" not in str(caught.value)


async def test_a_host_that_is_not_there_may_come_back() -> None:
    async with Clickwrap("a-secret-token", base_url="http://127.0.0.1:1") as clickwrap:
        with pytest.raises(TransientError, match="cannot connect"):
            await read(clickwrap, "http://127.0.0.1:1/f?signature=x")


@pytest.mark.parametrize(
    "link",
    [
        "http://files.example/a",
        "file:///etc/passwd",
        "ftp://files.example/a",
        "https://user:pw@files.example/a",
        "https:///a",
        "/a",
        "",
        "https://x:99999/",
    ],
)
def test_links_that_are_not_followed(link: str) -> None:
    with pytest.raises(PartError):
        check_link(link, allow_http=False)


def test_a_signed_link_stays_as_it_is() -> None:
    link = "https://files.example/a%2Fb?X-Amz-Signature=a%2Bb%3D&x=%7E+"
    assert str(check_link(link, allow_http=False)) == link
