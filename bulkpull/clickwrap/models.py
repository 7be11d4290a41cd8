"""What the API answers with, read tolerantly where its documents are silent."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, NoReturn

import orjson

from bulkpull.errors import ApiError
from bulkpull.source import ContradictedCountError, Export, State

MAX_LINKS = 10_000  # of one export
MAX_ID = 1000  # characters
_MOST_COUNTED = 2**53  # activities: beyond it a float is no count
_LINK = ("url", "href", "link")
_MAX_STATUS = 200  # characters
_MAX_DIGITS = 4300  # of an integer, as Python has them by default
_LONG_INTEGER = re.compile(rb"\d{19}")  # or what looks like one, in a text

# The words of Clickwrap's documents, and those of other job systems: compared in small letters.
_QUEUED = frozenset(
    ("pending", "scheduled", "queued", "enqueued", "waiting", "created", "new", "submitted", "accepted")
)
_RUNNING = frozenset(("started", "running", "processing", "in_progress"))
_SUCCEEDED = frozenset(("success", "succeeded", "successful", "complete", "completed", "done", "finished", "ready"))
_FAILED = frozenset(
    ("failed", "failure", "error", "errored", "cancelled", "canceled", "aborted", "expired", "rejected", "killed")
)


class UnexpectedAnswer(Exception):  # noqa: N818 - never leaves the package: the retry turns it into UnavailableError
    """An answer with status 200 whose body is not what the route promises."""


def parse_json(body: bytes) -> Any:
    """What an answer holds. Integers of more than 64 bits keep their digits; a number that Python's cannot hold is its
    text. Raises ValueError for what is no JSON."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        pass  # it refuses what no float can hold, too
    else:
        if not _LONG_INTEGER.search(body):
            return answer
    try:
        answer = json.loads(body, parse_int=_integer, parse_float=_float, parse_constant=_no_number)
        json.dumps(answer, ensure_ascii=False).encode()  # half a surrogate pair is no text
        return answer
    except RecursionError:
        raise ValueError("JSON in too many levels") from None


def _integer(text: str) -> int | str:
    return int(text) if len(text) <= _MAX_DIGITS else text


def _float(text: str) -> float | str:
    return number if math.isfinite(number := float(text)) else text


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def state_of(status: str, *, has_links: bool) -> State:
    """What a status word means: the one place that decides it.

    An unknown word is an export that still runs, unless it has links, which is what it was made for.
    """
    if status in _SUCCEEDED:
        return "succeeded"
    if status in _FAILED:
        return "failed"
    if status in _QUEUED:
        return "queued"
    return "succeeded" if has_links and status not in _RUNNING else "running"


def parse_export(answer: Any, id: str | None = None) -> Export:
    """An export object, bare or under `data`; `links` may stand there, in its own `data`, or at the top. `id` is the
    export that was asked for: an answer need not repeat it. The answer to a launch needs nothing but the id: to repeat
    a launch would make another export."""
    asked = id
    top = _object(answer)
    task = top if "status" in top or not isinstance(top.get("data"), dict) else top["data"]
    told = task.get("id")
    if isinstance(told, str | int) and not isinstance(told, bool) and 0 < len(str(told)) <= MAX_ID:
        id = id or str(told)
    status = task.get("status")
    word = status.strip().lower().replace(" ", "_").replace("-", "_") if isinstance(status, str) else ""
    if id is None or len(word) > _MAX_STATUS:
        raise UnexpectedAnswer("an export with an id or a status that is none")
    links: tuple[str, ...] = ()
    if word not in _QUEUED | _RUNNING | _FAILED:
        links = next((found for holder in (task, task.get("data"), top) if (found := _links(holder))), ())
    if asked is not None and not word and not links:
        raise UnexpectedAnswer("an export without a status")
    message = task.get("message")
    state = state_of(word, has_links=bool(links))
    return Export(id, state, word or "unknown", None if message is None else str(message), links)


def _links(holder: Any) -> tuple[str, ...]:
    """The links of one place where they may stand, as strings or as objects."""
    links = holder.get("links") if isinstance(holder, dict) else None
    if not links:
        return ()
    if isinstance(links, dict) and not set(links) & set(_LINK):  # numbered, as some serialisers write lists
        links = list(links.values())
    elif isinstance(links, str | dict):
        links = [links]
    if not isinstance(links, list):
        raise UnexpectedAnswer("links that are no list")
    if len(links) > MAX_LINKS:
        raise ApiError(f"an export has {len(links):,} links, more than {MAX_LINKS:,}: pull shorter windows")
    return tuple(_text(link, _LINK, "a link") for link in links)


def parse_export_fields(answer: Any) -> list[str]:
    """Field names: a list of strings, or of objects with `field`, `name` or `key`, bare or under `data`."""
    if isinstance(answer, dict):
        answer = answer.get("data")
    if not isinstance(answer, list):
        raise UnexpectedAnswer("export fields that are no list")
    return [_text(entry, ("field", "name", "key"), "an export field") for entry in answer]


@dataclass(frozen=True, slots=True)
class Page:
    """One page of the activity list; `has_more` and `total_count` are None where the answer leaves them out."""

    data: list[dict[str, Any]]
    has_more: bool | None
    total_count: int | None


def parse_page(answer: Any) -> Page:
    """A page of activities."""
    top = _object(answer)
    data = top.get("data")
    if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
        raise UnexpectedAnswer("an activity list without data")
    total, more = top.get("total_count"), top.get("has_more")
    return Page(
        data=data,
        has_more=None if more is None else more is True or str(more).lower() == "true",
        total_count=_count(total),
    )


def parse_count(answer: Any) -> int:
    """How many activities a filter matches. Raises ApiError where that was not counted (asking again is of no use), and
    ContradictedCountError."""
    page = parse_page(answer)
    if page.total_count is None:
        raise ApiError("the activity list came without total_count, or with one that is no number of activities")
    if page.total_count == 0 and page.data:
        raise ContradictedCountError("the activity list counts none and lists some")
    return page.total_count


def _count(total: Any) -> int | None:
    """A number of activities, as a number or as text; None for anything else, such as -1."""
    if isinstance(total, bool) or not isinstance(total, int | float | str):
        return None
    try:
        number = float(total)
    except (ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() and 0 <= number < _MOST_COUNTED else None


def _object(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise UnexpectedAnswer("JSON that is no object")
    return answer


def _text(entry: Any, keys: tuple[str, ...], what: str) -> str:
    """`entry` itself, or the first of its `keys` that holds a string."""
    candidates = [entry.get(key) for key in keys] if isinstance(entry, dict) else [entry]
    for candidate in candidates:
        if isinstance(candidate, str) and candidate:
            return candidate
    raise UnexpectedAnswer(f"{what} without {' or '.join(keys)}")
