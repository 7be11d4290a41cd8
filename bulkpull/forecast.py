"""The forecast of one pull: its events turned into what an estimate needs."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import field

from bulkpull import events
from bulkpull.eta import Estimate, Prior, estimate
from bulkpull.events import Event
from bulkpull.export_durations import ExportHistory, SeenExport
from bulkpull.record import record
from bulkpull.window import Window

MAX_IDLE_S = 1.0  # between two arrivals of bytes; more counts as a pause of the downloads
QUOTA_PERIOD_S = 60.0  # in which the request budget is used up, where it limits the pull
MIN_QUOTA_WAIT_S, MIN_EXPORTS = 5.0, 5  # of a period, for that to be so
RECOMPUTED_AFTER_S, RECOMPUTED_AFTER_SHARE = 2.5, 0.01  # of the time that is left: an estimate is not redone sooner


@record
class Question:
    """What an estimate depends on, at one moment."""

    now: float
    history: ExportHistory
    waiting: list[int | None]
    concurrent: int
    paced: Estimate | None
    least: float
    tail: float
    prior: Prior | None


@record(frozen=False)
class Forecast:
    """Follows the events of a pull. Times are seconds on any monotonic clock.

    `prior` is what an earlier pull has shown, used until an export has finished.
    """

    prior: Prior | None = None
    _history: ExportHistory = field(default_factory=ExportHistory)
    _waiting: dict[int, Window] = field(default_factory=dict)  # to be launched, in order
    _rows: dict[int, int | None] = field(default_factory=dict)  # counted, of windows that are not merged
    _unfetched: Counter[int] = field(default_factory=Counter)  # files of exported windows
    _ready_at: dict[int, float] = field(default_factory=dict)  # complete windows that are not merged
    _exported_at: deque[float] = field(default_factory=deque)
    _quota: tuple[float, float] = (-math.inf, -math.inf)  # when the budget was last used up for long, and until when
    _is_merge_awaited: bool = False
    _bytes: int = 0
    _fetched_bytes: int = 0
    _fetched_windows: int = 0
    _window_bytes: Counter[int] = field(default_factory=Counter)
    _receiving_s: float = 0.0
    _received_at: float = -math.inf
    _merged_windows: int = 0
    _merging_s: float = 0.0
    _merged_at: float = -math.inf
    _answered: tuple[float, Estimate | None] = (-math.inf, None)

    def __call__(self, event: Event, now: float) -> None:
        """Take account of an event."""
        match event:
            case events.Received():
                self._bytes += event.size
                self._receiving_s += min(MAX_IDLE_S, now - self._received_at)
                self._received_at = now
            case events.Planned():
                self._waiting = {window.index: window for window in event.windows}
                self._rows = {window.index: window.rows for window in event.windows}
            case events.Resumed():  # what was merged comes first, in the order of the plan
                for index in list(self._waiting)[: event.merged + event.skipped]:
                    self._drop(index, now)
            case events.Launched():
                self._launch(event.window, now)
            case events.Polled():
                if event.window.index in self._waiting:  # an earlier run has launched it
                    self._launch(event.window, now - event.waited)
                if event.state in ("succeeded", "failed"):
                    self._history.ended(event.window.index, now, has_succeeded=event.state == "succeeded")
                else:
                    self._history.seen(event.window.index, is_queued=event.state == "queued", now=now)
            case events.Exported():
                self._exported_at.append(now)
                while now - self._exported_at[0] > QUOTA_PERIOD_S:
                    self._exported_at.popleft()
                self._waiting.pop(event.window.index, None)
                self._history.ended(event.window.index, now, has_succeeded=True)  # unless its last poll has told
                self._unfetched[event.window.index] = event.parts
                if not event.parts:
                    self._ready_at[event.window.index] = now
            case events.PartFetched():
                self._fetched(event, now)
            case events.WindowMerged():
                self._merged(event.window, now)
            case events.ExportFailed():
                self._history.ended(event.window.index, now, has_succeeded=False)
                self._ready_at.pop(event.window.index, None)
                self._unfetched.pop(event.window.index, None)
                self._waiting[event.window.index] = event.window
            case events.Split():
                if not event.is_merged:
                    self._drop(event.window.index, now)
                for piece in event.pieces:
                    self._waiting[piece.index] = piece
                    self._rows[piece.index] = piece.rows
            case events.Skipped():
                self._drop(event.window.index, now)
            case events.QuotaExhausted() | events.Throttled() if event.wait >= MIN_QUOTA_WAIT_S:
                self._quota = now, now + event.wait
            case events.MergeAwaited():
                self._is_merge_awaited = True

    @property
    def oldest(self) -> SeenExport | None:
        """The export in flight that was launched first."""
        return next(iter(self._history.pending), None)

    @property
    def in_flight(self) -> int:
        """The exports in flight."""
        return len(self._history.pending)

    @property
    def has_waiting(self) -> bool:
        """Whether a window is still to be launched."""
        return bool(self._waiting)

    @property
    def windows_behind(self) -> int:
        """Windows that wait for the merge, if it is what the pull waits for; otherwise 0."""
        behind = len(self._ready_at)
        return behind if self._is_merge_awaited and behind else 0

    def question(self, now: float, export_limit: int) -> Question | Estimate | None:
        """Return what the estimate depends on now, or an answer that is still good enough."""
        answered_at, answer = self._answered
        age = now - answered_at
        if answer and age < max(RECOMPUTED_AFTER_S, RECOMPUTED_AFTER_SHARE * answer.low):
            return answer.after(age)
        least, tail = self._behind()
        return Question(
            now=now,
            history=self._history.copied(),
            waiting=[window.rows for window in self._waiting.values()],
            concurrent=max(export_limit, len(self._history.pending)),
            paced=self._paced(now),
            least=least,
            tail=tail,
            prior=self.prior,
        )

    def answer(self, question: Question | Estimate | None) -> Estimate | None:
        """Return the estimate. Takes some milliseconds."""
        if not isinstance(question, Question):
            return question
        found = _estimate(question)
        self._history.median = question.history.median
        self._answered = question.now, found
        return found

    def _launch(self, window: Window, launched_at: float) -> None:
        self._waiting.pop(window.index, None)
        self._history.launched(window.index, window.rows, launched_at)

    def _drop(self, index: int, now: float) -> None:
        """The window is neither exported nor merged."""
        self._waiting.pop(index, None)
        self._rows.pop(index, None)
        self._unfetched.pop(index, None)
        self._ready_at.pop(index, None)
        self._history.ended(index, now, has_succeeded=False)

    def _fetched(self, event: events.PartFetched, now: float) -> None:
        index = event.window.index
        self._window_bytes[index] += event.size
        self._unfetched[index] -= 1
        if self._unfetched[index] <= 0:
            del self._unfetched[index]
            self._ready_at[index] = now
            self._fetched_windows += 1
            self._fetched_bytes += self._window_bytes.pop(index)

    def _merged(self, window: Window, now: float) -> None:
        ready_at = self._ready_at.pop(window.index, now)
        self._merging_s += now - max(ready_at, self._merged_at)
        self._merged_at = now
        self._merged_windows += 1
        self._rows.pop(window.index, None)
        self._is_merge_awaited = False

    def _paced(self, now: float) -> Estimate | None:
        """Return the estimate if the request budget is what takes time: then exports end in a burst each minute."""
        used_up_at, until = self._quota
        exported = sum(now - at <= QUOTA_PERIOD_S for at in self._exported_at)
        if now - used_up_at > QUOTA_PERIOD_S or exported < MIN_EXPORTS:
            return None
        bursts = (len(self._waiting) + len(self._history.pending)) / exported
        wait = max(0.0, until - now)
        return Estimate(wait + QUOTA_PERIOD_S * max(0.0, 0.8 * bursts - 1.0), wait + QUOTA_PERIOD_S * 1.25 * bursts)

    def _behind(self) -> tuple[float, float]:
        """Return the seconds that downloads or the merge need at least, and those that the last window takes."""
        unmerged = len(self._rows)
        merge_s = self._merging_s / self._merged_windows if self._merged_windows else 0.0
        download_s = 0.0
        if self._fetched_windows and self._bytes:
            download_s = self._fetched_bytes / self._fetched_windows * self._receiving_s / self._bytes
        unfetched = unmerged - len(self._ready_at)
        return max(unmerged * merge_s, unfetched * download_s), merge_s + download_s


def _estimate(question: Question) -> Estimate | None:
    history, now = question.history, question.now
    if not history.pending and not question.waiting:
        rest = max(question.least, question.tail)
        return Estimate(0.7 * rest, 1.4 * rest + 1.0)
    if question.paced:
        return question.paced
    return estimate(
        history,
        question.waiting,
        now,
        prior=question.prior,
        concurrent=question.concurrent,
        least=question.least,
        tail=question.tail,
    )
