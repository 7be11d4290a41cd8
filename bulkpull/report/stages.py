"""The stages of windows over time, one by one and many at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, groupby
from typing import Literal, NamedTuple

from bulkpull.journal import TimelineWindow
from bulkpull.record import record
from bulkpull.report.figures import ExportTimes, PullFigures

Stage = Literal["queued", "running", "failed", "ready", "downloading", "waiting", "merging", "merged"]
STAGES: dict[Stage, str] = {
    "queued": "launched, queued",
    "running": "running",
    "failed": "failed",
    "ready": "ready, waiting for a download",
    "downloading": "downloading",
    "waiting": "waiting for the merge",
    "merging": "merging",
    "merged": "merged",
}
_MAX_LANES = 100
_STEPS = 200  # in which a lane of several windows is divided


class Segment(NamedTuple):  # of which there may be 100,000: a dataclass takes three times as long to make
    """A stage between two times."""

    stage: Stage
    start: float
    end: float


@record
class Lane:
    """Windows that follow each other, and their stages: of several windows, the one that most of them are in, if not
    merged or not begun."""

    windows: Sequence[TimelineWindow]
    segments: Sequence[Segment]


def segments_of(figures: PullFigures) -> dict[int, list[Segment]]:
    """Return the stages of each window, by its number."""
    merges = {merge.window: merge for merge in figures.merges}
    exports: dict[int, list[ExportTimes]] = {}
    for export in figures.exports:
        exports.setdefault(export.window, []).append(export)
    found: dict[int, list[Segment]] = {}
    for window in figures.timeline.windows:
        of_window: list[Segment] = []
        for export in exports.get(window.number, ()):
            of_window += _export_segments(export, figures.elapsed)
        if merge := merges.get(window.number):
            of_window.append(Segment("merging", merge.start, merge.end))
            of_window.append(Segment("merged", merge.end, figures.elapsed))
            arrived = max((one.end for one in of_window if one.stage == "downloading"), default=merge.start)
            of_window.append(Segment("waiting", arrived, merge.start))
        elif of_window and of_window[-1].stage == "downloading":
            of_window.append(Segment("waiting", of_window[-1].end, figures.elapsed))
        found[window.number] = [segment for segment in of_window if segment.end > segment.start]
    return found


def _export_segments(export: ExportTimes, now: float) -> Iterator[Segment]:
    ended = now if export.ended is None else export.ended
    if export.failed is not None:
        yield Segment("failed", export.launched, export.failed)
        return
    left_queue = export.launched
    if export.queued is not None:
        left_queue = ended if export.left_queue is None else export.left_queue
    yield Segment("queued", export.launched, left_queue)
    yield Segment("running", left_queue, ended)
    if export.ready is not None:
        if export.downloaded is not None:
            begun = export.downloaded if export.downloading is None else export.downloading
            yield Segment("ready", export.ready, begun)
            yield Segment("downloading", begun, export.downloaded)
        elif export.downloading is not None:
            yield Segment("ready", export.ready, export.downloading)
            yield Segment("downloading", export.downloading, now)
        else:
            yield Segment("ready", export.ready, now)


def lanes_of(figures: PullFigures) -> list[Lane]:
    """Return the windows as lanes, in order of time: one for each window, or for several if they are many."""
    segments = segments_of(figures)
    windows = figures.timeline.windows
    if len(windows) <= _MAX_LANES:
        return [Lane([window], segments[window.number]) for window in windows]
    lanes = []
    for lane in range(_MAX_LANES):
        some = windows[lane * len(windows) // _MAX_LANES : (lane + 1) * len(windows) // _MAX_LANES]
        lanes.append(Lane(some, _merged_segments([segments[window.number] for window in some], figures.elapsed)))
    return lanes


def _merged_segments(windows: Sequence[Sequence[Segment]], elapsed: float) -> list[Segment]:
    """The stages of several windows as one: of each step, what they spent most time on."""
    step_s = elapsed / _STEPS or 1.0
    # The number of windows in a stage rises and falls at the bounds of segments; its integral is the time spent there.
    changes: dict[Stage, list[float]] = {stage: [0.0] * (_STEPS + 2) for stage in STAGES}
    for segments in windows:
        for stage, start, end in segments:
            change = changes[stage]
            place = min(float(_STEPS), start / step_s)
            step = int(place)
            change[step] += step + 1 - place
            change[step + 1] += place - step
            place = min(float(_STEPS), end / step_s)
            step = int(place)
            change[step] -= step + 1 - place
            change[step + 1] -= place - step
    sums = {stage: list(accumulate(change)) for stage, change in changes.items() if any(change)}
    spent = [{stage: so_far[step] * step_s for stage, so_far in sums.items()} for step in range(_STEPS)]
    steps = [_main_stage(some, len(windows) * step_s) for some in spent]
    found: list[Segment] = []
    for stage, numbers in groupby(range(_STEPS), key=lambda step: steps[step]):
        same = list(numbers)
        if stage is not None:
            found.append(Segment(stage, same[0] * step_s, (same[-1] + 1) * step_s))
    return found


def _main_stage(spent: Mapping[Stage, float], whole: float) -> Stage | None:
    """The stage of a step. Something that goes on counts before what has ended or has not begun."""
    merged = spent.get("merged", 0.0)
    if merged >= 0.99 * whole:
        return "merged"
    under_way = [stage for stage, seconds in spent.items() if stage != "merged" and seconds > 1e-6 * whole]
    if under_way:
        return max(under_way, key=lambda stage: spent[stage])
    return "merged" if merged >= whole / 2 else None
