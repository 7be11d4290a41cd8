"""The figures of a report, from the timeline of a pull.

All times are seconds of work since the pull began: what lies between two runs does not count.
"""

from __future__ import annotations

import re
from dataclasses import field
from itertools import accumulate
from typing import NamedTuple

from bulkpull.journal import Figures, Moment, Timeline, TimelineWindow
from bulkpull.record import record

MINUTE_S = 60
_NUMBER = re.compile(r"\d[\d,.]*")  # reasons that differ in these only are one
_OF_WINDOWS = frozenset({"launched", "queued", "running", "ready", "failed", "downloading", "downloaded", "merged"})
_ID = re.compile(r"\b[0-9a-f]{16,}\b|\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")  # the same reason, another export


@record(frozen=False)
class ExportTimes:
    """When what happened to an export. None: not yet, never, or not recorded. `run` is the one that launched it."""

    window: int
    run: int
    launched: float
    queued: float | None = None
    running: float | None = None
    left_queue: float | None = None
    ready: float | None = None
    failed: float | None = None
    failure: str = ""
    downloading: float | None = None
    downloaded: float | None = None
    bytes: int = 0
    seconds: float | None = None  # from the launch to the success, if one run has seen both

    @property
    def ended(self) -> float | None:
        """When the server had done with it."""
        return self.ready if self.ready is not None else self.failed


@record
class MergeTimes:
    """When a window was merged."""

    window: int
    start: float
    end: float


@record
class Run:
    """A run of the pull. `planned` is when its windows were known."""

    start: float
    end: float
    planned: float | None
    is_published: bool


@record
class Repeated:
    """Something that happened `count` times for one `reason`: the first of those that differ in numbers only.

    It cost `seconds` altogether: waits until the next attempt, or what exports took until they failed.
    """

    kind: str
    reason: str
    count: int
    seconds: float


@record
class Options:
    """The limits of the last run. `exports` is the maximum, below which the limit adapts if it `is_adaptive`."""

    requests_per_minute: int
    exports: int
    is_adaptive: bool
    downloads: int


class Task(NamedTuple):
    """What a worker of a cluster has done, and when."""

    worker: str
    name: str
    start: float
    end: float


@record(frozen=False)
class PullFigures:
    """What a report shows.

    `traffic` has time, requests and bytes; `limits` time and maximum exports in flight; `in_flight` the number of
    exports in flight from a time on, and `requests_a_minute` the requests of the 60 seconds before it.
    """

    timeline: Timeline
    is_running: bool
    options: Options
    runs: list[Run] = field(default_factory=list)
    exports: list[ExportTimes] = field(default_factory=list)
    merges: list[MergeTimes] = field(default_factory=list)
    traffic: list[tuple[float, int, int]] = field(default_factory=list)
    limits: list[tuple[float, int]] = field(default_factory=list)
    repeated: list[Repeated] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    in_flight: list[tuple[float, int]] = field(default_factory=list)
    requests_a_minute: list[tuple[float, int]] = field(default_factory=list)

    @property
    def elapsed(self) -> float:
        """Seconds of all runs."""
        return self.runs[-1].end if self.runs else 0.0

    @property
    def is_published(self) -> bool:
        """Whether the output is complete and at its place."""
        return bool(self.runs) and self.runs[-1].is_published

    @property
    def totals(self) -> Figures:
        """The figures of the merged windows."""
        return self.timeline.figures

    @property
    def windows(self) -> list[TimelineWindow]:
        """The windows in order of time, the pieces in place of those that were split."""
        return [window for window in self.timeline.windows if not window.is_split]

    @property
    def counted(self) -> int | None:
        """How many rows were counted in all windows; None if some were not counted."""
        counts = [window.counted for window in self.windows]
        return None if None in counts else sum(count for count in counts if count is not None)

    @property
    def requests(self) -> int:
        """Requests to the API."""
        return sum(requests for _, requests, _ in self.traffic)

    @property
    def bytes(self) -> int:
        """Bytes of files that were received."""
        return sum(size for _, _, size in self.traffic)

    @property
    def durations(self) -> list[tuple[float, int | None]]:
        """The seconds that each successful export took, and the rows of its window."""
        rows = {window.number: window.delivered for window in self.timeline.windows}
        return [(one.seconds, rows.get(one.window)) for one in self.exports if one.seconds is not None]

    def merged_rows(self) -> list[tuple[float, int]]:
        """The number of rows in the output after each merge."""
        rows = {window.number: window.rows or 0 for window in self.timeline.windows}
        merges = sorted(self.merges, key=lambda merge: merge.end)
        return list(
            zip(
                (merge.end for merge in merges),
                accumulate(rows.get(merge.window, 0) for merge in merges),
                strict=True,
            )
        )


def figures_of(timeline: Timeline, *, now: float | None = None) -> PullFigures:
    """Return the figures of a pull. `now`, in seconds since 1970, is given for one that is running."""
    reader = _Reader(timeline, now)
    for moment in timeline.moments:
        reader.read(moment)
    return reader.finish()


