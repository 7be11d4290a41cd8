"""The files of an odd server, and its file host."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bulkpull.window import instant
from tests.simulation.clock import loop_time
from tests.simulation.wire import End, Request, Step, response

if TYPE_CHECKING:
    from tests.simulation.odd_exports import Task
    from tests.simulation.odd_server import OddServer

HEADER = "id,signer_id,created_time"
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_EMPTY = {"nothing": b"", "newline": b"\n", "byte order mark": b"\xef\xbb\xbf", "crlf": b"\r\n"}
_XML = b"<?xml version='1.0'?><Error><Code>InvalidRange</Code></Error>"


def line_of(server: OddServer, number: int) -> str:
    """Return an activity as a CSV record."""
    return f"{number:024x},{number % 97},{instant(server.moments[number])}"


def file_of(server: OddServer, task: Task, rows: Sequence[int], part: int) -> bytes:
    """Return the bytes of one file of an export."""
    odd = server.oddities
    if not rows:
        return _EMPTY.get(task.empty_form, f"{HEADER}\n".encode())
    style = odd.now("file style")
    end = "\r\n" if style == "crlf" else "\n"
    lines = [HEADER, *(line_of(server, number) for number in rows)]
    if style == "quoted":
        lines = [",".join(f'"{cell}"' for cell in line.split(",")) for line in lines]
    text = end.join(lines) + ("" if style == "no last newline" else end)
    content = text.encode("utf-8-sig" if style == "byte order mark" else "utf-8")
    damage = odd.now("damaged") if part == 0 else None
    return _damaged(damage, content) if damage else content


def _damaged(damage: str, content: bytes) -> bytes:
    match damage:
        case "cut in a record":
            return content[: content.rfind(b",") - 1].rpartition(b",")[0]
        case "zip":
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(zipfile.ZipInfo("export.csv"), content)
            return buffer.getvalue()
        case "gzip unlabelled":
            return gzip.compress(content, mtime=0)
        case "error page":
            return b"<!doctype html><title>Oops</title><p>Try again, later.\n"
        case "json":
            return b'{"error": {"message": "gone"}}'
        case "open quote":
            return content + b'"'
        case "nul":
            return b"\0" * len(content)
        case _:
            return content.replace(b"id", b"number", 1)


def file_answer(server: OddServer, request: Request) -> Iterator[Step]:
    """Yield the steps of the response to a request for a file."""
    odd, what = server.oddities, f"{request.method} {request.host}{request.target[:40]}"
    if requested := request.headers.get("range"):
        what += f" {requested}"
    if " " in request.target or not request.target.isascii():
        server.note(f"{what} -> 400, not encoded")
        yield response(400, b"Bad Request")
        return
    target, _, hops = request.target.partition("&hop=")
    found = server.issued.get(target)
    if found is None:
        server.note(f"{what} -> 403, not as it was signed: {request.target}")
        yield response(403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
        return
    task, part, at = found
    if (life := odd.now("expiry")) and loop_time() > at + life:
        server.note(f"{what} -> 403, expired")
        yield response(403, b"<Error><Code>AccessDenied</Code></Error>")
        return
    noise = odd.now("host noise")
    trouble = noise or odd.now("host")
    whole = _Body(server, task, part, request).steps(what)
    if trouble is None:
        yield from whole
    elif noise is not None:
        first = next((step for step in whole if isinstance(step, bytes)), b"")
        yield from server.noise(noise, first, what)
    else:
        yield from _trouble(server, trouble, request.target, int(hops.partition("&")[0] or 0), whole, what)


def _trouble(
    server: OddServer, trouble: Any, target: str, hops: int, whole: Iterator[Step], what: str
) -> Iterator[Step]:
    """Yield the steps of an error response or a redirect."""
    if isinstance(trouble, str) and trouble.startswith("redirect") and (not hops or trouble == "redirect loop"):
        here = f"{target.partition('&hop=')[0]}&hop={hops + 1}"
        location = {
            "redirect relative": here,
            "redirect blank": f"https://cdn.example{here}&to=my file",
            "redirect nowhere": "",
            "redirect http": f"http://cdn.example{here}",
        }.get(trouble, f"https://cdn.example{here}")
        server.note(f"{what} -> 302 {location[:60]}")
        yield response(302, headers=[("Location", location)])
        return
    server.note(f"{what} -> {trouble}")
    match trouble:
        case int():
            yield response(trouble)
        case "202":
            yield response(202, b'{"status": "preparing"}', [("Content-Type", "application/json")])
        case "202 empty" | "204":
            yield response(int(trouble[:3]))
        case "503" | "429":
            yield response(int(trouble), headers=[("Retry-After", "1")])
        case "503 day":
            yield response(503, headers=[("Retry-After", "86400")])
        case "html":
            yield response(200, b"<!doctype html><title>Sign in</title>", [("Content-Type", "text/html")])
        case "12 KB header" | "70 KB header" | "slow":
            yield from server.noise(trouble, b"".join(step for step in whole if isinstance(step, bytes)), what)
        case "hang":
            yield End.HANG
        case "reset":
            yield End.RESET
        case _:
            yield from whole


class _Body:
    """The response with a file, for one request."""

    def __init__(self, server: OddServer, task: Task, part: int, request: Request) -> None:
        self.server, self.task, self.request = server, task, request
        self.content = task.files[part]
        self.headers: list[tuple[str, str]] = [("Content-Type", "text/csv"), ("Accept-Ranges", "bytes")]
        self.etag = self._etag()

    def _etag(self) -> str | None:
        plain = f'"{hashlib.md5(self.content).hexdigest()}"'  # noqa: S324
        uses = self.server.requests
        return {
            None: plain, "none": None, "weak": f"W/{plain}", "changing": f'"{uses}"', "by backend": f'"{uses % 2}"',
            "empty": '""', "unquoted": plain.strip('"'),
        }[self.server.oddities.now("etag")]  # fmt: skip

    def steps(self, what: str) -> Iterator[Step]:
        if self.etag is not None:
            self.headers.append(("ETag", self.etag))
        match = _RANGE.fullmatch(self.request.headers.get("range", ""))
        named = self.request.headers.get("if-range")
        if match:
            odd = self.server.oddities.now("range")
            if odd is not None and odd != "ignored":
                self.server.note(f"{what} -> range: {odd}")
                yield from self._odd_range(odd, int(match[1]))
                return
            if odd is None and named in (None, self.etag):
                yield from self._range(int(match[1]), what)
                return
        yield from self._all(what)

    def _range(self, first: int, what: str) -> Iterator[Step]:
        size = len(self.content)
        self.server.note(f"{what} -> {206 if first < size else 416}, of {size}")
        if first >= size:
            yield response(416, _XML, [*self.headers, ("Content-Range", f"bytes */{size}")])
        else:
            span = ("Content-Range", f"bytes {first}-{size - 1}/{size}")
            yield response(206, self.content[first:], [*self.headers, span])

    def _odd_range(self, odd: Any, first: int) -> Iterator[Step]:
        size, rest = len(self.content), self.content[first:]
        match odd:
            case int():
                yield response(odd, _XML)
            case "206 bare":
                yield response(206, rest, self.headers)
            case "206 blank":
                yield response(206, rest, [*self.headers, ("Content-Range", "bytes ")])
            case "206 wrong":
                yield response(206, self.content[1:], [*self.headers, ("Content-Range", f"bytes 1-{size - 1}/{size}")])
            case "206 from zero":
                yield response(206, self.content, [*self.headers, ("Content-Range", f"bytes 0-{size - 1}/{size}")])
            case "416 bare":
                yield response(416, b"")
            case "416 xml":
                yield response(416, _XML, self.headers)
            case "416 wrong" | "416 always":
                told = size + 7 if odd == "416 wrong" else size
                yield response(416, _XML, [*self.headers, ("Content-Range", f"bytes */{told}")])
            case "200 empty":
                yield response(200, b"", self.headers)
            case "503 day":
                yield response(503, headers=[("Retry-After", "86400")])
            case "hang":
                yield End.HANG

    def _all(self, what: str) -> Iterator[Step]:
        odd = self.server.oddities
        body, encoding = _encoded(self.content, odd.now("encoding"))
        if encoding:
            self.headers.append(("Content-Encoding", encoding))
        framing, broken = odd.now("framing"), odd.now("broken")
        self.server.note(f"{what} -> 200, {len(body)} bytes {encoding or ''} {framing or ''} {broken or ''}")
        if broken == "cut without a length":  # undetectable: there is no length and no validator
            cut = self.content[: self.content.rfind(b"\n", 0, -1) + 1]
            gone = {row for row in self.task.rows if f"{row:024x}".encode() not in cut}
            self.task.withheld |= gone
            yield response(200, cut, framing="close", version="1.0")
            yield End.CLOSE
            return
        if broken == "empty":
            self.task.withheld |= set(self.task.rows)
            yield response(200, b"", self.headers)
            return
        version = "1.0" if framing == "http/1.0" else "1.1"
        form = {None: "length", "chunked": "chunked"}.get(framing, "close")
        if broken == "no last chunk":
            form = "chunked"
        whole = response(200, body, self.headers, framing=form, version=version)
        detectable = form != "close"
        half = len(whole) - len(body) // 2
        match broken:
            case "cut" if detectable and body:
                yield whole[:half]
                yield End.CLOSE
            case "cut at a record" if form == "length" and body:
                yield whole[: whole.rfind(b"\n", 0, -1) + 1]
                yield End.CLOSE
            case "reset" if body:
                yield whole[:half]
                yield 0.5
                yield End.RESET
            case "no last chunk":
                yield whole[:-5]
                yield End.CLOSE
            case "hang" if body:
                yield whole[:half]
                yield End.HANG
            case "slow":
                third = len(whole) // 3
                for piece in (whole[:third], whole[third : 2 * third], whole[2 * third :]):
                    yield piece
                    yield 20.0
            case "too long":
                yield whole + b"and more"
            case _:
                yield whole
        if form == "close":
            yield End.CLOSE


def _encoded(content: bytes, odd: Any) -> tuple[bytes, str | None]:
    """Return the encoded body and its Content-Encoding."""
    match odd:
        case None:
            return content, None
        case "gzip" | "x-gzip":
            return gzip.compress(content, mtime=0), odd
        case "gzip members":
            half = len(content) // 2
            return gzip.compress(content[:half], mtime=0) + gzip.compress(content[half:], mtime=0), "gzip"
        case "deflate raw":
            squeezer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            return squeezer.compress(content) + squeezer.flush(), "deflate"
        case "deflate":
            return zlib.compress(content), "deflate"
        case "gzip label alone":
            return content, "gzip"
    return content, odd
