"""`bulkpull verify`: compare an output with its manifest."""

from __future__ import annotations

from pathlib import Path

import click

import bulkpull
from bulkpull.cli.client import client, client_options
from bulkpull.cli.running import run
from bulkpull.cli.settings import Command
from bulkpull.cli.tables import path_json, window_json
from bulkpull.waits import plural

EXIT_DIFFERS = 6


@click.command(cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--against-api", is_flag=True, help="Also count each window again, with one request per window.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@client_options
def verify(
    file: Path, against_api: bool, as_json: bool, base_url: str, requests_per_minute: int, retry_for: float
) -> int:
    """Compare the output FILE of a finished pull with its manifest.

    Checks files, sizes, checksums and numbers of rows, and that each id occurs once. No request is made, and no token
    is needed, without --against-api. Exits with 6 if something differs, and with 5 if it cannot be read.
    """

    async def work() -> bulkpull.Verification:
        if not against_api:
            return await bulkpull.verify(file)
        async with client(base_url, requests_per_minute, retry_for) as clickwrap:
            return await bulkpull.verify(file, clickwrap)

    found = run(work)
    if as_json:
        click.echo(_json(found))
    else:
        for line in _lines(found):
            click.echo(line)
    return 0 if found.matches else EXIT_DIFFERS


def _lines(found: bulkpull.Verification) -> list[str]:
    """What was found, in words."""
    lines = [f"{one.path}: {one.problem}" for one in found.differences]
    changed = [one for one in found.recounts or () if one.differs]
    for one in changed:
        then = "not counted" if one.window.rows is None else f"{one.window.rows:,} counted"
        lines.append(f"{one.window}: {then} then, {one.delivered:,} delivered; {one.counted_now:,} counted now")
    if found.differences:
        lines.append(f"{found.output} differs from its manifest")
    else:
        lines.append(
            f"{found.output} matches its manifest: {found.rows:,} rows in {plural(found.files, 'file')}, each id once"
        )
    if found.recounts is not None:
        count = f"{len(changed):,} of {len(found.recounts):,} windows"
        lines.append(f"{count} have another number of activities at the API now than they delivered")
    return lines


def _json(found: bulkpull.Verification) -> bytes:
    import orjson

    windows = found.recounts and [
        window_json(one.window) | {"delivered": one.delivered, "counted_now": one.counted_now, "differs": one.differs}
        for one in found.recounts
    ]
    return orjson.dumps(
        {
            "output": path_json(found.output),
            "manifest": path_json(found.manifest),
            "matches": found.matches,
            "files": found.files,
            "rows": found.rows,
            "differences": found.differences,
            "windows": windows if found.recounts is None else list(windows or ()),
        }
    )
