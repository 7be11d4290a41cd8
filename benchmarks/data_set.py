"""Activity exports as users have them: the files that the benchmarks read.

Half of the user agents contain commas, which takes about a quarter of all bytes into quoted cells. Titles contain
commas, quotes, and in 1 % of the rows a line break; some custom values are JSON. Cells are drawn from pools; only ids
and times are made row by row, so that two cores write 20 million rows in a few minutes.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from measure import run

from bulkpull.sandbox.data import AGENTS, csv_value

DATA = Path(__file__).parent / "data"
START = datetime(2014, 1, 1, tzinfo=UTC)
SECONDS = 3  # between two rows
BATCH_ROWS = 50_000
DAY_S = 86_400

NARROW = ("id", "created_time", "event_type")
DEFAULT = (
    *("id", "signer_id", "created_time", "event_type", "connection_data.remote_address", "connection_data.page_title"),
    *("connection_data.user_agent", "custom_data.context"),
)
WIDE = (
    *DEFAULT,
    *("site_id", "group_key", "contract_id", "version_id", "session_id", "test_mode"),
    *("connection_data.page_url", "connection_data.referrer", "connection_data.browser", "connection_data.platform"),
    *("connection_data.locale", "connection_data.timezone", "connection_data.screen"),
    *("custom_data.email", "custom_data.company", "custom_data.plan", "custom_data.note"),
)


@dataclass(frozen=True, slots=True)
class Shape:
    """What the rows of a file look like.

    Args:
        columns: The names of the columns.
        repeats: The percentage of new rows that are repeated at the end of the file.
        random_ids: Whether ids are random, instead of growing with the time like ObjectIds.
        all_json: Whether the context is JSON in each row, instead of in one of fifty.
        line_end: The end of a record.
    """

    columns: tuple[str, ...] = DEFAULT
    repeats: int = 2
    random_ids: bool = False
    all_json: bool = False
    line_end: str = "\n"

    @property
    def header(self) -> str:
        """The header record, with its line end."""
        return ",".join(self.columns) + self.line_end


class Size(NamedTuple):
    """Files, and new rows of each."""

    files: int
    rows: int
    shape: Shape = Shape()


SIZES = {  # medium, narrow, wide: about half a gigabyte each
    "small": Size(4, 5_000),
    "medium": Size(20, 100_000),
    "narrow": Size(20, 400_000, Shape(NARROW)),
    "wide": Size(20, 45_000, Shape(WIDE)),
    "large": Size(200, 100_000),
    "long": Size(50, 400_000, Shape(NARROW)),
    "single": Size(1, 4_000_000),
}


class Stats(NamedTuple):
    """The size of some files, and how much of it stands in quoted cells, in bytes."""

    size: int
    quoted: int

    def __str__(self) -> str:
        return f"{self.size / 1e6:,.0f} MB, {self.quoted / self.size:.0%} of it in quoted cells"


def make(size: str) -> Path:
    """Return the directory with the files of a size; generate them if they are missing."""
    if not (DATA / size / "done").exists():
        run([__file__, size])  # a separate process, since children inherit its peak memory
    return DATA / size


def stats(directory: Path) -> Stats:
    """Return the size of a directory's CSV files, and how much of it stands in quoted cells."""
    done = directory / "done"  # written last: a data set without it is incomplete
    if not done.exists():
        counts = [_stats(path) for path in directory.glob("*.csv")]
        done.write_text(json.dumps([sum(count) for count in zip(*counts, strict=True)]))
    return Stats(*json.loads(done.read_text()))


def _stats(path: Path) -> Stats:
    pieces = path.read_bytes().split(b'"')  # every second one is within quotes; a doubled quote keeps the parity
    return Stats(path.stat().st_size, sum(map(len, pieces[1::2])) + len(pieces) - 1)


def write(size: str) -> None:
    """Generate the files of a size, with as many processes as there are cores."""
    directory = DATA / size
    files, rows, shape = SIZES[size]
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        list(pool.map(write_file, repeat(directory), range(files), repeat(rows), repeat(shape)))
    stats(directory)


