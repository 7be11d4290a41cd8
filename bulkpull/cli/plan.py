"""`bulkpull plan`: show the windows of a pull."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import bulkpull
from bulkpull.cli.client import client, client_options
from bulkpull.cli.options import options_of, run_options
from bulkpull.cli.running import run
from bulkpull.cli.settings import Command
from bulkpull.cli.tables import show, table, window_json
from bulkpull.options import declared
from bulkpull.planning import AUTO
from bulkpull.pull import check_names, default_extra
from bulkpull.window import instant

if TYPE_CHECKING:
    from bulkpull.eta import Estimate, Prior
    from bulkpull.journal import EarlierPull

ASSUMED_EXPORT_S = 60.0
ASSUMED_SPREAD = 0.1  # of the logarithm of durations
_BAR_WIDTH = 24  # characters
_PLANNED = frozenset(field.name for field, _ in declared(bulkpull.PlanOptions))
_SHOWN = _PLANNED | {"exports", "max_exports", "max_extra_exports"}


@click.command(cls=Command)
@options_of(bulkpull.PullOptions, optional=["out"], shown=_SHOWN)
@client_options
@partial(run_options, shown=["--json"])
def plan(
    fields: list[str] | None,
    exports: int | None,
    max_exports: int,
    max_extra_exports: int | None,
    base_url: str,
    requests_per_minute: int,
    retry_for: float,
    as_json: bool,
    quiet: bool,
    out: Path | str | None,
    state: Path | None,
    **values: Any,
) -> None:
    """Show the windows of a pull with the same options, without starting any export.

    If the window is auto, the API is asked to count; otherwise no request is made. The other options of `bulkpull pull`
    are accepted. How long the pull takes is estimated from an earlier pull of the site to --out, or to the same
    directory.
    """
    check_names(fields or ())
    options = bulkpull.PlanOptions(**{name: value for name, value in values.items() if name in _PLANNED})

    async def work() -> bulkpull.Plan:
        async with client(base_url, requests_per_minute, retry_for, needs_token=options.length == AUTO) as api:
            if quiet or options.length != AUTO:
                return await bulkpull.plan(api, **options.asdict())
            from bulkpull.cli.progress import progress

            with progress(verbose=False, requests_per_minute=requests_per_minute, is_transient=True) as listener:
                return await bulkpull.plan(api.observed(listener), **options.asdict())

    found = run(work)
    from bulkpull.eta import of_plan
    from bulkpull.journal import earlier_pull
    from bulkpull.waits import plural

    windows = found.windows
    concurrent = exports or max_exports
    requests = 2 * len(windows)  # at least: one launches an export, one finds it finished
    extra = default_extra(len(windows)) if max_extra_exports is None else max_extra_exports
    earlier = None if out is None else earlier_pull(out, state, base_url)
    prior = earlier.prior if earlier else _assumed()
    quota_s = 60.0 * (requests // requests_per_minute)
    time = of_plan([window.rows for window in windows], prior, concurrent, quota_s)
    if as_json:
        import orjson

        figures = {"rows": found.rows, "exports": len(windows), "probes": found.probes, "requests": requests}
        figures |= {"max_extra_exports": extra}
        times = {
            "seconds": round(time.middle),
            "seconds_low": round(time.low),
            "seconds_high": round(time.high),
            "assumed_seconds_per_export": prior.durations.model.median,
            "earlier_pull": _earlier_json(earlier),
        }
        reason = {"uncounted": found.uncounted or None, "doubt": found.doubt or None}
        click.echo(orjson.dumps({"windows": [window_json(one) for one in windows]} | figures | times | reason))
        return
    _show_windows(found)
    if found.uncounted:
        click.echo(f"Activity could not be counted; windows have equal length: {found.uncounted}")
    if found.doubt:
        click.echo(f"The API's counts are unreliable: {found.doubt}")
    if found.rows is not None:
        click.echo(f"{found.rows:,} activities, counted with {found.probes:,} requests")
    click.echo(
        f"{plural(len(windows), 'export')}, at least {requests:,} requests: one to launch each export, the rest to poll"
    )
    click.echo(f"Up to {extra:,} more exports if some fail or are incomplete (--max-extra-exports)")
    click.echo(_duration(time, earlier, concurrent, datetime.now(UTC)))


def _assumed() -> Prior:
    from bulkpull.eta import Prior
    from bulkpull.export_durations import Durations
    from bulkpull.pacing import DurationModel

    return Prior(Durations(DurationModel(ASSUMED_EXPORT_S, ASSUMED_SPREAD), observed=1))


def _duration(time: Estimate, earlier: EarlierPull | None, limit: int, now: datetime) -> str:
    """Return how long the pull takes, and what that is estimated from."""
    from bulkpull.cli.screen import duration_range
    from bulkpull.waits import clock, plural

    takes = duration_range(time)
    takes = f"{takes[:1].upper()}{takes[1:]}"
    if earlier is None:
        return f"{takes}, assuming one minute per export and up to {limit:,} concurrent exports; a pull measures both"
    durations = earlier.prior.durations
    seen = earlier.seen_at.date()
    day = {0: "today", 1: "yesterday"}.get((now.date() - seen).days, f"on {seen}")
    which = f"the pull to {earlier.name} that ended {day}"
    if not earlier.is_finished:
        which = f"the unfinished pull to {earlier.name} ({day})"
    return (
        f"{takes}, from {plural(durations.observed, 'export')} of {which}: they took about "
        f"{clock(durations.model.median)} each; up to {earlier.prior.concurrent(limit):,} are expected to run "
        "concurrently"
    )


def _earlier_json(earlier: EarlierPull | None) -> dict[str, object] | None:
    if earlier is None:
        return None
    return {
        "output": earlier.name,
        "is_finished": earlier.is_finished,
        "seen": instant(earlier.seen_at),
        "exports": earlier.prior.durations.observed,
    }


def _show_windows(found: bulkpull.Plan) -> None:
    shown = table("window", "start", "end", *(("rows", "share", "") if found.rows else ()))
    most = max((one.rows or 0 for one in found.windows), default=0)
    for one in found.windows:
        cells = [str(one.index + 1), instant(one.start), instant(one.end)]
        if found.rows:
            rows = one.rows or 0
            cells += [f"{rows:,}", f"{rows / found.rows:.1%}", "█" * math.ceil(_BAR_WIDTH * rows / most)]
        shown.add_row(*cells)
    show(shown)
