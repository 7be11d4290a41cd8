"""Which jobs have filled their tables, as long as other jobs of the same call have not ended well.

A table remembers nothing of a load. So a file beside the progress of the load does, until all jobs have finished: the
next call is another run then.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import orjson

from bulkpull.disk import discard, replace_file
from bulkpull.errors import BulkpullError
from bulkpull.many.job import Job, JobResult
from bulkpull.sync import LoadOptions, table_of, work_directory

_COMPARED = ("base_url", "start", "end", "filter", "fields")  # how the range is split does not change the rows
_FIGURES = ("state", "rows", "short", "skipped")


def write_receipt(job: Job, result: JobResult) -> None:
    """Note that a job has filled its table. If that fails, it is merely filled again. Blocks on the disk."""
    values = {"options": _identity(job), **{name: getattr(result, name) for name in _FIGURES}}
    path = _path(job)
    with suppress(OSError):
        replace_file(path, orjson.dumps(values), path.with_name(f"{path.name}.new"))


def read_receipt(job: Job) -> JobResult | None:
    """Return what became of a job in an earlier call; None if it has not filled its table, or that has no rows any
    more. Blocks on the disk and the database."""
    try:
        values = orjson.loads(_path(job).read_bytes())
        figures = {name: values[name] for name in _FIGURES}
        given, wanted = dict(values["options"]), _identity(job)
    except (OSError, ValueError, LookupError, TypeError):
        return None
    if wanted["end"] == "now":  # agrees with any, as when a pull is resumed
        wanted["end"] = given.get("end", "")
    if given != wanted or not _is_filled(job):
        return None
    return JobResult(job.name, job.output, **figures)


def discard_receipt(job: Job) -> None:
    """Forget that a job has filled its table. A no-op for a job that writes a file. Blocks on the disk."""
    if isinstance(job.options, LoadOptions):
        with suppress(OSError):
            discard(_path(job))


def _path(job: Job) -> Path:
    assert isinstance(job.options, LoadOptions)
    directory = work_directory(str(job.output), job.options.state, "load").path
    return directory.with_name(f"{directory.name}.finished")


def _identity(job: Job) -> dict[str, str]:
    found = job.options.identity(job.source)
    return {name: found[name] for name in _COMPARED}


def _is_filled(job: Job) -> bool:
    """Whether the table exists. An error is left to the load, which has it as well."""
    table = table_of(job.options, job.source.columns)
    with suppress(BulkpullError):
        try:
            table.open(create=False)
            return bool(table.columns())
        finally:
            table.close()
    return False
