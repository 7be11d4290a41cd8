"""What the terminal shows of a pull: a few lines that fit its width, as text with styles."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size
from rich.filesize import decimal
from rich.text import Text

from bulkpull.eta import Estimate
from bulkpull.progress import Progress
from bulkpull.waits import clock, plural, short

MIN_BAR, MAX_BAR = 10, 30  # cells
NARROW = 60  # cells: below, figures are abbreviated
_NEXT_UNIT_FROM_S = 150.0


def lines(progress: Progress, width: int, *, is_unicode: bool, requests_per_minute: int | None = None) -> list[Text]:
    """Return the lines for a pull at this moment, none wider than `width`.

    Args:
        progress: The pull.
        width: Of the terminal, in cells.
        is_unicode: Whether the terminal shows more than ASCII.
        requests_per_minute: The request budget.
    """
    wait = progress.wait
    style = {"outage": "bold red", "quota": "yellow", "backlog": "yellow"}.get(wait.kind, "bold")
    found = [Text(str(wait) if width >= NARROW else wait.brief, style)]
    if progress.windows:
        narrow = width < NARROW
        found += [
            _overall(progress, width, is_unicode=is_unicode),
            Text(_exports(progress, narrow=narrow)),
            Text(_data(progress, narrow=narrow)),
        ]
        if cluster := _cluster(progress):
            found.append(Text(f"cluster  {cluster}"))
        if progress.requests:
            found.append(Text(_requests(progress, requests_per_minute, narrow=narrow), "dim"))
    elif progress.counting_requests:
        found.append(Text(f"{progress.counting_requests:,} requests so far", "dim"))
    return [fitted(line, width, is_unicode=is_unicode) for line in found]


def fitted(line: Text, width: int, *, is_unicode: bool) -> Text:
    """Return a line cut to a width, with an ellipsis, and in ASCII if need be."""
    text = line.plain if is_unicode else ascii_only(line.plain)
    if cell_len(text) > width:
        dots = "\u2026" if is_unicode else "..."
        text = set_cell_size(text, max(0, width - len(dots))).rstrip() + dots[:width]
    return Text(text, line.style, spans=line.spans if text == line.plain else [])


def ascii_only(text: str) -> str:
    """Return text without characters that a terminal in the C locale cannot show."""
    return text.replace("\u2013", "-").replace("\u2026", "...").encode("ascii", "replace").decode()


def sentence(progress: Progress) -> str:
    """Return the state of a pull as one line, for logs and for the end of a run."""
    parts = [f"{clock(progress.elapsed)}: {progress.wait}"]
    if progress.windows:
        left = time_left(progress.estimate)
        parts += [
            f"{progress.windows_merged:,} of {progress.windows:,} windows merged",
            _rows(progress, narrow=False),
            f"{decimal(progress.bytes)} downloaded",
            *([left] if left else []),
        ]
    if cluster := _cluster(progress):
        parts.append(cluster)
    if progress.rendered and progress.rendered[0] < progress.rendered[1]:
        parts.append(f"{decimal(progress.rendered[0])} of {decimal(progress.rendered[1])} converted")
    return "; ".join(parts)


def time_left(estimate: Estimate | None) -> str:
    """Return an estimate in words, such as "9 to 14 min left" or "about 12 min left"; empty if there is none."""
    if estimate is None:
        return ""
    return f"{duration_range(estimate)} left"


def duration_range(estimate: Estimate) -> str:
    """Return a range of time in words, such as "9 to 14 min" or "about 12 min"."""
    low, high = estimate.low, estimate.high
    if high < 15:
        return "less than 15 s"
    unit_s, unit = (1.0, "s") if high < _NEXT_UNIT_FROM_S else (60.0, "min") if high < 5400 else (3600.0, "h")
    if unit == "h" and high < 36000:
        first, last = f"{low / unit_s:.1f}", f"{high / unit_s:.1f}"
    elif unit == "s":
        first, last = str(5 * int(low / 5)), str(5 * -int(-high // 5))
    else:
        first, last = str(int(low / unit_s)), str(-int(-high // unit_s))
    if high <= 1.25 * low:
        return f"about {short(estimate.middle)}"
    return f"up to {last} {unit}" if float(first) == 0 else f"{first} to {last} {unit}"


def share_done(progress: Progress) -> float:
    """Return how much of the pull is done, from 0 to 1: by rows if they are counted, otherwise by windows."""
    if progress.is_published:
        return 1.0
    exported = progress.exports_done / progress.windows
    merged = progress.windows_merged / progress.windows
    if progress.rows_counted:
        merged = min(1.0, (progress.rows + progress.duplicates) / progress.rows_counted)
    return 0.5 * (exported + merged)


def _overall(progress: Progress, width: int, *, is_unicode: bool) -> Text:
    """A bar, the share, the time that has passed, and the time that is left."""
    share = share_done(progress)
    left = time_left(progress.estimate)
    figures = f" {share:4.0%}  {clock(progress.elapsed)}" + (f", {left}" if left else "")
    size = min(MAX_BAR, width - cell_len(figures))
    if size < MIN_BAR:
        return Text(figures.strip())
    done = round(size * share)
    full, empty = ("\u2501", "\u2501") if is_unicode else ("#", ".")
    return Text.assemble((full * done, "green"), (empty * (size - done), "bright_black"), figures)


def _exports(progress: Progress, *, narrow: bool) -> str:
    failed = f", {progress.exports_failed:,} failed" if progress.exports_failed else ""
    if not progress.exports_running:
        states = f"{progress.exports_in_flight:,} in flight"
    elif narrow:
        states = f"{progress.exports_running:,} run, {progress.exports_queued:,} wait"
    else:
        states = f"{progress.exports_running:,} running, {progress.exports_queued:,} queued"
    if narrow:
        return f"exports {progress.exports_done:,}/{progress.windows:,}, {states}{failed}"
    limit = f" (limit {progress.export_limit:,})" if progress.export_limit else ""
    return f"exports  {progress.exports_done:,} of {progress.windows:,} done, {states}{limit}{failed}"


def _cluster(progress: Progress) -> str:
    """The workers of a cluster and the buckets that they have merged; empty on one machine."""
    if progress.workers is None:
        return ""
    merged = f", {progress.buckets[0]:,} of {plural(progress.buckets[1], 'bucket')} merged" if progress.buckets else ""
    return f"{plural(progress.workers, 'worker')}{merged}"


def _data(progress: Progress, *, narrow: bool) -> str:
    size = decimal(progress.bytes)
    if progress.rendered and progress.rendered[0] < progress.rendered[1]:
        size += f", {decimal(progress.rendered[0])} of {decimal(progress.rendered[1])} converted"
    elif progress.rate:
        size += f", {decimal(int(progress.rate))}/s"
    if narrow:
        return f"{_rows(progress, narrow=True)}, {size}"
    return f"windows  {progress.windows_merged:,} merged; {_rows(progress, narrow=False)}; {size}"


def _rows(progress: Progress, *, narrow: bool) -> str:
    counted = "" if progress.rows_counted is None else f"{'/' if narrow else ' of '}{progress.rows_counted:,}"
    return f"{progress.rows:,}{counted} rows"


def _requests(progress: Progress, budget: int | None, *, narrow: bool) -> str:
    of = f" of {budget:,}" if budget else ""
    if narrow:
        return f"{progress.requests_last_minute:,}{of} requests/min"
    duplicates = f"; {progress.duplicates:,} duplicates dropped" if progress.duplicates else ""
    return (
        f"requests {progress.requests_last_minute:,}{of} in the last minute, {progress.requests:,} in all{duplicates}"
    )
