"""Timelines as a recorder would have recorded them, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from bulkpull.journal import Figures, Moment, Timeline, TimelineWindow
from bulkpull.report.figures import PullFigures, figures_of
from bulkpull.window import instant

AT = 1_700_000_000.0  # when the pull begins
START = datetime(2024, 1, 1, tzinfo=UTC)


class Made:
    """A pull of `windows` windows with `rows` rows each, a day long. All times are seconds since it began."""

    def __init__(self, windows: int, *, exports: int = 4, is_adaptive: bool = False, rows: Sequence[int] = ()) -> None:
        self.rows = list(rows) or [100] * windows
        self.moments: list[Moment] = []
        self.merged: set[int] = set()
        self.exports, self.is_adaptive = exports, is_adaptive
        self.run(0.0)
        self.add(0.0, "planned", None, windows, 3)

    def run(self, at: float) -> None:
        self.add(at, "run", None, 1800)
        self.add(at, "options", None, self.exports, 8, "adaptive" if self.is_adaptive else "")

    def add(
        self,
        at: float,
        kind: str,
        window: int | None = None,
        number: float | None = None,
        other: float | None = None,
        text: str = "",
    ) -> None:
        self.moments.append(Moment(AT + at, kind, window, number, other, text))

    def export(
        self,
        window: int,
        launched: float,
        ready: float,
        *,
        running: float | None = None,
        downloading: float | None = None,
        downloaded: float | None = None,
        failed: str = "",
    ) -> None:
        """An export that was queued until it was `running`, if that is given."""
        self.add(launched, "launched", window)
        if running is not None:
            self.add(launched, "queued", window)
            self.add(running, "running", window)
        if failed:
            self.add(ready, "failed", window, text=failed)
            return
        self.add(ready, "ready", window, 1)
        self.add(ready if downloading is None else downloading, "downloading", window)
        self.add(ready if downloaded is None else downloaded, "downloaded", window, 1000)

    def merge(self, window: int, start: float, end: float) -> None:
        self.merged.add(window)
        self.add(end, "merged", window, end - start)

    def timeline(self) -> Timeline:
        windows = []
        for number, rows in enumerate(self.rows):
            merged = rows if number in self.merged else None
            start = START + timedelta(days=number)
            windows.append(
                TimelineWindow(
                    number, instant(start), instant(start + timedelta(days=1)), rows, merged, merged, False, False
                )
            )
        total = sum(self.rows[number] for number in self.merged)
        ordered = sorted(self.moments, key=lambda moment: moment.at)
        return Timeline(
            windows[0].start, windows[-1].end, False, "csv", Figures(rows=total), tuple(windows), tuple(ordered)
        )

    def figures(self, end: float | None) -> PullFigures:
        """The figures of a pull that was published at `end`; None if it was not."""
        if end is not None:
            self.add(end, "ended", None, 1)
        return figures_of(self.timeline())
