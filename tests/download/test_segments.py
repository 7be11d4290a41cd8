"""A slow file is downloaded in several segments, if the host serves ranges."""

from __future__ import annotations

import random
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from bulkpull import PartError
from bulkpull.download import Downloaded, Version, segments
from tests.download.hosts import ROWS, Heard, Host, beside, download

BODY = ROWS * 6  # several megabytes, so that a part of it is worth a record
PIECE = 64 * 1024


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr(segments, "MIN_REMAINING_SECONDS", 0.2)


class SlowHost:
    """Gives each connection one piece every ten milliseconds, and counts what it gave of each byte."""

    def __init__(self, *, ranges: bool = True) -> None:
        self.body, self.etag = BODY, '"v1"'
        self.ranges = ranges
        self.at_once = self.most_at_once = self.sent = 0
        self.replace_after: int | None = None
        self.fail_after: int | None = None

    async def __call__(self, request: web.Request, _host: Host) -> web.StreamResponse:
        body, etag, begin = self.body, self.etag, 0
        wanted = request.headers.get("Range")
        if wanted and self.ranges and request.headers.get("If-Range") == etag:
            begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(body):
                return web.Response(status=416, headers={"Content-Range": f"bytes */{len(body)}"})
        response = web.StreamResponse(status=206 if begin else 200, headers={"ETag": etag})
        if begin:
            response.headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
        response.content_length = len(body) - begin
        await response.prepare(request)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            for at in range(begin, len(body), PIECE):
                if self.fail_after is not None and self.sent > self.fail_after:
                    assert request.transport is not None
                    request.transport.close()
                    break
                await response.write(body[at : at + PIECE])
                self.sent += len(body[at : at + PIECE])
                if self.replace_after is not None and self.sent > self.replace_after:
                    self.body, self.etag, self.replace_after = ROWS * 5, '"v2"', None
                await anyio.sleep(0.01)
        finally:
            self.at_once -= 1
        return response


async def test_a_slow_file_is_downloaded_in_segments(tmp_path: Path) -> None:
    slow = SlowHost()
    body, _ = await download(tmp_path, Host([slow]), streams=3)
    assert body == BODY
    assert slow.most_at_once == 4
    assert slow.sent < len(BODY) + 8 * 4 * PIECE  # what was on its way when a stream had come to its end
    assert not beside(tmp_path)


async def test_a_fast_file_is_not_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "MIN_REMAINING_SECONDS", 60.0)
    slow = SlowHost()
    body, _ = await download(tmp_path, Host([slow]), streams=3)
    assert body == BODY
    assert slow.most_at_once == 1


async def test_a_host_without_ranges_is_asked_once(tmp_path: Path) -> None:
    slow = SlowHost(ranges=False)
    host = Host([slow])
    body, _ = await download(tmp_path, host, streams=2)
    assert body == BODY
    assert len([wanted for wanted in host.requests if wanted and not wanted.startswith(f"bytes={len(BODY)}")]) <= 3
    assert not beside(tmp_path)


@pytest.mark.parametrize("after", [len(BODY) // 4, len(BODY) // 2, len(BODY) * 9 // 10])
async def test_a_file_that_is_replaced_meanwhile_is_one_version_or_the_other(tmp_path: Path, after: int) -> None:
    slow = SlowHost()
    slow.replace_after = after
    body, _ = await download(tmp_path, Host([slow]), streams=3)
    assert body in (BODY, ROWS * 5)
    assert not beside(tmp_path)


@pytest.mark.parametrize("seed", range(6))
async def test_an_interrupted_download_resumes_in_all_segments(tmp_path: Path, seed: int) -> None:
    """Ended by a cancellation or by a host that fails, at any time, again and again."""
    draw = random.Random(seed)
    slow = SlowHost()
    heard = Heard()
    known: Version | Downloaded | None = None
    for _ in range(20):
        slow.fail_after = slow.sent + draw.randrange(len(BODY)) if draw.random() < 0.5 else None
        try:
            with anyio.move_on_after(draw.uniform(0.1, 0.6)):
                host = Host([slow])
                body, _ = await download(tmp_path, host, known=known, heard=heard, streams=draw.randrange(1, 4))
                break
        except PartError:
            pass
        recorded = heard.complete or heard.partial  # a cancellation may come just after the end
        known = recorded[-1] if recorded else None
    else:
        slow.fail_after = None
        body, _ = await download(tmp_path, Host([slow]), known=known, heard=heard, streams=1)
    assert body == BODY
    assert not beside(tmp_path)
