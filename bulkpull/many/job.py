"""A job, one of several pulls, and what became of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bulkpull.errors import OutputError, UsageError
from bulkpull.pull import PullOptions, Result
from bulkpull.record import record
from bulkpull.source import Source
from bulkpull.store import WorkDirectory, byte_stream_at
from bulkpull.sync import LoadOptions, table_of

JobState = Literal["complete", "incomplete", "failed", "stopped"]


@dataclass(frozen=True, slots=True, init=False)
class Job:
    """One of several pulls: `Job("eu", clickwrap, start="2024-01-01", out="eu.csv")`.

    Args:
        name: The name, which is unique among the jobs.
        source: The API. Jobs that share a token share one client, and so its request budget.
        options: The options of `bulkpull.pull`, by name, or with `to` those of `bulkpull.load`. With `overwrite`, a
            job is run again although an earlier call has finished it, also if it fills a table.

    Raises:
        UsageError: The name is empty, or an option makes no sense.
    """

    name: str
    source: Source = field(repr=False)
    options: PullOptions | LoadOptions
    overwrite: bool

    def __init__(self, name: str, source: Source, /, **options: Any) -> None:
        if not name.strip() or not name.isprintable():
            raise UsageError(f"{name!r} is not the name of a job: it must be printable, and not blank")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "overwrite", options.get("overwrite", False))
        kind: type[PullOptions | LoadOptions] = PullOptions
        if options.get("to") is not None:
            kind = LoadOptions
            options.pop("overwrite", None)
        with errors_of(name):
            object.__setattr__(self, "options", kind(**options))

    @property
    def output(self) -> Path | str:
        """Where its rows go: a path, a URL, or the name of a table. Raises UsageError and OutputError."""
        if isinstance(self.options, LoadOptions):
            return table_of(self.options, self.source.columns).name
        stream = byte_stream_at(self.options.out)
        return stream.name if stream else WorkDirectory.of(self.options.out, self.options.state).output


@record
class JobResult:
    """What became of a job.

    Args:
        name: The name of the job.
        output: Its output.
        state: `complete`; `incomplete` if windows are short or skipped; `failed` with `error`; or `stopped`, since
            another job has failed and `fail_fast` was set. A job that failed or was stopped can be resumed.
        rows: The rows of the output; None if the job failed or was stopped.
        short: How many windows delivered less than was counted.
        skipped: How many windows could not be exported, and are left out.
        result: The result of the pull; None if it failed or was stopped, or if the output was finished before.
        error: Why the job failed.
    """

    name: str
    output: Path | str
    state: JobState
    rows: int | None = None
    short: int = 0
    skipped: int = 0
    result: Result | None = None
    error: Exception | None = None

    @classmethod
    def of(cls, name: str, result: Result) -> JobResult:
        """What became of a job whose pull has finished."""
        state: JobState = "complete" if result.complete else "incomplete"
        short, skipped = len(result.short), len(result.skipped)
        return cls(name, result.output, state, result.rows, short, skipped, result)

    @property
    def complete(self) -> bool:
        """Whether the output exists, and nothing is known to be missing from it."""
        return self.state == "complete"

    @property
    def was_finished(self) -> bool:
        """Whether an earlier call had finished the output, so that nothing was pulled."""
        return self.rows is not None and self.result is None


@contextmanager
def errors_of(name: str) -> Iterator[None]:
    """Let errors that end all jobs before they start say which job is the cause."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"job {name!r}: {error}") from error
    except OutputError as error:
        raise OutputError(f"job {name!r}: {error}") from error
