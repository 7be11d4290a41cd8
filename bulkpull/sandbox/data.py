"""Synthetic activity. Every row is computed from its number, so the data takes no memory and is reproducible."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from time import gmtime, strftime
from typing import Any, ClassVar

from bulkpull.record import record

FIELDS = (
    "id",
    "signer_id",
    "created_time",
    "event_type",
    "connection_data.remote_address",
    "connection_data.page_title",
    "connection_data.user_agent",
    "custom_data.vip",
    "custom_data.plan",
)
DEFAULT_FIELDS = FIELDS[:6]
_ID, _CREATED = 0, 2

_EVENTS = ("agreed",) * 6 + ("visited",) * 4 + ("displayed",) * 3 + ("sent", "disagreed", "updated")
_TITLES = (
    *("Terms of Service", "Privacy Policy", "Checkout", "Sign up", "Welcome back", "Order form", "My Page") * 34,
    *("Terms, Conditions & More", "Order form, step 2 of 3") * 4,
    *('The "Best" Offer',) * 2,
    "Two\nlines",
    "Windows\r\nline end",
    *("Datenschutzerklärung und Übersicht", "利用規約 📝") * 2,
    "=SUM(A1:A9)",
    "  leading and trailing blanks  ",
)
_BROWSERS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 "
    "Safari/537.36",
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4 "
    "Safari/605.1.15",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 "
    "Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36 "
    "Edg/131.0.0.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:133.0) Gecko/20100101 Firefox/133.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:133.0) Gecko/20100101 Firefox/133.0",
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "okhttp/4.12.0",
    "python-requests/2.32.3",
)
_RARER_AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36",
    "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/129.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPad; CPU OS 16_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/16.6 "
    "Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "CriOS/131.0.6778.73 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 "
    "Safari/537.36 Edg/130.0.0.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36 "
    "OPR/115.0.0.0",
    "Mozilla/5.0 (Linux; Android 14; SM-S921B) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/26.0 "
    "Chrome/122.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (Linux; Android 13; SM-A536B; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 "
    "Chrome/130.0.6723.107 Mobile Safari/537.36 [FB_IAB/FB4A;FBAV/489.0.0.61.78;]",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 "
    "Instagram 356.0.0.27.98 (iPhone15,2; iOS 17_6; en_US; scale=3.00; 1179x2556)",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 "
    "[LinkedInApp]/9.30.1",
    "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; Googlebot/2.1; +http://www.google.com/bot.html) "
    "Chrome/130.0.6723.91 Safari/537.36",
    "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
    "Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)",
    "Mozilla/5.0 (Windows NT 10.0; WOW64; Trident/7.0; rv:11.0) like Gecko",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:115.0) Gecko/20100101 Firefox/115.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:132.0) Gecko/20100101 Firefox/132.0",
    "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0",
    "Mozilla/5.0 (Android 14; Mobile; rv:132.0) Gecko/132.0 Firefox/132.0",
    "Apache-HttpClient/4.5.14 (Java/17.0.12)",
    "axios/1.7.7",
    "curl/8.5.0",
    "Dalvik/2.1.0 (Linux; U; Android 14; Pixel 8 Build/UQ1A.240205.004)",
    "Go-http-client/2.0",
    "GuzzleHttp/7",
    "node-fetch/1.0 (+https://github.com/bitinn/node-fetch)",
    "PostmanRuntime/7.42.0",
    "Ruby",
    None,
)
AGENTS = _BROWSERS * 3 + _RARER_AGENTS  # evenly drawn; None where a server sent the event without one
_VIP = ("TRUE", "FALSE", "FALSE", "FALSE", "", None, None, None)
_PLANS = (*("free", "team", "enterprise", "007") * 7, "free", "team", "enterprise", '{"name": "team", "seats": 12}')
_SIGNERS = tuple(f"{number * 7:05d}" for number in range(4096))
_ADDRESSES = tuple(f"10.{number >> 6}.{number & 63}.{number * 37 & 255}" for number in range(4096))
_FRACTIONS = tuple(f"{number:03d}Z" for number in range(1000))

MASK = (1 << 64) - 1
SEED_FACTOR = 0x632BE59BD9B4E019
_WEEK_MS = 7 * 86_400_000
_PEAK_AT = 0.6  # fraction of the range before the busy week


@cache
def _clock() -> tuple[str, ...]:
    """All times of a day, in whole seconds."""
    return tuple(f"T{at // 3600:02d}:{at // 60 % 60:02d}:{at % 60:02d}." for at in range(86_400))


Row = tuple[str | None, ...]


def csv_value(value: str | None) -> str:
    """Return a value as a CSV field: None is empty, an empty string is quoted, others are quoted only if necessary."""
    if value is None:
        return ""
    if not value or any(character in value for character in ',"\r\n'):
        return '"' + value.replace('"', '""') + '"'
    return value


@record
class Pools:
    """The values from which rows are drawn; each pool has a power of two entries."""

    events: tuple[Any, ...] = _EVENTS
    titles: tuple[Any, ...] = _TITLES
    agents: tuple[Any, ...] = AGENTS
    vip: tuple[Any, ...] = _VIP
    plans: tuple[Any, ...] = _PLANS

    def encoded(self) -> Pools:
        """Return the same pools as CSV fields."""
        return Pools(*(tuple(map(csv_value, getattr(self, name))) for name in Pools.__dataclass_fields__))


VALUES = Pools()
ENCODED = VALUES.encoded()


@dataclass(slots=True, eq=False)
class Activities:
    """`rows` activities in `[start, end)`, ordered by time.

    They are evenly distributed, except that the fraction `peak` falls into one week, or `burst` of them share the
    instant in the middle. Exports also repeat the fraction `repeats` of the rows, and for the fraction `conflicts` they
    contain an additional row with the id of an earlier activity and other values.
    """

    rows: int
    start: datetime
    end: datetime
    seed: int = 0
    repeats: float = 0.01
    conflicts: float = 0.0002
    peak: float = 0.0
    burst: int = 0
    fields: ClassVar = FIELDS
    default_fields: ClassVar = DEFAULT_FIELDS
    _start_ms: int = field(init=False)
    _slots: list[int] = field(init=False)  # positions, 2^16 per row, between which rows are evenly distributed
    _times: list[int] = field(init=False)  # the corresponding milliseconds since the start

    def __post_init__(self) -> None:
        self._start_ms = milliseconds(self.start)
        span = milliseconds(self.end) - self._start_ms
        slots = self.rows << 16
        before = int(_PEAK_AT * (1 - self.peak) * self.rows) << 16
        peak = int(self.peak * self.rows) << 16
        at = int(_PEAK_AT * span)
        self._slots, self._times = [0, slots], [0, span]
        if peak:
            self._slots[1:1] = [before, before + peak]
            self._times[1:1] = [at, at + min(_WEEK_MS, span // 5)]
        if self.burst:
            first = (self.rows - self.burst) // 2 << 16
            self._slots[1:1] = [first, first + (self.burst << 16)]
            self._times[1:1] = [span // 2, span // 2]

    def row(self, number: int) -> Row:
        """Return the values of one activity, in the order of FIELDS."""
        return self._row(number, mixed(number, self.seed), VALUES)

    def export_rows(self, numbers: range, matches: Callable[[Row], bool] | None) -> Iterator[tuple[str, ...]]:
        """Yield the rows of an export of these activities, as CSV fields; repeats come last."""
        repeat_below = int(self.repeats * 65536)
        conflict_below = int(self.conflicts * 65536)
        row, seed = self._row, self.seed
        again: list[tuple[str, ...]] = []
        for number in numbers:
            if matches is not None and not matches(self.row(number)):
                continue
            draw = mixed(number, seed)
            fields = row(number, draw, ENCODED)
            yield fields
            luck = draw * 0x9E3779B97F4A7C15 >> 24  # independent of the values
            if luck & 0xFFFF < repeat_below:
                again.append(fields)
            if number and luck >> 16 & 0xFFFF < conflict_below:
                earlier = number - 1 - draw % min(number, self.rows // 8 + 1)
                again.append((made_up_id(self._ms(earlier), self.seed, earlier), *fields[1:]))
        yield from again

    def _row(self, number: int, draw: int, pools: Pools) -> tuple[Any, ...]:
        slot = number << 16 | draw & 0xFFFF  # a random position in its own slot, which keeps the order
        ms = self._moment(slot)
        return made_up_row(made_up_id(ms, self.seed, number), ms, draw, pools)

    def _ms(self, number: int) -> int:
        return self._moment(number << 16 | mixed(number, self.seed) & 0xFFFF)

    def _moment(self, slot: int) -> int:
        if len(self._slots) == 2:  # a fast path for the common case
            return self._start_ms + slot * self._times[1] // self._slots[1]
        return self._start_ms + _scaled(slot, self._slots, self._times)

    def first_from(self, moment: datetime) -> int:
        """Return the number of the first activity that is not before the moment."""
        ms = milliseconds(moment)
        since = max(0, min(self._times[-1], ms - self._start_ms))
        number = max(0, (_scaled(since, self._times, self._slots) >> 16) - 1)
        while number < self.rows and self._ms(number) < ms:
            number += 1
        return number


def _scaled(value: int, points: list[int], scale: list[int]) -> int:
    """Map a value from one piecewise linear scale to another."""
    after = min(len(points) - 1, max(1, bisect_left(points, value)))
    first, last = points[after - 1], points[after]
    if last == first:
        return scale[after]
    return scale[after - 1] + (value - first) * (scale[after] - scale[after - 1]) // (last - first)


def mixed(number: int, seed: int) -> int:
    """Hash seed and number to 64 bits (the finalizer of splitmix64)."""
    bits = (number + seed * SEED_FACTOR) * 0x9E3779B97F4A7C15 & MASK
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & MASK
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & MASK
    return bits ^ bits >> 31


def made_up_row(id: str, ms: int, draw: int, pools: Pools) -> tuple[Any, ...]:
    """Return a row whose values, besides id and time, are drawn from the pools."""
    day, rest = divmod(ms, 86_400_000)
    return (
        id,
        _SIGNERS[draw >> 8 & 4095],
        _date(day) + _clock()[rest // 1000] + _FRACTIONS[rest % 1000],
        pools.events[draw & 15],
        _ADDRESSES[draw >> 24 & 4095],
        pools.titles[draw >> 42 & 255],
        pools.agents[draw >> 36 & 63],
        pools.vip[draw >> 54 & 7],
        pools.plans[draw >> 57 & 31],
    )


@cache
def _date(day: int) -> str:
    return strftime("%Y-%m-%d", gmtime(day * 86_400))


def made_up_id(ms: int, seed: int, number: int) -> str:
    """Return 24 hexadecimal digits that start with the second, like MongoDB's ObjectIds."""
    return f"{ms // 1000:08x}{seed & 0xFFFFFFFFFF:010x}{number & 0xFFFFFF:06x}"


def milliseconds(moment: datetime) -> int:
    """Return the milliseconds since 1970."""
    return (moment - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)


def to_json(known: tuple[str, ...], row: Row, *, lean: bool, fields: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a row as the list route does: dotted names become nested objects, which `lean` omits."""
    activity: dict[str, Any] = {}
    for name, value in zip(known, row, strict=True):
        if fields and name not in fields:
            continue
        outer, dot, inner = name.partition(".")
        if not dot:
            activity[name] = value
        elif not lean:
            activity.setdefault(outer, {})[inner] = value
    return activity
