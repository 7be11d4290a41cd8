"""The in-memory network behaves like sockets for the client."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import anyio
import pytest

from bulkpull import RetryPolicy, TransferError, UnavailableError
from tests.simulation.clock import simulated
from tests.simulation.wire import API, TOKEN, End, Request, Serve, Step, connected, json_response, response

LINK = "https://files.example/1.csv?X-Sig=a%2Fb"


def scripted(*answers: Sequence[Step]) -> tuple[Serve, list[Request]]:
    """Return a server that sends these responses in order, and the list of requests it receives."""
    asked: list[Request] = []

    def serve(request: Request) -> Iterator[Step]:
        asked.append(request)
        return iter(answers[len(asked) - 1])

    return serve, asked


async def downloaded(serve: Serve) -> bytes:
    async with connected(serve, stall_timeout=30.0) as clickwrap, clickwrap.download(LINK) as download:
        return b"".join([chunk async for chunk in download.chunks])


@pytest.mark.parametrize("framing", ["length", "chunked", "close", "http/1.0"])
def test_a_body_arrives_in_every_framing(framing: str) -> None:
    version = "1.0" if framing == "http/1.0" else "1.1"
    whole = response(200, b"id\n1\n", framing="close" if version == "1.0" else framing, version=version)
    serve, asked = scripted([whole[:10], 1.0, whole[10:-2], 2.5, whole[-2:], End.CLOSE])
    assert simulated(1, partial(downloaded, serve)) == b"id\n1\n"
    assert asked[0].target == "/1.csv?X-Sig=a%2Fb"
    assert "authorization" not in asked[0].headers


@pytest.mark.parametrize("end", [End.CLOSE, End.RESET, End.HANG])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_that_ends_early_is_noticed(end: End, framing: str) -> None:
    serve, _ = scripted([response(200, b"id\n1\n2\n", framing=framing)[:-6], end])
    with pytest.raises(TransferError):
        simulated(1, partial(downloaded, serve))


def test_a_connection_is_kept_and_time_passes_as_the_answers_say() -> None:
    serve, asked = scripted([2.0, json_response(200, {"data": {"id": "a", "status": "started"}})], [End.RESET],
                            [40.0, json_response(200, {"data": {"id": "a", "status": "started"}})])  # fmt: skip

    async def twice() -> float:
        async with connected(serve, retry=RetryPolicy(base=0.0)) as clickwrap:
            await clickwrap.get_export("a")
            await clickwrap.get_export("a")
            return anyio.current_time()

    assert simulated(1, twice) == pytest.approx(42.0)
    assert [request.path for request in asked] == ["/v1.1/tasks/export/a"] * 3
    assert asked[0].headers["authorization"] == f"Bearer {TOKEN}"
    assert asked[0].host in API


def test_a_server_that_never_answers_ends_in_an_error() -> None:
    async def count() -> None:
        async with connected(lambda _: [End.HANG]) as clickwrap:
            await clickwrap.count()

    with pytest.raises(UnavailableError):
        simulated(1, count)
