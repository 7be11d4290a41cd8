"""Destinations: what a pull writes its merged rows to, as the pull sees it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import anyio

from bulkpull.events import OnEvent, Rendered
from bulkpull.rows.format import Format
from bulkpull.rows.growing_file import GrowingFile, Superseded
from bulkpull.source import Columns
from bulkpull.store.address import ObjectUrl
from bulkpull.store.local import LocalDirectory, LocalFile
from bulkpull.store.remote import RemoteDataSet, RemoteFile
from bulkpull.store.render import Renderer
from bulkpull.store.work import WorkDirectory, resolved
from bulkpull.threads import in_thread

_REPORT_INTERVAL_S = 0.5


class Destination(Protocol):
    """Takes the merged rows of one pull, and publishes them all at once.

    Order: a run calls `holds`, and ends if that is true. Otherwise it calls `check`, `take` once or twice, `finish`,
    and `publish`. `discard` comes before all of them, if the user starts over. A run that fails or is cancelled calls
    only `close`, and one that is killed calls nothing more; the next run begins again, with another object. What a
    destination has to remember until then it keeps where it writes, or in a file in the work directory.

    Threads: every method may block. Each is called in a thread of the pull, one at a time, never in the event loop.

    Cancellation: `take` calls `anyio.from_thread.check_cancelled` between its own slow steps; a read that waits for
    more rows raises Superseded when the pull fails or is cancelled. `finish` and `publish` are shielded from
    cancellation, so what they wait for needs a deadline.

    Errors: OutputError, which ends the pull.

    A destination with a place for a manifest is a ManifestWriter as well.
    """

    def check(self) -> None:
        """Raise OutputError if the output must not be written, for example since it exists. Changes nothing; called
        before the first export of a run."""

    def holds(self, receipt: str) -> bool:
        """Whether the output is published, and is the one that `finish` returned `receipt` for: an earlier run was
        killed between `publish` and its own end. The empty receipt is nobody's."""

    def take(self, merged: GrowingFile) -> None:
        """Read `merged` from its start, or skip what an earlier run has taken, and return at its end.

        It is a CSV (UTF-8, LF, one header) that grows meanwhile. The merge tells it of bytes only once they are synced
        and recorded in the journal, whole windows at a time. So `merged.wait_beyond(n)` returns the end of a
        record at which a window is complete: a checkpoint. All bytes before it stay the same in all later runs, unless
        a column is added.

        If a column is added, reading raises Superseded, which is to be passed on. What was taken is then void:
        `take` is called again, with a CSV that is complete. With a fixed list of fields that does not happen.

        A destination that does not need the rows before they are complete returns at once, and uses `finish`.
        """

    def finish(self, merged: Path) -> str:
        """Make durable what was taken, which is the whole of the file `merged`; nothing is visible yet. Returns a
        receipt for `holds`. A destination on the same file system may move that file away in `publish`."""

    def publish(self) -> None:
        """Make the output visible, complete and in one step, so that it survives a power cut. The journal has recorded
        the receipt."""

    def discard(self) -> None:
        """Remove what earlier runs have left unpublished. A no-op if there is nothing."""

    def close(self) -> None:
        """Let go of what is in use, such as an upload that is not complete. Called last, however the run ends."""


def destination_for(
    output: str | os.PathLike[str],
    work: WorkDirectory,
    format: Format,
    *,
    overwrite: bool,
    columns: Columns,
    provenance: Callable[[], Mapping[str, str]],
) -> Destination:
    """Return the destination at a path or a URL of object storage, in a `format`.

    Args:
        output: The path or the URL.
        work: The pull's work directory.
        format: What is written.
        overwrite: Whether an existing output is replaced.
        columns: The columns that have a meaning.
        provenance: Returns where the rows come from; called once all rows are merged.
    """
    renderer = Renderer(work.rendered, format, columns, provenance)
    if (url := ObjectUrl.of(output)) is not None:
        return (RemoteDataSet if format.is_data_set else RemoteFile)(url, work, renderer, overwrite)
    kind = LocalDirectory if format.is_data_set else LocalFile
    return kind(resolved(output), work, renderer, overwrite)


@asynccontextmanager
async def feed(destination: Destination, path: Path, on_event: OnEvent) -> AsyncIterator[GrowingFile]:
    """Let `destination` take the merged CSV at `path` while the body of the `async with` extends it.

    The body calls `advance` and `finish` on what it is given. Once the context has ended without an error, everything
    has been taken. Raises what `take` raises.
    """
    merged, is_taken = GrowingFile(path), False

    async def take() -> None:
        nonlocal is_taken
        is_taken = await _take(destination, merged, on_event)

    async with anyio.create_task_group() as group:
        group.start_soon(take)
        try:
            yield merged
        except BaseException:
            merged.abort()  # wakes the thread that reads
            raise
    if not is_taken:
        assert merged.finished
        rewritten = GrowingFile(merged.finished)
        rewritten.finish(merged.finished)
        await _take(destination, rewritten, on_event)


async def _take(destination: Destination, merged: GrowingFile, on_event: OnEvent) -> bool:
    """Returns whether all was taken; false if the CSV was superseded."""

    async def report() -> None:
        while True:
            await anyio.sleep(_REPORT_INTERVAL_S)
            on_event(Rendered(merged.position, merged.available))

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(report)
            try:
                await in_thread(destination.take, merged)
            except Superseded:
                return False
            finally:
                group.cancel_scope.cancel()
    finally:
        merged.abort()  # a thread of the destination's own may still read ahead
        merged.close()
    return True
