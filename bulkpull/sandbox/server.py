"""The sandbox server: the API and the file host, on two ports of the loopback interface."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
from aiohttp import web
from aiohttp.typedefs import Handler
from anyio import to_thread

from bulkpull.background import Background
from bulkpull.sandbox.config import SandboxConfig, SandboxStats
from bulkpull.sandbox.counting import CountModes
from bulkpull.sandbox.data import Activities, to_json
from bulkpull.sandbox.exports import Exports, Task
from bulkpull.sandbox.faults import Fault, Faults
from bulkpull.sandbox.files import FileOrigin
from bulkpull.sandbox.filters import FilterError, Selection, parse_moment, select
from bulkpull.sandbox.given import GivenActivities
from bulkpull.sandbox.history import AnyActivities, History
from bulkpull.sandbox.quota import RateLimit
from bulkpull.sandbox.responses import error_response, html_page, json_response, reset, server_error
from bulkpull.sandbox.storage import open_storage
from bulkpull.sandbox.tasks import TaskRoutes

API = "/v1.1"
MAX_PER_PAGE = 100
_LONG_POLICY = "default-src 'self'; img-src" + " https://images.example.com" * 460  # 12 KB


class Sandbox:
    """A local Clickwrap server, used as an async context manager, which may be entered and left in different tasks.

    Args:
        config: The configuration. Defaults to `SandboxConfig()`.
        rows: The activities, instead of generated ones: see `rows`.
        history: Activity that changes while `now` passes, instead of what does not change.

    Raises:
        UsageError: A row makes no sense.
    """

    def __init__(
        self,
        config: SandboxConfig | None = None,
        *,
        rows: Sequence[Mapping[str, Any]] | None = None,
        history: History | None = None,
    ) -> None:
        self.config = config or SandboxConfig()
        self.url = ""
        self._stats = SandboxStats()
        self.faults = Faults(self.config.faults, self.config.fault_seconds)
        self.counting = CountModes(self.faults)
        self._requests = 0
        self._authenticated = RateLimit(self.config.requests_per_minute)
        self._unauthenticated = RateLimit(60)
        self._fixed: AnyActivities = Activities(
            self.config.rows,
            self.config.start,
            self.config.end,
            self.config.seed,
            peak=self.config.peak,
            burst=self.config.burst,
        )
        self._history: History | None = None
        self._now = self.config.start
        if rows is not None:
            self.rows = rows
        if history is not None:
            self.history = history
        self.exports: Exports
        self.files: FileOrigin
        self.tasks: TaskRoutes
        self._background = Background(self._run)

    @property
    def token(self) -> str:
        """The token that the API accepts."""
        return self.config.token

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """The activities, ordered by time; set it to replace them, at any time.

        A row has any fields, by dotted names or nested. Values that are not strings are written as JSON. A missing
        `id` or `signer_id` is made up from the number of the row; a missing `created_time` is one minute after that of
        the row before, from the start of the sandbox's range.
        """
        activities = self._activities()
        return [dict(zip(activities.fields, activities.row(at), strict=True)) for at in range(activities.rows)]

    @rows.setter
    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._fixed, self._history = GivenActivities(rows, self.config.start, self.config.seed), None

    @property
    def history(self) -> History | None:
        """The activity that changes while `now` passes, if there is any; set it to begin one, at its start."""
        return self._history

    @history.setter
    def history(self, history: History) -> None:
        self._history, self._now = history, history.start

    @property
    def now(self) -> datetime:
        """The time in the history: exports, counts and lists see the activity as it is then. Set it to let time pass.

        A running export has what was there when it was launched.
        """
        return self._now

    @now.setter
    def now(self, now: datetime) -> None:
        self._now = now

    def _activities(self, delay_s: float = 0.0) -> AnyActivities:
        """Return the activities as they were `delay_s` ago in the history, or those that do not change."""
        return self._history.at(self._now - timedelta(seconds=delay_s)) if self._history else self._fixed

    @property
    def stats(self) -> SandboxStats:
        """The statistics so far."""
        self._stats.exports = len(self.exports.tasks)
        self._stats.peak_exports = self.exports.peak_running
        self._stats.worked, self._stats.longest = self.exports.worked, self.exports.longest
        self._stats.faults = dict(self.faults.injected)
        return self._stats

    async def distinct_ids(self) -> int:
        """Count the distinct ids in all finished exports."""
        return await to_thread.run_sync(self.exports.distinct_ids)

    async def __aenter__(self) -> Self:
        await self._background.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._background.stop()

    async def _run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled."""
        async with AsyncExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bulkpull-sandbox-"))
            storage = None
            if self.config.store:
                opening = open_storage(self.config.store, self.config.link_seconds)
                storage = await to_thread.run_sync(stack.enter_context, opening)
            self.exports = Exports(
                Path(directory),
                workers=self.config.workers,
                seconds=self.config.export_seconds,
                rows_per_file=self.config.rows_per_file,
                seed=self.config.seed,
                faults=self.faults,
                storage=storage,
            )
            self.files = FileOrigin(self.config, self.exports, self.faults, self._stats)
            self.files.url = await self._serve(stack, self.files.app(), 0)
            self.tasks = TaskRoutes(self.exports, self.files, self.faults, self._launch)
            self.url = await self._serve(stack, self._api_app(), self.config.port) + API
            # Last, so that the error for a port in use is not wrapped in an exception group.
            self._group = await stack.enter_async_context(anyio.create_task_group())
            ready()
            await anyio.sleep_forever()

    def _launch(self, filter: str, fields: tuple[str, ...]) -> Task:
        """Start an export of the activities as they are now. Raises FilterError."""
        activities = self._activities(self._history.export_delay_s if self._history else 0.0)
        task = self.exports.start(select(activities, filter), filter, fields or activities.default_fields)
        self._group.start_soon(self.exports.run, task)
        return task

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
        app = web.Application(
            middlewares=[self._count_requests, self._inject_faults, self._add_long_header, self._authorize]
        )
        app.router.add_post(f"{API}/tasks/export/activity", self.tasks.launch)
        app.router.add_get(f"{API}/tasks/export/{{id}}", self.tasks.status)
        app.router.add_get(f"{API}/activity", self._activity)
        app.router.add_get(f"{API}/sites/{{id}}/exportFields", self._export_fields)
        app.router.add_get("/sandbox", self._report)
        app.router.add_post("/sandbox", self._set_clock)
        return app

    @web.middleware
    async def _count_requests(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == "/sandbox":
            return await handler(request)
        resource = request.match_info.route.resource
        route = f"{request.method} {resource.canonical if resource else request.path}"
        self._stats.requests[route] = self._stats.requests.get(route, 0) + 1
        self._requests += 1
        self._stats.peak_requests = max(self._stats.peak_requests, self._requests)
        try:
            return await handler(request)
        finally:
            self._requests -= 1

    @web.middleware
    async def _inject_faults(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Inject the faults that occur before or after a request is processed."""
        if request.path == "/sandbox":
            return await handler(request)
        if self.faults.outage(anyio.current_time()):
            return reset(request)
        # Keyed by the filter, which is reproducible, and not by the export's id, which is random.
        task = self.exports.tasks.get(request.match_info.get("id", ""))
        fault = self.faults.draw_fault("api", request.method, task.filter if task else request.path_qs)
        match fault:
            case None:
                return await handler(request)
            case Fault("server-error"):
                return server_error(fault)
            case Fault("throttle"):
                return error_response(429, "RateLimitExceededError", "Rate limit exceeded", {"Retry-After": "1"})
            case Fault("html"):
                return html_page()
            case Fault("hang"):
                await anyio.sleep(self.faults.seconds)
            case Fault("lost"):
                answer = await handler(request)
                self._stats.lost_posts += request.method == "POST" and answer.status == 200
        return reset(request)

    @web.middleware
    async def _add_long_header(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await handler(request)
        if self.faults.has("headers-long") and self.faults.note("headers-long"):
            answer.headers["Content-Security-Policy"] = _LONG_POLICY
        return answer

    @web.middleware
    async def _authorize(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check the rate limit, then the token, and turn the routes' exceptions into error responses."""
        if request.path == "/sandbox":
            return await handler(request)
        authorized = request.headers.get("Authorization") == f"Bearer {self.config.token}"
        limit, key = (
            (self._authenticated, self.config.token) if authorized else (self._unauthenticated, str(request.remote))
        )
        wait = limit.retry_after(key, anyio.current_time())
        if wait is not None:
            self._stats.throttled += 1
            return error_response(429, "RateLimitExceededError", "Rate limit exceeded", {"Retry-After": str(wait)})
        if not authorized:
            self._stats.unauthorized += 1
            return error_response(401, "UnauthorizedError", "Invalid or missing access token")
        try:
            return await handler(request)
        except FilterError as error:
            return error_response(400, "BadRequestError", str(error))
        except web.HTTPException as error:
            return error_response(error.status, f"{type(error).__name__.removeprefix('HTTP')}Error", error.reason)

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
        selection = counted = select(self._activities(), query.get("filter", ""))
        if self._history and self._history.count_delay_s:
            counted = select(self._activities(self._history.count_delay_s), query.get("filter", ""))
        first = (page - 1) * per_page
        is_counting = query.get("no_count") != "true"
        if is_counting and (not self.config.counting or self.counting.refuses()):
            raise web.HTTPForbidden(reason="This token may not count")
        rows, has_more, total = await to_thread.run_sync(
            self._page, selection, counted if is_counting else None, first, per_page, sort.startswith("-")
        )
        lean = query.get("lean") == "true"
        fields = tuple(filter(None, query.get("fields", "").split(",")))
        answer: dict[str, Any] = {"page": page, "per_page": per_page, "count": len(rows)}
        if is_counting:
            answer["total_count"] = self.counting.reported_total(total)
        known = selection.activities.fields
        data = [to_json(known, row, lean=lean, fields=fields) for row in rows]
        return json_response(answer | {"has_more": has_more, "data": data})

    def _page(
        self, selection: Selection, counted: Selection | None, first: int, per_page: int, descending: bool
    ) -> tuple[list[tuple[str | None, ...]], bool, int]:
        """Return the rows of a page, whether there are more, and the count of `counted`."""
        numbers, matches, row = selection.numbers, selection.matches, selection.activities.row
        ordered = reversed(numbers) if descending else numbers
        if matches is None:
            matching = islice(map(row, islice(ordered, first, None)), per_page + 1)
        else:
            matching = islice((row(number) for number in ordered if matches(row(number))), first, first + per_page + 1)
        rows = list(matching)
        return rows[:per_page], len(rows) > per_page, self._count(counted) if counted else 0

    def _count(self, selection: Selection) -> int:
        numbers = self.counting.countable(selection.numbers, selection.activities.rows)
        matches, row = selection.matches, selection.activities.row
        return len(numbers) if matches is None else sum(matches(row(number)) for number in numbers)

    async def _export_fields(self, _request: web.Request) -> web.Response:
        return json_response({"data": [{"field": name} for name in self._activities().fields]})

    async def _report(self, request: web.Request) -> web.Response:
        """Return the statistics, and with `?ids` the number of distinct ids. Not part of the Clickwrap API."""
        report = asdict(self.stats) | ({"now": self._now.isoformat()} if self._history else {})
        if "ids" in request.query:
            report["distinct_ids"] = await self.distinct_ids()
        return json_response(report)

    async def _set_clock(self, request: web.Request) -> web.Response:
        """Set `now` to the parameter of that name. Not part of the Clickwrap API."""
        try:
            self.now = parse_moment(request.query.get("now", ""))
        except FilterError as error:
            return error_response(400, "BadRequestError", str(error))
        return json_response({"now": self._now.isoformat()})
