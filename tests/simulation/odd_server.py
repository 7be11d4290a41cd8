"""An API and a file host that answer by the grammar, and remember what they told: what the oracle is made of."""

from __future__ import annotations

import random
import re
import traceback
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote, unquote

import anyio
import orjson

from bulkpull.sandbox.quota import RateLimit
from bulkpull.window import instant
from tests.simulation.odd_files import file_answer, file_of
from tests.simulation.oddities import Oddities
from tests.simulation.wire import End, Request, Step, json_response, response

API_HOST = "api.example"
MAX_REQUESTS = 3_000  # of one pull: more are as good as endless
_BOUNDS = re.compile(r"created_time>=(\S+) and created_time<(\S+)")
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
    """An export of the rows of a span, as it was asked for: `withheld` rows match and are not in its files."""

    id: Any
    start: datetime
    end: datetime
    rows: list[int]
    withheld: set[int]
    launched: float
    finished: float
    failure: str | None = None
    message: str | None = None
    empty_form: Any = None  # what its file looks like, where that holds no row
    files: list[bytes] = field(default_factory=list)
    links_late: Any = None
    late_polls: int = 0
    fewer_at_first: bool = False
    started_again: int = 0
    polls_done: int = 0
    shown: int = 0  # the most links that an answer gave


@dataclass(frozen=True, slots=True)
class Told:
    """What the list route last said of a span: a number, where it gave one, and whether it showed activity."""

    counted: int | None
    showed: bool


