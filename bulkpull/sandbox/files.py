"""The file host: signed links and range requests, with injected faults."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import time
from collections import Counter
from contextlib import suppress
from itertools import count

import anyio
from aiohttp import web
from aiohttp.typedefs import Handler
from anyio import to_thread

from bulkpull.record import record
from bulkpull.sandbox.bodies import LABELS, encode_body
from bulkpull.sandbox.config import SandboxConfig, SandboxStats
from bulkpull.sandbox.exports import Exports, File, Task
from bulkpull.sandbox.faults import Fault, Faults
from bulkpull.sandbox.modes import MODES
from bulkpull.sandbox.responses import html_page, reset, server_error

_CHUNK_BYTES = 256 * 1024
_TRICKLE_PIECES = 16
_RANGE_FAULTS = frozenset({"range-ignored", "wrong-range"})
_BODY_FAULTS = frozenset({"stall", "cut", "cut-short-length", "trickle", "expire", "changed", "gzip"})
_RETRY_AFTER_A_DAY = {"Retry-After": "86400"}
_ODD_QUERY = "name=Übersicht der Zustimmungen"


@record(frozen=False)
class _Delivery:
    """A response with the bytes from `offset` to `end` of a file; the body is cut off at `stop`."""

    file: File
    offset: int
    end: int
    status: int
    headers: dict[str, str]
    stop: int
    claimed: int | None = None  # the Content-Length, if it is not the right one
    stalls: bool = False  # at `stop`
    trickles: bool = False
    swaps_case: bool = False
    until_close: bool = False
    chunked: bool = False


class FileOrigin:
    """Serves the files of exports. `url` must be set before links are created.

    `deliveries` counts by export and file number (from 0) how often the last byte of a file was sent.
    """

    def __init__(self, config: SandboxConfig, exports: Exports, faults: Faults, stats: SandboxStats) -> None:
        self.url = ""
        self.deliveries: Counter[tuple[str, int]] = Counter()
        self._config = config
        self._exports = exports
        self._faults = faults
        self._stats = stats
        self._secret = f"sandbox {config.seed}".encode()
        self._nonces = count()
        self._revoked: set[str] = set()
        self._downloads = 0
        self._asked: Counter[tuple[str, int]] = Counter()  # requests for each file
        self._answers: Counter[tuple[str, int]] = Counter()  # those that got the file, or a part of it
        self._etags = count()

    def app(self) -> web.Application:
        """Return the application with the host's routes."""
        app = web.Application(middlewares=[self._count_downloads])
        app.router.add_get("/exports/{serial}/{number:[0-9]+}.csv", self._download)
        return app

    def link(self, task: Task, number: int) -> str:
        """Return a fresh link to a task's file (from 0), on this host or on the storage server."""
        if storage := self._exports.storage:
            return storage.link(task.files[number].path)
        path = f"/exports/{task.serial}/{number}.csv"
        expires = str(int(time.time() + self._config.link_seconds))
        nonce = str(next(self._nonces))
        has_odd_query = self._faults.has("link-odd-characters") and self._faults.note("link-odd-characters")
        odd = f"{_ODD_QUERY}&" if has_odd_query else ""
        return f"{self.url}{path}?{odd}expires={expires}&nonce={nonce}&signature={self._sign(path, expires, nonce)}"

    def _sign(self, path: str, expires: str, nonce: str) -> str:
        return hmac.new(self._secret, f"{path} {expires} {nonce}".encode(), hashlib.sha256).hexdigest()

    @web.middleware
    async def _count_downloads(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._faults.outage(anyio.current_time()):
            return reset(request)
        self._stats.downloads += 1
        self._downloads += 1
        self._stats.peak_downloads = max(self._stats.peak_downloads, self._downloads)
        try:
            return await handler(request)
        finally:
            self._downloads -= 1

    async def _download(self, request: web.Request) -> web.StreamResponse:
        if "Authorization" in request.headers:
            self._stats.leaks += 1
            return _xml(400, "InvalidArgument", "Only one auth mechanism allowed")
        if not request.raw_path.isascii() or " " in request.raw_path:
            return _xml(400, "InvalidURI", "Couldn't parse the specified URI.")
        expires, nonce, signature = (request.query.get(name, "") for name in ("expires", "nonce", "signature"))
        if not hmac.compare_digest(signature.encode(), self._sign(request.path, expires, nonce).encode()):
            return _xml(403, "SignatureDoesNotMatch", "The request signature does not match")
        if int(expires) < time.time() or signature in self._revoked:
            return _xml(403, "AccessDenied", "Request has expired")
        task = self._exports.find(self._exports.id_of(request.match_info["serial"]))
        number = int(request.match_info["number"])
        if task is None or task.fault == "purged" or number >= len(task.files):
            return _xml(404, "NoSuchKey", "The specified key does not exist.")
        wanted = request.headers.get("Range", "")
        refusal = self._early_response(request, task, number) or (self._range_response() if wanted else None)
        if refusal:
            return refusal
        file = self._exports.file_to_serve(task, number, from_start=not wanted or wanted.startswith("bytes=0-"))
        inapplicable = frozenset() if wanted else _RANGE_FAULTS
        delivery = _plan_delivery(file, wanted, request.headers.get("If-Range", file.etag))
        body = await to_thread.run_sync(self._encoded_response, file)
        # Truncation of an encoded body, or of one delimited by closing the connection, could not be detected.
        if delivery.offset >= delivery.end or body or self._faults.has("until-close"):
            inapplicable |= _BODY_FAULTS
        fault = self._faults.draw_fault("file", task.filter, number, without=inapplicable)
        if fault and (instead := await self._apply_fault(fault, delivery, request, signature)):
            return instead
        if body:
            self.deliveries[task.id, number] += 1
            self._stats.bytes_sent += len(body.body) if isinstance(body.body, bytes) else 0
            return body
        self._answers[task.serial, number] += 1
        self._apply_modes(delivery, self._answers[task.serial, number])
        if delivery.status != 200:
            self._stats.ranges += 1
        if delivery.status == 416:
            answer = _xml(416, "InvalidRange", "The requested range is not satisfiable")
            answer.headers.update(delivery.headers)
            return answer
        response = await self._send(request, delivery)
        if delivery.stop == file.size:
            self.deliveries[task.id, number] += 1
        return response

    def _early_response(self, request: web.Request, task: Task, number: int) -> web.Response | None:
        """Return the response of a mode that applies before the file is served, if any."""
        faults = self._faults
        if faults.has("redirect-odd-characters") and "name" not in request.query:
            faults.note("redirect-odd-characters")
            return web.Response(status=302, headers={"Location": f"{request.raw_path}&{_ODD_QUERY}"})
        self._asked[task.serial, number] += 1
        asked = self._asked[task.serial, number]
        if faults.has("file-retry-after-day") and faults.note("file-retry-after-day"):
            return web.Response(status=503, headers=_RETRY_AFTER_A_DAY)
        if faults.has("never-ready") and faults.note("never-ready"):
            return web.json_response({"status": "preparing"}, status=202)
        for kind, status in (("preparing", 202), ("preparing-200", 200), ("not-found-first", 404)):
            if faults.has(kind) and asked <= faults.value(kind) and faults.note(kind):
                return web.json_response({"status": "preparing"}, status=status)
        return None

    def _range_response(self) -> web.Response | None:
        """Return the response of a mode that rejects range requests, if any."""
        for kind, answer in (
            ("range-403", _xml(403, "AccessDenied", "Access Denied")),
            ("range-405", web.Response(status=405, headers={"Allow": "GET"})),
            ("range-500", web.Response(status=500)),
            ("range-503-day", web.Response(status=503, headers=_RETRY_AFTER_A_DAY)),
            ("range-empty", web.Response()),
            ("range-416", _xml(416, "InvalidRange", "The requested range is not satisfiable")),
            ("range-416-wrong", web.Response(status=416, headers={"Content-Range": "bytes */7"})),
        ):
            if self._faults.has(kind) and self._faults.note(kind):
                return answer
        return None

    def _encoded_response(self, file: File) -> web.Response | None:
        """Return the file encoded by a mode, if any. Blocks."""
        for kind in MODES["labels"]:
            if self._faults.has(kind) and (found := encode_body(kind, file.path.read_bytes())):
                self._faults.note(kind)
                return web.Response(body=found[0], headers={"Content-Encoding": found[1]} if found[1] else {})
        return None

    def _apply_modes(self, delivery: _Delivery, answers: int) -> None:
        """Apply the active modes to a delivery; `answers` is the number of this response for its file."""
        faults, headers = self._faults, delivery.headers
        has_rest = delivery.status == 206
        for kind, content_range in (
            ("range-unsaid", ""),
            ("range-broken", "bytes "),
            ("range-wrong", f"bytes 1-{delivery.file.size + 6}/{delivery.file.size + 7}"),
        ):
            if has_rest and faults.has(kind) and faults.note(kind):
                headers["Content-Range"] = content_range
        if not headers.get("Content-Range", "set"):
            del headers["Content-Range"]
        if faults.has("etag-changes") and faults.note("etag-changes"):
            headers["ETag"] = f'"{next(self._etags)}"'
        elif faults.has("etag-weak") and faults.note("etag-weak"):
            headers["ETag"] = f"W/{delivery.file.etag}"
        elif faults.has("etag-none") and faults.note("etag-none"):
            headers.pop("ETag", None)
        for kind, label in LABELS.items():
            if faults.has(kind) and faults.note(kind):
                headers["Content-Encoding"] = label
        if faults.has("file-headers-long") and faults.note("file-headers-long"):
            headers["Content-Security-Policy"] = "default-src 'self'; " + "x" * faults.value("file-headers-long")
        breaks = faults.has("cut-all") or (faults.has("cut-first") and answers <= faults.value("cut-first"))
        if (
            breaks
            and delivery.stop == delivery.end
            and faults.note("cut-all" if faults.has("cut-all") else "cut-first")
        ):
            delivery.stop = (delivery.offset + delivery.end) // 2
        delivery.until_close = faults.has("until-close") and faults.note("until-close")
        delivery.chunked = faults.has("chunked") and faults.note("chunked")

    async def _apply_fault(
        self, fault: Fault, delivery: _Delivery, request: web.Request, signature: str
    ) -> web.StreamResponse | None:
        """Apply a fault to the delivery, or return a response to send instead."""
        draw, size = fault.draw, delivery.file.size
        somewhere = draw.randint(delivery.offset, max(delivery.offset, delivery.end - 1))
        match fault.kind:
            case "file-error":
                return server_error(fault)
            case "file-reset":
                return reset(request)
            case "file-hang":
                await anyio.sleep(self._faults.seconds)
                return reset(request)
            case "error-page":
                return html_page()
            case "gzip":
                body = gzip.compress(await to_thread.run_sync(delivery.file.path.read_bytes), compresslevel=1)
                return web.Response(body=body, headers={"Content-Encoding": "gzip", "Content-Type": "text/csv"})
            case "stall":
                delivery.stop, delivery.stalls = somewhere, True
            case "cut":
                delivery.stop = somewhere
            case "cut-short-length":
                somewhere = max(somewhere, delivery.offset + 1)
                # Not between two records, where truncation could not be detected.
                while somewhere > delivery.offset + 1 and await to_thread.run_sync(
                    _ends_line, delivery.file, somewhere
                ):
                    somewhere -= 1
                delivery.stop, delivery.claimed = somewhere, somewhere - delivery.offset
            case "trickle":
                delivery.trickles = True
            case "expire":
                delivery.stop = somewhere
                self._revoked.add(signature)
            case "changed":
                whole = _plan_delivery(delivery.file, "", "")  # the range is not granted for the other file
                delivery.status, delivery.offset, delivery.headers = 200, 0, whole.headers | {"ETag": '"changed"'}
                delivery.stop, delivery.swaps_case = somewhere, True
            case "range-ignored":
                whole = _plan_delivery(delivery.file, "", "")
                delivery.status, delivery.offset, delivery.headers = 200, 0, whole.headers
                delivery.end = delivery.stop = size
            case "wrong-range":
                delivery.status, delivery.end, delivery.stop = 206, size, size
                if draw.random() < 0.5:
                    delivery.offset //= 2
                else:
                    delivery.offset, size = min(delivery.offset, size - 1), size + 7
                delivery.headers["Content-Range"] = f"bytes {delivery.offset}-{delivery.end - 1}/{size}"
        return None

    async def _send(self, request: web.Request, delivery: _Delivery) -> web.StreamResponse:
        if delivery.until_close:
            return await self._send_until_close(request, delivery)
        response = web.StreamResponse(status=delivery.status, headers=delivery.headers)
        if not delivery.chunked:
            response.content_length = delivery.end - delivery.offset if delivery.claimed is None else delivery.claimed
        await anyio.sleep(self._config.file_latency)
        piece = max(1, (delivery.stop - delivery.offset) // _TRICKLE_PIECES + 1) if delivery.trickles else _CHUNK_BYTES
        with suppress(ConnectionError):  # the client may disconnect
            await response.prepare(request)
            with delivery.file.path.open("rb") as content:
                content.seek(delivery.offset)
                while chunk := content.read(min(piece, delivery.stop - content.tell())):
                    await response.write(chunk.swapcase() if delivery.swaps_case else chunk)
                    self._stats.bytes_sent += len(chunk)
                    if delivery.trickles:
                        await anyio.sleep(self._faults.seconds / _TRICKLE_PIECES / 4)
            if delivery.stalls:
                await anyio.sleep(self._faults.seconds)
                reset(request)
            elif delivery.stop < delivery.end and delivery.claimed is None and request.transport:
                request.transport.close()  # bytes already written still arrive
            await response.write_eof()
        return response

    async def _send_until_close(self, request: web.Request, delivery: _Delivery) -> web.Response:
        """Send a body delimited by closing the connection, which aiohttp's server does not support."""
        lines = [f"HTTP/1.0 {delivery.status} OK", *(f"{name}: {value}" for name, value in delivery.headers.items())]
        content = await to_thread.run_sync(delivery.file.path.read_bytes)
        if request.transport:
            body = content[delivery.offset : delivery.stop]
            request.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
            self._stats.bytes_sent += len(body)
            request.transport.close()
        return web.Response()


def _ends_line(file: File, end: int) -> bool:
    with file.path.open("rb") as content:
        content.seek(end - 1)
        return content.read(1) == b"\n"


def _plan_delivery(file: File, wanted: str, if_range: str) -> _Delivery:
    """Return the delivery for a `Range` header: a single range with a start is granted, others are ignored."""
    headers = {"ETag": file.etag, "Accept-Ranges": "bytes", "Content-Type": "text/csv; charset=utf-8"}
    begin, _, last = wanted.removeprefix("bytes=").partition("-")
    if not wanted.startswith("bytes=") or if_range != file.etag or not begin.isdigit() or not (last + "0").isdigit():
        return _Delivery(file, 0, file.size, 200, headers, stop=file.size)
    offset, end = int(begin), min(file.size, int(last) + 1) if last else file.size
    if offset >= end:
        return _Delivery(file, offset, end, 416, {"Content-Range": f"bytes */{file.size}"}, stop=end)
    headers["Content-Range"] = f"bytes {offset}-{end - 1}/{file.size}"
    return _Delivery(file, offset, end, 206, headers, stop=end)


def _xml(status: int, code: str, message: str) -> web.Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return web.Response(text=text, status=status, content_type="application/xml")
