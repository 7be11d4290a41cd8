"""The page of a report: one HTML document that loads nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from bulkpull.journal import TimelineWindow
from bulkpull.report.charts import (
    bytes_chart,
    division_chart,
    durations_chart,
    in_flight_chart,
    months_chart,
    requests_chart,
    rows_chart,
    timeline_chart,
    workers_chart,
)
from bulkpull.report.division import Step, divide
from bulkpull.report.figures import ExportTimes, PullFigures
from bulkpull.report.sentences import duration, sentences, size
from bulkpull.report.style import STYLE
from bulkpull.report.svg import text
from bulkpull.waits import plural

MARK = "<!-- bulkpull report -->"
_SLOWEST = 10
_MAX_REPEATED = 20
_MAX_MISSING = 20
_OPTION, _NOWRAP = re.compile(r"--[a-z-]+"), r'<span class="option">\g<0></span>'
_KINDS = {
    "retried": "request retried",
    "throttled": "throttled (429)",
    "failed": "export failed",
    "refused": "launch refused",
    "split": "window split",
    "skipped": "window skipped",
}
# The browser refuses whatever the page would load or run, if anything came to be in it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(figures: PullFigures, name: str, version: str) -> str:
    """Return the report of a pull as an HTML document.

    Args:
        figures: The figures.
        name: The name of the output.
        version: The version of bulkpull.
    """
    spent = divide(figures)
    created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    sections = "".join(_sections(figures, spent))
    return f"""<!doctype html>
{MARK}
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{text(name)}: report of a pull</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<p class="status {_status(figures)}">{_status(figures)}</p>
<h1>{text(name)}</h1>
<p class="about">{text(_about(figures))}</p>
</header>
<main>
<section class="sentences">{"".join(map(_paragraph, sentences(figures, spent)))}</section>
<dl class="tiles">{"".join(_tiles(figures))}</dl>
{sections}
</main>
<footer><p>bulkpull {text(version)}, {text(created)}. Times are in UTC.
This page holds no rows, no filter, no links and no tokens, and loads nothing.</p></footer>
</body>
</html>
"""


def _paragraph(sentence: str) -> str:
    return f"<p>{_OPTION.sub(_NOWRAP, text(sentence))}</p>"


def _status(figures: PullFigures) -> str:
    return "complete" if figures.is_published else "running" if figures.is_running else "unfinished"


def _about(figures: PullFigures) -> str:
    timeline = figures.timeline
    selected = ", with a filter" if timeline.is_filtered else ""
    began = next((moment.at for moment in figures.timeline.moments if moment.kind == "run"), None)
    if began is None:
        started = "When it ran is not recorded."
    else:
        started = f"Started {datetime.fromtimestamp(began, UTC):%Y-%m-%d %H:%M:%S}."
    return f"Activity from {_day(timeline.start)} to {_day(timeline.end)}{selected}. {started}"


def _day(moment: str) -> str:
    """An instant without the time if that is midnight."""
    return moment.removesuffix("T00:00:00.000Z")


def _tiles(figures: PullFigures) -> Iterator[str]:
    totals = figures.totals
    merged, windows = len(figures.merges), len(figures.windows)
    failed = sum(export.failed is not None for export in figures.exports)
    counted = "not counted" if figures.counted is None else f"{figures.counted:,} counted"
    for name, value, more in (
        ("rows", f"{totals.rows:,}", f"{counted}, {plural(totals.duplicates, 'duplicate')} dropped"),
        ("windows", f"{windows:,}", f"{merged:,} merged"),
        ("exports", f"{len(figures.exports):,}", f"{failed:,} failed"),
        ("time", duration(figures.elapsed), plural(len(figures.runs), "run")),
        ("requests", f"{figures.requests:,}", f"at most {figures.options.requests_per_minute:,} a minute"),
        ("downloaded", size(figures.bytes), f"in {plural(totals.parts, 'file')} merged"),
    ):
        yield f"<div><dt>{name}</dt><dd>{text(value)}</dd><dd class='more'>{text(more)}</dd></div>"


def _sections(figures: PullFigures, spent: Mapping[Step, float]) -> Iterator[str]:
    for title, about, body in (
        (
            "What the time was spent on",
            "Each second counts once, for what the pull could not go on without at that moment.",
            division_chart(spent),
        ),
        (
            "Windows by stage",
            "Each lane is a window, or several that follow each other; the oldest activity is at the top.",
            timeline_chart(figures),
        ),
        ("Workers", "Each lane is a worker of the cluster.", workers_chart(figures)),
        ("Exports in flight", "", in_flight_chart(figures)),
        ("Requests a minute", "", requests_chart(figures)),
        ("Rows", "", rows_chart(figures)),
        ("Downloads", "", bytes_chart(figures)),
        (
            "Durations of exports",
            "From the launch until the pull noticed that the files were ready.",
            durations_chart(figures),
        ),
        ("Rows over the range", "Each window counts where it starts.", months_chart(figures)),
        ("The slowest exports", "", _slowest(figures)),
        ("Retries and failures", "", _repeated(figures)),
        ("Windows that differ from their count", "", _different(figures)),
    ):
        wide = ' class="wide"' if title in ("What the time was spent on", "Windows by stage", "Workers") else ""
        if body:
            subtitle = f"<p>{about}</p>" if about else ""
            yield f"<section{wide}><h2>{title}</h2>{subtitle}{body}</section>"


def _slowest(figures: PullFigures) -> str:
    windows = {window.number: window for window in figures.timeline.windows}

    def seconds(export: ExportTimes) -> float:
        return (figures.elapsed if export.ended is None else export.ended) - export.launched

    slowest = sorted(figures.exports, key=seconds, reverse=True)[:_SLOWEST]
    rows = []
    for export in slowest:
        window = windows[export.window]
        queued = (
            ""
            if export.queued is None
            else duration((export.left_queue or export.ended or figures.elapsed) - export.launched)
        )
        state = "failed" if export.failed is not None else "" if export.ready is not None else "unfinished"
        rows.append(
            (
                _range(window),
                _number(window.counted),
                _number(window.delivered),
                queued,
                duration(seconds(export)),
                state,
            )
        )
    return _table(("window", "counted", "delivered", "queued", "took", ""), rows) if rows else ""


def _repeated(figures: PullFigures) -> str:
    if not figures.repeated:
        return "<p>Nothing failed, and nothing was retried.</p>"
    rows = [
        (
            _KINDS[one.kind],
            one.reason or "the quota was exceeded, perhaps by others that use the token",
            f"{one.count:,}",
            duration(one.seconds) if one.seconds else "",
        )
        for one in figures.repeated[:_MAX_REPEATED]
    ]
    left = len(figures.repeated) - len(rows)
    more = f"<p>{plural(left, 'other reason')} with fewer cases are left out.</p>" if left > 0 else ""
    return _table(("what", "reason", "times", "cost"), rows) + more


def _different(figures: PullFigures) -> str:
    differ = [
        window
        for window in figures.windows
        if window.is_skipped or (window.counted is not None and window.delivered not in (None, window.counted))
    ]
    rows = [
        (
            _range(window),
            _number(window.counted),
            _number(window.delivered),
            "skipped" if window.is_skipped else f"{(window.delivered or 0) - (window.counted or 0):+,}",
        )
        for window in differ[:_MAX_MISSING]
    ]
    left = len(differ) - len(rows)
    more = f"<p>{plural(left, 'other window')} differ as well: see the manifest.</p>" if left > 0 else ""
    return _table(("window", "counted", "delivered", "difference"), rows) + more if rows else ""


def _range(window: TimelineWindow) -> str:
    return f"{window.start[:16].replace('T', ' ')} to {window.end[:16].replace('T', ' ')}"


def _number(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _table(headers: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{text(header)}</th>" for header in headers)
    styles = [' class="long"' if header == "reason" else "" for header in headers]
    body = "".join(
        f"<tr>{''.join(f'<td{style}>{text(cell)}</td>' for style, cell in zip(styles, row, strict=True))}</tr>"
        for row in rows
    )
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