@dataclass(slots=True)
class OddServer:
    """The site's activities are `moments`, in order; their numbers are their ids."""

    seed: int
    moments: Sequence[datetime]
    oddities: Oddities
    seconds: float = 5.0  # that an export takes
    workers: int = 3
    quota: int = 2000
    tasks: dict[str, Task] = field(default_factory=dict)
    told: dict[tuple[datetime, datetime], Told] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    requests: int = 0
    launches: int = 0  # requests to launch that were acted upon
    asked: int = 0  # requests to launch
    lost: int = 0  # launches whose answer did not come, or said nothing that helps
    throttled: int = 0  # requests beyond the quota
    wrongs: list[str] = field(default_factory=list)  # what no client may do
    give_up: Callable[[], None] = lambda: None
    issued: dict[str, tuple[Task, int, float]] = field(default_factory=dict)  # by target, as it should arrive
    draw: random.Random = field(init=False)
    poisoned: int = field(init=False)
    _free: list[float] = field(init=False)
    _quota: RateLimit = field(init=False)

    def __post_init__(self) -> None:
        self.draw = random.Random(f"server {self.seed}")
        self.poisoned = self.draw.randrange(max(1, len(self.moments)))
        self._free = [0.0] * self.workers
        self._quota = RateLimit(self.quota)

    # The wire

    def serve(self, request: Request) -> Iterator[Step]:
        try:
            yield from self._serve(request)
        except Exception:
            self.wrongs.append(f"the server itself: {traceback.format_exc(limit=-3)}")
            yield End.RESET

    def _serve(self, request: Request) -> Iterator[Step]:
        self.requests += 1
        if self.requests == MAX_REQUESTS:
            self.give_up()
        yield self.draw.uniform(0.02, 0.3)
        if request.host == API_HOST:
            yield from self._api(request)
            return
        if "authorization" in request.headers:
            self.wrongs.append("the token was sent to a file host")
        yield from file_answer(self, request)

    def note(self, text: str) -> None:
        self.log.append(f"{anyio.current_time():9.2f}  {text}")

    def noise(self, kind: Any, whole: bytes, what: str) -> Iterator[Step]:
        """Something else than the answer `whole`, or that one sent oddly."""
        self.note(f"{what} -> {kind}")
        match kind:
            case (int() as status, str() as form):
                yield _noise(status, form)
            case "reset":
                yield End.RESET
            case "close":
                yield End.CLOSE
            case "hang":
                yield End.HANG
            case "garbage":
                yield b"\x15\x03\x01 what is this\r\n\r\n"
                yield End.CLOSE
            case "slow body":
                third = len(whole) // 3
                for piece in (whole[:third], whole[third : 2 * third], whole[2 * third :]):
                    yield piece
                    yield 20.0
            case "cut body":
                yield whole[:-20]
                yield End.CLOSE
            case "early hints":
                yield b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n" + whole
            case "12 KB header" | "70 KB header":
                size = 12_000 if kind == "12 KB header" else 70_000
                first, _, rest = whole.partition(b"\r\n")
                yield first + b"\r\nContent-Security-Policy: " + b"a" * size + b"\r\n" + rest
            case "slow":
                yield 70.0
                yield whole
            case "bad encoding":
                first, _, rest = whole.partition(b"\r\n")
                yield first + b"\r\nContent-Encoding: gzip\r\n" + rest
            case _:
                raise AssertionError(kind)

    # The API

    def _api(self, request: Request) -> Iterator[Step]:
        launching = request.method == "POST"
        what = _short(request)
        self.asked += launching
        if self._quota.retry_after("token", anyio.current_time()) is not None:
            self.throttled += 1
            self.note(f"{what} -> 429, beyond the quota")
            yield response(429, headers=[("Retry-After", "60")])
            return
        if request.headers.get("authorization") != "Bearer a-token":
            self.wrongs.append("a request without the token")
        noise = self.oddities.now("api noise")
        if noise is not None and _destroys(noise):
            if launching and _may_be_done(noise) and self.draw.random() < 0.5:
                self._launch(request)
                self.lost += 1
                what += " (launched)"
            yield from self.noise(noise, b"", what)
            return
        steps = self._route(request)
        whole = next((step for step in steps if isinstance(step, bytes)), None) if noise is not None else None
        if whole is not None:
            self.lost += launching  # it may well be
            yield from self.noise(noise, whole, what)
            return
        for step in steps:
            if isinstance(step, bytes):
                self.note(f"{what} -> {_summary(step)}")
                framing = self.oddities.now("api framing")
                if framing and b"\r\nContent-Length" in step:
                    head, _, body = step.partition(b"\r\n\r\n")
                    yield _reframed(int(head.split()[1]), body, framing)
                    if framing != "chunked":
                        yield End.CLOSE
                    continue
            elif isinstance(step, End):
                self.note(f"{what} -> {step.value}")
            yield step

    def _route(self, request: Request) -> Iterator[Step]:
        path = request.path.removeprefix("/v1.1")
        if request.method == "POST" and path == "/tasks/export/activity":
            return self._post(request)
        if path == "/activity":
            return self._list(request)
        if path.startswith("/tasks/export/"):
            return self._status(unquote(path.removeprefix("/tasks/export/")))
        self.wrongs.append(f"no such route: {path}")
        return iter([json_response(404, {"error": {"message": "no such route", "status": 404}})])

    def selected(self, request: Request) -> tuple[datetime, datetime, range]:
        match = _BOUNDS.search(request.query.get("filter", ""))
        bounds = match.groups() if match else ("0001-01-01T00:00:00Z", "9999-01-01T00:00:00Z")
        start, end = (datetime.fromisoformat(bound) for bound in bounds)
        return start, end, range(bisect_left(self.moments, start), bisect_left(self.moments, end))

    def _list(self, request: Request) -> Iterator[Step]:
        start, end, rows = self.selected(request)
        per_page, page = int(request.query.get("per_page", 25)), int(request.query.get("page", 1))
        style = self.oddities.now("count")
        if isinstance(style, int) and style is not True:
            yield json_response(style, {"error": {"message": "counting is refused", "status": style}})
            return
        if style == "hang":
            yield End.HANG
            return
        if style == "slow":
            yield self.draw.choice((20.0, 50.0, 100.0))
        here = rows[(page - 1) * per_page : page * per_page]
        data: Any = [self._activity(number) for number in here]
        data_style = self.oddities.now("count data")
        match data_style:
            case "empty":
                data = []
            case "always one":
                data = data or [{"event_type": "agreed"}]
            case "many":
                data = data * 30
            case "null":
                data = None
            case "strings":
                data = [str(number) for number in here]
        more = bool(rows[page * per_page :])
        answer: dict[str, Any] = {"page": page, "per_page": per_page, "count": len(here), "has_more": more}
        if request.query.get("no_count") != "true":
            answer |= self._counted(style, rows)
        answer["data"] = data
        number = answer.get("total_count")
        if isinstance(number, str):
            number = int(number) if number.isdigit() else None
        whole = isinstance(number, int | float) and not isinstance(number, bool) and number >= 0
        showed = bool(here) and data_style not in ("empty", "null", "strings")
        if data_style not in ("null", "strings") and style not in ("list", "no page"):
            self.told[start, end] = Told(int(number) if whole and number is not None else None, showed)
        yield json_response(200, [answer] if style == "list" else {"ok": True} if style == "no page" else answer)

    def _counted(self, style: Any, rows: range) -> dict[str, Any]:
        """`total_count`, in that style."""
        n, total = len(rows), len(self.moments)
        uses = self.requests
        match style:
            case "capped":
                return {"total_count": min(n, 7)}
            case "zero":
                return {"total_count": 0}
            case "half":
                return {"total_count": n // 2}
            case "lagging":
                return {"total_count": len([row for row in rows if row < total * 0.9])}
            case "string":
                return {"total_count": str(n)}
            case "float":
                return {"total_count": float(n)}
            case "null":
                return {"total_count": None}
            case "absent":
                return {}
            case "negative":
                return {"total_count": -n - 1}
            case "text":
                return {"total_count": "many"}
            case "growing":
                return {"total_count": max(0, n - max(0, 8 - uses // 2))}
            case "shrinking":
                return {"total_count": n + max(0, 8 - uses // 2)}
            case "rounded":
                return {"total_count": round(n / 5) * 5}
            case "off":
                return {"total_count": max(0, n + self.draw.randint(-2, 2))}
            case "huge":
                return {"total_count": 10**15}
            case "true":
                return {"total_count": True}
        return {"total_count": n}

    def _activity(self, number: int) -> dict[str, Any]:
        created = instant(self.moments[number])
        return {"id": f"{number:024x}", "event_type": "agreed", "created_time": created, "signer_id": str(number % 97)}

    # Exports

    def _post(self, request: Request) -> Iterator[Step]:
        now = anyio.current_time()
        busy = self.oddities.now("busy")
        if busy and sum(task.finished > now for task in self.tasks.values()) >= busy[0]:
            message = "you already have active export requests: too many jobs in queue"
            yield json_response(busy[1], {"error": {"message": message, "status": busy[1]}})
            return
        odd = self.oddities.now("launch")
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
                yield _noise(502, "html")
                return
        task = self._launch(request)
        if odd in _LAUNCHED_ALL_THE_SAME or odd in ("204 after", "empty after", "list", "slow 300"):
            self.lost += 1
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
                yield _noise(int(odd[:3]), "html")
                return
            case "204 after" | "empty after":
                yield response(204 if odd == "204 after" else 200)
                return
        yield self._launched(task, odd)

    def _launched(self, task: Task, odd: Any) -> bytes:
        """The answer to a launch, in one of its shapes."""
        data = self._object(task, "pending")
        status, answer = 200, {"data": data}
        if odd == "no id":
            del data["id"]
        elif odd == "list":
            return json_response(200, {"data": [data]})
        match self.oddities.now("launch shape"):
            case "bare":
                answer = data
            case "nested":
                answer = {"data": {"data": data}}
                self.lost += 1  # no shape that anything documents
            case "no status":
                del data["status"]
                self.lost += 1
            case "null status":
                data["status"] = None
                self.lost += 1
            case "odd status":
                data["status"] = "Accepted for processing"
                self.lost += 1
            case "201":
                status = 201
            case "202":
                status = 202
            case "success":
                data["status"] = "success"
        return json_response(status, answer)

    def _launch(self, request: Request) -> Task:
        """A new export: what will come of it is decided, though nobody knows."""
        now, draw, odd = anyio.current_time(), self.draw, self.oddities
        start, end, selected = self.selected(request)
        rows = list(selected)
        self.launches += 1
        number = len(self.tasks)
        form = odd.now("id")
        id = _IDS[form](number) if form else f"{number + 1:024x}"
        worker = self._free.index(min(self._free))
        began = max(now, self._free[worker])
        finished = began + self.seconds * draw.uniform(0.3, 1.7)
        if (stuck := odd.now("stuck")) and (stuck == "all" or draw.random() < (0.3 if stuck == "some" else 0.15)):
            finished = float("inf")
        else:
            self._free[worker] = finished
        task = Task(id, start, end, rows, set(), now, finished)
        self.tasks[str(id)] = task
        self._decide(task)
        if task.failure is None:
            given = [row for row in rows if row not in task.withheld]
            parts = (odd.now("parts") or 1) if given else 1
            task.files = [file_of(self, task, given[part::parts], part) for part in range(parts)]
            if not given and task.empty_form == "no links":
                task.files = []
        return task

    def _decide(self, task: Task) -> None:
        """Whether the export fails, and what it withholds."""
        odd, draw, rows = self.oddities, self.draw, task.rows
        fails = odd.now("fails")
        hopeless = (
            fails == "all"
            or (fails == "some" and draw.random() < 0.5)
            or (fails in ("too many records", "too large") and len(rows) > 8)
            or (fails == "poisoned" and self.poisoned in rows)
        )
        if hopeless:
            task.failure = "failed"
            task.message = "too many records" if fails == "too many records" else None
            return
        if (cap := odd.now("cap")) and len(rows) > cap:
            task.withheld |= set(rows[cap:])
        match odd.now("late rows"):
            case "newest":
                task.withheld |= {row for row in rows if row >= len(self.moments) * 0.9}
            case "some":
                task.withheld |= {row for row in rows if draw.random() < 0.2}
        task.empty_form = odd.now("emptied" if rows else "empty file")
        if rows and task.empty_form:
            task.withheld |= set(rows)
        task.links_late = odd.now("links late")
        task.late_polls = draw.randint(1, 3) if task.links_late else 0
        task.started_again = 2 if odd.now("started again") else 0

    def _object(self, task: Task, status: str) -> dict[str, Any]:
        return {"status": status, "source": "api", "retry_count": 0, "active": True, "job_name": "GenerateExportCSV",
                "data": {"exportName": "action", "exportType": "Action", "sendTo": "someone@example.com"},
                "id": task.id}  # fmt: skip

    def _status(self, id: str) -> Iterator[Step]:
        now, odd = anyio.current_time(), self.oddities
        task = self.tasks.get(id)
        if task is None:
            if id != "f" * 24:
                self.wrongs.append(f"no such export: {id!r}")
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
        value = self._object(task, "started")
        top: dict[str, Any] = {"data": value}
        if now < task.finished:
            usual = "scheduled" if now < task.finished - self.seconds else "started"
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
            self._succeeded(task, value, top)
        if odd_answer == "no status":
            del value["status"]
        elif odd_answer == "other id":
            value["id"] = "f" * 24
        yield json_response(200, top)

    def _succeeded(self, task: Task, value: dict[str, Any], top: dict[str, Any]) -> None:
        """Writes what a finished export shows into its object and the answer's top."""
        odd = self.oddities
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
        links = [self._link(task, part) for part in range(len(task.files))]
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

    def _link(self, task: Task, part: int) -> str:
        """A signed link, in one of its forms; what should arrive of it is remembered."""
        form = self.oddities.now("link form")
        now = anyio.current_time()
        name = {"blank": "&name=my file.csv", "umlaut": "&name=Aktivitäten.csv"}.get(form, "")
        place = list(self.tasks.values()).index(task)
        target = f"/{place}/{part}.csv?X-Sig=a%2Fb%2bc==~(d)'e&at={now:.3f}{name}"
        self.issued[quote(target, safe="/?&=%~()'+,.-_")] = task, part, now
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


def _reframed(status: int, body: bytes, framing: str) -> bytes:
    if framing == "http/1.0":
        return response(status, body, framing="close", version="1.0")
    return response(status, body, framing=framing)


def _noise(status: int, form: str) -> bytes:
    """An answer that is none."""
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


def _destroys(noise: Any) -> bool:
    """Whether nothing is left of the answer."""
    return isinstance(noise, tuple) or noise in ("reset", "close", "hang", "garbage")


def _may_be_done(noise: Any) -> bool:
    """Whether a request answered like this may have been acted upon."""
    return not isinstance(noise, tuple) or noise[0] >= 500 or noise[0] in (200, 204, 408)


def _short(request: Request) -> str:
    """A request in a few words."""
    route = unquote(request.path.removeprefix("/v1.1"))
    if match := _BOUNDS.search(request.query.get("filter", "")):
        route += f" [{match[1].removesuffix('T00:00:00.000Z')}, {match[2].removesuffix('T00:00:00.000Z')})"
    return f"{request.method} {route}"


def _summary(answer: bytes) -> str:
    """An answer in a few words."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ")[1].decode()
    try:
        top = orjson.loads(body)
        task = top.get("data", top) if "total_count" not in top else top
        told = {name: value for name, value in task.items() if name in ("id", "status", "total_count", "message")}
        places = (task, top, task.get("data"))
        told["links"] = next(
            (len(place["links"]) for place in places if isinstance(place, dict) and place.get("links")), 0
        )
        return f"{status} {told if len(told) > 1 else body[:80].decode()}"
    except (ValueError, AttributeError):
        return f"{status} {body[:80].decode('utf-8', 'replace')}"
