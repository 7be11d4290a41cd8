"""Merging ahead: what has arrived of the next window is merged while the rest of it is still being downloaded.

The rows are appended behind those that are committed, and no destination sees them. Once the window is whole and
verified, they are judged like those of any other. If the download starts over, or the export turns out to be of no use,
they are removed, and the window is merged when it is complete.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import from_thread

from bulkpull.disk import disk_errors
from bulkpull.pull.journey import Journey, Part
from bulkpull.record import record
from bulkpull.rows.arriving_file import ArrivingFile, NotArrivedError
from bulkpull.rows.held_file import open_file
from bulkpull.rows.records import CsvError, File
from bulkpull.threads import in_thread
from bulkpull.window import Window, instant

if TYPE_CHECKING:
    from bulkpull.rows.dedup import Deduplicator, PartStats

STEP_BYTES = 8 * 1024 * 1024  # that have arrived, before the merge goes on


async def settled_or_arriving(journey: Journey) -> None:
    """Wait until a window is settled, or bytes of it are on the disk."""
    while not (journey.settled.is_set() or any(part.stored for part in journey.arriving)):
        await journey.changed.wait()


@record(frozen=False)
class Ahead:
    """The merge of a window that is not complete.

    `parts` are those that were merged, `stats` their counts, and `seconds` is the time that it took, without waiting.
    """

    deduplicator: Deduplicator
    window: Window
    path: Path
    parts: Sequence[Part] = ()
    stats: list[PartStats] = field(default_factory=list)
    seconds: float = 0.0

    async def merge(self, journey: Journey) -> bool:
        """Merge the parts of the window, each as far as it has arrived, until all are complete.

        Returns False if that is not possible: then the rows must be removed. Raises OutputError.
        """
        self.parts = journey.arriving
        for part in self.parts:
            # Closed in a thread, before the deduplicator reads anything else.
            steps = self._merge_part(part)
            try:
                if not await self._run(journey, part, steps):
                    return False
            finally:
                with anyio.CancelScope(shield=True):
                    await in_thread(steps.close)
        return True

    def is_all_of(self, journey: Journey) -> bool:
        """Whether the settled window has the parts that were merged, and no others."""
        if journey.pieces or journey.is_skipped or len(self.parts) != len(journey.parts):
            return False
        return all(merged is part for merged, part in zip(self.parts, journey.parts, strict=True))

    async def _run(self, journey: Journey, part: Part, steps: Generator[None]) -> bool:
        """Merge one part. Returns False if it is lost."""
        merged = 0
        while True:
            while journey.arriving is self.parts and part.size is None and part.stored - merged < STEP_BYTES:
                await journey.changed.wait()
            if journey.arriving is not self.parts:
                return False
            merged = part.stored
            began = anyio.current_time()
            try:
                is_done = await in_thread(_is_exhausted, steps)
            except (CsvError, NotArrivedError):
                return False
            finally:
                self.seconds += anyio.current_time() - began
            if is_done:
                return journey.arriving is self.parts

    def _merge_part(self, part: Part) -> Generator[None]:
        """Merge a part; yield where it goes on, but has not arrived."""
        from bulkpull.rows.dedup import PartStats  # imports NumPy: not in the event loop's thread

        start, end = (instant(bound).encode() for bound in (self.window.start, self.window.end))
        stats = PartStats()
        with disk_errors(f"merge {self.window}", at=self.path), _opened(part) as file:
            steps = self.deduplicator.follow(file, start, end, from_thread.check_cancelled, stats)
            with closing(steps):
                while True:
                    if isinstance(file, ArrivingFile):
                        file.is_whole = part.size is not None
                        file.available = part.stored if part.size is None else part.size
                    if _is_exhausted(steps):
                        break
                    yield
        self.stats.append(stats)


def _opened(part: Part) -> File:
    """Open a part, which may be incomplete. Raises NotArrivedError if it was removed meanwhile."""
    try:
        return ArrivingFile(part.path) if part.size is None else open_file(part.held or part.path)
    except FileNotFoundError as error:
        raise NotArrivedError from error


def _is_exhausted(steps: Generator[None]) -> bool:
    return next(steps, True) is True
