"""The charts of a report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import accumulate
from statistics import NormalDist

from bulkpull.pacing import DurationModel, Observation, fit
from bulkpull.report.division import STEPS, Step
from bulkpull.report.figures import PullFigures
from bulkpull.report.sentences import duration, size
from bulkpull.report.stages import STAGES, Lane, Stage, lanes_of
from bulkpull.report.svg import (
    WIDTH,
    Axis,
    Plot,
    bytes_axis,
    count_axis,
    line,
    rectangle,
    steps,
    text,
    thinned,
    time_axis,
)
from bulkpull.waits import plural

_HEIGHT = 140
_MAX_LANES_HEIGHT = 400
_LANE_HEIGHT = 14
_MAX_BINS = 30
_MAX_WORKERS = 32
_MAX_TASKS = 5000  # the longest ones
_MIN_LISTED = 0.005  # of the time; the tooltips of the bar name less, too
_MAX_MONTHS = 72
_STYLES: dict[Step, str] = {
    "starting": "other",
    "counting": "other",
    "launching": "ready",
    "queued": "queued",
    "running": "running",
    "failed": "failed",
    "slot": "waiting",
    "downloading": "downloading",
    "merging": "merging",
    "publishing": "publishing",
}


def division_chart(spent: Mapping[Step, float]) -> str:
    """Return how the time divides between the steps of the critical path."""
    whole = sum(spent.values())
    if not whole:
        return ""
    bar, at = [], 0.0
    shown: list[Step] = [step for step in STEPS if spent[step] > 0]
    for step in shown:
        width = spent[step] / whole * WIDTH
        title = f"{STEPS[step]}: {duration(spent[step])}, {spent[step] / whole:.1%}"
        bar.append(rectangle(round(at, 1), 0, width, 28, _STYLES[step], title))
        at += width
    rows = "".join(
        f'<li><i class="{_STYLES[step]}"></i>{text(STEPS[step])} <b>{text(duration(spent[step]))}</b> '
        f"{spent[step] / whole:.0%}</li>"
        for step in shown
        if spent[step] / whole >= _MIN_LISTED
    )
    return (
        f'<svg role="img" aria-label="Division of the time" viewBox="0 0 {WIDTH} 28" preserveAspectRatio="none" '
        f'style="height:28px">{"".join(bar)}</svg><ul class="legend">{rows}</ul>'
    )


def timeline_chart(figures: PullFigures) -> str:
    """Return the stages of all windows over time."""
    lanes = lanes_of(figures)
    if not lanes:
        return ""
    height = min(_MAX_LANES_HEIGHT, max(_LANE_HEIGHT * len(lanes), 40))
    lane_height = height / len(lanes)
    plot = Plot(time_axis(figures.elapsed), _window_axis(lanes), height)
    marks = []
    used: set[Stage] = set()
    for place, lane in enumerate(lanes):
        inside = []
        for segment in lane.segments:
            used.add(segment.stage)
            x = plot.at_x(segment.start)
            title = ""
            if len(lane.windows) == 1 and segment.stage != "merged":
                title = f"{_lane_title(lane)}: {STAGES[segment.stage]} for {duration(segment.end - segment.start)}"
            inside.append(
                rectangle(
                    x,
                    round(place * lane_height, 2),
                    plot.at_x(segment.end) - x,
                    lane_height * 0.9,
                    segment.stage,
                    title,
                )
            )
        marks.append(f"<g><title>{text(_lane_title(lane))}</title>{''.join(inside)}</g>")
    marks += _run_marks(figures, plot)
    legend = "".join(f'<li><i class="{stage}"></i>{text(name)}</li>' for stage, name in STAGES.items() if stage in used)
    return plot.render(marks, "Windows by stage over time") + f'<ul class="legend">{legend}</ul>'


def _window_axis(lanes: list[Lane]) -> Axis:
    """The first days of some windows, from the top."""
    places = sorted({0, len(lanes) // 4, len(lanes) // 2, 3 * len(lanes) // 4})
    return Axis(1, [(1 - place / len(lanes), lanes[place].windows[0].start[:10]) for place in places])


def _lane_title(lane: Lane) -> str:
    first, last = lane.windows[0], lane.windows[-1]
    rows = sum(window.rows or 0 for window in lane.windows)
    windows = f"{plural(len(lane.windows), 'window')}, " if len(lane.windows) > 1 else ""
    return f"{windows}{first.start[:16]} to {last.end[:16]}, {plural(rows, 'row')}"


def workers_chart(figures: PullFigures) -> str:
    """Return what each worker of a cluster did over time: those that did most, each in a lane."""
    if not figures.tasks:
        return ""
    busy: dict[str, float] = {}
    for task in figures.tasks:
        busy[task.worker] = busy.get(task.worker, 0.0) + task.end - task.start
    shown = sorted(sorted(busy, key=lambda worker: -busy[worker])[:_MAX_WORKERS])
    height = max(_LANE_HEIGHT * len(shown), 40)
    lane_height, lanes = height / len(shown), {worker: place for place, worker in enumerate(shown)}
    plot = Plot(time_axis(figures.elapsed), Axis(1, []), height)
    tasks = [task for task in figures.tasks if task.worker in lanes]
    tasks.sort(key=lambda task: task.start - task.end)
    marks = [
        rectangle(
            plot.at_x(task.start),
            round(lanes[task.worker] * lane_height, 2),
            plot.at_x(task.end) - plot.at_x(task.start),
            lane_height * 0.9,
            "merging" if task.name.startswith("merge") else "downloading",
            f"{task.worker}: {task.name}, {duration(task.end - task.start)}",
        )
        for task in tasks[:_MAX_TASKS]
    ]
    hidden = len(busy) - len(shown)
    more = f"<p>{plural(hidden, 'worker')} that did less are not shown.</p>" if hidden else ""
    return (
        plot.render([*marks, *_run_marks(figures, plot)], "Work of each worker over time")
        + more
        + _keys(("downloading", "dividing a file"), ("merging", "merging a bucket"))
    )


def in_flight_chart(figures: PullFigures) -> str:
    """Return the exports in flight and their limit over time."""
    changes: list[tuple[float, float]] = [*figures.in_flight]
    limits: list[tuple[float, float]] = [*figures.limits]
    highest = max((number for _, number in changes), default=0)
    # A limit far above all exports there are would press their line to the ground.
    limits = [(time, limit) for time, limit in limits if limit]
    most = max([highest, *(min(limit, 2 * highest) for _, limit in limits)])
    plot = Plot(time_axis(figures.elapsed), count_axis(most), _HEIGHT)
    end = figures.elapsed
    marks = [
        _area(plot, steps(thinned(changes, end), end), "area running"),
        _line(plot, steps(thinned(limits, end), end), "line limit"),
        *_run_marks(figures, plot),
        *_tooltips(plot, changes, lambda number: plural(round(number), "export") + " in flight"),
    ]
    return plot.render(marks, "Exports in flight and their limit") + _keys(
        ("running", "exports in flight"), ("limit", "limit")
    )


def requests_chart(figures: PullFigures) -> str:
    """Return the requests a minute over time, and the quota."""
    rates: list[tuple[float, float]] = [*figures.requests_a_minute]
    quota = figures.options.requests_per_minute
    highest = max((rate for _, rate in rates), default=0)
    plot = Plot(time_axis(figures.elapsed), count_axis(max(highest, quota)), _HEIGHT)
    end = figures.elapsed
    marks = [
        _area(plot, steps(thinned(rates, end), end), "area running"),
        _line(plot, [(0.0, quota), (end, quota)], "line limit"),
        *_run_marks(figures, plot),
        *_tooltips(plot, rates, lambda rate: plural(round(rate), "request") + " in the last minute"),
    ]
    return plot.render(marks, "Requests a minute and the quota") + _keys(
        ("running", "requests in the last minute"), ("limit", f"quota: {quota:,}")
    )


def rows_chart(figures: PullFigures) -> str:
    """Return the rows in the output over time."""
    rows: list[tuple[float, float]] = [(0.0, 0), *figures.merged_rows()]
    plot = Plot(time_axis(figures.elapsed), count_axis(max(figures.counted or 0, rows[-1][1])), _HEIGHT)
    end = figures.elapsed
    marks = [_area(plot, steps(thinned(rows, end), end), "area merging")]
    keys = [("merging", "rows in the output")]
    if figures.counted is not None:
        marks.append(_line(plot, [(0.0, figures.counted), (end, figures.counted)], "line limit"))
        keys.append(("limit", f"counted: {figures.counted:,}"))
    marks += _run_marks(figures, plot)
    marks += _tooltips(plot, rows, lambda number: plural(round(number), "row"))
    return plot.render(marks, "Rows in the output") + _keys(*keys)


def bytes_chart(figures: PullFigures) -> str:
    """Return the bytes received over time."""
    sums = accumulate(received for _, _, received in figures.traffic)
    received: list[tuple[float, float]] = [
        (0.0, 0),
        *((min(time + 1, figures.elapsed), total) for (time, _, _), total in zip(figures.traffic, sums, strict=True)),
    ]
    plot = Plot(time_axis(figures.elapsed), bytes_axis(received[-1][1]), _HEIGHT)
    end = figures.elapsed
    marks = [
        _area(plot, steps(thinned(received, end), end), "area downloading"),
        *_run_marks(figures, plot),
        *_tooltips(plot, received, size),
    ]
    return plot.render(marks, "Bytes received") + _keys(("downloading", "bytes of files received"))


def durations_chart(figures: PullFigures) -> str:
    """Return the distribution of export durations, with the fitted model."""
    durations = sorted(seconds for seconds, _ in figures.durations)
    if not durations:
        return ""
    end = durations[-1] * 1.05
    number = min(_MAX_BINS, max(5, round(2 * len(durations) ** (1 / 3))))
    width = end / number
    bins = [0] * number
    for seconds in durations:
        bins[min(number - 1, int(seconds / width))] += 1
    model = fit([Observation(seconds, seconds) for seconds in durations])
    curve = [
        (end * point / 200, _density(model, end * point / 200) * width * len(durations)) for point in range(1, 201)
    ]
    # A narrow model may be higher than a histogram can show.
    most = max(*bins, min(2 * max(bins), max(height for _, height in curve)))
    plot = Plot(time_axis(end), count_axis(most), _HEIGHT)
    marks = [
        rectangle(
            plot.at_x(place * width) + 1,
            plot.at_y(inside),
            WIDTH / number - 2,
            _HEIGHT - plot.at_y(inside),
            "running",
            f"{plural(inside, 'export')} of {duration(place * width)} to {duration((place + 1) * width)}",
        )
        for place, inside in enumerate(bins)
        if inside
    ]
    marks.append(_line(plot, curve, "line limit"))
    fitted = f"log-normal model: median {duration(model.median)}, spread {model.spread:g}"
    return plot.render(marks, "Durations of exports") + _keys(("running", "exports"), ("limit", fitted))


def months_chart(figures: PullFigures) -> str:
    """Return the rows over the range, counted against delivered, by the month or year in which a window starts."""
    months = {window.start[:7] for window in figures.windows}
    length = 7 if len(months) <= _MAX_MONTHS else 4
    counted: dict[str, int | None] = {}
    delivered: dict[str, int] = {}
    for window in figures.windows:
        month = window.start[:length]
        so_far = counted.get(month, 0)
        counted[month] = None if so_far is None or window.counted is None else so_far + window.counted
        delivered[month] = delivered.get(month, 0) + (window.delivered or 0)
    names = sorted(counted)
    if not names:
        return ""
    most = max(*(number or 0 for number in counted.values()), *delivered.values(), 1)
    shown = [place for place in range(len(names)) if place % max(1, math.ceil(len(names) / 4)) == 0]
    x = Axis(len(names), [(place + 0.5, names[place]) for place in shown])
    plot = Plot(x, count_axis(most), _HEIGHT)
    marks = []
    half = WIDTH / len(names) * 0.4
    for place, name in enumerate(names):
        expected, came = counted[name], delivered[name]
        title = f"{name}: {'not' if expected is None else f'{expected:,}'} counted, {came:,} delivered"
        for number, style, left in ((expected, "counted", 0.1), (came, "downloading", 0.5)):
            if number:
                at = (place + left) * WIDTH / len(names)
                y = plot.at_y(number)
                marks.append(rectangle(round(at, 1), y, half, round(_HEIGHT - y, 1), style, title))
    return plot.render(marks, "Rows over the range") + _keys(("counted", "counted"), ("downloading", "delivered"))


def _density(model: DurationModel, seconds: float) -> float:
    """The model's probability density, per second."""
    return NormalDist(math.log(model.median), model.spread).pdf(math.log(seconds)) / seconds


