"""`bulkpull sandbox`: a local Clickwrap."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from datetime import datetime

import anyio
import click
import orjson

from bulkpull.cli.running import Interrupted, run
from bulkpull.planning.plan import moment
from bulkpull.sandbox import Sandbox, SandboxConfig
from bulkpull.sandbox.faults import EVERYTHING, KINDS, ODD
from bulkpull.sandbox.modes import MODES
from bulkpull.sandbox.storage import FORMS

DEFAULTS = SandboxConfig()
_KINDS = "\n".join(f"  {kind:<24}{meaning}" for kinds in KINDS.values() for kind, meaning in kinds.items())
_MODES = "\n".join(
    f"  {kind:<24}{mode.meaning}"
    if mode.default is None
    else f"  {kind + ':N':<24}{mode.meaning} (N: {mode.default:,})"
    for kinds in MODES.values()
    for kind, mode in kinds.items()
)
_EPILOG = f"""\b
Faults that strike now and then:
{_KINDS}

\b
Modes, for as long as the sandbox runs:
{_MODES}"""


def _date(_context: click.Context, _parameter: click.Parameter, value: str) -> datetime:
    return moment(value, "date")


@click.command(epilog=_EPILOG)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option("--rows", type=click.IntRange(min=0), default=DEFAULTS.rows, show_default=True, help="Activities.")
@click.option("--start", default="2024-01-01", show_default=True, callback=_date, help="The first activity's date.")
@click.option("--end", default="2026-01-01", show_default=True, callback=_date, help="They end before it.")
@click.option(
    "--peak",
    type=click.FloatRange(0, 1, max_open=True),
    default=DEFAULTS.peak,
    show_default=True,
    help="Share of the activities that falls into one week.",
)
@click.option(
    "--burst",
    type=click.IntRange(min=0),
    default=DEFAULTS.burst,
    show_default=True,
    help="Activities that share the instant in the middle.",
)
@click.option("--seed", type=int, default=DEFAULTS.seed, show_default=True, help="Same seed, same data.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=DEFAULTS.workers,
    show_default=True,
    help="Exports worked on at a time.",
)
@click.option(
    "--export-seconds",
    type=click.FloatRange(min=0),
    default=DEFAULTS.export_seconds,
    show_default=True,
    help="What an export takes, about.",
)
@click.option(
    "--rows-per-file",
    type=click.IntRange(min=1),
    default=DEFAULTS.rows_per_file,
    show_default=True,
    help="An export with more has several files.",
)
@click.option(
    "--rate-limit",
    "requests_per_minute",
    type=click.IntRange(min=1),
    default=DEFAULTS.requests_per_minute,
    show_default=True,
    help="Requests a minute.",
)
@click.option("--counting/--no-counting", default=True, help="Whether the list route counts.")
@click.option(
    "--link-seconds",
    type=click.FloatRange(min=0),
    default=DEFAULTS.link_seconds,
    show_default=True,
    help="How long a link is good.",
)
@click.option(
    "--store",
    default=DEFAULTS.store,
    metavar="URL",
    help=f"Serve the files from another server: {FORMS}. Defaults to the sandbox itself.",
)
@click.option(
    "--file-latency",
    type=click.FloatRange(min=0),
    default=DEFAULTS.file_latency,
    show_default=True,
    help="Seconds until a file's first byte.",
)
@click.option(
    "--faults",
    default=DEFAULTS.faults,
    metavar="PROFILE[:SEED]",
    help=f"What goes wrong: {EVERYTHING}, {ODD}, or kinds joined by +. Same seed, same faults.",
)
@click.option(
    "--fault-seconds",
    type=click.FloatRange(min=0),
    default=DEFAULTS.fault_seconds,
    show_default=True,
    help="How long a request hangs or a body stalls; an outage takes twice as long.",
)
def sandbox(**config: object) -> None:
    """Run a local Clickwrap with made-up activity, until interrupted.

    Standard output gets two JSON lines: at the start the URL and the token, at the end what the sandbox saw. What it
    has seen so far is also at /sandbox, and with /sandbox?ids the number of different ids it delivered.
    """

    async def work() -> None:
        async with Sandbox(SandboxConfig(**config)) as running:  # type: ignore[arg-type]
            click.echo(orjson.dumps({"url": running.url, "token": running.config.token}))
            click.echo(
                f"Try:  BULKPULL_TOKEN={running.config.token} BULKPULL_BASE_URL={running.url} "
                "bulkpull pull --start 2024-01-01 --end 2026-01-01 --out activity.csv",
                err=True,
            )
            try:
                await anyio.sleep_forever()
            finally:
                click.echo(orjson.dumps(asdict(running.seen)))

    with suppress(Interrupted):
        run(work)
