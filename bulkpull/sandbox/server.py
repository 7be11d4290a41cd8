"""The local Clickwrap: its API origin, and the file origin beside it, on loopback."""

from __future__ import annotations

import tempfile
from contextlib import AsyncExitStack
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import orjson
from aiohttp import web
from aiohttp.typedefs import Handler
from anyio import to_thread

from bulkpull.sandbox.config import SandboxConfig, Seen
from bulkpull.sandbox.data import DEFAULT_FIELDS, FIELDS, Activities, nested
from bulkpull.sandbox.exports import Exports, Task
from bulkpull.sandbox.faults import Fault, Faults, html_page, reset, server_error
from bulkpull.sandbox.files import FileOrigin
from bulkpull.sandbox.filters import FilterError, Selection, select
from bulkpull.sandbox.quota import RateLimit
from bulkpull.sandbox.storage import Storage, connected

API = "/v1.1"
MAX_PER_PAGE = 100


class Sandbox:
    """A running sandbox, to be used with `async with`; stops with all it started."""

    def __init__(self, config: SandboxConfig | None = None) -> None:
        self.config = config or SandboxConfig()
        self.url = ""
        self._seen = Seen()
        self.faults = Faults(self.config.faults, self.config.fault_seconds)
        self._requests = 0
        self._authenticated = RateLimit(self.config.requests_per_minute)
        self._unauthenticated = RateLimit(60)
        self._activities = Activities(
            self.config.rows, self.config.start, self.config.end, self.config.seed, peak=self.config.peak
        )
        self.exports: Exports
        self.files: FileOrigin
        self._storage: Storage | None = None
        self._stack = AsyncExitStack()

    @property
    def seen(self) -> Seen:
        """The figures so far."""
        self._seen.exports = len(self.exports.tasks)
        self._seen.peak_exports = self.exports.peak_running
        self._seen.worked, self._seen.longest = self.exports.worked, self.exports.longest
        self._seen.faults = dict(self.faults.injected)
        return self._seen

    async def distinct_ids(self) -> int:
        """How many different ids all finished exports delivered, counted from their rows."""
        return await to_thread.run_sync(self.exports.distinct_ids)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bulkpull-sandbox-"))
            if self.config.store:
                opening = connected(self.config.store, self.config.link_seconds)
                self._storage = await to_thread.run_sync(stack.enter_context, opening)
            self.exports = Exports(
                self._activities,
                Path(directory),
                workers=self.config.workers,
                seconds=self.config.export_seconds,
                rows_per_file=self.config.rows_per_file,
                seed=self.config.seed,
                faults=self.faults,
                storage=self._storage,
            )
            self.files = FileOrigin(self.config, self.exports, self.faults, self._seen)
            self.files.url = await self._serve(stack, self.files.app(), 0)
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
        app = web.Application(middlewares=[self._count_requests, self._disturb, self._guard])
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
    async def _disturb(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """What may go wrong before a request is acted upon, or after."""
        if request.path == "/sandbox":
            return await handler(request)
        if self.faults.outage(anyio.current_time()):
            return reset(request)
        # An export's id is drawn anew in each sandbox; its filter is not.
        task = self.exports.tasks.get(request.match_info.get("id", ""))
        fault = self.faults.strike("api", request.method, task.filter if task else request.path_qs)
        match fault:
            case None:
                return await handler(request)
            case Fault("server-error"):
                return server_error(fault)
            case Fault("throttle"):
                return _error(429, "RateLimitExceededError", "Rate limit exceeded", {"Retry-After": "1"})
            case Fault("html"):
                return html_page()
            case Fault("hang"):
                await anyio.sleep(self.faults.seconds)
            case Fault("lost"):
                answer = await handler(request)
                self._seen.lost_posts += request.method == "POST" and answer.status == 200
        return reset(request)

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
        task = self.exports.start(request.query.get("filter", ""), fields)
        self._group.start_soon(self.exports.work, task)
        return _json(self._task(task))

    async def _get_export(self, request: web.Request) -> web.Response:
        task = self.exports.find(request.match_info["id"])
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
        if counted and not self.config.counting:
            raise web.HTTPForbidden(reason="This token may not count")
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

    def _link(self, task: Task, number: int) -> str:
        return self._storage.link(task.files[number].path) if self._storage else self.files.link(task, number)


def _json(answer: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=orjson.dumps(answer), status=status, headers=headers, content_type="application/json", charset="utf-8"
    )


def _error(status: int, name: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    answer = {"error": {"message": message, "status": status, "name": name, "code": status}}
    return _json(answer, status, headers)
