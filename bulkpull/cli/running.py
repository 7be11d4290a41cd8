"""What the commands share: the client's options, and running until finished or interrupted."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bulkpull import RetryPolicy
from bulkpull.clickwrap import BASE_URL

if TYPE_CHECKING:
    import anyio

    from bulkpull import Clickwrap

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


EXIT_INTERRUPTED = 130
_SHOW_CURSOR = "\x1b[?25h"


class Interrupted(Exception):  # noqa: N818 - not an error but what the user wanted
    """SIGINT or SIGTERM was received."""


def client_options(command: F) -> F:
    """Add `--base-url`, `--requests-per-minute` and `--retry-for`."""
    command = click.option(
        "--retry-for",
        type=click.FloatRange(min=0),
        default=RetryPolicy().seconds,
        show_default=True,
        metavar="SECONDS",
        help="How long to keep retrying during an outage.",
    )(command)
    command = click.option(
        "--requests-per-minute",
        type=click.IntRange(1, 2000),
        default=1800,
        show_default=True,
        metavar="N",
        help="Maximum API requests per minute. The API allows 2000 per token.",
    )(command)
    return click.option(
        "--base-url",
        envvar="BULKPULL_BASE_URL",
        default=BASE_URL,
        show_default=True,
        show_envvar=True,
        metavar="URL",
        help="API base URL: https, or http on loopback.",
    )(command)


def client(base_url: str, requests_per_minute: int, retry_for: float, *, needs_token: bool = True) -> Clickwrap:
    """Return a client with the token of the environment; unless it `needs_token`, it must make no request."""
    from bulkpull import Clickwrap

    retry = RetryPolicy(seconds=retry_for)
    token = None if needs_token else "none"
    return Clickwrap.from_env(token=token, base_url=base_url, requests_per_minute=requests_per_minute, retry=retry)


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run `work` in an event loop. The first SIGINT or SIGTERM cancels it and raises Interrupted; a second one ends the
    process at once."""
    import anyio

    return anyio.run(_until_interrupted, work)


async def _until_interrupted(work: Callable[[], Awaitable[T]]) -> T:
    import anyio

    results: list[T] = []
    errors: list[Exception] = []
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            group.start_soon(_stop_on_signal, scope)
            try:
                results.append(await work())
            except Exception as error:  # raised below, without the group's wrapping
                errors.append(error)
        group.cancel_scope.cancel()
    if errors:
        raise errors[0]
    if not results:
        raise Interrupted("interrupted")
    return results[0]


async def _stop_on_signal(scope: anyio.CancelScope) -> None:
    import anyio

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            if scope.cancel_called:
                if sys.stderr.isatty():  # live progress hides the cursor
                    sys.stderr.write(_SHOW_CURSOR)
                    sys.stderr.flush()
                os._exit(EXIT_INTERRUPTED)
            scope.cancel()
