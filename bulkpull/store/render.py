"""Render: from the merged CSV to the output's format, while the merge is still adding to it.

A run begins it anew, from the merged CSV, which is what survives: rendering is fast, and what comes of the same CSV is
the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from anyio import from_thread
from anyio.abc import TaskGroup

from bulkpull.disk import discard, disk_errors, sync_directory, sync_file
from bulkpull.events import OnEvent, Rendered
from bulkpull.rows.compress import compressed
from bulkpull.rows.follow import Followed, Superseded
from bulkpull.rows.format import Format
from bulkpull.rows.ndjson import ndjson
from bulkpull.rows.records import blocks
from bulkpull.rows.sink import write_all
from bulkpull.source import Columns
from bulkpull.threads import in_thread

_REPORT = 0.5  # seconds between two events


def memory_to_render(format: Format) -> int:
    """Bytes of memory that it takes on top of a pull to CSV, about."""
    if format.name == "parquet":
        return 160_000_000
    return 0 if format.is_merged_already else 40_000_000


@dataclass(slots=True)
class Renderer:
    """Writes what comes to stand in the CSV `merged` to `path`, in a `format`; `provenance` is asked for at its end."""

    merged: Path
    path: Path
    format: Format
    columns: Columns
    provenance: Callable[[], Mapping[str, str]]
    on_event: OnEvent
    followed: Followed = field(init=False)
    done: bool = False

    def __post_init__(self) -> None:
        self.followed = Followed(self.merged)

    @contextmanager
    def following(self, group: TaskGroup) -> Iterator[Followed | None]:
        """Renders, in a task of the group, what the merge tells that it has come to; None where nothing is to be done.
        The task may raise FormatError and OutputError."""
        if self.format.is_merged_already:
            yield None
            return
        group.start_soon(self._follow)
        try:
            yield self.followed
        except BaseException:
            self.followed.stop()
            raise

    async def finish(self, merged: Path) -> Path:
        """The finished output. Where the merged CSV was written anew, at its end, so is that."""
        if self.format.is_merged_already:
            return merged
        if not self.done:
            self.followed = Followed(merged)
            self.followed.end(merged)
            await self._follow()
        return self.path

    async def _follow(self) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._report)
            with suppress(Superseded):
                await in_thread(self._render, self.followed)
                self.done = True
            group.cancel_scope.cancel()

    async def _report(self) -> None:
        while True:
            await anyio.sleep(_REPORT)
            self.on_event(Rendered(self.followed.position, self.followed.reached))

    def _render(self, merged: Followed) -> None:
        with disk_errors(f"write the output as {self.format.name}", at=self.path), closing(merged):
            discard(self.path)
            try:
                if self.format.name == "parquet":
                    self._write_parquet(merged)
                else:
                    self._write_text(merged)
            finally:
                merged.stop()  # before it is closed: something may still be about to read
            _sync(self.path)

    def _write_parquet(self, merged: Followed) -> None:
        from bulkpull.rows.parquet import write_parquet  # takes a library that may be missing

        write_parquet(
            merged,
            self.path,
            columns=self.columns,
            all_strings=self.format.all_strings,
            partition_by=self.format.partition_by,
            provenance=self.provenance,
            checkpoint=from_thread.check_cancelled,
        )

    def _write_text(self, merged: Followed) -> None:
        pieces: Iterator[bytes] = blocks(merged, from_thread.check_cancelled)
        if self.format.name == "ndjson":
            pieces = ndjson(merged, key=self.columns.key, flat=self.format.flat)
        if self.format.compression:
            pieces = compressed(pieces, self.format.compression)
        with self.path.open("wb", buffering=0) as file:
            for piece in pieces:
                from_thread.check_cancelled()
                write_all(file.fileno(), [piece])


def _sync(path: Path) -> None:
    """Brings a file, or a directory and all in it, to the disk."""
    if path.is_dir():
        for inner in path.iterdir():
            _sync(inner)
        sync_directory(path)
    else:
        file = os.open(path, os.O_RDONLY)
        try:
            sync_file(file)
        finally:
            os.close(file)
