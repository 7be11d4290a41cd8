"""The local Clickwrap: an API origin and a file origin, on loopback."""

from __future__ import annotations

import hashlib
import hmac
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import orjson
from aiohttp import web
from anyio import to_thread

from bulkpull.errors import UsageError
from bulkpull.sandbox.data import DEFAULT_FIELDS, FIELDS, Activities, nested
from bulkpull.sandbox.exports import Exports, Task
from bulkpull.sandbox.filters import FilterError, Selection, select
from bulkpull.sandbox.quota import RateLimit

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

API = "/v1.1"
MAX_PER_PAGE = 100
_CHUNK = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """What a sandbox is like. Seconds are real seconds; `port` 0 takes a free one."""

    rows: int = 10_000
    start: datetime = datetime(2024, 1, 1, tzinfo=UTC)
    end: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    seed: int = 0
    token: str = "sandbox-token"  # noqa: S105 - for anybody to use
    port: int = 0
    workers: int = 8
    export_seconds: float = 1.0
    rows_per_file: int = 10_000
    requests_per_minute: int = 2000
    link_seconds: float = 300.0
    file_latency: float = 0.02  # until the first byte, as an object store has it

    def __post_init__(self) -> None:
        if self.start >= self.end:
            raise UsageError("a sandbox's activity must start before it ends")


@dataclass(slots=True)
class Seen:
    """What a sandbox saw. `leaks` counts requests to the file origin that carried an Authorization header."""

    requests: dict[str, int] = field(default_factory=dict)
    throttled: int = 0
    unauthorized: int = 0
    downloads: int = 0
    ranges: int = 0
    leaks: int = 0
    exports: int = 0
    peak_exports: int = 0
    peak_requests: int = 0
    peak_downloads: int = 0
    bytes_sent: int = 0


