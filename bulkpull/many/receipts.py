"""Which jobs have filled their tables, as long as other jobs of the same call have not ended well.

A table remembers nothing of a load. So a file beside the progress of the load does, until all jobs have finished: the
next call is another run then.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson

from bulkpull.disk import discard, disk_errors, replace_file
from bulkpull.errors import BulkpullError
from bulkpull.many.job import Job, JobResult
from bulkpull.planning import moment
from bulkpull.sync import LoadOptions, table_of, work_directory
from bulkpull.tables import Table
from bulkpull.window import Window

_COMPARED = ("base_url", "start", "end", "filter", "fields")  # how the range is split does not change the rows
_COMPARED_OF_TABLE = ("deleted", "on_conflict", "replace_nul")
_FIGURES = ("state", "rows", "short", "skipped")
_FIRST_LOOK = timedelta(hours=1)


def write_receipt(job: Job, result: JobResult) -> None:
    """Note that a job has filled its table. If that fails, it is merely filled again. A no-op for a job that writes a
    file. Blocks on the disk."""
    if isinstance(job.options, LoadOptions):
        values = {"options": _identity(job, job.options), **{name: getattr(result, name) for name in _FIGURES}}
        path = _path(job, job.options)
        with suppress(OSError):
            replace_file(path, orjson.dumps(values), path.with_name(f"{path.name}.new"))


def read_receipt(job: Job, options: LoadOptions) -> JobResult | None:
    """Return what became of a job in an earlier call; None if it has not filled its table, or that has lost the rows.
    Blocks on the disk and the database."""
    try:
        values = orjson.loads(_path(job, options).read_bytes())
        figures = {name: values[name] for name in _FIGURES}
        is_same = values["options"] == _identity(job, options)
    except (OSError, ValueError, LookupError, TypeError):
        return None
    if not is_same or not _is_filled(job, options, has_rows=figures["rows"] != 0):
        return None
    return JobResult(job.name, job.output, **figures)


def discard_receipt(job: Job) -> None:
    """Forget that a job has filled its table. A no-op for a job that writes a file. Blocks on the disk. Raises
    OutputError."""
    if isinstance(job.options, LoadOptions):
        path = _path(job, job.options)
        with disk_errors(f"remove {path}"):
            discard(path)


def place_of(table: Table) -> str:
    """Return what is the same for all names of a table, if it can tell."""
    return str(getattr(table, "identity", table.name))


def _path(job: Job, options: LoadOptions) -> Path:
    directory = work_directory(str(job.output), options.state, "load", creates_state=False).path
    return directory.with_name(f"{directory.name}.finished")


def _identity(job: Job, options: LoadOptions) -> dict[str, object]:
    found = options.identity(job.source)
    return {
        "table": place_of(table_of(options, job.source.columns)),
        "types": dict(options.types or {}),
        **{name: found[name] for name in _COMPARED},
        **{name: getattr(options, name) for name in _COMPARED_OF_TABLE},
    }


def _is_filled(job: Job, options: LoadOptions, *, has_rows: bool) -> bool:
    """Whether the table exists, with rows of the range if it has any. An error is left to the load, which has it as
    well."""
    table = table_of(options, job.source.columns)
    with suppress(BulkpullError):
        try:
            table.open(create=False)
            return bool(table.columns()) and (not has_rows or _has_rows(table, options))
        finally:
            table.close()
    return False


def _has_rows(table: Table, options: LoadOptions) -> bool:
    """Whether the table has rows of the range. It counts them in its first hour, the next two, the next four: not
    many, until there are some."""
    start = moment(options.start, "start")
    end = datetime.now(UTC) if options.end is None else moment(options.end, "end")
    length = _FIRST_LOOK
    while start < end:
        until = start + min(length, end - start)
        if table.count([Window(0, start, until)])[0]:
            return True
        start, length = until, 2 * length
    return False
