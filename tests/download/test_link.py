"""Links, over real sockets: the token stays at home, ranges are asked for rightly, odd links are refused."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import BaseTestServer, TestServer

from bulkpull import (
    Clickwrap,
    FileNotReadyError,
    LinkExpiredError,
    PartError,
    RangeRefusedError,
    TransferError,
    UnavailableError,
)
from bulkpull.download.link import check_link

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
        return download.offset, download.length, b"".join([chunk async for chunk in download.chunks])


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


@pytest.mark.parametrize("label", ["utf-8", "UTF8", "binary", "none", "aws-chunked", "identity", "iso-8859-1"])
async def test_labels_that_name_no_encoding_leave_ranges_and_length(label: str) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(body=BODY, headers={"Content-Encoding": label, "ETag": '"v1"'})

    async with (
        serving(handler) as server,
        client(server) as clickwrap,
        clickwrap.download(str(server.make_url("/f"))) as download,
    ):
        assert (download.length, download.validator, download.is_checked) == (9, '"v1"', False)


async def test_a_compressed_file_is_known_without_a_label() -> None:
    async def handler(_request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"ETag": '"v1"'})
        await response.prepare(_request)
        for byte in gzip.compress(BODY):
            await response.write(bytes([byte]))
            await asyncio.sleep(0)
        return response

    async with (
        serving(handler) as server,
        client(server) as clickwrap,
        clickwrap.download(str(server.make_url("/f.csv.gz"))) as download,
    ):
        assert (download.length, download.validator, download.is_checked) == (None, None, True)
        assert b"".join([chunk async for chunk in download.chunks]) == BODY


async def test_relative_links_lead_to_the_api_without_the_token() -> None:
    seen = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.raw_path, "Authorization" in request.headers))
        return web.Response(body=BODY)

    async with serving(handler) as server, client(server) as clickwrap:
        for link in ("/files/1?s=%2f+", "files/1"):
            assert (await read(clickwrap, link))[2] == BODY
    assert seen == [("/files/1?s=%2f+", False), ("/v1.1/tasks/export/files/1", False)]


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("/f?name=Übersicht der Rechte", "/f?name=%C3%9Cbersicht%20der%20Rechte"),
        ("/f%2fg?s=a%2Bb+c%3d&t=~'*", "/f%2fg?s=a%2Bb+c%3d&t=~'*"),
    ],
)
@pytest.mark.parametrize("redirected", [False, True])
async def test_links_and_redirects_are_sent_as_browsers_send_them(written: str, sent: str, redirected: bool) -> None:
    seen = []

    async def handler(request: web.Request) -> web.Response:
        if request.path == "/redirect":
            return web.Response(status=302, headers={"Location": written})
        seen.append(request.raw_path)
        return web.Response(body=BODY)

    async with serving(handler) as server, client(server) as clickwrap:
        origin = str(server.make_url("")).rstrip("/")
        assert (await read(clickwrap, f"{origin}/redirect" if redirected else f"{origin}{written}"))[2] == BODY
    assert seen == [sent]


async def test_a_redirect_to_nowhere_is_refused() -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=302)

    async with serving(handler) as server, client(server) as clickwrap:
        with pytest.raises(PartError, match="without a Location"):
            await read(clickwrap, str(server.make_url("/f")))


@pytest.mark.parametrize("size", [12_000, 65_000])
@pytest.mark.parametrize("own", [True, False])
async def test_headers_of_64_kilobytes_are_read_from_the_api_and_from_hosts(size: int, own: bool) -> None:
    async def handler(request: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": "x" * size}
        if "export" in request.path:
            return web.json_response({"data": {"id": "e", "status": "started"}}, headers=headers)
        return web.Response(body=BODY, headers=headers)

    async with (
        serving(handler) as server,
        aiohttp.ClientSession() as session,
        client(server, session=None if own else session) as clickwrap,
    ):
        assert (await clickwrap.get_export("e")).status == "started"
        assert (await read(clickwrap, str(server.make_url("/f"))))[2] == BODY


async def test_longer_headers_are_refused_once() -> None:
    requests = 0

    async def handler(_request: web.Request) -> web.Response:
        nonlocal requests
        requests += 1
        return web.Response(headers={"X": "x" * 70_000})

    async with serving(handler) as server, client(server) as clickwrap:
        with pytest.raises(UnavailableError, match=r"GET /tasks/export/e: .* a header of more than 65,536 bytes"):
            await clickwrap.get_export("e")
        with pytest.raises(PartError, match="a header of more than 65,536 bytes"):
            await read(clickwrap, str(server.make_url("/f")))
    assert requests == 2


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
        with pytest.raises(TransferError) as caught:
            await read(clickwrap, str(server.make_url("/f")))
    assert caught.value.wait == 7


@pytest.mark.parametrize("status", [202, 204, 409, 425])
async def test_statuses_of_a_file_that_is_not_there_yet(status: int) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.json_response({"status": "preparing"}, status=status, headers={"Retry-After": "7"})

    async with serving(handler) as server, client(server) as clickwrap:
        with pytest.raises(FileNotReadyError, match=rf"does not have the file yet \({status}\)") as caught:
            await read(clickwrap, str(server.make_url("/f")))
    assert caught.value.wait == 7


@pytest.mark.parametrize("status", [206, 405, 501])
async def test_a_host_that_knows_no_ranges_is_not_asked_for_one_again(status: int) -> None:
    ranges = []

    async def handler(request: web.Request) -> web.Response:
        ranges.append(request.headers.get("Range"))
        return web.Response(status=status, body=BODY[3:]) if "Range" in request.headers else web.Response(body=BODY)

    async with serving(handler) as server, client(server) as clickwrap:
        with pytest.raises(RangeRefusedError):
            await read(clickwrap, str(server.make_url("/f")), 3, '"v1"')
        assert await read(clickwrap.observed(print), str(server.make_url("/g")), 3, '"v1"') == (0, 9, BODY)
    assert ranges == ["bytes=3-", None]


@pytest.mark.parametrize("status", [403, 416, 500])
async def test_what_may_have_another_reason_does_not_speak_against_ranges(status: int) -> None:
    ranges = []

    async def handler(request: web.Request) -> web.Response:
        ranges.append(request.headers.get("Range"))
        return web.Response(status=status)

    async with serving(handler) as server, client(server) as clickwrap:
        for _ in range(2):
            with pytest.raises((LinkExpiredError, TransferError)):
                await read(clickwrap, str(server.make_url("/f")), 3, '"v1"')
    assert ranges == ["bytes=3-"] * 2


@pytest.mark.parametrize("content_range", ["bytes 0-8/9", "", "bytes"])
async def test_a_whole_file_that_comes_as_a_range_nobody_asked_for(content_range: str) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=206, body=BODY, headers={"Content-Range": content_range})

    async with serving(handler) as server, client(server) as clickwrap:
        assert await read(clickwrap, str(server.make_url("/f"))) == (0, 9, BODY)


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
        with pytest.raises(PartError, match="valid URL"):
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
        with pytest.raises(TransferError, match="cannot connect"):
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
