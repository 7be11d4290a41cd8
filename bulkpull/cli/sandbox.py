"""`bulkpull sandbox`: run a local Clickwrap."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from datetime import datetime

import anyio
import click
import orjson

from bulkpull.cli.running import Interrupted, run
from bulkpull.planning.range import moment
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
Random faults:
{_KINDS}

\b
Modes, fixed while the sandbox runs:
{_MODES}"""


def _date(_context: click.Context, _parameter: click.Parameter, value: str) -> datetime:
    return moment(value, "date")


@click.command(epilog=_EPILOG)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 picks a free port.")
@click.option(
    "--rows", type=click.IntRange(min=0), default=DEFAULTS.rows, show_default=True, help="Activities to make."
)
@click.option("--start", default="2024-01-01", show_default=True, callback=_date, help="Start of the range, inclusive.")
@click.option("--end", default="2026-01-01", show_default=True, callback=_date, help="End of the range, exclusive.")
@click.option(
    "--peak",
    type=click.FloatRange(0, 1, max_open=True),
    default=DEFAULTS.peak,
    show_default=True,
    help="Share of the activities that occur in one week.",
)
@click.option(
    "--burst",
    type=click.IntRange(min=0),
    default=DEFAULTS.burst,
    show_default=True,
    help="Activities that share one instant in the middle.",
)
@click.option("--seed", type=int, default=DEFAULTS.seed, show_default=True, help="Seed of the data.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=DEFAULTS.workers,
    show_default=True,
    help="Number of concurrent exports the server works on.",
)
@click.option(
    "--export-seconds",
    type=click.FloatRange(min=0),
    default=DEFAULTS.export_seconds,
    show_default=True,
    help="Approximate duration of an export in seconds.",
)
@click.option(
    "--rows-per-file",
    type=click.IntRange(min=1),
    default=DEFAULTS.rows_per_file,
    show_default=True,
    help="Maximum rows per file; larger exports have several files.",
)
@click.option(
    "--rate-limit",
    "requests_per_minute",
    type=click.IntRange(min=1),
    default=DEFAULTS.requests_per_minute,
    show_default=True,
    help="Requests allowed per minute.",
)
@click.option("--counting/--no-counting", default=True, help="Whether the list route returns counts.")
@click.option(
    "--link-seconds",
    type=click.FloatRange(min=0),
    default=DEFAULTS.link_seconds,
    show_default=True,
    help="Lifetime of a link in seconds.",
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
    help="Seconds until the first byte of a file.",
)
@click.option(
    "--faults",
    default=DEFAULTS.faults,
    metavar="PROFILE[:SEED]",
    help=f"Faults and modes: {EVERYTHING}, {ODD}, or kinds joined by +; SEED makes them repeatable.",
)
@click.option(
    "--fault-seconds",
    type=click.FloatRange(min=0),
    default=DEFAULTS.fault_seconds,
    show_default=True,
    help="Seconds a request hangs or a body stalls; an outage lasts twice as long.",
)
def sandbox(**config: object) -> None:
    """Run a local Clickwrap with synthetic activity until interrupted.

    Prints two lines of JSON: the URL and the token at the start, statistics at the end. The statistics so far are also
    served at /sandbox; /sandbox?ids adds the number of distinct ids delivered.
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
