"""Misbehaviour on demand: faults strike now and then, drawn from a seed by what is asked for and how often it was
before; modes are how the server is all the time."""

from __future__ import annotations

import random
import re
import socket
import struct
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from aiohttp import web

from bulkpull.errors import UsageError
from bulkpull.sandbox.modes import COMES, COSTS, MODES

Group = Literal["api", "export", "file", "host"]

EVERYTHING, ODD = "everything", "odd"
KINDS: dict[Group, dict[str, str]] = {
    "api": {
        "server-error": "500, 502 or 503, in JSON or HTML",
        "throttle": "one to three times 429 for whatever comes",
        "html": "an HTML page with status 200",
        "reset": "the connection is reset, nothing was done",
        "lost": "the connection is reset, though it was done",
        "hang": "nothing comes for a while, then a reset",
    },
    "export": {
        "export-fails": "it ends as failed",
        "export-always-fails": "so does every other of its filter; where it is named, that of the first export too",
        "export-never-ends": "it stays started",
        "export-vanishes": "it is not found any more",
        "purged": "its files are gone",
        "damaged": "one of its files is cut within a record",
    },
    "file": {
        "file-error": "500, 502 or 503",
        "file-reset": "the connection is reset before the headers",
        "file-hang": "nothing comes for a while, then a reset",
        "stall": "the body stops for a while, then a reset",
        "cut": "the body ends before its length",
        "cut-short-length": "the body ends early, and its length says so too",
        "trickle": "the body comes in small pieces",
        "expire": "the body ends early, and the link is no longer good",
        "range-ignored": "the whole file, where a range was asked for",
        "wrong-range": "another range than was asked for, or of another length",
        "changed": "other bytes and another ETag for the length of an answer, which breaks off",
        "error-page": "an HTML page with status 200",
        "gzip": "the body is compressed",
    },
    "host": {"outage": "once, all connections to API and files are reset for a while"},
}
_SHARE: dict[Group, float] = {"api": 0.1, "export": 0.2, "file": 0.3, "host": 1.0}
MAX_DRAWN = 3  # modes in EVERYTHING
_RARE = 0.005  # the share of filters whose exports always fail, and
_RARE_OUTAGE = 0.1  # of seeds with an outage, in EVERYTHING
_STRIKES = {kind for kinds in KINDS.values() for kind in kinds}
_DEFAULTS = {kind: mode.default for kinds in MODES.values() for kind, mode in kinds.items()}
_KNOWN = "; ".join(
    [", ".join(kinds) for kinds in KINDS.values()]
    + [", ".join(f"{kind}:N" if _DEFAULTS[kind] is not None else kind for kind in kinds) for kinds in MODES.values()]
)
_NUMBER = re.compile("[0-9]{1,15}")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault; `draw` decides on its details."""

    kind: str
    draw: random.Random


class Faults:
    """The faults of a `profile`. Raises UsageError.

    A profile is made of kinds joined by +, each with a value (`counts-capped:10000`) where it takes one, and may end
    with :SEED. `everything` stands for every kind that strikes and, by seed, for a few modes under which a pull needs
    no more exports than otherwise; `odd` also draws modes that cost exports.

    `seconds` is what a hang or a stall takes; an outage takes twice as long. `injected` counts by kind.
    """

    def __init__(self, profile: str, seconds: float) -> None:
        named, self._seed = _parse(profile)
        drawn = bool({EVERYTHING, ODD} & named.keys())
        strikes = _STRIKES if drawn else _STRIKES & named.keys()
        self._kinds = {group: [kind for kind in kinds if kind in strikes] for group, kinds in KINDS.items()}
        self._modes = {kind: value for kind, value in named.items() if kind in _DEFAULTS}
        if drawn:
            self._modes = self._drawn_modes(odd=ODD in named) | self._modes
        self.seconds = seconds
        self.injected: Counter[str] = Counter()
        self._always_fails = _RARE if drawn else _SHARE["export"]
        self._first_is_doomed = "export-always-fails" in named
        self._first_filter: str | None = None
        self._uses: Counter[tuple[object, ...]] = Counter()
        self._storm = 0
        luck = self._draw("outage")
        self._outage = "outage" in strikes and (not drawn or luck.random() < _RARE_OUTAGE)
        self._outage_after = luck.uniform(0.2, 2.0)
        self._first_request: float | None = None

    def has(self, kind: str) -> bool:
        """Whether the mode `kind` is on."""
        return kind in self._modes

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes that are on, as a profile names them."""
        return tuple(kind if value is None else f"{kind}:{value}" for kind, value in self._modes.items())

    def value(self, kind: str) -> int:
        """The value of the mode `kind`, which is on and takes one."""
        value = self._modes[kind]
        assert value is not None
        return value

    def note(self, kind: str) -> Literal[True]:
        """Counts that a mode has made a difference."""
        self.injected[kind] += 1
        return True

    def launched(self, filter: str) -> None:
        """Notes that an export of `filter` is launched: the first one of all may be doomed."""
        if self._first_filter is None:
            self._first_filter = filter

    def strike(self, group: Group, *key: object, without: Collection[str] = ()) -> Fault | None:
        """What befalls this use of what `key` names, if anything does."""
        if not self._kinds[group]:
            return None
        self._uses[group, *key] += 1
        draw = self._draw(group, *key, self._uses[group, *key])
        if group == "api" and self._storm:
            self._storm -= 1
            kind = "throttle"
        elif group == "export" and self.dooms(*key):
            kind = "export-always-fails"
        else:
            kinds = [kind for kind in self._kinds[group] if kind not in without and kind != "export-always-fails"]
            if not kinds or draw.random() >= _SHARE[group]:
                return None
            kind = draw.choice(kinds)
            if kind == "throttle":
                self._storm = draw.randrange(3)
        self.injected[kind] += 1
        return Fault(kind, draw)

    def outage(self, now: float) -> bool:
        """Whether the host cannot be reached at `now`, in seconds of the event loop's clock."""
        if not self._outage:
            return False
        if self._first_request is None:
            self._first_request = now
        out = 0 <= now - self._first_request - self._outage_after < 2 * self.seconds
        self.injected["outage"] += out
        return out

    def dooms(self, *key: object) -> bool:
        """Whether every export of what `key` names fails."""
        if "export-always-fails" not in self._kinds["export"]:
            return False
        first = self._first_is_doomed and key == (self._first_filter,)
        return first or self._draw("doom", *key).random() < self._always_fails

    def _drawn_modes(self, *, odd: bool) -> dict[str, int | None]:
        """A few modes, each of another group."""
        draw = self._draw("modes")
        known = COMES | COSTS if odd else COMES
        groups = [found for kinds in MODES.values() if (found := [kind for kind in kinds if kind in known])]
        number = draw.randint(1 if odd else 0, min(MAX_DRAWN, len(groups)))
        kinds = [draw.choice(group) for group in draw.sample(groups, number)]
        return {kind: draw.choice(known[kind]) if known[kind] else None for kind in kinds}

    def _draw(self, *key: object) -> random.Random:
        return random.Random(" ".join(map(str, (self._seed, *key))))


