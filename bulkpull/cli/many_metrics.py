"""Metrics of several pulls for Prometheus: those of each have the label `job`, those of the whole run do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from threading import Lock
from typing import NamedTuple

from bulkpull.cli.metrics import LAST_SUCCESS, Metrics, Sample, last_successes, text_of
from bulkpull.events import Event
from bulkpull.progress import Progress

_STATES = ("waiting", "running", "complete", "incomplete", "failed", "stopped", "interrupted")


class Watched(NamedTuple):
    """A job whose metrics are recorded.

    Args:
        figures: Counts its events.
        requests_per_minute: The request budget of its token.
        token: Stands for the token: jobs with the same one share its budget.
    """

    figures: Progress
    requests_per_minute: int
    token: object


class ManyMetrics:
    """The metrics of a run of several pulls. They can be read from any thread.

    Args:
        command: The name of the command.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self._run = Metrics(Progress(), command, 0)
        self._jobs: Mapping[str, Watched] | None = None
        self._metrics: dict[str, Metrics] = {}  # of the jobs that have begun or ended
        self._states: dict[str, str] = {}  # of the jobs that have ended
        self._former: dict[str, float] = {}  # when jobs succeeded in an earlier run
        self._lock = Lock()

    def watch(self, jobs: Mapping[str, Watched]) -> None:
        """Set the jobs, by name."""
        with self._lock:
            self._jobs = jobs

    def __call__(self, name: str, event: Event) -> None:
        """Count an event of a job."""
        metrics = self._of(name)
        metrics(event)
        self._run.last_event_at = metrics.last_event_at

    def end_job(self, name: str, state: str, *, is_success: bool, was_finished: bool = False) -> None:
        """Record that a job has ended. One that `was_finished` by an earlier run succeeded then."""
        metrics = self._of(name)
        succeeded_at = metrics.last_success_at
        metrics.end(is_success=is_success)
        if was_finished:
            metrics.last_success_at = succeeded_at
        with self._lock:
            self._states[name] = state

    def end(self, *, is_success: bool) -> None:
        """Record that the run has ended. Jobs that have not are interrupted."""
        self._run.end(is_success=is_success)
        for name in self._jobs or ():
            if name in self._metrics and name not in self._states:
                self.end_job(name, "interrupted", is_success=False)

    def text(self, labels: Mapping[str, str] | None = None) -> str:
        """Return the metrics in the text format, each with these labels."""
        return text_of(self._samples(), labels or {})

    def remember(self, text: str) -> None:
        """Take over when earlier runs succeeded, from their metrics."""
        found = last_successes(text)
        self._run.last_success_at = found.pop(None, None)
        self._former = {name: at for name, at in found.items() if name is not None}

    def _of(self, name: str) -> Metrics:
        with self._lock:
            assert self._jobs
            if name not in self._metrics:
                job = self._jobs[name]
                sharing = [one.figures for one in self._jobs.values() if one.token == job.token]
                metrics = Metrics(job.figures, self._command, job.requests_per_minute, sharing)
                metrics.last_success_at = self._former.get(name)
                self._metrics[name] = metrics
            return self._metrics[name]

    def _samples(self) -> Iterator[Sample]:
        with self._lock:
            jobs, began, states = self._jobs, dict(self._metrics), dict(self._states)
        yield from self._run.samples_of_run()
        names = self._former if jobs is None else jobs
        for name in names:
            if name in began:
                metrics = began[name]  # without events if an earlier run has finished the job
                for one in metrics.samples() if metrics.last_event_at else metrics.samples_of_run():
                    yield one._replace(labels={"job": name, **one.labels})
            elif name in self._former:
                help = "When a run last succeeded."
                yield Sample("gauge", LAST_SUCCESS, help, {"job": name}, self._former[name])
        if jobs is not None:
            numbers = Counter(states.get(name, "running" if name in began else "waiting") for name in jobs)
            for state in _STATES:
                yield Sample("gauge", "jobs", "Jobs in each state.", {"state": state}, numbers[state])