def write_file(directory: Path, number: int, rows: int, shape: Shape) -> None:
    """Write one file: its new rows in the order of time, then those that are repeated."""
    draw = random.Random(number)
    again: list[str] = []
    with (directory / f"{number:04d}.csv").open("w", encoding="utf-8", newline="") as file:
        file.write(shape.header)
        for first in range(number * rows, (number + 1) * rows, BATCH_ROWS):
            count = min(BATCH_ROWS, (number + 1) * rows - first)
            lines = records(first, count, shape)
            again += draw.choices(lines, k=count * shape.repeats // 100)
            file.writelines(lines)
        # Exports that all end at the same round number look truncated, so that a pull would examine them.
        again += draw.choices(lines, k=2 * number + 1)
        draw.shuffle(again)
        file.writelines(again)


def records(first: int, count: int, shape: Shape) -> list[str]:
    """Return the encoded records of `count` new rows from number `first` on."""
    draw = random.Random(first)
    numbers = range(first, first + count)
    started = int(START.timestamp())
    milliseconds = [number * SECONDS * 1000 + int(draw.random() * SECONDS * 1000) for number in numbers]
    cells: list[Sequence[str]] = []
    for name in shape.columns:
        if name == "id" and shape.random_ids:
            cells.append([f"{draw.getrandbits(96):024x}" for _ in numbers])
        elif name == "id":
            machines = draw.choices(_machines(), k=count)
            parts = zip(numbers, milliseconds, machines, strict=True)
            cells.append([f"{started + at // 1000:08x}{machine}{n & 0xFFFFFF:06x}" for n, at, machine in parts])
        elif name == "created_time":
            cells.append(list(_times(started, milliseconds)))
        else:
            pool = _pool("all JSON" if shape.all_json and name == "custom_data.context" else name)
            cells.append(draw.choices(pool, k=count))
    return [line + shape.line_end for line in map(",".join, zip(*cells, strict=True))]


def _times(started: int, milliseconds: list[int]) -> Iterator[str]:
    clock = _clock()
    days: dict[int, str] = {}
    for at in milliseconds:
        day, second = divmod(started + at // 1000, DAY_S)
        date = days.get(day) or days.setdefault(day, time.strftime("%Y-%m-%d", time.gmtime(day * DAY_S)))
        yield f"{date}{clock[second]}{at % 1000:03d}Z"


@cache
def _clock() -> tuple[str, ...]:
    """All times of a day, in whole seconds."""
    return tuple(f"T{at // 3600:02d}:{at // 60 % 60:02d}:{at % 60:02d}." for at in range(DAY_S))


@cache
def _machines() -> tuple[str, ...]:
    """The middle of an ObjectId, which stands for the process that made it."""
    draw = random.Random("machines")
    return tuple(f"{draw.getrandbits(40):010x}" for _ in range(64))


@cache
def _pool(column: str) -> tuple[str, ...]:
    """Return the encoded cells from which a column is drawn; how often one occurs is its weight."""
    draw = random.Random(column)
    return tuple(csv_value(value) for value in POOLS[column](draw))


NAMES = ("anna", "ben", "chen", "diego", "emma", "fatima", "george", "hana", "ivan", "julia", "kofi", "lea", "mehmet")
SURNAMES = ("smith", "garcia", "keller", "tanaka", "okafor", "rossi", "silva", "novak", "dubois", "jensen", "walker")
COMPANIES = ("Acme, Inc.", "Globex GmbH", "Initech", "Umbrella Ltd.", "Hooli", "Stark & Söhne", "Wayne, Kent & Co.")
PAGES = ("Terms of Service", "Privacy Policy", "Checkout", "Sign up", "Order form", "Master Services Agreement")


def _hex(digits: int, count: int) -> Callable[[random.Random], list[str | None]]:
    return lambda draw: [f"{draw.getrandbits(4 * digits):0{digits}x}" for _ in range(count)]


def _email(draw: random.Random) -> str:
    return f"{draw.choice(NAMES)}.{draw.choice(SURNAMES)}{draw.randrange(10_000)}@example.com"


def _signers(draw: random.Random) -> list[str | None]:
    return [_email(draw) if number % 2 else f"{draw.getrandbits(96):024x}" for number in range(20_000)]


def _addresses(draw: random.Random) -> list[str | None]:
    version_4 = [".".join(str(draw.randrange(1, 255)) for _ in range(4)) for _ in range(17_000)]
    version_6 = [
        f"2001:db8:{draw.getrandbits(16):x}:{draw.getrandbits(16):x}::{draw.getrandbits(16):x}" for _ in range(3_000)
    ]
    return [*version_4, *version_6]


def _titles(draw: random.Random) -> list[str | None]:
    titles: list[str | None] = [
        f"{draw.choice(PAGES)} | {draw.choice(COMPANIES[1:6])} | Customer Portal" for _ in range(930)
    ]
    titles += [f"{draw.choice(PAGES)}, step {draw.randrange(2, 5)} of 4" for _ in range(50)]
    titles += [f'The "{draw.choice(PAGES)}" page' for _ in range(10)]
    return titles + ["Order form\nPlease read"] * 7 + ["Welcome\r\nback"] * 3


def _json(draw: random.Random) -> str:
    value = {"plan": draw.choice(("team", "pro")), "seats": draw.randrange(1, 500), "by": _email(draw)}
    return json.dumps(value, separators=(",", ":"))


def _contexts(draw: random.Random) -> list[str | None]:
    plain = [draw.choice(("web", "mobile", "api", "checkout", None)) for _ in range(980)]
    return [*plain, *(_json(draw) for _ in range(20))]


def _urls(draw: random.Random) -> list[str | None]:
    paths = ("terms", "privacy", "checkout/confirm", "account/settings", "signup")
    return [
        f"https://www.example.com/{draw.choice(paths)}?campaign={draw.getrandbits(32):08x}&step={draw.randrange(9)}"
        for _ in range(5_000)
    ]


def _notes(draw: random.Random) -> list[str | None]:
    words = ("accepted", "on behalf of", "the customer", "by phone", "renewal", "second seat", "see contract")
    notes = [" ".join(draw.choices(words, k=5)) + draw.choice((".", ", confirmed.")) for _ in range(300)]
    return [*notes, *[None] * 700]


POOLS: dict[str, Callable[[random.Random], Sequence[str | None]]] = {
    "signer_id": _signers,
    "event_type": lambda _: ("agreed",) * 6 + ("visited",) * 4 + ("displayed",) * 3 + ("sent", "disagreed", "updated"),
    "connection_data.remote_address": _addresses,
    "connection_data.page_title": _titles,
    "connection_data.user_agent": lambda _: AGENTS,
    "custom_data.context": _contexts,
    "all JSON": lambda draw: [_json(draw) for _ in range(1_000)],
    "site_id": lambda _: ("c1f5b0d6",),
    "group_key": lambda _: ("terms-and-privacy", "checkout", "msa"),
    "contract_id": _hex(24, 40),
    "version_id": _hex(24, 200),
    "session_id": _hex(32, 20_000),
    "test_mode": lambda _: ("false",) * 9 + ("true",),
    "connection_data.page_url": _urls,
    "connection_data.referrer": lambda draw: [*_urls(draw), *[None] * 5_000],
    "connection_data.browser": lambda _: ("Chrome", "Safari", "Edge", "Firefox", None),
    "connection_data.platform": lambda _: ("Windows", "macOS", "iOS", "Android", "Linux", None),
    "connection_data.locale": lambda _: ("en-US", "en-GB", "de-DE", "fr-FR", "ja-JP", "pt-BR"),
    "connection_data.timezone": lambda _: ("America/New_York", "Europe/Berlin", "Asia/Tokyo", "America/Sao_Paulo"),
    "connection_data.screen": lambda _: ("1920x1080", "1440x900", "390x844", "412x915", None),
    "custom_data.email": lambda draw: [_email(draw) for _ in range(20_000)],
    "custom_data.company": lambda _: COMPANIES,
    "custom_data.plan": lambda _: ("free", "team", "enterprise", "007"),
    "custom_data.note": _notes,
}


if __name__ == "__main__":
    write(sys.argv[1])
