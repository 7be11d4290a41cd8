"""Loads: a pull into a table, once, without the memory of a sync."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from bulkpull.errors import UsageError
from bulkpull.journal import JournalReader
from bulkpull.options import documented
from bulkpull.pull import Result, RunOptions, run
from bulkpull.source import Columns, Source
from bulkpull.store import WorkDirectory
from bulkpull.sync.export import bounds_of, header_of, restricted
from bulkpull.sync.kept import KeptFile
from bulkpull.sync.options import SyncOptions, TableOptions, as_declared, policy_of, table_of
from bulkpull.sync.order import discard_progress, work_directory
from bulkpull.sync.stretches import joined, without
from bulkpull.tables import Deleted, Delivery, OnConflict, Table
from bulkpull.threads import in_thread, own_threads
from bulkpull.window import instant

_OF_TABLES: dict[str, dataclasses.Field[Any]] = {one.name: one for one in dataclasses.fields(TableOptions)}
_OF_SYNCS: dict[str, dataclasses.Field[Any]] = {one.name: one for one in dataclasses.fields(SyncOptions)}


@documented
@dataclass(frozen=True, kw_only=True, slots=True)
class LoadOptions(RunOptions):
    """The options of a pull into a table. Raises UsageError for values that make no sense."""

    to: str | os.PathLike[str] | Table = as_declared("to", _OF_TABLES)  # noqa: RUF009
    table: str = as_declared("table", _OF_TABLES)
    schema: str | None = as_declared("schema", _OF_TABLES)
    types: Mapping[str, str] | None = as_declared("types", _OF_TABLES)
    deleted: Deleted = as_declared("deleted", _OF_TABLES)  # noqa: RUF009
    on_conflict: OnConflict = as_declared("on_conflict", _OF_TABLES)  # noqa: RUF009
    max_shrink: float = as_declared("max_shrink", _OF_TABLES)
    max_shrink_rows: int = as_declared("max_shrink_rows", _OF_TABLES)
    replace_nul: str | None = as_declared("replace_nul", _OF_TABLES)
    state: str | os.PathLike[str] | None = as_declared("state", _OF_SYNCS)  # noqa: RUF009


async def load(source: Source, options: LoadOptions) -> Result:
    """Pull the activity of `[start, end)` into a table, whose rows of that range are replaced in one transaction.

    The table remembers nothing of it: another load may replace the same range, or add one. Windows that were skipped
    are left as they are. A load that fails, is cancelled or is killed leaves its progress in a directory in `state`;
    the same call resumes it.

    Args:
        source: The API.
        options: The options, by name.

    Returns:
        The figures of the pull, over all its runs. `output` is the name of the table.

    Raises:
        UsageError: An option makes no sense, or the table is kept up to date by `sync`.
        AuthenticationError: The API does not accept the token.
        ApiError: The API refused or failed.
        PartError: A file could not be downloaded or read.
        OutputError: The table or the disk does not take the rows.
        ShrinkError: More rows would go than is allowed. Nothing was changed.
    """
    table = table_of(options, source.columns)
    with own_threads(options.downloads):
        try:
            await in_thread(partial(table.open, create=True))
            if await in_thread(table.state) is not None:
                raise UsageError(f"{table.name} is kept up to date by a sync: use `bulkpull sync`, or another table")
            await in_thread(table.check, options.names(source.columns))
            directory = await in_thread(work_directory, table.name, options.state, "load")
            kept = KeptFile(directory)
            result = await run(source, options, directory, lambda _work, _provenance: kept)
            await in_thread(_commit, result, kept.path, source.columns, options, table, directory)
        finally:
            with anyio.CancelScope(shield=True):
                await in_thread(table.close)
    return replace(result, output=table.name)


def _commit(
    result: Result, path: Path, columns: Columns, options: LoadOptions, table: Table, directory: WorkDirectory
) -> None:
    """Replace the rows of the range with what was pulled, and remove the progress."""
    journal = JournalReader(directory.journal)
    try:
        exported = joined(journal.windows)
    finally:
        journal.close()
    short = [bounds_of(one.window) for one in result.short]
    # Windows that delivered too few rows must not remove any.
    harmful = [window for window, rows in zip(short, table.count(short), strict=True) if rows]
    windows = tuple(without(exported, [*map(bounds_of, result.skipped), *harmful]))
    if harmful or result.outside:
        path, _ = restricted(path, columns, windows, exported)
    delivery = Delivery(
        windows=windows,
        rows=path,
        columns=header_of(path, columns),
        expected=None,
        state=None,
        at=instant(datetime.now(UTC)),
    )
    table.replace(delivery, policy_of(options))
    discard_progress(directory)
