"""The options of the API's client, which several commands share, and the client that they make."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bulkpull import RetryPolicy
from bulkpull.cli.options import Duration
from bulkpull.cli.settings import Setting, config_options
from bulkpull.cli.token import read_token, token_source
from bulkpull.clickwrap import BASE_URL
from bulkpull.durations import duration_text
from bulkpull.options import HOW_FAST, TROUBLE, WHAT

if TYPE_CHECKING:
    from bulkpull import Clickwrap

F = TypeVar("F", bound=Callable[..., Any])


def client_options(command: F) -> F:
    """Add the options of the API's client and of the configuration file; the command gets `base_url`,
    `requests_per_minute` and `retry_for`."""
    for option in (
        click.option(
            "--retry-for",
            cls=Setting,
            group=TROUBLE,
            type=Duration(minimum=0),
            default=duration_text(RetryPolicy().seconds),
            show_default=True,
            help="How long to keep retrying during an outage.",
        ),
        click.option(
            "--requests-per-minute",
            cls=Setting,
            group=HOW_FAST,
            type=click.IntRange(1, 2000),
            default=1800,
            show_default=True,
            metavar="N",
            help="Maximum API requests per minute. The API allows 2000 per token.",
        ),
        click.option(
            "--token-command",
            cls=Setting,
            group=WHAT,
            expose_value=False,
            callback=_remember,
            metavar="CMD",
            help="Command that prints the access token; it runs without a shell.",
        ),
        click.option(
            "--token-file",
            cls=Setting,
            group=WHAT,
            expose_value=False,
            callback=_remember,
            metavar="FILE",
            help="File that contains the access token. Defaults to BULKPULL_TOKEN.",
        ),
        click.option(
            "--base-url",
            cls=Setting,
            group=WHAT,
            default=BASE_URL,
            show_default=True,
            metavar="URL",
            help="API base URL: https, or http on loopback.",
        ),
        config_options,
    ):
        command = option(command)
    return command


def _remember(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Keep where the token is for `client`: commands need not pass it on."""
    context.meta[parameter.name or ""] = value


@asynccontextmanager
async def client(
    base_url: str, requests_per_minute: int, retry_for: float, *, needs_token: bool = True
) -> AsyncIterator[Clickwrap]:
    """Open a client with the token that the command's options name; unless it `needs_token`, it must make no request.

    Raises UsageError.
    """
    from bulkpull import Clickwrap

    token = await read_token(token_source(click.get_current_context())) if needs_token else "none"
    retry = RetryPolicy(seconds=retry_for)
    async with Clickwrap(token, base_url=base_url, requests_per_minute=requests_per_minute, retry=retry) as clickwrap:
        yield clickwrap
