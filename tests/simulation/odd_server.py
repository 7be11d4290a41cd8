"""An API and a file host with oddities, which record their responses for the oracle."""

from __future__ import annotations

import random
import re
import traceback
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import unquote

import orjson

from bulkpull.sandbox.quota import RateLimit
from bulkpull.window import instant
from tests.simulation.clock import loop_time
from tests.simulation.odd_exports import Task, launch, noise_response, post, status
from tests.simulation.odd_files import file_answer
from tests.simulation.oddities import Oddities
from tests.simulation.wire import End, Request, Step, json_response, response

API_HOST = "api.example"
MAX_REQUESTS = 2_000  # of one pull; more count as endless
_BOUNDS = re.compile(r"created_time>=(\S+) and created_time<(\S+)")


@dataclass(frozen=True, slots=True)
class Told:
    """The last response of the list route for a time span: its count, if any, and whether it showed activity."""

    counted: int | None
    showed: bool
    place: int  # its position among all responses


@dataclass(slots=True)
class OddServer:
    """A server with activities at `moments`, in order; their numbers are their ids."""

    seed: int
    moments: Sequence[datetime]
    oddities: Oddities
    seconds: float = 5.0  # duration of an export
    workers: int = 3
    quota: int = 2000
    tasks: dict[str, Task] = field(default_factory=dict)
    told: dict[tuple[datetime, datetime], Told] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    requests: int = 0
    launches: int = 0  # launch requests that were processed
    asked: int = 0  # launch requests
    lost: int = 0  # launches without a usable response
    throttled: int = 0  # requests over the quota
    wrongs: list[str] = field(default_factory=list)  # errors of the client
    give_up: Callable[[], None] = lambda: None
    issued: dict[str, tuple[Task, int, float]] = field(default_factory=dict)  # by the target that should be received
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
            self.wrongs.append(f"error in the server: {traceback.format_exc(limit=-3)}")
            yield End.RESET

    def _serve(self, request: Request) -> Iterator[Step]:
        self.requests += 1
        if self.requests == MAX_REQUESTS:
            self.give_up()
        yield self.draw.uniform(0.02, 0.3)
        if request.host == API_HOST and not request.path.endswith(".csv"):  # relative links lead to the API host
            yield from self._api(request)
            return
        if "authorization" in request.headers:
            self.wrongs.append("the token was sent to the file host")
        yield from file_answer(self, request)

    def note(self, text: str) -> None:
        self.log.append(f"{loop_time():9.2f}  {text}")

    def noise(self, kind: Any, whole: bytes, what: str) -> Iterator[Step]:
        """Yield the steps of another response instead of `whole`, or of the same one sent oddly."""
        self.note(f"{what} -> {kind}")
        match kind:
            case (int() as status, str() as form):
                yield noise_response(status, form)
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
        if self._quota.retry_after("token", loop_time()) is not None:
            self.throttled += 1
            self.note(f"{what} -> 429, beyond the quota")
            yield response(429, headers=[("Retry-After", "60")])
            return
        if request.headers.get("authorization") != "Bearer a-token":
            self.wrongs.append("a request without the token")
        noise = self.oddities.now("api noise")
        if noise is not None and _destroys(noise):
            if launching and _may_be_done(noise) and self.draw.random() < 0.5:
                launch(self, request)
                self.lost += 1
                what += " (launched)"
            yield from self.noise(noise, b"", what)
            return
        told = dict(self.told)
        steps = self._route(request)
        whole = next((step for step in steps if isinstance(step, bytes)), None) if noise is not None else None
        if whole is not None:
            self.lost += launching  # the launch may be lost
            if noise in ("cut body", "slow", "bad encoding", "70 KB header"):
                self.told = told  # the response may not arrive
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
            return post(self, request)
        if path == "/activity":
            return self._list(request)
        if path.startswith("/tasks/export/"):
            return status(self, unquote(path.removeprefix("/tasks/export/")))
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
            self.told[start, end] = Told(int(number) if whole and number is not None else None, showed, self.requests)
        yield json_response(200, [answer] if style == "list" else {"ok": True} if style == "no page" else answer)

    def _counted(self, style: Any, rows: range) -> dict[str, Any]:
        """Return `total_count` in a style."""
        n, total = len(rows), len(self.moments)
        uses = self.requests
        match style:
            case "capped":
                return {"total_count": min(n, 10)}
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


def _reframed(status: int, body: bytes, framing: str) -> bytes:
    if framing == "http/1.0":
        return response(status, body, framing="close", version="1.0")
    return response(status, body, framing=framing)


def _destroys(noise: Any) -> bool:
    """Return whether the noise destroys the response."""
    return isinstance(noise, tuple) or noise in ("reset", "close", "hang", "garbage")


def _may_be_done(noise: Any) -> bool:
    """Return whether a request with this response may have been processed."""
    return not isinstance(noise, tuple) or noise[0] >= 500 or noise[0] in (200, 204, 408)


def _short(request: Request) -> str:
    """Return a short description of a request."""
    route = unquote(request.path.removeprefix("/v1.1"))
    if match := _BOUNDS.search(request.query.get("filter", "")):
        route += f" [{match[1].removesuffix('T00:00:00.000Z')}, {match[2].removesuffix('T00:00:00.000Z')})"
    return f"{request.method} {route}"


def _summary(answer: bytes) -> str:
    """Return a short description of a response."""
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
