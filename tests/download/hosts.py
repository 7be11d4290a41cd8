"""File hosts over real sockets whose answers are scripted, and what a download from them needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
from aiohttp import web
from aiohttp.test_utils import TestServer
from xxhash import xxh3_128

from bulkpull import Clickwrap, RetryPolicy
from bulkpull.download import Downloaded, Downloader, Version, keep, verify_csv
from bulkpull.rows.held_file import HeldFile, Memory

ROWS = b"id,v\n" + b"".join(b"%024x,value %d\n" % (row, row) for row in range(20_000))
RETRY = RetryPolicy(attempts=6, base=0, cap=0)
END = f"bytes={len(ROWS)}-"  # asks whether there is more
Answer = Callable[[web.Request, "Host"], Awaitable[web.StreamResponse]]


@dataclass
class Host:
    """A file host, and a link to its file; `answers` are used in turn, the last one for all further requests."""

    answers: list[Answer]
    requests: list[str | None] = field(default_factory=list)  # the Range of each
    renewals: int = 0
    url: str = ""

    async def file(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.headers.get("Range"))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await answer(request, self)

    async def get(self, expired: str | None = None) -> str:
        """The link, as `bulkpull.download.Link`."""
        if expired == self.link:
            self.renewals += 1
        return self.link

    @property
    def link(self) -> str:
        return f"{self.url}/files/0?signature={self.renewals}"


@dataclass
class Heard:
    """What a download told and recorded."""

    size: int = 0
    on_disk: list[int] = field(default_factory=list)
    retries: list[tuple[int, float, str]] = field(default_factory=list)
    partial: list[Version] = field(default_factory=list)
    complete: list[Downloaded] = field(default_factory=list)

    def received(self, size: int) -> None:
        self.size += size

    def stored(self, size: int) -> None:
        self.on_disk.append(size)

    def retried(self, attempt: int, wait: float, reason: str) -> None:
        self.retries.append((attempt, wait, reason))

    def save_partial(self, version: Version) -> None:
        self.partial.append(version)

    def save_complete(self, downloaded: Downloaded) -> None:
        self.complete.append(downloaded)


def whole(body: bytes = ROWS, etag: str | None = '"v1"', status: int = 200) -> Answer:
    async def answer(_request: web.Request, _host: Host) -> web.Response:
        return web.Response(body=body, status=status, headers={"ETag": etag} if etag else {})

    return answer


def broken(
    upto: int,
    *,
    begin: int = 0,
    body: bytes = ROWS,
    etag: str | None = '"v1"',
    total: int | None = None,
    chunked: bool = False,
) -> Answer:
    """Sends body[begin:upto], promises the rest, and closes the connection."""

    async def answer(request: web.Request, _host: Host) -> web.StreamResponse:
        response = web.StreamResponse(status=206 if begin else 200, headers={"ETag": etag} if etag else {})
        if begin:
            response.headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{total or len(body)}"
        if not chunked:
            response.content_length = len(body) - begin
        await response.prepare(request)
        await response.write(body[begin:upto])
        await anyio.sleep(0.05)  # so that it arrives before the connection goes
        assert request.transport is not None
        request.transport.close()
        return response

    return answer


def rest(*, body: bytes = ROWS, etag: str | None = '"v1"', total: int | None = None) -> Answer:
    """Grants whatever range is requested."""

    async def answer(request: web.Request, _host: Host) -> web.Response:
        begin = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if begin >= len(body):
            return web.Response(status=416, headers={"Content-Range": f"bytes */{len(body)}"})
        headers = {"Content-Range": f"bytes {begin}-{len(body) - 1}/{total or len(body)}"}
        return web.Response(status=206, body=body[begin:], headers=headers | ({"ETag": etag} if etag else {}))

    return answer


async def download(
    directory: Path,
    host: Host,
    *,
    known: Version | Downloaded | None = None,
    heard: Heard | None = None,
    streams: int = 1,
    retry: RetryPolicy = RETRY,
) -> tuple[bytes, Heard]:
    """The file that comes of the host's answers, and what was told meanwhile."""
    heard = heard or Heard()
    path = directory / "part.csv"
    app = web.Application()
    app.router.add_get("/files/{number}", host.file)
    async with TestServer(app) as server:
        host.url = str(server.make_url("")).rstrip("/")
        async with Clickwrap("t", base_url=f"{host.url}/v1.1", retry=retry, stall_timeout=0.5) as clickwrap:
            verify = partial(verify_csv, key="id")
            downloader = Downloader(clickwrap.download, retry, anyio.CapacityLimiter(streams), verify, Memory(0))
            downloaded = await downloader.download(host, path, heard, heard, known)
            if isinstance(downloaded, HeldFile):
                await keep(downloaded, path, heard)
                downloaded = heard.complete[-1]
    body = path.read_bytes()
    assert downloaded == Downloaded(len(body), xxh3_128(body).hexdigest())
    if downloaded != known:
        assert heard.complete == [downloaded]
    return body, heard


def beside(directory: Path) -> list[str]:
    """The files beside the downloaded one."""
    with suppress(FileNotFoundError):
        return sorted(path.name for path in directory.iterdir() if path.name != "part.csv")
    return []
