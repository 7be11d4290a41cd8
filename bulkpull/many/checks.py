"""What is checked before any job starts: that none writes what another one writes, and which are finished already."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bulkpull.errors import OutputError, UsageError
from bulkpull.many.job import Job, JobResult, errors_of
from bulkpull.many.receipts import place_of, read_receipt
from bulkpull.pull import PullOptions
from bulkpull.store import (
    Manifest,
    WorkDirectory,
    byte_stream_at,
    manifest_path,
    published_manifest,
    resolved,
)
from bulkpull.sync import LoadOptions, table_of, work_directory

_CHOOSE = "choose another, or overwrite it with --overwrite"


def check(jobs: Sequence[Job]) -> None:
    """Raise UsageError or OutputError for jobs that cannot run, or not side by side. Blocks on the disk."""
    if not jobs:
        raise UsageError("there are no jobs")
    names: set[str] = set()
    for job in jobs:
        if job.name in names:
            raise UsageError(f"two jobs have the name {job.name!r}")
        names.add(job.name)
        with errors_of(job.name):
            job.options.identity(job.source)  # checks the filter
    _check_apart(jobs)


def finished(jobs: Iterable[Job]) -> dict[str, JobResult]:
    """Return the jobs that an earlier call has finished, by name.

    Blocks on the disk, on object storage and on databases. Raises OutputError for an output that exists, must not be
    replaced, and is not what its job would pull.
    """
    found: dict[str, JobResult] = {}
    for job in jobs:
        with errors_of(job.name):
            if result := _finished(job):
                found[job.name] = result
    return found


def _check_apart(jobs: Sequence[Job]) -> None:
    """Raise UsageError if two jobs write the same place, or one of them into the other's directory."""
    owners: dict[str, str] = {}
    for job in jobs:
        with errors_of(job.name):
            written = list(map(str, _written(job)))
        for place in written:
            other = owners.setdefault(place, job.name)
            if other != job.name:
                raise UsageError(
                    f"the jobs {other!r} and {job.name!r} both write {place}: give each an output or a table of its "
                    "own, in object storage also a state"
                )
    for place, owner in owners.items():
        directory = place
        while "/" in directory:
            directory = directory.rpartition("/")[0]
            other = owners.get(directory, owner)
            if other != owner:
                raise UsageError(
                    f"the job {owner!r} would write {place} into {directory}, which the job {other!r} writes"
                )


def _written(job: Job) -> Iterator[Path | str]:
    """Yield what a job writes: its output or table, its progress, and what is beside the output."""
    options = job.options
    if isinstance(options, LoadOptions):
        table = table_of(options, job.source.columns)
        yield place_of(table)
        yield work_directory(table.name, options.state, "load", creates_state=False).path
    elif stream := byte_stream_at(options.out):
        if stream.is_standard_output:
            raise UsageError("standard output cannot hold the output of one of several jobs: choose a file")
        yield Path(os.path.realpath(options.out))
    else:
        work = WorkDirectory.of(options.out, options.state)
        yield work.output
        yield work.path
        if isinstance(work.output, Path):
            if not work.output.parent.is_dir():
                raise OutputError(f"cannot write {work.output}: {work.output.parent} is not a directory")
            yield manifest_path(work.output)
    for more in (options.report, options.conflicts):
        if more is not None:
            yield resolved(more)


def _finished(job: Job) -> JobResult | None:
    if isinstance(job.options, PullOptions):
        return _finished_file(job, job.options)
    is_anew = job.overwrite or not job.options.resume
    return None if is_anew else read_receipt(job, job.options)


def _finished_file(job: Job, options: PullOptions) -> JobResult | None:
    if options.overwrite or byte_stream_at(options.out):
        return None
    work = WorkDirectory.of(options.out, options.state)
    if options.resume and work.journal.exists():  # the pull itself finds out what is left to do
        return None
    try:
        manifest = published_manifest(options.out)
    except OutputError:
        if isinstance(work.output, Path):
            raise
        return None  # a storage that does not answer is a failure of its job alone, which the pull finds out
    if manifest is None:
        if isinstance(work.output, Path) and work.output.exists():
            raise OutputError(f"{_exists(work)} without its manifest: {_CHOOSE}")
        return None
    if not options.resume:
        raise OutputError(f"{_exists(work)}: {_CHOOSE}")
    if differing := ", ".join(_differing(job, options, manifest)):
        raise OutputError(f"{_exists(work)}, pulled with other options ({differing}): {_CHOOSE}")
    found = manifest.completeness
    return JobResult(
        job.name,
        work.output,
        "complete" if found.complete and not found.skipped else "incomplete",
        rows=manifest.rows,
        short=len(found.short),
        skipped=found.skipped,
    )


def _exists(work: WorkDirectory) -> str:
    return f"the output {work.output} exists"


def _differing(job: Job, options: PullOptions, manifest: Manifest) -> Iterator[str]:
    """Yield the names of the options that differ from those of a finished output.

    An end that is open agrees with any, as when a pull is resumed. How the range was split does not change the rows.
    """
    wanted = options.identity(job.source)
    if wanted["base_url"] != manifest.source:
        yield "base_url"
    if wanted["start"] != manifest.start:
        yield "start"
    if wanted["end"] not in ("now", manifest.end):
        yield "end"
    if wanted["filter"] != manifest.filter:
        yield "filter"
    # Which fields are all is known only when the pull begins.
    is_same = bool(manifest.fields) if options.wants_all_fields else tuple(options.fields or ()) == manifest.fields
    if not is_same:
        yield "fields"
    if options.output_format != manifest.written_as:
        yield "format"
