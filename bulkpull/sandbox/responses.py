"""Responses: JSON of the API origin, and those of faults."""

from __future__ import annotations

import socket
import struct
from typing import Any

import orjson
from aiohttp import web

from bulkpull.sandbox.faults import Fault


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


def reset(request: web.Request) -> web.Response:
    """Reset the request's connection (RST, not FIN); the returned response is never sent."""
    transport = request.transport
    if transport is not None:
        at_once = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        transport.abort()
    return web.Response()


def server_error(fault: Fault) -> web.Response:
    """Return a 500, 502 or 503, in JSON or HTML."""
    status = fault.draw.choice((500, 502, 503))
    if fault.draw.random() < 0.5:
        return web.json_response({"error": {"message": "Something went wrong", "status": status}}, status=status)
    return web.Response(text=f"<html><h1>{status}</h1></html>", status=status, content_type="text/html")


def html_page() -> web.Response:
    """Return a page like those of proxies and login forms, with status 200."""
    return web.Response(text="<!doctype html>\n<title>Please wait</title>\n<p>Just a moment", content_type="text/html")
