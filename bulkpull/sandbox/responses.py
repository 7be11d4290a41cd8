"""JSON responses of the API origin."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web


def json_response(answer: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Return a JSON response."""
    return web.Response(
        body=orjson.dumps(answer), status=status, headers=headers, content_type="application/json", charset="utf-8"
    )


def error_response(
    status: int, name: str, message: str, headers: dict[str, str] | None = None, *, sent_as: int | None = None
) -> web.Response:
    """Return an error object with `status`, sent with the HTTP status `sent_as` if given."""
    answer = {"error": {"message": message, "status": status, "name": name, "code": status}}
    return json_response(answer, sent_as or status, headers)
