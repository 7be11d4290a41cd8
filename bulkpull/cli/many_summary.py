"""What became of several jobs: a table, and a sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from bulkpull import BulkpullError, JobResult
from bulkpull.cli.tables import table
from bulkpull.waits import clock, plural

_STATES = ("complete", "incomplete", "failed", "stopped", "interrupted")


def summary_table(outputs: Mapping[str, str], results: Mapping[str, JobResult]) -> Table:
    """Return a table with a row for each job.

    Args:
        outputs: The output of each job, by name.
        results: What became of the jobs that have ended; the others were interrupted.
    """
    shown = table("job", "state", "rows", "exports", "time", "output", "")
    for name, output in outputs.items():
        result = results.get(name)
        pulled = result.result if result else None
        shown.add_row(
            escape(name),
            result.state if result else "interrupted",
            f"{result.rows:,}" if result and result.rows is not None else "",
            f"{pulled.exports:,}" if pulled else "",
            clock(pulled.seconds) if pulled else "",
            escape(output),
            escape(_remark(result)) if result else "",
        )
    return shown


def counts(results: Sequence[JobResult], interrupted: int = 0) -> str:
    """Return how many jobs have ended in which state, and their rows.

    Args:
        results: What became of the jobs that have ended.
        interrupted: How many others there are.
    """
    states: Counter[str] = Counter(result.state for result in results)
    states["interrupted"] = interrupted
    rows = sum(result.rows or 0 for result in results)
    listed = ", ".join(f"{states[state]:,} {state}" for state in _STATES if states[state])
    return f"{plural(states.total(), 'job')}: {listed}; {plural(rows, 'row')}"


def failures(results: Iterable[JobResult]) -> list[str]:
    """Return a sentence for each job that failed."""
    return [f"{result.name}: failed: {error_text(result.error)}" for result in results if result.error is not None]


def error_text(error: Exception) -> str:
    """Return why a job failed."""
    return str(error) if isinstance(error, BulkpullError) else f"a bug in bulkpull: {error!r}"


def _remark(result: JobResult) -> str:
    """What there is to know of a job besides its figures."""
    remarks = []
    if result.was_finished:
        remarks.append("finished by an earlier run")
    if result.short:
        remarks.append(f"{plural(result.short, 'window')} short")
    if result.skipped:
        remarks.append(f"{plural(result.skipped, 'window')} skipped")
    if result.error is not None:
        remarks.append(error_text(result.error))
    return "; ".join(remarks)