def _line(plot: Plot, points: list[tuple[float, float]], style: str) -> str:
    return line(((plot.at_x(x), plot.at_y(y)) for x, y in points), style)


def _area(plot: Plot, points: list[tuple[float, float]], style: str) -> str:
    if not points:
        return ""
    corners = [(points[0][0], 0.0), *points, (points[-1][0], 0.0)]
    places = " ".join(f"{plot.at_x(x):g},{plot.at_y(y):g}" for x, y in corners)
    return f'<polygon class="{style}" points="{places}"/>'


def _tooltips(plot: Plot, points, describe) -> Iterator[str]:  # type: ignore[no-untyped-def]
    """Yield strips that show the last value before their end when the mouse is over them."""
    number, place = 60, -1
    for strip in range(number):
        end = (strip + 1) * plot.x.end / number
        while place + 1 < len(points) and points[place + 1][0] <= end:
            place += 1
        if place >= 0:
            title = f"after {duration(end)}: {describe(points[place][1])}"
            yield rectangle(round(strip * WIDTH / number, 1), 0, WIDTH / number, plot.height, "tip", title)


def _run_marks(figures: PullFigures, plot: Plot) -> Iterator[str]:
    """Yield a line where a later run starts."""
    for number, run in enumerate(figures.runs[1:], start=2):
        x = plot.at_x(run.start)
        title = f"run {number:,} starts"
        yield f'<line class="run" x1="{x}" x2="{x}" y1="0" y2="{plot.height}"><title>{text(title)}</title></line>'


def _keys(*keys: tuple[str, str]) -> str:
    listed = "".join(f'<li><i class="{style}"></i>{text(name)}</li>' for style, name in keys)
    return f'<ul class="legend">{listed}</ul>'
