"""What a pull needs of workers that download and merge its parts, instead of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from bulkpull.download import Checkpoints, Downloaded, Link, Progress
from bulkpull.events import OnEvent
from bulkpull.journal import Journal
from bulkpull.pacing import FixedLimit
from bulkpull.pull.doubts import Doubts
from bulkpull.pull.journey import Journey, Part
from bulkpull.window import Window


class Workers(Protocol):
    """Workers that share a storage. Methods raise BulkpullError.

    Attributes:
        limit: How many parts they are given at a time.
    """

    limit: FixedLimit

    async def start(self, journal: Journal, on_event: OnEvent) -> None:
        """Take up the work of a run, and what earlier runs have left of it. Called once, before the other methods.

        Args:
            journal: The journal of the pull.
            on_event: Called in the event loop with each event.
        """
        ...

    async def fetch(self, part: Part, link: Link, checkpoints: Checkpoints, progress: Progress) -> Downloaded:
        """Let a worker download a part, unless the storage has its rows already.

        Args:
            part: The part.
            link: Its link.
            checkpoints: Where it is recorded that the part is complete.
            progress: What is told about received bytes.

        Raises:
            FileMissingError: The host does not have the file.
            MalformedPartError: The file is not valid.
            PartError: The file could not be downloaded.
            OutputError: The storage failed.
        """
        ...

    async def merge(
        self,
        journeys: Iterable[Journey],
        path: Path,
        *,
        names: Sequence[str],
        fixed: bool,
        doubts: Doubts,
        release: Callable[[Window], None],
    ) -> Path:
        """Merge the parts of all journeys: the first row of each id, in the order window, part, row.

        Args:
            journeys: The windows that are not merged yet, in plan order.
            path: A file that describes the result, for the destination.
            names: The output's first columns.
            fixed: Whether they are all. Otherwise those that parts bring are appended.
            doubts: Judges what each window delivered.
            release: Called with each window that needs no more exports.

        Returns:
            The path.
        """
        ...
