"""The grammar of responses: the possible oddities of a server, and those that a seed draws.

An oddity has a name, some values, and a manner: it applies always, at first, later, or now and then, so that responses
change from request to request. Without oddities, the server behaves as the API's documentation says.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

Values = tuple[Any, ...]

NOISE: Values = (
    (500, "json"), (502, "html"), (503, "retry 1"), (503, "retry 86400"), (504, "empty"), (429, "retry 2"),
    (429, "retry 86400"), (429, "empty"), (408, "empty"), (200, "html"), (200, "empty"), (200, "list"), (200, "error"),
    (200, "cut json"), (200, "null"), (200, "deep"), (204, "empty"), (302, "elsewhere"), (400, "json"), (401, "json"),
    (403, "html"), (404, "html"), (409, "json"), (418, "empty"), (425, "empty"), (500, "latin"), (599, "empty"),
    "reset", "close", "hang", "garbage", "slow body", "cut body", "early hints", "12 KB header", "70 KB header",
    "slow", "bad encoding",
)  # fmt: skip

GRAMMAR: dict[str, Values] = {
    # Counting
    "count": (
        "capped", "zero", "half", "lagging", "string", "float", "null", "absent", "negative", "text", "growing",
        "shrinking", "rounded", "off", "huge", "list", "true", 403, 400, 404, 500, "hang", "no page", "slow",
    ),
    "count data": ("empty", "always one", "many", "null", "strings"),
    # Launching
    "launch": (
        "slow 70", "slow 300", "reset after", "reset before", "close after", "hang after", "error 200", "404", "500",
        "500 after", "502 html", "502 after", "400", "409", "no id", "list", "204 after", "empty after",
    ),
    "launch shape": ("bare", "no status", "201", "202", "success", "odd status", "null status", "nested"),
    "busy": tuple((places, status) for places in (1, 2, 3) for status in (409, 400, 403, 429, 503)),
    "id": ("integer", "gid", "blank", "unicode", "slash", "dots", "long", "percent"),
    # Polling
    "word": (
        "upper", "capitalised", "completed", "complete", "done", "finished", "ready", "succeeded", "blank around",
        "unknown inactive", "unknown active", "unknown silent",
    ),
    "failed word": (
        "error", "cancelled", "canceled", "expired", "aborted", "FAILED", "Failure", "timeout", "unknown inactive",
    ),
    "running word": ("running", "in_progress", "queued", "processing", "STARTED", "retrying", "unknown", "pending"),
    "links late": ("absent", "null", "[]", "{}"),
    "links shape": ("data", "top", "objects", "href", "numbered", "one string", "one object", "mixed", "null among"),
    "links change": ("fewer", "more", "order", "signature", "none later", "doubled"),
    "link form": ("relative", "scheme relative", "blank", "umlaut", "http", "fragment", "no url", "credentials"),
    "status answer": (202, 204, 409, 425, 404, 400, 410, 500, 502, 304, "no status", "other id"),
    "404 at first": (5.0, 90.0),
    "started again": (True,),
    "stuck": ("one", "all", "some"),
    "fails": ("some", "all", "too many records", "too large", "poisoned"),
    # What exports hold
    "cap": (5, 10, 20, 7),
    "late rows": ("newest", "some"),
    "empty file": ("nothing", "newline", "byte order mark", "header", "no links", "crlf"),
    "emptied": ("nothing", "newline", "byte order mark", "header", "no links"),
    "damaged": ("cut in a record", "zip", "gzip unlabelled", "error page", "json", "open quote", "nul", "other header"),
    "parts": (2, 3),
    "file style": ("crlf", "byte order mark", "no last newline", "quoted"),
    # What hosts do
    "range": (
        "ignored", 403, 405, "206 bare", "206 blank", "206 wrong", "206 from zero", "416 bare", "416 wrong", "416 xml",
        "416 always", "200 empty", 500, "503 day", 400, "hang",
    ),
    "etag": ("none", "weak", "changing", "by backend", "empty", "unquoted"),
    "framing": ("chunked", "close", "http/1.0"),
    "broken": (
        "cut", "cut at a record", "reset", "no last chunk", "hang", "cut without a length", "slow", "too long", "empty",
    ),
    "encoding": (
        "utf-8", "UTF8", "binary", "none", "aws-chunked", "identity", "gzip", "x-gzip", "gzip members", "deflate raw",
        "deflate", "br", "gzip label alone",
    ),
    "host": (
        "202", "202 empty", "204", 404, 403, 500, "503", "503 day", "429", "html", "redirect", "redirect relative",
        "redirect blank", "redirect loop", "redirect nowhere", "redirect http", "12 KB header", "70 KB header", "slow",
        "hang", "reset", 304, 401, 410,
    ),
    "expiry": (0.5, 30.0),
    # Anything at any time
    "api noise": NOISE,
    "host noise": NOISE,
    "dead host": (True,),
    "api framing": ("chunked", "close", "http/1.0"),
}  # fmt: skip

TOLERABLE: dict[str, Values] = {
    "count": (
        "capped", "zero", "half", "lagging", "string", "float", "null", "absent", "negative", "text", "growing",
        "rounded", "off", "true", 403, 400, "no page",
    ),
    "count data": ("empty", "many"),
    "launch": ("slow 70",),
    "launch shape": ("bare", "201", "202"),
    "busy": tuple((places, status) for places in (1, 2, 3) for status in (409, 400)),
    "id": ("integer", "gid", "slash", "percent"),
    "word": (
        "upper", "capitalised", "completed", "complete", "done", "finished", "ready", "succeeded", "blank around",
        "unknown inactive",
    ),
    "running word": ("running", "in_progress", "queued", "processing", "STARTED", "retrying", "unknown"),
    "links late": ("absent", "null", "[]", "{}"),
    "links shape": ("data", "top", "objects", "href", "numbered", "one string", "one object", "mixed"),
    "links change": ("order", "signature"),
    "link form": ("blank", "umlaut", "fragment"),
    "status answer": (202, 409, 425),
    "started again": (True,),
    "fails": ("too many records", "too large"),
    "cap": (5, 10, 20),
    "empty file": ("nothing", "newline", "byte order mark", "header", "no links", "crlf"),
    "damaged": ("gzip unlabelled",),
    "parts": (2, 3),
    "file style": ("crlf", "byte order mark", "no last newline", "quoted"),
    "range": (
        "ignored", 403, 405, "206 bare", "206 blank", "206 wrong", "206 from zero", "416 bare", "416 wrong", "416 xml",
        "416 always", "200 empty", 500, "503 day",
    ),
    "etag": ("none", "weak", "changing", "by backend", "empty", "unquoted"),
    "framing": ("chunked", "close", "http/1.0"),
    "broken": ("slow",),
    "encoding": (
        "utf-8", "UTF8", "binary", "none", "aws-chunked", "identity", "gzip", "x-gzip", "gzip members", "deflate raw",
        "deflate",
    ),
    "host": ("redirect", "redirect relative", "redirect blank", "12 KB header"),
    "expiry": (30.0,),
    "api noise": ("early hints", "12 KB header", "slow body"),
    "host noise": ("early hints", "12 KB header", "slow body"),
    "api framing": ("chunked", "close", "http/1.0"),
}  # fmt: skip
TOLERABLE_AT_FIRST: dict[str, Values] = {
    "launch": (
        "reset after", "reset before", "close after", "500", "500 after", "502 html", "502 after", "empty after",
    ),
    "stuck": ("one",),
    "fails": ("some", "all"),
    "failed word": ("error", "cancelled", "canceled", "expired", "aborted", "FAILED"),
    "status answer": (500, 502),
    "emptied": ("nothing", "newline", "byte order mark", "header", "no links"),
    "damaged": ("cut in a record", "error page"),
    "broken": ("cut", "cut at a record", "reset", "no last chunk", "hang"),
    "host": ("202", 404, 403, 500, "503", "429", "html", "reset"),
    "api noise": (
        (500, "json"), (502, "html"), (503, "retry 1"), (504, "empty"), (429, "retry 2"), (429, "empty"),
        (408, "empty"), (200, "html"), (200, "empty"), (200, "cut json"), "reset", "close", "garbage", "cut body",
    ),
    "host noise": ((500, "json"), (502, "html"), (503, "retry 1"), (504, "empty"), "reset", "close", "cut body"),
}  # fmt: skip

WEIGHTS = {
    "count": 5,
    "cap": 3,
    "fails": 2,
    "api noise": 2,
    "host noise": 2,
    "emptied": 2,
    "late rows": 2,
    "stuck": 0.5,
}
MANNERS = ("always", "always", "always", "at first", "at first", "later", "now and then")


@dataclass(slots=True)
class Oddity:
    """One oddity of a seed. `turn` is the number of uses before or after which it applies, depending on the manner."""

    values: Values
    manner: str
    share: float
    turn: int


@dataclass(slots=True)
class Oddities:
    """The oddities of a seed.

    `only` keeps the named ones, to find out which of them matter. `tolerable` draws only oddities with which a pull
    must still be complete; some of these are tolerable only at first.
    """

    seed: int
    only: Collection[str] | None = None
    tolerable: bool = False
    drawn: dict[str, Oddity] = field(init=False)
    _uses: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.drawn = self._tolerable() if self.tolerable else self._any()
        if self.only is not None:
            self.drawn = {name: oddity for name, oddity in self.drawn.items() if name in self.only}

    def _tolerable(self) -> dict[str, Oddity]:
        draw = random.Random(f"bearable {self.seed}")
        drawn = {}
        for _ in range(draw.choice((1, 1, 2, 3))):
            passes = draw.random() < 0.3
            values = TOLERABLE_AT_FIRST if passes else TOLERABLE
            name = draw.choice(list(values))
            if name not in drawn:
                several = draw.choices(values[name], k=draw.choice((1, 1, 3)))
                manner = "at first" if passes else draw.choice(MANNERS)
                drawn[name] = Oddity(tuple(several), manner, 0.5, 1 if passes else draw.choice((1, 2, 8)))
        return drawn

    def _any(self) -> dict[str, Oddity]:
        draw = random.Random(f"oddities {self.seed}")
        weights = {name: float(WEIGHTS.get(name, 1)) for name in GRAMMAR}
        names = {draw.choices(list(weights), list(weights.values()))[0] for _ in range(draw.choice((1, 1, 2, 3, 4, 6)))}
        drawn = {}
        for name in sorted(names):
            values = GRAMMAR[name]
            several = draw.random() < 0.2 or name.endswith("noise")
            chosen = tuple(draw.choice(values) for _ in range(draw.randint(2, 4) if several else 1))
            manner = draw.choice(MANNERS)
            if name.endswith("noise") and draw.random() < 0.8:
                manner = "now and then"
            share = draw.choice((0.1, 0.5)) if name.endswith("noise") else 0.5
            drawn[name] = Oddity(chosen, manner, share, draw.choice((1, 1, 2, 3, 8)))
        return drawn

    def now(self, name: str) -> Any:
        """Return the value of an oddity for the next use; None if it does not apply."""
        oddity = self.drawn.get(name)
        if oddity is None:
            return None
        self._uses[name] += 1
        use = self._uses[name]
        draw = random.Random(f"{self.seed} {name} {use}")
        match oddity.manner:
            case "at first" if use > oddity.turn:
                return None
            case "later" if use <= oddity.turn:
                return None
            case "now and then" if draw.random() >= oddity.share:
                return None
        return draw.choice(oddity.values)

    def __str__(self) -> str:
        return "; ".join(
            f"{name} {'/'.join(map(str, oddity.values))} {oddity.manner}"
            + (f" ({oddity.turn})" if oddity.manner in ("at first", "later") else "")
            for name, oddity in self.drawn.items()
        )