class _Reader:
    """Reads moments in the order in which they were recorded."""

    def __init__(self, timeline: Timeline, now: float | None) -> None:
        self._figures = PullFigures(timeline, now is not None, Options(0, 0, False, 0))
        self._now = now
        self._run_at = 0.0  # when the run began, and `_run_from` where that is on the axis of the report
        self._run_from = self._time = 0.0
        self._planned: float | None = None
        self._is_published = False
        self._current: dict[int, ExportTimes] = {}  # by window, its newest export
        self._merges: dict[int, MergeTimes] = {}
        self._repeated: dict[tuple[str, str], tuple[str, str, list[float]]] = {}
        self._has_begun = False
        self._merged = {window.number for window in timeline.windows if window.rows is not None}

    def read(self, moment: Moment) -> None:
        if moment.kind == "run":
            self._start_run(moment)
            return
        time = self._run_from + moment.at - self._run_at
        if time > self._time:
            self._time = time
        elif time < self._run_from:
            time = self._run_from
        if moment.window is not None and moment.kind in _OF_WINDOWS:  # first, since there are very many
            self._read_window(moment, moment.window, time)
            return
        figures, number = self._figures, moment.number
        match moment.kind:
            case "options":
                quota, most = figures.options.requests_per_minute, int(number or 0)
                figures.options = Options(quota, most, bool(moment.text), int(moment.other or 0))
                if not moment.text:
                    figures.limits.append((time, most))
            case "planned":
                self._planned = time
            case "task":
                name, _, worker = moment.text.partition(" ")
                figures.tasks.append(Task(worker, name, max(0.0, time - float(number or 0)), time))
            case "limited":
                figures.limits.append((time, int(number or 0)))
            case "traffic":
                figures.traffic.append((time, int(number or 0), int(moment.other or 0)))
            case "ended":
                self._is_published = bool(number)
            case "retried" | "throttled" | "refused" | "split" | "skipped":
                waited = float(number or 0) if moment.kind in ("retried", "throttled") else 0.0
                self._repeat(moment, waited)

    def _read_window(self, moment: Moment, window: int, time: float) -> None:
        if moment.kind == "merged":
            self._merges[window] = MergeTimes(window, max(self._run_from, time - float(moment.number or 0)), time)
            return
        run = len(self._figures.runs)
        export = self._current.get(window)
        if moment.kind == "launched" or export is None:  # a launch that was not recorded before the process was killed
            export = self._current[window] = ExportTimes(window, run if moment.kind == "launched" else -1, time)
            self._figures.exports.append(export)
        match moment.kind:
            case "queued":
                export.queued = time
            case "running":
                export.running = export.left_queue = time
            case "ready" if export.ready is None:
                export.ready = time
                if export.queued is not None and export.running is None and moment.other:
                    export.left_queue = self._run_from + moment.other - self._run_at
                if export.run == run:
                    export.seconds = time - export.launched
            case "failed":
                export.failed, export.failure = time, moment.text
                self._repeat(moment, time - export.launched)
            case "downloading" if export.downloading is None:
                export.downloading = time
            case "downloaded":
                export.downloaded = time
                export.bytes += int(moment.number or 0)

    def _repeat(self, moment: Moment, seconds: float) -> None:
        reason = _ID.sub("...", moment.text)
        _, _, waits = self._repeated.setdefault((moment.kind, _NUMBER.sub("0", reason)), (moment.kind, reason, []))
        waits.append(seconds)

    def finish(self) -> PullFigures:
        if self._has_begun:
            if self._now is not None:
                self._time = max(self._time, self._run_from + self._now - self._run_at)
            self._end_run()
        figures = self._figures
        figures.merges = sorted(
            (merge for merge in self._merges.values() if merge.window in self._merged), key=lambda merge: merge.end
        )
        launches = [(export.launched, 1) for export in figures.exports]
        ends = [(export.ended, -1) for export in figures.exports if export.ended is not None]
        figures.in_flight = _sums([*launches, *ends])
        forgotten = [(time + MINUTE_S, -number) for time, number, _ in figures.traffic]
        minutes = _sums([*((time, number) for time, number, _ in figures.traffic), *forgotten])
        figures.requests_a_minute = [point for point in minutes if point[0] <= figures.elapsed]
        figures.repeated = sorted(
            (Repeated(kind, reason, len(waits), sum(waits)) for kind, reason, waits in self._repeated.values()),
            key=lambda one: (-one.seconds, -one.count, one.reason),
        )
        return figures

    def _start_run(self, moment: Moment) -> None:
        if self._has_begun:
            self._end_run()
        self._has_begun = True
        self._run_at, self._run_from = moment.at, self._time
        self._planned, self._is_published = None, False
        self._figures.options = Options(int(moment.number or 0), 0, False, 0)

    def _end_run(self) -> None:
        self._figures.runs.append(Run(self._run_from, self._time, self._planned, self._is_published))


def _sums(changes: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """The sums of all changes up to each time, in order of time."""
    by_time: dict[float, int] = {}
    for time, change in sorted(changes):
        by_time[time] = by_time.get(time, 0) + change
    return list(zip(by_time, accumulate(by_time.values()), strict=True))
