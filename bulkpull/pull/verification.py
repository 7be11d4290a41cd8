"""Verification: whether an output is still what its manifest says, and whether the API still counts the same."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import anyio
from anyio import from_thread

from bulkpull.errors import ApiError, UsageError
from bulkpull.planning import CountUnavailable, count_window
from bulkpull.record import record
from bulkpull.source import Source
from bulkpull.store import Difference, Manifest, ObjectUrl, compare, manifest_path, read_manifest, resolved
from bulkpull.threads import in_thread
from bulkpull.window import Window

_MAX_CONCURRENT_COUNTS = 16


@record
class Recount:
    """A window, counted again.

    Args:
        window: The window, with its count at the time of the pull.
        delivered: How many different ids its exports delivered; 0 if it was skipped.
        counted_now: Its count now.
    """

    window: Window
    delivered: int
    counted_now: int

    @property
    def differs(self) -> bool:
        """Whether the API counts another number of activities now than were delivered."""
        return self.counted_now != self.delivered


@record
class Verification:
    """What a verification has found.

    Args:
        output: The output.
        manifest: Its manifest.
        files: How many files the manifest names.
        rows: How many rows they have, according to the manifest.
        differences: How the output differs from the manifest.
        recounts: The windows, counted again; None if they were not.
    """

    output: Path
    manifest: Path
    files: int
    rows: int
    differences: tuple[Difference, ...]
    recounts: tuple[Recount, ...] | None = None

    @property
    def matches(self) -> bool:
        """Whether nothing differs."""
        return not self.differences and not any(recount.differs for recount in self.recounts or ())


async def verify(out: str | os.PathLike[str], source: Source | None = None) -> Verification:
    """Compare an output with its manifest: files, sizes, checksums, numbers of rows; and ids must be unique.

    Reads every file twice, in threads, in about 100 MB of memory. 16 bytes for each row, if they do not fit, go to a
    file in the directory for temporary files.

    Args:
        out: The output of a finished pull.
        source: The API. If given, all windows are counted again, with one request each.

    Returns:
        What differs.

    Raises:
        OutputError: There is no manifest, it is damaged, or a file cannot be read.
        UsageError: The output came from another source, or is not local.
        ApiError: The API refused or failed to count.
    """
    if url := ObjectUrl.of(out):
        raise UsageError(f"{url} is not a local output: copy it and its manifest to a directory, and verify them there")
    output = await in_thread(resolved, out)
    path = await in_thread(manifest_path, output)
    manifest = await in_thread(read_manifest, path)
    if source is not None and source.base_url != manifest.source:
        raise UsageError(f"{output} was pulled from {manifest.source}, not from {source.base_url}")
    differences = await in_thread(lambda: tuple(compare(output, manifest, from_thread.check_cancelled)))
    return Verification(
        output=output,
        manifest=path,
        files=len(manifest.files),
        rows=manifest.rows,
        differences=differences,
        recounts=None if source is None else await _recounted(source, manifest),
    )


async def _recounted(source: Source, manifest: Manifest) -> tuple[Recount, ...]:
    """Count all windows of a manifest again, in order of time."""
    filter = source.check_filter(manifest.filter)
    limiter = anyio.CapacityLimiter(_MAX_CONCURRENT_COUNTS)
    counts: dict[int, int] = {}
    failures: list[ApiError] = []

    async def count(window: Window) -> None:
        try:
            async with limiter:
                counts[window.index] = await count_window(source, window.start, window.end, filter)
        except CountUnavailable as reason:
            failures.append(ApiError(f"{window} could not be counted: {reason}"))
            group.cancel_scope.cancel()
        except ApiError as error:
            failures.append(error)
            group.cancel_scope.cancel()

    windows = [
        Window(index, datetime.fromisoformat(window.start), datetime.fromisoformat(window.end), window.counted)
        for index, window in enumerate(manifest.windows)
    ]
    async with anyio.create_task_group() as group:
        for window in windows:
            group.start_soon(count, window)
    if failures:
        raise failures[0]
    return tuple(
        Recount(window, recorded.delivered or 0, counts[window.index])
        for window, recorded in zip(windows, manifest.windows, strict=True)
    )
