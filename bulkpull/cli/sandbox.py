"""`bulkpull sandbox`: a local Clickwrap server."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timedelta

import click

from bulkpull.cli.running import Interrupted, run
from bulkpull.planning import moment
from bulkpull.sandbox import SandboxConfig
from bulkpull.sandbox.faults import EVERYTHING, KINDS, ODD
from bulkpull.sandbox.modes import MODES
from bulkpull.sandbox.storage import FORMS

DEFAULTS = SandboxConfig()
_NAME_WIDTH, _HELP_WIDTH = 26, 78  # click adds two columns


def _described(names: Mapping[str, str]) -> str:
    """Return names with their meanings as two columns."""
    return "\n".join(
        textwrap.fill(
            meaning,
            _HELP_WIDTH,
            initial_indent=f"  {name}".ljust(_NAME_WIDTH - 1) + " ",
            subsequent_indent=" " * _NAME_WIDTH,
            break_on_hyphens=False,
        )
        for name, meaning in names.items()
    )


_KINDS = _described({kind: meaning for kinds in KINDS.values() for kind, meaning in kinds.items()})
_MODES = _described(
    {
        kind if mode.default is None else f"{kind}:N": mode.meaning
        + ("" if mode.default is None else f" (N: {mode.default:,})")
        for kinds in MODES.values()
        for kind, mode in kinds.items()
    }
)
_EPILOG = f"""\b
Faults, injected at random:
{_KINDS}

\b
Modes, active as long as the sandbox runs:
{_MODES}"""


def _date(_context: click.Context, _parameter: click.Parameter, value: str | None) -> datetime | None:
    return None if value is None else moment(value, "date")


@click.command(epilog=_EPILOG)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port of the API; 0 chooses a free one.",
)
@click.option(
    "--rows", type=click.IntRange(min=0), default=DEFAULTS.rows, show_default=True, help="Number of activities."
)
@click.option("--start", default="2024-01-01", show_default=True, callback=_date, help="Date of the first activity.")
@click.option("--end", default="2026-01-01", show_default=True, callback=_date, help="End of the activity, exclusive.")
@click.option(
    "--peak",
    type=click.FloatRange(0, 1, max_open=True),
    default=DEFAULTS.peak,
    show_default=True,
    help="Fraction of the activities that falls into one week.",
)
@click.option(
    "--burst",
    type=click.IntRange(min=0),
    default=DEFAULTS.burst,
    show_default=True,
    help="Number of activities at one instant, in the middle of the range.",
)
@click.option("--seed", type=int, default=DEFAULTS.seed, show_default=True, help="Seed of the generated data.")
@click.option(
    "--history",
    "history_seed",
    type=int,
    metavar="SEED",
    help="Let activity arrive late, and be deleted, changed and moved, while the sandbox's clock passes. POST "
    "/sandbox?now=DATE sets the clock.",
)
@click.option(
    "--now", callback=_date, help="The sandbox's clock with --history. Defaults to the middle of the activity."
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=DEFAULTS.workers,
    show_default=True,
    help="Maximum number of exports processed at the same time.",
)
@click.option(
    "--export-seconds",
    type=click.FloatRange(min=0),
    default=DEFAULTS.export_seconds,
    show_default=True,
    help="Approximate duration of an export, in seconds.",
)
@click.option(
    "--rows-per-file",
    type=click.IntRange(min=1),
    default=DEFAULTS.rows_per_file,
    show_default=True,
    help="Maximum number of rows per file.",
)
@click.option(
    "--rate-limit",
    "requests_per_minute",
    type=click.IntRange(min=1),
    default=DEFAULTS.requests_per_minute,
    show_default=True,
    help="Maximum number of requests per minute.",
)
@click.option("--counting/--no-counting", default=True, help="Allow or refuse counting on the list route.")
@click.option(
    "--link-seconds",
    type=click.FloatRange(min=0),
    default=DEFAULTS.link_seconds,
    show_default=True,
    help="Validity of links, in seconds.",
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
    help="Latency of the first byte of a file, in seconds.",
)
@click.option(
    "--faults",
    default=DEFAULTS.faults,
    metavar="PROFILE[:SEED]",
    help=f"Faults to inject: {EVERYTHING}, {ODD}, or kinds joined by +.",
)
@click.option(
    "--fault-seconds",
    type=click.FloatRange(min=0),
    default=DEFAULTS.fault_seconds,
    show_default=True,
    help="Duration of a hang or stall, in seconds; an outage takes twice as long.",
)
def sandbox(history_seed: int | None, now: datetime | None, **values: object) -> None:
    """Run a local Clickwrap server with synthetic activity, until interrupted.

    Prints two JSON lines to standard output: the URL and the token at the start, and statistics at the end. The
    statistics so far are also available at /sandbox, and with the number of distinct exported ids at /sandbox?ids.
    """

    import anyio
    import orjson

    from bulkpull.sandbox import History, Sandbox

    config = SandboxConfig(**values)  # type: ignore[arg-type]
    if now and history_seed is None:
        raise click.UsageError("--now is the clock of a --history.")

    async def work() -> None:
        sandbox = Sandbox(config)
        if history_seed is not None:
            days = (config.end - config.start) / timedelta(days=1)
            sandbox.history = History(
                start=config.start,
                end=config.end,
                per_day=config.rows / days,
                seed=history_seed,
                late=0.01,
                deleted=0.01,
                changed=0.01,
                moved=0.001,
            )
            sandbox.now = now or config.start + (config.end - config.start) / 2
        async with sandbox as running:
            click.echo(orjson.dumps({"url": running.url, "token": running.config.token}))
            click.echo(
                f"Try:  BULKPULL_TOKEN={running.config.token} BULKPULL_BASE_URL={running.url} "
                "bulkpull pull --start 2024-01-01 --end 2026-01-01 --out activity.csv",
                err=True,
            )
            try:
                await anyio.sleep_forever()
            finally:
                click.echo(orjson.dumps(asdict(running.stats)))

    with suppress(Interrupted):
        run(work)
