"""The export routes of an odd server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson

from tests.simulation.clock import loop_time
from tests.simulation.odd_files import file_of
from tests.simulation.wire import End, Request, Step, json_response, response

if TYPE_CHECKING:
    from tests.simulation.odd_server import OddServer

_LAUNCHED_ALL_THE_SAME = frozenset({"500 after", "502 after", "reset after", "close after", "hang after", "no id"})
_SUCCESS = {"upper": "SUCCESS", "capitalised": "Success", "blank around": " success ", "unknown inactive": "exported",
            "unknown active": "exported", "unknown silent": "exported"}  # fmt: skip
_IDS: dict[str, Callable[[int], Any]] = {
    "integer": lambda number: 70_000 + number,
    "gid": lambda number: f"gid://shop/BulkOperation/{number}?x=1",
    "blank": lambda number: f"export {number}",
    "unicode": lambda number: f"exportä{number}",
    "slash": lambda number: f"a/{number}",
    "dots": lambda number: f"../{number}",
    "long": lambda number: f"{number:0300d}",
    "percent": lambda number: f"a%2F{number}",
}


@dataclass(slots=True)
class Task:
    """An export of the rows of a time span; `withheld` rows match, but are not in its files."""

    id: Any
    start: datetime
    end: datetime
    rows: list[int]
    withheld: set[int]
    launched: float
    finished: float
    failure: str | None = None
    message: str | None = None
    empty_form: Any = None  # the form of a file without rows
    files: list[bytes] = field(default_factory=list)
    links_late: Any = None
    late_polls: int = 0
    fewer_at_first: bool = False
    started_again: int = 0
    polls_done: int = 0
    shown: int = 0  # the highest number of links in a response


def post(server: OddServer, request: Request) -> Iterator[Step]:
    now = loop_time()
    busy = server.oddities.now("busy")
    if busy and sum(task.finished > now for task in server.tasks.values()) >= busy[0]:
        message = "you already have active export requests: too many jobs in queue"
        yield json_response(busy[1], {"error": {"message": message, "status": busy[1]}})
        return
    odd = server.oddities.now("launch")
    match odd:
        case "error 200":
            yield json_response(200, {"error": {"message": "not today", "status": 500}})
            return
        case "reset before":
            yield End.RESET
            return
        case "404" | "500" | "400" | "409":
            yield json_response(int(odd), {"error": {"message": "no", "status": int(odd)}})
            return
        case "502 html":
            yield noise_response(502, "html")
            return
    task = launch(server, request)
    if odd in _LAUNCHED_ALL_THE_SAME or odd in ("204 after", "empty after", "list", "slow 300"):
        server.lost += 1
    match odd:
        case "slow 70" | "slow 300":
            yield float(odd.removeprefix("slow "))
        case "reset after":
            yield End.RESET
            return
        case "close after":
            yield End.CLOSE
            return
        case "hang after":
            yield End.HANG
            return
        case "500 after" | "502 after":
            yield noise_response(int(odd[:3]), "html")
            return
        case "204 after" | "empty after":
            yield response(204 if odd == "204 after" else 200)
            return
    yield _launched(server, task, odd)


def _launched(server: OddServer, task: Task, odd: Any) -> bytes:
    """Return the response to a launch, in one of its shapes."""
    data = _object(server, task, "pending")
    status, answer = 200, {"data": data}
    if odd == "no id":
        del data["id"]
    elif odd == "list":
        return json_response(200, {"data": [data]})
    match server.oddities.now("launch shape"):
        case "bare":
            answer = data
        case "nested":
            answer = {"data": {"data": data}}
            server.lost += 1  # not a documented shape
        case "no status":
            del data["status"]
            server.lost += 1
        case "null status":
            data["status"] = None
            server.lost += 1
        case "odd status":
            data["status"] = "Accepted for processing"
            server.lost += 1
        case "201":
            status = 201
        case "202":
            status = 202
        case "success":
            data["status"] = "success"
    return json_response(status, answer)


def launch(server: OddServer, request: Request) -> Task:
    """Create an export; its outcome is determined now, but not yet visible."""
    now, draw, odd = loop_time(), server.draw, server.oddities
    start, end, selected = server.selected(request)
    rows = list(selected)
    server.launches += 1
    number = len(server.tasks)
    form = odd.now("id")
    id = _IDS[form](number) if form else f"{number + 1:024x}"
    worker = server._free.index(min(server._free))
    began = max(now, server._free[worker])
    finished = began + server.seconds * draw.uniform(0.3, 1.7)
    if (stuck := odd.now("stuck")) and (stuck == "all" or draw.random() < (0.3 if stuck == "some" else 0.15)):
        finished = float("inf")
    else:
        server._free[worker] = finished
    task = Task(id, start, end, rows, set(), now, finished)
    server.tasks[str(id)] = task
    _decide(server, task)
    if task.failure is None:
        given = [row for row in rows if row not in task.withheld]
        parts = (odd.now("parts") or 1) if given else 1
        task.files = [file_of(server, task, given[part::parts], part) for part in range(parts)]
        if not given and task.empty_form == "no links":
            task.files = []
    return task


def _decide(server: OddServer, task: Task) -> None:
    """Determine whether the export fails, and which rows it withholds."""
    odd, draw, rows = server.oddities, server.draw, task.rows
    fails = odd.now("fails")
    hopeless = (
        fails == "all"
        or (fails == "some" and draw.random() < 0.5)
        or (fails in ("too many records", "too large") and len(rows) > 8)
        or (fails == "poisoned" and server.poisoned in rows)
    )
    if hopeless:
        task.failure = "failed"
        task.message = "too many records" if fails == "too many records" else None
        return
    if (cap := odd.now("cap")) and len(rows) > cap:
        task.withheld |= set(rows[cap:])
    match odd.now("late rows"):
        case "newest":
            task.withheld |= {row for row in rows if row >= len(server.moments) * 0.9}
        case "some":
            task.withheld |= {row for row in rows if draw.random() < 0.2}
    task.empty_form = odd.now("emptied" if rows else "empty file")
    if rows and task.empty_form:
        task.withheld |= set(rows)
    task.links_late = odd.now("links late")
    task.late_polls = draw.randint(1, 3) if task.links_late else 0
    task.started_again = 2 if odd.now("started again") else 0


def _object(server: OddServer, task: Task, status: str) -> dict[str, Any]:
    return {"status": status, "source": "api", "retry_count": 0, "active": True, "job_name": "GenerateExportCSV",
            "data": {"exportName": "action", "exportType": "Action", "sendTo": "someone@example.com"},
            "id": task.id}  # fmt: skip


def status(server: OddServer, id: str) -> Iterator[Step]:
    now, odd = loop_time(), server.oddities
    task = server.tasks.get(id)
    if task is None:
        if id != "f" * 24:
            server.wrongs.append(f"no such export: {id!r}")
        yield json_response(404, {"error": {"message": "no such export", "status": 404}})
        return
    if (young := odd.now("404 at first")) and now < task.launched + young:
        yield json_response(404, {"error": {"message": "not found", "status": 404}})
        return
    odd_answer = odd.now("status answer")
    if isinstance(odd_answer, int) and (now < task.finished or odd_answer not in (202, 204, 409, 425)):
        body = {} if odd_answer in (204, 304) else {"error": {"message": "the job is running", "status": 409}}
        yield response(odd_answer) if odd_answer in (204, 304) else json_response(odd_answer, body)
        return
    value = _object(server, task, "started")
    top: dict[str, Any] = {"data": value}
    if now < task.finished:
        usual = "scheduled" if now < task.finished - server.seconds else "started"
        word = odd.now("running word") or usual
        value["status"] = "reticulating" if word == "unknown" else word
    elif task.failure:
        word = odd.now("failed word")
        value["status"], value["active"] = word or "failed", False
        if word == "unknown inactive":
            value["status"] = "kaput"
        if task.message:
            value["message"] = task.message
    else:
        _succeeded(server, task, value, top)
    if odd_answer == "no status":
        del value["status"]
    elif odd_answer == "other id":
        value["id"] = "f" * 24
    yield json_response(200, top)


def _succeeded(server: OddServer, task: Task, value: dict[str, Any], top: dict[str, Any]) -> None:
    """Add the result of a finished export to its object and to the top level of the response."""
    odd = server.oddities
    task.polls_done += 1
    if 1 < task.polls_done <= 1 + task.started_again:
        return
    word = odd.now("word")
    value["status"] = _SUCCESS.get(word, word) or "success"
    value["active"] = word == "unknown active"
    if word == "unknown silent":
        del value["active"]
    if task.polls_done <= task.late_polls:
        if task.links_late != "absent":
            value["links"] = orjson.loads(task.links_late)
        return
    links = [_link(server, task, part) for part in range(len(task.files))]
    later = odd.now("links change") if task.polls_done > 1 + task.late_polls else None
    match later:
        case "fewer":
            links = links[:-1]
        case "more":
            links += links[:1]
        case "order":
            links.reverse()
        case "none later":
            links = []
        case "doubled":
            links = [link for link in links for _ in range(2)]
    task.shown = max(task.shown, len(links))
    shape = odd.now("links shape")
    shown: Any = links
    match shape:
        case "objects":
            shown = [{"url": link, "expires": 3600} for link in links]
        case "href":
            shown = [{"href": link} for link in links]
        case "numbered":
            shown = {str(number): link for number, link in enumerate(links)}
        case "one string" if len(links) == 1:
            shown = links[0]
        case "one object" if len(links) == 1:
            shown = {"link": links[0]}
        case "mixed":
            shown = [link if number % 2 else {"url": link} for number, link in enumerate(links)]
        case "null among":
            shown = [None, *links]
    if shape == "top":
        top["links"] = shown
    elif shape == "data":
        value["data"]["links"] = shown
    else:
        value["links"] = shown


def _link(server: OddServer, task: Task, part: int) -> str:
    """Return a signed link, in one of its forms, and remember the target that the host should receive."""
    form = server.oddities.now("link form")
    now = loop_time()
    name = {"blank": "&name=my file.csv", "umlaut": "&name=Aktivitäten.csv"}.get(form, "")
    place = list(server.tasks.values()).index(task)
    target = f"/{place}/{part}.csv?X-Sig=a%2Fb%2bc==~(d)'e&at={now:.3f}{name}"
    server.issued[quote(target, safe="/?&=%~()'+,.-_")] = task, part, now
    match form:
        case "relative":
            return target
        case "scheme relative":
            return f"//files.example{target}"
        case "http":
            return f"http://files.example{target}"
        case "fragment":
            return f"https://files.example{target}#page=1"
        case "no url":
            return "https://["
        case "credentials":
            return f"https://user:secret@files.example{target}"
    return f"https://files.example{target}"


def noise_response(status: int, form: str) -> bytes:
    """Return an unusable response."""
    headers = []
    if form.startswith("retry"):
        seconds = form.removeprefix("retry ")
        headers = [("Retry-After", seconds)]
    if form == "elsewhere":
        headers = [("Location", "https://elsewhere.example/")]
    body = {
        "json": b'{"error": {"message": "something is wrong", "status": %d}}' % status,
        "html": b"<!doctype html><title>Oops</title><p>It was not us.",
        "list": b"[]",
        "error": b'{"error": {"message": "not today", "status": 500}}',
        "cut json": b'{"data": {"id": "5f8',
        "null": b"null",
        "deep": b"[" * 5000 + b"]" * 5000,
        "latin": b"Verf\xfcgbarkeit\x00\x1b[2J",
    }.get(form, b"")
    return response(status, body, headers)
