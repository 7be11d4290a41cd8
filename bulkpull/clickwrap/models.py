"""Parsers for the API's responses, tolerant where its documentation is silent."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

import orjson

from bulkpull.errors import ApiError
from bulkpull.record import record
from bulkpull.source import ContradictedCountError, Export, State

MAX_LINKS = 10_000  # of one export
MAX_ID_CHARS = 1000
_MAX_COUNT = 2**53  # beyond it a float cannot represent every integer
_LINK = ("url", "href", "link")
_MAX_STATUS_CHARS = 200
_MAX_DIGITS = 4300  # of an integer: Python's default limit
_LONG_INTEGER = re.compile(rb"\d{19}")  # may also match inside a string

# The status words of Clickwrap's documentation and of other job systems, in lower case.
_QUEUED = frozenset(
    ("pending", "scheduled", "queued", "enqueued", "waiting", "created", "new", "submitted", "accepted")
)
_RUNNING = frozenset(("started", "running", "processing", "in_progress"))
_SUCCEEDED = frozenset(("success", "succeeded", "successful", "complete", "completed", "done", "finished", "ready"))
_FAILED = frozenset(
    ("failed", "failure", "error", "errored", "cancelled", "canceled", "aborted", "expired", "rejected", "killed")
)


class UnexpectedResponse(Exception):  # noqa: N818 - never leaves the package: the retry turns it into UnavailableError
    """A response with status 200 whose body does not have the form that the route promises."""


def parse_json(body: bytes) -> Any:
    """Parse the body of a response.

    Integers of more than 64 bits keep all their digits. A number beyond the range of float, or too long for int,
    becomes a string. Raises ValueError if the body is not valid JSON.
    """
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        pass  # orjson also rejects numbers beyond the range of float
    else:
        if not _LONG_INTEGER.search(body):
            return answer
    try:
        answer = json.loads(body, parse_int=_integer, parse_float=_float, parse_constant=_no_number)
        json.dumps(answer, ensure_ascii=False).encode()  # fails for an unpaired surrogate
        return answer
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None


def _integer(text: str) -> int | str:
    return int(text) if len(text) <= _MAX_DIGITS else text


def _float(text: str) -> float | str:
    return number if math.isfinite(number := float(text)) else text


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not valid JSON")


def state_of(status: str, *, has_links: bool) -> State:
    """Map a status word to a state.

    An export with an unknown status is still running, unless it has links.
    """
    if status in _SUCCEEDED:
        return "succeeded"
    if status in _FAILED:
        return "failed"
    if status in _QUEUED:
        return "queued"
    return "succeeded" if has_links and status not in _RUNNING else "running"


def parse_export(answer: Any, id: str | None = None) -> Export:
    """Parse an export object, at the top level or under `data`.

    `links` may be in the export object, in its own `data`, or at the top level. `id` is the requested export, if known:
    the response need not repeat it. The response to a launch needs only the id, since repeating the launch would start
    another export. Raises UnexpectedResponse.
    """
    requested = id
    top = _object(answer)
    task = top if "status" in top or not isinstance(top.get("data"), dict) else top["data"]
    own_id = task.get("id")
    if isinstance(own_id, str | int) and not isinstance(own_id, bool) and 0 < len(str(own_id)) <= MAX_ID_CHARS:
        id = id or str(own_id)
    status = task.get("status")
    word = status.strip().lower().replace(" ", "_").replace("-", "_") if isinstance(status, str) else ""
    if id is None or len(word) > _MAX_STATUS_CHARS:
        raise UnexpectedResponse("an export without a usable id or status")
    links: tuple[str, ...] = ()
    if word not in _QUEUED | _RUNNING | _FAILED:
        links = next((found for holder in (task, task.get("data"), top) if (found := _links(holder))), ())
    if requested is not None and not word and not links:
        raise UnexpectedResponse("an export without a status")
    message = task.get("message")
    state = state_of(word, has_links=bool(links))
    return Export(id, state, word or "unknown", None if message is None else str(message), links)


def _links(holder: Any) -> tuple[str, ...]:
    """Return the links in `holder`, given as strings or as objects; none if there are none."""
    links = holder.get("links") if isinstance(holder, dict) else None
    if not links:
        return ()
    if isinstance(links, dict) and not set(links) & set(_LINK):
        links = list(links.values())  # a list that was serialized as an object with numeric keys
    elif isinstance(links, str | dict):
        links = [links]
    if not isinstance(links, list):
        raise UnexpectedResponse("links that are not a list")
    if len(links) > MAX_LINKS:
        raise ApiError(
            f"an export has {len(links):,} links, more than the limit of {MAX_LINKS:,}. Use shorter windows."
        )
    return tuple(_text(link, _LINK, "a link") for link in links)


def parse_export_fields(answer: Any) -> list[str]:
    """Parse a list of field names: strings or objects with `field`, `name` or `key`, at the top level or in `data`."""
    if isinstance(answer, dict):
        answer = answer.get("data")
    if not isinstance(answer, list):
        raise UnexpectedResponse("export fields that are not a list")
    return [_text(entry, ("field", "name", "key"), "an export field") for entry in answer]


@record
class Page:
    """One page of the activity list; `has_more` and `total_count` are None if the response lacks them."""

    data: list[dict[str, Any]]
    has_more: bool | None
    total_count: int | None


def parse_page(answer: Any) -> Page:
    """Parse a page of activities. Raises UnexpectedResponse."""
    top = _object(answer)
    data = top.get("data")
    if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
        raise UnexpectedResponse("an activity list without data")
    total, more = top.get("total_count"), top.get("has_more")
    return Page(
        data=data,
        has_more=None if more is None else more is True or str(more).lower() == "true",
        total_count=_count(total),
    )


def parse_count(answer: Any) -> int:
    """Parse the number of activities that match a filter.

    Raises ApiError, which is not retried, if the response has no usable count, and ContradictedCountError.
    """
    page = parse_page(answer)
    if page.total_count is None:
        raise ApiError("the activity list has no total_count, or not a valid one")
    if page.total_count == 0 and page.data:
        raise ContradictedCountError("the activity list contains activities, but its total_count is 0")
    return page.total_count


def _count(total: Any) -> int | None:
    """Parse a count given as a number or as a string; return None for anything else, such as -1."""
    if isinstance(total, bool) or not isinstance(total, int | float | str):
        return None
    try:
        number = float(total)
    except (ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() and 0 <= number < _MAX_COUNT else None


def _object(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise UnexpectedResponse("JSON that is not an object")
    return answer


def _text(entry: Any, keys: tuple[str, ...], what: str) -> str:
    """Return `entry`, or the first string under one of its `keys`. Raises UnexpectedResponse if there is none."""
    candidates = [entry.get(key) for key in keys] if isinstance(entry, dict) else [entry]
    for candidate in candidates:
        if isinstance(candidate, str) and candidate:
            return candidate
    raise UnexpectedResponse(f"{what} without {' or '.join(keys)}")
