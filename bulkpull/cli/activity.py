"""`bulkpull activity` and `bulkpull fields`: list activity, and the fields of a site."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from bulkpull.cli.client import client, client_options
from bulkpull.cli.options import Names
from bulkpull.cli.running import run
from bulkpull.cli.settings import Command
from bulkpull.errors import ApiError


@click.command(cls=Command)
@click.option("--filter", metavar="FILTER", help="Comparisons joined by ' and ', such as event_type==agreed.")
@click.option("--fields", type=Names(), metavar="A,B", help="Fields of each activity. Defaults to all.")
@click.option("--sort", metavar="FIELD", help="Sort order, as the API defines it.")
@click.option("--lean", is_flag=True, help="Request smaller objects, which cost the API less.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Maximum activities to list.")
@client_options
def activity(
    filter: str | None,
    fields: list[str] | None,
    sort: str | None,
    lean: bool,
    limit: int | None,
    base_url: str,
    requests_per_minute: int,
    retry_for: float,
) -> None:
    """List activities as NDJSON on standard output.

    Each 100 activities take one request. For more than a few thousand, use `bulkpull pull`.
    """

    async def work() -> None:
        output = sys.stdout.buffer
        left = limit
        per_page = min(100, limit or 100)
        async with client(base_url, requests_per_minute, retry_for) as clickwrap:
            async for entry in clickwrap.activity(filter, fields=fields or [], sort=sort, lean=lean, per_page=per_page):
                output.write(_line(entry))
                if left is not None and (left := left - 1) == 0:
                    break
        output.flush()

    run(work)


def _line(entry: dict[str, Any]) -> bytes:
    """Return an activity as a line of JSON. Raises ApiError."""
    try:
        text = json.dumps(entry, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        raise ApiError("an activity cannot be printed as JSON: its objects are nested too deeply") from None
    return text.encode() + b"\n"


@click.command(cls=Command)
@click.option("--site", required=True, metavar="ID", help="Id of the site.")
@client_options
def fields(site: str, base_url: str, requests_per_minute: int, retry_for: float) -> None:
    """List the fields available in a site's exports, one per line."""

    async def work() -> list[str]:
        async with client(base_url, requests_per_minute, retry_for) as clickwrap:
            return await clickwrap.export_fields(site)

    for name in run(work):
        click.echo(name)
