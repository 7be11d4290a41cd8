"""The API routes of export tasks: launch and status."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
from aiohttp import web

from bulkpull.sandbox.exports import Exports, Task
from bulkpull.sandbox.faults import Faults
from bulkpull.sandbox.files import FileOrigin
from bulkpull.sandbox.responses import error_response, json_response

_REFUSALS = {
    200: "Too many exports are being made",
    400: "Too many jobs in queue",
    403: "The limit of concurrent exports of this account is reached",
    409: "You already have active export requests",
    429: "Too many exports are being made",
    503: "The export queue is full",
}
_WHILE_RUNNING = {409: "ConflictError", 425: "TooEarlyError"}
_A_DAY_LATER = {429: "RateLimitExceededError", 503: "ServiceUnavailableError"}
_OTHER_WORDS = {
    "pending": ("queued", "Waiting"),
    "scheduled": ("Scheduled", "QUEUED"),
    "started": ("RUNNING", "in_progress", "processing"),
    "success": ("completed", "Done", "complete", "SUCCEEDED", "Success", "finished"),
    "failed": ("error", "cancelled", "canceled", "expired", "aborted", "FAILED"),
}
_UNKNOWN_STATUS = "bottled"
_NO_LINKS: tuple[dict[str, Any], ...] = ({}, {"links": None}, {"links": []})


class TaskRoutes:
    """The two routes. `start` starts a task, given the filter and the fields, of which none means the default ones."""

    def __init__(
        self, exports: Exports, files: FileOrigin, faults: Faults, start: Callable[[str, tuple[str, ...]], Task]
    ) -> None:
        self._exports = exports
        self._files = files
        self._faults = faults
        self._start = start

    async def launch(self, request: web.Request) -> web.Response:
        """`POST /tasks/export/activity`."""
        if refusal := self._refusal():
            return refusal
        fields = tuple(filter(None, request.query.get("fields", "").split(",")))
        task = self._start(request.query.get("filter", ""), fields)
        answer = json_response({"data": self._describe(task)})
        if self._faults.has("launch-slow") and self._faults.note("launch-slow"):
            await anyio.sleep(self._faults.value("launch-slow"))
        return answer

    def _refusal(self) -> web.Response | None:
        """Return the refusal of a launch, if a mode limits the exports in flight."""
        for status, message in _REFUSALS.items():
            kind = f"launch-refused-{status}"
            if self._faults.has(kind) and self._exports.in_flight >= self._faults.value(kind):
                self._faults.note(kind)
                inner_status = 409 if status == 200 else status
                headers = {"Retry-After": "1"} if status == 429 else None
                return error_response(inner_status, "TooManyExportsError", message, headers, sent_as=status)
        return None

    async def status(self, request: web.Request) -> web.Response:
        """`GET /tasks/export/{id}`."""
        faults, task = self._faults, self._exports.find(request.match_info["id"])
        if task is None:
            raise web.HTTPNotFound(reason="No such task")
        task.polls += 1
        if faults.has("status-404-first") and task.polls <= faults.value("status-404-first"):
            faults.note("status-404-first")
            raise web.HTTPNotFound(reason="No such task")
        for status, name in _A_DAY_LATER.items():
            if faults.has(kind := f"retry-after-day-{status}"):
                faults.note(kind)
                return error_response(status, name, "Please come back later", {"Retry-After": "86400"})
        if task.running:
            for status, name in _WHILE_RUNNING.items():
                if faults.has(kind := f"status-{status}"):
                    faults.note(kind)
                    return error_response(status, name, "The export is not ready")
            if faults.has("status-202") and faults.note("status-202"):
                return json_response({"message": "In progress"}, 202)
            if faults.has("status-204") and faults.note("status-204"):
                return web.Response(status=204)
        return json_response({"data": self._describe(task)})

    def _describe(self, task: Task) -> dict[str, Any]:
        """Return the JSON object of a task."""
        status, links = task.status, self._links(task)
        if status == "success" and self._faults.has("status-flaps") and task.successes == 2:
            self._faults.note("status-flaps")
            status, links = "started", {}
        active = status not in ("success", "failed")
        if status == "success" and links.get("links") and self._faults.has("status-unknown"):
            self._faults.note("status-unknown")
            status = _UNKNOWN_STATUS
        elif self._faults.has("status-words") and self._faults.note("status-words"):
            words = _OTHER_WORDS[status]
            status = words[task.number % len(words)]
        answer: dict[str, Any] = {
            "status": status,
            "source": "api",
            "retry_count": 0,
            "active": active,
            "job_name": "GenerateExportCSV",
            "created_by": 9785,
            "account": 2785,
            "site": 5193,
            "created_time": task.created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "data": {"exportName": "action", "exportType": "Action", "sendTo": "someone@example.com"},
            "id": task.id,
        }
        if task.message:
            answer["message"] = task.message
        return answer | links

    def _links(self, task: Task) -> dict[str, Any]:
        """Return the property `links`, if the task has it."""
        if task.status != "success":
            return {}
        faults, number = self._faults, len(task.files)
        task.successes += 1
        none = _NO_LINKS[task.number % len(_NO_LINKS)]
        if number and faults.has("links-late") and task.successes <= faults.value("links-late"):
            faults.note("links-late")
            return none
        if task.fault == "links-never" or (faults.has("status-flaps") and task.successes == 1):
            return none
        return {"links": [self._files.link(task, number) for number in range(number)]}
