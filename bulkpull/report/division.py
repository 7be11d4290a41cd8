"""Division: what the time of a pull was spent on, by its critical path.

The path is followed backwards from the end of each run. The output was published after the last merge. A merge began
when the one before it had ended, or when the last file of its window had arrived, whichever was later. A file came
after its download, that after its export, and that was launched when its launch was possible: after another export had
ended, another was launched, or the plan was made. Each second of a run is counted once, for what the pull could not go
on without at that moment.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from operator import itemgetter
from typing import Literal

from bulkpull.report.figures import ExportTimes, MergeTimes, PullFigures, Run

Step = Literal[
    "counting", "launching", "queued", "running", "failed", "slot", "downloading", "merging", "publishing", "starting"
]
STEPS: dict[Step, str] = {
    "starting": "starting again",
    "counting": "counting and planning",
    "launching": "launching exports",
    "queued": "exports queued at the server",
    "running": "exports running at the server",
    "failed": "exports that failed",
    "slot": "files waiting for a download",
    "downloading": "downloads",
    "merging": "the merge",
    "publishing": "completing the output",
}


def divide(figures: PullFigures) -> dict[Step, float]:
    """Return the seconds of all runs by step of the critical path."""
    spent: dict[Step, float] = dict.fromkeys(STEPS, 0.0)
    for run in figures.runs:
        for step, seconds in _Path(figures, run).follow().items():
            spent[step] += seconds
    return spent


class _Path:
    """The critical path of one run, followed backwards. `_at` is how far."""

    def __init__(self, figures: PullFigures, run: Run) -> None:
        self._run = run
        self._at = run.end
        self._spent: dict[Step, float] = dict.fromkeys(STEPS, 0.0)
        self._merges = [merge for merge in figures.merges if run.start <= merge.end <= run.end]
        self._merged = {merge.window for merge in figures.merges if merge.end <= run.end}
        self._merge_numbers = {merge.window: number for number, merge in enumerate(self._merges)}
        self._newest = {export.window: export for export in figures.exports if export.launched <= run.end}
        self._exports = [one for one in self._newest.values() if one.failed is None]
        # What may have been waited for before a launch.
        self._launches = sorted(one.launched for one in figures.exports if run.start <= one.launched <= run.end)
        ended = [(one.ended, one) for one in figures.exports if one.ended is not None and one.launched < one.ended]
        self._ended = sorted((pair for pair in ended if run.start <= pair[0] <= run.end), key=itemgetter(0))
        self._order = {window.number: place for place, window in enumerate(figures.timeline.windows)}

    def follow(self) -> dict[Step, float]:
        last = self._merges[-1] if self._merges else None
        if self._run.is_published or not self._exports:
            if last:
                self._back(last.end, "publishing")
                self._follow_merges(last)
        else:
            waiting = [export for export in self._exports if export.window not in self._merged]
            if waiting:  # the merge waits for the first of them
                self._follow_export(min(waiting, key=lambda export: self._order.get(export.window, 0)))
            elif last:
                self._back(last.end, "publishing")
                self._follow_merges(last)
        planned = self._run.planned
        if planned is not None and planned < self._at:
            self._back(planned, "launching")
        self._back(self._run.start, "counting" if self._run.start == 0 else "starting")
        return self._spent

    def _back(self, time: float, step: Step) -> None:
        time = max(time, self._run.start)
        if time < self._at:
            self._spent[step] += self._at - time
            self._at = time

    def _follow_merges(self, merge: MergeTimes) -> None:
        while True:
            self._back(merge.start, "merging")
            number = self._merge_numbers[merge.window]
            before = self._merges[number - 1] if number else None
            export = self._newest.get(merge.window)
            arrived = export.downloaded if export and export.downloaded is not None else self._run.start
            if before is None or arrived > before.end:
                if export:
                    self._back(arrived, "merging")
                    self._follow_export(export)
                return
            self._back(before.end, "merging")
            merge = before

    def _follow_export(self, export: ExportTimes) -> None:
        while True:
            if export.ready is not None:
                if export.downloading is not None:
                    self._back(export.downloading, "downloading")
                    self._back(export.ready, "slot")
                else:
                    self._back(export.ready, "downloading" if export.downloaded is not None else "slot")
            if export.failed is not None:
                self._back(export.launched, "failed")
            else:
                if export.queued is None:
                    self._back(export.launched, "running")
                elif export.left_queue is not None:
                    self._back(export.left_queue, "running")
                self._back(export.launched, "queued")
            before = self._ended_before_launch()
            if before is None:
                return
            export = before

    def _ended_before_launch(self) -> ExportTimes | None:
        """Go back to what was waited for before the launch at `_at`: the export whose end it was, None if it was the
        plan."""
        while self._at > self._run.start:
            ended = bisect_right(self._ended, self._at, key=itemgetter(0)) - 1
            launched = bisect_left(self._launches, self._at) - 1
            ended_at = self._ended[ended][0] if ended >= 0 else -math.inf
            launched_at = self._launches[launched] if launched >= 0 else -math.inf
            if ended_at == launched_at == -math.inf:
                return None
            self._back(max(ended_at, launched_at), "launching")
            if ended_at >= launched_at:
                return self._ended[ended][1]
        return None