class Sandbox:
    """A running sandbox, to be used with `async with`; stops with all it started."""

    def __init__(self, config: SandboxConfig | None = None) -> None:
        self.config = config or SandboxConfig()
        self.url = ""
        self._files_url = ""
        self._secret = f"sandbox {self.config.seed}".encode()
        self._seen = Seen()
        self._requests = 0
        self._downloads = 0
        self.deliveries: Counter[tuple[str, int]] = Counter()  # of whole files: export, number from 0
        self._authenticated = RateLimit(self.config.requests_per_minute)
        self._unauthenticated = RateLimit(60)
        self._activities = Activities(self.config.rows, self.config.start, self.config.end, self.config.seed)
        self._exports: Exports
        self._stack = AsyncExitStack()

    @property
    def seen(self) -> Seen:
        """The figures so far."""
        self._seen.exports = len(self._exports.tasks)
        self._seen.peak_exports = self._exports.peak_running
        return self._seen

    async def distinct_ids(self) -> int:
        """How many different ids all finished exports delivered, counted from their rows."""
        return await to_thread.run_sync(self._exports.distinct_ids)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bulkpull-sandbox-"))
            self._exports = Exports(
                self._activities,
                Path(directory),
                workers=self.config.workers,
                seconds=self.config.export_seconds,
                rows_per_file=self.config.rows_per_file,
                seed=self.config.seed,
            )
            self._files_url = await self._serve(stack, self._files_app(), 0)
            self.url = await self._serve(stack, self._api_app(), self.config.port) + API
            # Last, so that a port in use is an error of its own and not one of a group's.
            self._group = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(self._group.cancel_scope.cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _serve(self, stack: AsyncExitStack, app: web.Application, port: int) -> str:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        host, port = runner.addresses[0][:2]
        return f"http://{host}:{port}"

    # The API origin

    def _api_app(self) -> web.Application:
        app = web.Application(middlewares=[self._count_requests, self._guard])
        app.router.add_post(f"{API}/tasks/export/activity", self._start_export)
        app.router.add_get(f"{API}/tasks/export/{{id}}", self._get_export)
        app.router.add_get(f"{API}/activity", self._activity)
        app.router.add_get(f"{API}/sites/{{id}}/exportFields", self._export_fields)
        app.router.add_get("/sandbox", self._report)
        return app

    @web.middleware
    async def _count_requests(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == "/sandbox":
            return await handler(request)
        resource = request.match_info.route.resource
        route = f"{request.method} {resource.canonical if resource else request.path}"
        self._seen.requests[route] = self._seen.requests.get(route, 0) + 1
        self._requests += 1
        self._seen.peak_requests = max(self._seen.peak_requests, self._requests)
        try:
            return await handler(request)
        finally:
            self._requests -= 1

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The rate limit, then the token, then what the routes refuse."""
        if request.path == "/sandbox":
            return await handler(request)
        authorized = request.headers.get("Authorization") == f"Bearer {self.config.token}"
        limit, key = (
            (self._authenticated, self.config.token) if authorized else (self._unauthenticated, str(request.remote))
        )
        wait = limit.retry_after(key, anyio.current_time())
        if wait is not None:
            self._seen.throttled += 1
            return _error(429, "RateLimitExceededError", "Rate limit exceeded", {"Retry-After": str(wait)})
        if not authorized:
            self._seen.unauthorized += 1
            return _error(401, "UnauthorizedError", "Invalid or missing access token")
        try:
            return await handler(request)
        except FilterError as error:
            return _error(400, "BadRequestError", str(error))
        except web.HTTPException as error:
            return _error(error.status, f"{type(error).__name__.removeprefix('HTTP')}Error", error.reason)

    async def _start_export(self, request: web.Request) -> web.Response:
        fields = tuple(filter(None, request.query.get("fields", "").split(","))) or DEFAULT_FIELDS
        task = self._exports.start(request.query.get("filter", ""), fields)
        self._group.start_soon(self._exports.work, task)
        return _json(self._task(task))

    async def _get_export(self, request: web.Request) -> web.Response:
        task = self._exports.tasks.get(request.match_info["id"])
        if task is None:
            raise web.HTTPNotFound(reason="No such task")
        return _json(self._task(task))

    async def _activity(self, request: web.Request) -> web.Response:
        query = request.query
        try:
            page = max(1, int(query.get("page", "1")))
            per_page = min(MAX_PER_PAGE, max(1, int(query.get("per_page", "25"))))
        except ValueError:
            raise web.HTTPBadRequest(reason="page and per_page must be numbers") from None
        sort = query.get("sort", "created_time")
        if sort not in ("created_time", "-created_time"):
            raise web.HTTPBadRequest(reason="this sandbox sorts by created_time or -created_time")
        selection = select(self._activities, query.get("filter", ""))
        first = (page - 1) * per_page
        counted = query.get("no_count") != "true"
        rows, has_more, total = await to_thread.run_sync(
            self._page, selection, first, per_page, sort.startswith("-"), counted
        )
        lean = query.get("lean") == "true"
        fields = tuple(filter(None, query.get("fields", "").split(",")))
        answer: dict[str, Any] = {"page": page, "per_page": per_page, "count": len(rows)}
        if counted:
            answer["total_count"] = total
        data = [nested(row, lean=lean, fields=fields) for row in rows]
        return _json(answer | {"has_more": has_more, "data": data})

    def _page(
        self, selection: Selection, first: int, per_page: int, descending: bool, counted: bool
    ) -> tuple[list[tuple[str | None, ...]], bool, int]:
        numbers, wanted, row = selection.numbers, selection.wanted, self._activities.row
        ordered = reversed(numbers) if descending else numbers
        if wanted is None:
            matching = islice(map(row, islice(ordered, first, None)), per_page + 1)
            total = len(numbers)
        else:
            matching = islice((row(number) for number in ordered if wanted(row(number))), first, first + per_page + 1)
            total = sum(wanted(row(number)) for number in numbers) if counted else 0
        rows = list(matching)
        return rows[:per_page], len(rows) > per_page, total

    async def _export_fields(self, _request: web.Request) -> web.Response:
        return _json({"data": [{"field": name} for name in FIELDS]})

    async def _report(self, request: web.Request) -> web.Response:
        """Not part of Clickwrap: what the sandbox saw, and with `?ids` the distinct ids it delivered."""
        report = asdict(self.seen)
        if "ids" in request.query:
            report["distinct_ids"] = await self.distinct_ids()
        return _json(report)

    def _task(self, task: Task) -> dict[str, Any]:
        data: dict[str, Any] = {
            "status": task.status,
            "source": "api",
            "retry_count": 0,
            "active": task.running,
            "job_name": "GenerateExportCSV",
            "created_by": 9785,
            "account": 2785,
            "site": 5193,
            "created_time": task.created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "data": {"exportName": "action", "exportType": "Action", "sendTo": "someone@example.com"},
            "id": task.id,
        }
        if task.message:
            data["message"] = task.message
        if task.status == "success":
            data["links"] = [self._link(task, number) for number in range(len(task.files))]
        return {"data": data}

    # The file origin

    def _link(self, task: Task, number: int) -> str:
        path = f"/exports/{task.id}/{number}.csv"
        expires = str(int(time.time() + self.config.link_seconds))
        return f"{self._files_url}{path}?expires={expires}&signature={self._sign(path, expires)}"

    def _sign(self, path: str, expires: str) -> str:
        return hmac.new(self._secret, f"{path} {expires}".encode(), hashlib.sha256).hexdigest()

    def _files_app(self) -> web.Application:
        app = web.Application(middlewares=[self._count_downloads])
        app.router.add_get("/exports/{id}/{number:[0-9]+}.csv", self._download)
        return app

    @web.middleware
    async def _count_downloads(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._seen.downloads += 1
        self._downloads += 1
        self._seen.peak_downloads = max(self._seen.peak_downloads, self._downloads)
        try:
            return await handler(request)
        finally:
            self._downloads -= 1

    async def _download(self, request: web.Request) -> web.StreamResponse:
        if "Authorization" in request.headers:
            self._seen.leaks += 1
            return _xml(400, "InvalidArgument", "Only one auth mechanism allowed")
        expires, signature = request.query.get("expires", ""), request.query.get("signature", "")
        if not hmac.compare_digest(signature.encode(), self._sign(request.path, expires).encode()):
            return _xml(403, "SignatureDoesNotMatch", "The request signature does not match")
        if int(expires) < time.time():
            return _xml(403, "AccessDenied", "Request has expired")
        task, number = self._exports.tasks.get(request.match_info["id"]), int(request.match_info["number"])
        if task is None or number >= len(task.files):
            return _xml(404, "NoSuchKey", "The specified key does not exist.")
        file = task.files[number]
        headers = {"ETag": file.etag, "Accept-Ranges": "bytes", "Content-Type": "text/csv; charset=utf-8"}
        offset, end, status = 0, file.size, 200
        wanted = request.headers.get("Range", "")
        if wanted.startswith("bytes=") and request.headers.get("If-Range", file.etag) == file.etag:
            begin, _, last = wanted.removeprefix("bytes=").partition("-")
            if begin.isdigit() and (not last or last.isdigit()):  # one range with a beginning; others are ignored
                self._seen.ranges += 1
                offset, status = int(begin), 206
                end = min(file.size, int(last) + 1 if last else file.size)
                if offset >= end:
                    answer = _xml(416, "InvalidRange", "The requested range is not satisfiable")
                    answer.headers["Content-Range"] = f"bytes */{file.size}"
                    return answer
                headers["Content-Range"] = f"bytes {offset}-{end - 1}/{file.size}"
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = end - offset
        await anyio.sleep(self.config.file_latency)
        with suppress(ConnectionError):  # clients may go
            await response.prepare(request)
            with file.path.open("rb") as content:
                content.seek(offset)
                while chunk := content.read(min(_CHUNK, end - content.tell())):
                    await response.write(chunk)
                    self._seen.bytes_sent += len(chunk)
            await response.write_eof()
            if end == file.size:
                self.deliveries[task.id, number] += 1
        return response


def _json(answer: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=orjson.dumps(answer), status=status, headers=headers, content_type="application/json", charset="utf-8"
    )


def _error(status: int, name: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    answer = {"error": {"message": message, "status": status, "name": name, "code": status}}
    return _json(answer, status, headers)


def _xml(status: int, code: str, message: str) -> web.Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return web.Response(text=text, status=status, content_type="application/xml")