def _parse(profile: str) -> tuple[dict[str, int | None], str]:
    """The kinds that a profile names, with their values, and its seed. Raises UsageError."""
    named: dict[str, int | None] = {}
    seed = "0"
    entries = [entry.split(":") for entry in profile.split("+")]
    for place, (kind, *numbers) in enumerate(entries, start=1):
        default = _DEFAULTS.get(kind)
        room = (default is not None) + (place == len(entries))
        known = kind in {"", EVERYTHING, ODD} or kind in _STRIKES or kind in _DEFAULTS
        if not known or len(numbers) > room or not all(_NUMBER.fullmatch(number) for number in numbers):
            raise UsageError(
                f"no faults {profile!r}: name {EVERYTHING}, {ODD}, or some of {_KNOWN}, joined by +, and :SEED"
            )
        if default is not None and numbers:
            default = int(numbers.pop(0))
        if numbers:
            [seed] = numbers
        if kind:
            named[kind] = default
    return named, seed


def reset(request: web.Request) -> web.Response:
    """Resets the request's connection (RST, not FIN); the answer that is returned goes nowhere."""
    transport = request.transport
    if transport is not None:
        at_once = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        transport.abort()
    return web.Response()


def server_error(fault: Fault) -> web.Response:
    """A 500, 502 or 503, in JSON or in HTML."""
    status = fault.draw.choice((500, 502, 503))
    if fault.draw.random() < 0.5:
        return web.json_response({"error": {"message": "Something went wrong", "status": status}}, status=status)
    return web.Response(text=f"<html><h1>{status}</h1></html>", status=status, content_type="text/html")


def html_page() -> web.Response:
    """What a proxy or a login page may put in the place of an answer."""
    return web.Response(text="<!doctype html>\n<title>Please wait</title>\n<p>Just a moment", content_type="text/html")
