"""Answers of the API origin."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web


def json_answer(answer: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Any JSON."""
    return web.Response(
        body=orjson.dumps(answer), status=status, headers=headers, content_type="application/json", charset="utf-8"
    )


def error_answer(
    status: int, name: str, message: str, headers: dict[str, str] | None = None, *, sent_as: int | None = None
) -> web.Response:
    """An error object; under another HTTP status where it is `sent_as` that."""
    answer = {"error": {"message": message, "status": status, "name": name, "code": status}}
    return json_answer(answer, sent_as or status, headers)
