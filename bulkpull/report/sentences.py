"""Three sentences: what took the time of a pull, why, and what would make it faster."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, median

from bulkpull.record import record
from bulkpull.report.division import Step
from bulkpull.report.figures import MINUTE_S, ExportTimes, PullFigures
from bulkpull.waits import plural

_GROUPS: dict[str, tuple[Step, ...]] = {
    "server": ("launching", "queued", "running", "failed"),
    "downloads": ("slot", "downloading"),
    "merge": ("merging", "publishing"),
    "planning": ("counting", "starting"),
}
_SPENT = {
    "server": "waiting for exports",
    "downloads": "on downloads",
    "merge": "on the merge and completing the output",
    "planning": "on counting and planning",
}
_MIN_SHARE = 0.05  # of the time, to be named
_MUCH_FAILED = 0.15  # of the time
_MUCH_QUEUED = 0.4  # of the time that was spent on exports
_MANY_QUEUED = 0.25  # of the exports in flight
_OFTEN = 0.6  # of the time until the last launch
_AT_QUOTA = 0.95
_OFTEN_AT_QUOTA = 0.2  # of the minutes
_LONG = 0.4  # of the whole time, for a single export
_FIXED, _PROPORTIONAL = 0.7, 0.3  # shares of an export's duration that do not depend on its rows
_TIMED_OUT = "it was still"  # how the reason of an export that timed out begins: see bulkpull.pull.poll
_MIN_EXPORTS = 8  # to compare their durations


@record
class Load:
    """How busy the exports were until the last launch: the means of those in flight and of those queued, the share of
    the time at the limit, and the highest limit."""

    in_flight: float
    queued: float
    at_limit: float
    limit: int


def sentences(figures: PullFigures, spent: Mapping[Step, float]) -> tuple[str, str, str]:
    """Return three sentences on a pull: what took the time, why, and what would make it faster.

    Args:
        figures: The figures.
        spent: How its time divides: see `divide`.
    """
    groups = {group: sum(spent[step] for step in steps) for group, steps in _GROUPS.items()}
    if not figures.exports or not sum(groups.values()):
        return (
            f"The pull has {_state(figures)} after {duration(figures.elapsed)}, before any export was launched.",
            "So there is nothing to say about what took the time.",
            _next_step(figures),
        )
    why, faster = _reasons(figures, spent, groups)
    return _division(figures, groups), why, faster if figures.is_published else f"{_next_step(figures)} {faster}"


def _state(figures: PullFigures) -> str:
    return "run so far" if figures.is_running else "finished" if figures.is_published else "stopped"


def _next_step(figures: PullFigures) -> str:
    if figures.is_published:
        return "Nothing is left to be done."
    return "It is still running." if figures.is_running else "Run the same command again to resume it."


def _division(figures: PullFigures, groups: dict[str, float]) -> str:
    whole = sum(groups.values())
    took = "took" if figures.is_published else "has taken"
    shares = [
        (f"{seconds / whole:.0%}", _SPENT[group])
        for group, seconds in sorted(groups.items(), key=lambda item: -item[1])
        if seconds / whole >= _MIN_SHARE
    ]
    runs = f", in {len(figures.runs):,} runs" if len(figures.runs) > 1 else ""
    if len(shares) == 1:
        listed = f"nearly all of it {shares[0][1]}"
    else:
        *others, last = [" ".join(share) for share in shares]
        listed = f"{', '.join(others)}, and {last}" if len(others) > 1 else f"{others[0]} and {last}"
    return f"The pull {took} {duration(figures.elapsed)}{runs}: {listed}."


def _reasons(figures: PullFigures, spent: Mapping[Step, float], groups: dict[str, float]) -> tuple[str, str]:
    """Why the largest part of the time was spent, and what would make it faster."""
    whole = sum(groups.values())
    match max(groups, key=lambda group: groups[group]):
        case "merge":
            return _about_merge(spent)
        case "downloads":
            return _about_downloads(figures, spent)
        case "planning":
            return (
                "Most of the time went by before the first export: the windows were planned by counting.",
                "Windows of equal length (such as --window 1mo) need no counts.",
            )
    if spent["failed"] / whole >= _MUCH_FAILED:
        return _about_failures(figures, spent)
    return _about_server(figures, spent, groups["server"])


def _about_failures(figures: PullFigures, spent: Mapping[Step, float]) -> tuple[str, str]:
    failed = sum(export.failed is not None for export in figures.exports)
    worst = next((one.reason for one in figures.repeated if one.kind == "failed"), "")
    why = (
        f"{duration(spent['failed'])} of that was lost on exports that failed: {failed:,} of "
        f'{plural(len(figures.exports), "export")}, most of the time because of "{worst}".'
    )
    if worst.startswith(_TIMED_OUT):
        return why, (
            "A shorter --export-timeout would give up sooner on exports that never end, and smaller windows (a lower "
            "--rows-per-export) would help if large ones do not end."
        )
    return why, (
        "Fewer failures would save that time. If large exports fail more often, make windows smaller "
        "(a lower --rows-per-export)."
    )


def _about_merge(spent: Mapping[Step, float]) -> tuple[str, str]:
    if spent["publishing"] > spent["merging"]:
        return (
            "All rows were merged before most of that time: it went into completing the output.",
            "An uncompressed CSV takes the least time to complete.",
        )
    return (
        "Files were ready faster than their rows could be merged.",
        "Neither more exports nor more downloads would make it faster: only a faster disk or processor would.",
    )


def _about_downloads(figures: PullFigures, spent: Mapping[Step, float]) -> tuple[str, str]:
    rate = figures.bytes / max(1.0, spent["downloading"] + spent["slot"])
    if spent["slot"] > spent["downloading"]:
        return (
            "Files of finished exports waited for others to be downloaded or merged.",
            f"A higher --downloads than {figures.options.downloads}, or a higher --spool, may make it faster.",
        )
    return (
        f"Files arrived with about {size(rate)} a second while nothing else was left to wait for.",
        "A faster connection to the file host would make it faster; another number of exports would not.",
    )


def _about_server(figures: PullFigures, spent: Mapping[Step, float], seconds: float) -> tuple[str, str]:
    load, most = load_of(figures), figures.options.exports
    running = [export.ready - _left_queue(export) for export in figures.exports if export.ready is not None]
    if _is_at_quota(figures):
        return (
            f"Requests often reached the quota of {figures.options.requests_per_minute:,} a minute.",
            "Larger windows need fewer requests; a higher --requests-per-minute helps if the API allows it.",
        )
    if spent["queued"] / seconds >= _MUCH_QUEUED or load.queued >= _MANY_QUEUED * load.in_flight:
        return (
            f"The server was busy: of {load.in_flight:.1f} exports in flight on average, {load.queued:.1f} waited in "
            "its queue.",
            f"More exports at a time would only wait longer. {_about_windows(figures)}",
        )
    longest = max(running, default=0.0)
    if longest >= _LONG * figures.elapsed and len(figures.exports) > 1:
        return (
            f"The longest export ran for {duration(longest)}, {longest / figures.elapsed:.0%} of the whole time; half "
            f"of them ran for less than {duration(median(running))}.",
            "Smaller windows (a lower --rows-per-export, or a shorter --window) would divide it.",
        )
    if load.at_limit >= _OFTEN and not figures.options.is_adaptive:
        return (
            f"The limit of {plural(most, 'export')} at a time, set with --exports, was reached {load.at_limit:.0%} of "
            "the time, and hardly any export waited in the server's queue.",
            "A higher --exports, or none, so that the limit adapts, would make it faster.",
        )
    if load.at_limit >= _OFTEN and load.limit >= most:
        return (
            f"The limit adapted to the server until it reached --max-exports, {plural(most, 'export')} at a time.",
            "A higher --max-exports may make it faster.",
        )
    if load.at_limit >= _OFTEN:
        return (
            f"Exports were launched up to the limit, which adapted to the server and reached {load.limit:,} at a time.",
            _about_windows(figures),
        )
    return (
        f"{load.in_flight:.1f} exports were in flight on average, of {load.limit:,} that the limit allowed.",
        f"Another limit would not make it faster. {_about_windows(figures)}",
    )


def _about_windows(figures: PullFigures) -> str:
    """What fewer or more windows would change."""
    fixed = fixed_share(figures.durations)
    if fixed is None:
        return "Too few exports have ended to say whether fewer or more windows would help."
    if fixed >= _FIXED:
        return (
            "Exports took about as long however many rows they had: fewer, larger windows (a higher --rows-per-export, "
            "or a longer --window) would make it faster."
        )
    if fixed <= _PROPORTIONAL:
        return "Exports took longer the more rows they had, so fewer or more windows would change little."
    return (
        f"About {fixed:.0%} of an export's time did not depend on its rows: somewhat fewer, larger windows may make it "
        "faster."
    )


def fixed_share(durations: Sequence[tuple[float, int | None]]) -> float | None:
    """Return the share of the mean duration that does not depend on the number of rows, by least squares; None if
    there are too few exports, or their rows hardly differ."""
    known = [(seconds, rows) for seconds, rows in durations if rows is not None]
    if len(known) < _MIN_EXPORTS:
        return None
    mean_seconds, mean_rows = fmean(seconds for seconds, _ in known), fmean(rows for _, rows in known)
    variance = fmean((rows - mean_rows) ** 2 for _, rows in known)
    if mean_seconds <= 0 or math.sqrt(variance) < 0.1 * mean_rows or mean_rows == 0:
        return None
    slope = fmean((seconds - mean_seconds) * (rows - mean_rows) for seconds, rows in known) / variance
    return min(1.0, max(0.0, 1 - slope * mean_rows / mean_seconds))


def load_of(figures: PullFigures) -> Load:
    """Return how busy the exports were until the last launch."""
    until = max((export.launched for export in figures.exports), default=0.0)
    begun = min((export.launched for export in figures.exports), default=0.0)
    span = until - begun
    limit = max((limit for _, limit in figures.limits), default=0)
    if span <= 0:
        return Load(len(figures.exports), 0.0, 0.0, limit)
    busy = queued = at_limit = 0.0
    limits = [*figures.limits, (math.inf, 0)]
    place, current = 0, 0
    for (time, number), (following, _) in pairwise([*figures.in_flight, (until, 0)]):
        while limits[place][0] <= time:
            current = limits[place][1]
            place += 1
        seconds = max(0.0, min(following, until) - time)
        busy += number * seconds
        at_limit += seconds * (0 < current <= number)
    for export in figures.exports:
        if export.queued is not None:
            left = next(time for time in (export.left_queue, export.ended, until) if time is not None)
            queued += max(0.0, min(left, until) - export.launched)
    return Load(busy / span, queued / span, at_limit / span, limit)


def _left_queue(export: ExportTimes) -> float:
    return export.launched if export.left_queue is None else export.left_queue


def _is_at_quota(figures: PullFigures) -> bool:
    quota = figures.options.requests_per_minute
    rates = figures.requests_a_minute
    if not quota or figures.elapsed < MINUTE_S:
        return False
    seconds = sum(
        following - time
        for (time, rate), (following, _) in pairwise([*rates, (figures.elapsed, 0)])
        if rate >= _AT_QUOTA * quota
    )
    return seconds >= _OFTEN_AT_QUOTA * figures.elapsed


def duration(seconds: float) -> str:
    """Return a duration with its two largest units."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < MINUTE_S:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    for unit, part, names in ((86_400, 3_600, "d h"), (3_600, 60, "h min"), (60, 1, "min s")):
        if whole >= unit:
            large, small = names.split()
            rest = whole % unit // part
            return f"{whole // unit:,} {large} {rest} {small}" if rest else f"{whole // unit:,} {large}"
    raise AssertionError(seconds)


def size(number: float) -> str:
    """Return a number of bytes with a decimal unit."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"
