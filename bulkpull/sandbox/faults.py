"""Misbehaviour on demand: what goes wrong is drawn from a seed, by what is asked for and how often it was before."""

from __future__ import annotations

import random
import socket
import struct
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from aiohttp import web

from bulkpull.errors import UsageError

Group = Literal["api", "export", "file", "host"]

EVERYTHING = "everything"
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
        "export-always-fails": "so does every other of the same filter",
        "export-never-ends": "it stays started",
        "export-vanishes": "it is not found any more",
        "purged": "its files are gone",
        "damaged": "a file of its is cut within a record",
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
_RARE = 0.005  # the share of filters whose exports always fail, and
_RARE_OUTAGE = 0.1  # of seeds with an outage, in EVERYTHING


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault; `draw` decides on its details."""

    kind: str
    draw: random.Random


class Faults:
    """The faults of a `profile`: kinds joined by +, or `everything`, and perhaps :seed. Raises UsageError.

    `seconds` is what a hang or a stall takes; an outage takes twice as long. `injected` counts by kind.
    """

    def __init__(self, profile: str, seconds: float) -> None:
        names, _, seed = profile.partition(":")
        everything = names == EVERYTHING
        asked = {kind for kinds in KINDS.values() for kind in kinds} if everything else set(names.split("+")) - {""}
        self._kinds = {group: [kind for kind in kinds if kind in asked] for group, kinds in KINDS.items()}
        unknown = asked.difference(*self._kinds.values())
        if unknown or (seed and not seed.isdecimal()):
            known = "; ".join(", ".join(kinds) for kinds in KINDS.values())
            raise UsageError(f"no faults {profile!r}: name {EVERYTHING}, or some of {known}, joined by +, and :SEED")
        self.seconds = seconds
        self.injected: Counter[str] = Counter()
        self._seed = seed or "0"
        self._always_fails = _RARE if everything else _SHARE["export"]
        self._uses: Counter[tuple[object, ...]] = Counter()
        self._storm = 0
        luck = self._draw("outage")
        self._outage = "outage" in asked and (not everything or luck.random() < _RARE_OUTAGE)
        self._outage_after = luck.uniform(0.2, 2.0)
        self._first_request: float | None = None

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
        return "export-always-fails" in self._kinds["export"] and self._draw("doom", *key).random() < self._always_fails

    def _draw(self, *key: object) -> random.Random:
        return random.Random(" ".join(map(str, (self._seed, *key))))


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
