"""Fault injection: random faults and permanent modes.

Random faults are reproducible: whether one occurs depends on the seed, the request and how often it was made before.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Collection
from typing import Literal

from bulkpull.errors import UsageError
from bulkpull.record import record
from bulkpull.sandbox.modes import COSTLY, HARMLESS, MODES

Group = Literal["api", "export", "file", "host"]

EVERYTHING, ODD = "everything", "odd"
KINDS: dict[Group, dict[str, str]] = {
    "api": {
        "server-error": "500, 502 or 503, in JSON or HTML",
        "throttle": "429 for one to three consecutive requests",
        "html": "an HTML page with status 200",
        "reset": "the connection is reset before the request is processed",
        "lost": "the connection is reset after the request is processed",
        "hang": "no response for a while, then a reset",
    },
    "export": {
        "export-fails": "the export fails",
        "export-always-fails": "every export of a filter fails; if named explicitly, also those of the first filter",
        "export-never-ends": "the export stays started",
        "export-vanishes": "the export no longer exists",
        "purged": "the files of the export no longer exist",
        "damaged": "one file of the export is truncated within a record",
    },
    "file": {
        "file-error": "500, 502 or 503",
        "file-reset": "the connection is reset before the headers",
        "file-hang": "no response for a while, then a reset",
        "stall": "the body stalls for a while, then a reset",
        "cut": "the body ends before its Content-Length",
        "cut-short-length": "the body is truncated, with a matching Content-Length",
        "trickle": "the body is sent slowly, in small pieces",
        "expire": "the body ends early, and the link expires",
        "range-ignored": "a range request gets the whole file",
        "wrong-range": "a range request gets another range, or another total length",
        "changed": "one response has other bytes and another ETag, and is cut off",
        "error-page": "an HTML page with status 200",
        "gzip": "the body is compressed with gzip",
    },
    "host": {"outage": "once, all connections to the API and the file host are reset for a while"},
}
_PROBABILITY: dict[Group, float] = {"api": 0.1, "export": 0.2, "file": 0.3, "host": 1.0}
MAX_DRAWN = 3  # modes that a profile draws
_RARE_PROBABILITY = 0.005  # of filters whose exports always fail, in EVERYTHING
_RARE_OUTAGE_PROBABILITY = 0.1  # of an outage, in EVERYTHING
_STRIKES = {kind for kinds in KINDS.values() for kind in kinds}
_DEFAULTS = {kind: mode.default for kinds in MODES.values() for kind, mode in kinds.items()}
_KNOWN = "; ".join(
    [", ".join(kinds) for kinds in KINDS.values()]
    + [", ".join(f"{kind}:N" if _DEFAULTS[kind] is not None else kind for kind in kinds) for kinds in MODES.values()]
)
_NUMBER = re.compile("[0-9]{1,15}")


@record
class Fault:
    """An injected fault; `draw` determines its details."""

    kind: str
    draw: random.Random


class Faults:
    """The faults of a `profile`. Raises UsageError if it is not valid.

    A profile consists of kinds joined by +, each optionally with a value (`counts-capped:10000`) if it takes one, and
    may end with :SEED. `everything` stands for all random faults and a few harmless modes drawn by seed; `odd` also
    draws modes that cost exports.

    A hang or a stall takes `seconds`, an outage twice as long. `injected` counts faults by kind.
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
        self._always_fails_probability = _RARE_PROBABILITY if drawn else _PROBABILITY["export"]
        self._first_always_fails = "export-always-fails" in named
        self._first_filter: str | None = None
        self._uses: Counter[tuple[object, ...]] = Counter()
        self._throttles_left = 0
        luck = self._draw("outage")
        self._outage = "outage" in strikes and (not drawn or luck.random() < _RARE_OUTAGE_PROBABILITY)
        self._outage_after = luck.uniform(0.2, 2.0)
        self._first_request: float | None = None

    def has(self, kind: str) -> bool:
        """Return whether the mode `kind` is on."""
        return kind in self._modes

    @property
    def modes(self) -> tuple[str, ...]:
        """The active modes, as a profile names them."""
        return tuple(kind if value is None else f"{kind}:{value}" for kind, value in self._modes.items())

    def value(self, kind: str) -> int:
        """Return the value of the active mode `kind`."""
        value = self._modes[kind]
        assert value is not None
        return value

    def note(self, kind: str) -> Literal[True]:
        """Count that a mode took effect. Always returns True, for use in conditions."""
        self.injected[kind] += 1
        return True

    def note_launch(self, filter: str) -> None:
        """Note the launch of an export: those of the first filter may always fail."""
        if self._first_filter is None:
            self._first_filter = filter

    def draw_fault(self, group: Group, *key: object, without: Collection[str] = ()) -> Fault | None:
        """Draw the fault for this use of the thing identified by `key`, if any."""
        if not self._kinds[group]:
            return None
        self._uses[group, *key] += 1
        draw = self._draw(group, *key, self._uses[group, *key])
        if group == "api" and self._throttles_left:
            self._throttles_left -= 1
            kind = "throttle"
        elif group == "export" and self.always_fails(*key):
            kind = "export-always-fails"
        else:
            kinds = [kind for kind in self._kinds[group] if kind not in without and kind != "export-always-fails"]
            if not kinds or draw.random() >= _PROBABILITY[group]:
                return None
            kind = draw.choice(kinds)
            if kind == "throttle":
                self._throttles_left = draw.randrange(3)
        self.injected[kind] += 1
        return Fault(kind, draw)

    def outage(self, now: float) -> bool:
        """Return whether the host is unreachable at `now`, in seconds of the event loop's clock."""
        if not self._outage:
            return False
        if self._first_request is None:
            self._first_request = now
        out = 0 <= now - self._first_request - self._outage_after < 2 * self.seconds
        self.injected["outage"] += out
        return out

    def always_fails(self, *key: object) -> bool:
        """Return whether every export of the filter `key` fails."""
        if "export-always-fails" not in self._kinds["export"]:
            return False
        first = self._first_always_fails and key == (self._first_filter,)
        return first or self._draw("doom", *key).random() < self._always_fails_probability

    def _drawn_modes(self, *, odd: bool) -> dict[str, int | None]:
        """Draw a few modes, each from another group."""
        draw = self._draw("modes")
        known = HARMLESS | COSTLY if odd else HARMLESS
        groups = [found for kinds in MODES.values() if (found := [kind for kind in kinds if kind in known])]
        number = draw.randint(1 if odd else 0, min(MAX_DRAWN, len(groups)))
        kinds = [draw.choice(group) for group in draw.sample(groups, number)]
        return {kind: draw.choice(known[kind]) if known[kind] else None for kind in kinds}

    def _draw(self, *key: object) -> random.Random:
        return random.Random(" ".join(map(str, (self._seed, *key))))


def _parse(profile: str) -> tuple[dict[str, int | None], str]:
    """Parse a profile into its kinds, with their values, and its seed. Raises UsageError."""
    named: dict[str, int | None] = {}
    seed = "0"
    entries = [entry.split(":") for entry in profile.split("+")]
    for place, (kind, *numbers) in enumerate(entries, start=1):
        default = _DEFAULTS.get(kind)
        room = (default is not None) + (place == len(entries))
        known = kind in {"", EVERYTHING, ODD} or kind in _STRIKES or kind in _DEFAULTS
        if not known or len(numbers) > room or not all(_NUMBER.fullmatch(number) for number in numbers):
            raise UsageError(
                f"unknown fault profile {profile!r}: use {EVERYTHING}, {ODD}, or kinds joined by +, optionally with "
                f":SEED. Kinds: {_KNOWN}"
            )
        if default is not None and numbers:
            default = int(numbers.pop(0))
        if numbers:
            [seed] = numbers
        if kind:
            named[kind] = default
    return named, seed
