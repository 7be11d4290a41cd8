"""`bulkpull activity` and `bulkpull fields`: the list route and a site's fields."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from bulkpull.cli.running import client, client_options, run, split_fields
from bulkpull.errors import ApiError


@click.command()
@click.option("--filter", metavar="E", help="Comparisons joined by ' and ', such as event_type==agreed.")
@click.option("--fields", metavar="A,B", help="The fields of each activity; all without it.")
@click.option("--sort", metavar="FIELD", help="The order, as the API understands it.")
@click.option("--lean", is_flag=True, help="Smaller objects, cheaper for the API.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after so many activities.")
@client_options
def activity(
    filter: str | None,
    fields: str | None,
    sort: str | None,
    lean: bool,
    limit: int | None,
    base_url: str,
    requests_per_minute: int,
    retry_for: float,
) -> None:
    """List activities as NDJSON on standard output.

    For a look, not for bulk: each page of 100 is a request. Use `bulkpull pull` for more than a few thousand.
    """

    async def work() -> None:
        output = sys.stdout.buffer
        left = limit
        per_page = min(100, limit or 100)
        async with client(base_url, requests_per_minute, retry_for) as clickwrap:
            async for entry in clickwrap.activity(
                filter, fields=split_fields(fields), sort=sort, lean=lean, per_page=per_page
            ):
                output.write(_line(entry))
                if left is not None and (left := left - 1) == 0:
                    break
        output.flush()

    run(work)


def _line(entry: dict[str, Any]) -> bytes:
    """An activity as JSON. Raises ApiError."""
    try:
        text = json.dumps(entry, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        raise ApiError("an activity cannot be printed: it has too many levels of objects") from None
    return text.encode() + b"\n"


@click.command()
@click.option("--site", required=True, metavar="ID", help="The site's id.")
@client_options
def fields(site: str, base_url: str, requests_per_minute: int, retry_for: float) -> None:
    """List the fields that a site's exports offer, one a line."""

    async def work() -> list[str]:
        async with client(base_url, requests_per_minute, retry_for) as clickwrap:
            return await clickwrap.export_fields(site)

    for name in run(work):
        click.echo(name)
