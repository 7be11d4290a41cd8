"""What hosts do with ranges, and with the end of a body."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web

from bulkpull import PartError, RetryPolicy, patience
from bulkpull.download.transfer import MAX_CONFIRMATIONS
from tests.download.hosts import END, ROWS, Answer, Host, broken, download, rest, whole


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "LAG", 0.2)


# Ranges


@pytest.mark.parametrize("outage", [1, 2, 3, 4, 5, 6])
async def test_an_outage_costs_no_byte_twice(tmp_path: Path, outage: int) -> None:
    """Requests for the rest and for the whole fail alike: that does not speak against ranges."""

    async def out(request: web.Request, host: Host) -> web.StreamResponse:
        if len(host.requests) < outage + 2:
            return web.Response(status=503)
        return await (rest() if "Range" in request.headers else whole())(request, host)

    host = Host([broken(300_000), out])
    _, heard = await download(tmp_path, host, retry=RetryPolicy(attempts=20, base=0, cap=0))
    assert heard.size == len(ROWS)


async def test_a_chunked_body_is_resumed_where_it_broke(tmp_path: Path) -> None:
    host = Host([broken(300_000, chunked=True), rest()])
    _, heard = await download(tmp_path, host)
    assert heard.size == len(ROWS)


@pytest.mark.parametrize("status", [400, 403, 404, 405, 406, 416, 500, 501, 503])
async def test_a_host_that_refuses_all_ranges_is_asked_for_the_whole_file(tmp_path: Path, status: int) -> None:
    async def rangeless(request: web.Request, host: Host) -> web.StreamResponse:
        return web.Response(status=status) if "Range" in request.headers else await whole()(request, host)

    host = Host([broken(300_000), rangeless])
    _, heard = await download(tmp_path, host)
    assert len(host.requests) <= 6
    assert heard.size == 300_000 + len(ROWS)


async def test_an_empty_body_does_not_replace_a_partial_file(tmp_path: Path) -> None:
    for directory, etag in ((tmp_path / "a", '"v1"'), (tmp_path / "b", None)):
        directory.mkdir()
        host = Host([broken(100_000, etag=etag), whole(b"", etag), whole(b"", etag), whole()])
        assert (await download(directory, host))[0] == ROWS


async def test_a_new_etag_with_every_request_is_bounded_by_the_policy(tmp_path: Path) -> None:
    async def restless(request: web.Request, host: Host) -> web.StreamResponse:
        return await broken(len(ROWS) - len(host.requests) * 1000, etag=f'"{len(host.requests)}"')(request, host)

    host = Host([restless])
    with pytest.raises(PartError):
        await download(tmp_path, host)
    assert len(host.requests) <= 10


# The end of a body


def until_close(body: bytes, etag: str | None = '"v1"', version: str = "1.0") -> Answer:
    """A body without a length, which ends with the connection."""

    async def answer(request: web.Request, _host: Host) -> web.Response:
        assert request.transport is not None
        head = f"HTTP/{version} 200 OK\r\nConnection: close\r\n" + (f"ETag: {etag}\r\n" if etag else "")
        request.transport.write(f"{head}\r\n".encode() + body)
        request.transport.close()
        return web.Response()

    return answer


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("second", [rest(), whole(), whole(b"", status=500), whole(b"")])
async def test_the_end_of_a_body_without_a_length_is_confirmed(tmp_path: Path, version: str, second: Answer) -> None:
    host = Host([until_close(ROWS, version=version), second])
    assert (await download(tmp_path, host))[0] == ROWS
    assert host.requests[:2] == [None, END]
    assert len(host.requests) <= 1 + MAX_CONFIRMATIONS  # again where nothing was said


async def test_a_truncated_body_without_a_length_is_completed(tmp_path: Path) -> None:
    cut = ROWS.index(b"\n", 200_000) + 1
    for second in (rest(), whole()):
        assert (await download(tmp_path, Host([until_close(ROWS[:cut]), second, second])))[0] == ROWS


async def test_a_body_truncated_in_a_record_without_an_etag_is_downloaded_again(tmp_path: Path) -> None:
    host = Host([whole(ROWS[:200_000], None), whole(etag=None)])
    assert (await download(tmp_path, host))[0] == ROWS
    assert host.requests == [None, None]


@pytest.mark.parametrize("body", [b"", b"\n", b"\r\n\r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
async def test_an_empty_file_is_complete(tmp_path: Path, body: bytes) -> None:
    assert (await download(tmp_path, Host([whole(body)])))[0] == body
