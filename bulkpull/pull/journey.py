"""What the stages of one window pass on to each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from bulkpull.errors import BulkpullError, ExportError, MalformedPartError
from bulkpull.journal import ExportRecord, PartRecord
from bulkpull.pull.doubts import Delivery, Doubt, Evidence, Trial
from bulkpull.record import record
from bulkpull.rows.held_file import HeldFile
from bulkpull.window import Window


class ExportFailure(Exception):  # noqa: N818 - never leaves the pull: it turns into `kind` once no launch is left
    """An export that is of no use, so that its window needs another: it failed, disappeared, timed out, or its files
    are missing or malformed.

    `export_id` is empty if none was launched. `kind` is the error to raise if it was the last one. `is_final` says that
    another export of the same window would fail as well, `is_size_related` that a smaller window might succeed, and
    `is_explained` that the source said so.
    """

    def __init__(
        self,
        export_id: str,
        reason: str,
        kind: type[BulkpullError] = ExportError,
        *,
        is_final: bool = False,
        is_size_related: bool = True,
        is_explained: bool = False,
    ) -> None:
        super().__init__(reason)
        self.export_id = export_id
        self.kind = kind
        self.is_final = is_final
        self.is_size_related = is_size_related and kind is ExportError
        self.is_explained = is_explained


class DamagedPart(Exception):  # noqa: N818 - never leaves the pull: the part is downloaded again, then exported again
    """The merge cannot read a part."""

    def __init__(self, part: Part, reason: str) -> None:
        super().__init__(reason)
        self.part = part

    def as_failure(self) -> ExportFailure:
        """Return the failure of the part's export, if another download brings the same bytes."""
        return ExportFailure(self.part.record.export_id, str(self), MalformedPartError)


@record(frozen=False)
class Part:
    """One file of a window's export.

    `number` counts from 1, over all exports of the window. `record` is what the journal knew of the file at first.
    `stored` is the number of bytes at `path` while the file arrives, `size` that of all once it is complete. Then it is
    `held` in memory, or at `path`. `is_done` is set once the part is of no more use: its rows are merged, or it was
    damaged.
    """

    window: Window
    number: int
    path: Path
    record: PartRecord
    stored: int = 0
    size: int | None = None
    held: HeldFile | None = None
    is_done: anyio.Event = field(default_factory=anyio.Event)

    def __str__(self) -> str:
        return f"{self.window}, part {self.number}"


@dataclass(slots=True, eq=False)
class Journey:
    """A window on its way to the merge.

    The merge takes the window's rows once `settled` is set: then `parts` are complete (of all useful exports, the
    newest first), or the window was split into `pieces`, which are journeys of their own, or it `is_skipped`. It may
    reject the parts, if one is damaged or the rows are in doubt; then it waits until they are settled again. After the
    window's own rows it takes those of the journeys `after`.

    While the parts of its only export are downloaded, they are `arriving`, so that the merge may read what is on the
    disk of them; they are not any more once anything was discarded. `changed` is set, and replaced, whenever there is
    more of them, and when the journey is settled.

    `past` are the exports that earlier runs left, in the order of their launches, `export_id` the newest export whose
    parts were downloaded, and `slot` the one of an export in flight that the journey holds. `is_launched` is set once
    the launch was answered, or none is needed. `depth` counts the splits that led to this window, in this run.
    """

    window: Window
    past: tuple[ExportRecord, ...] = ()
    depth: int = 0
    evidence: Evidence = field(default_factory=Evidence)
    export_id: str = ""
    slot: object = None
    is_launched: anyio.Event = field(default_factory=anyio.Event)
    parts: list[Part] = field(default_factory=list)
    arriving: Sequence[Part] = ()
    changed: anyio.Event = field(default_factory=anyio.Event)
    pieces: tuple[Journey, ...] = ()
    after: tuple[Journey, ...] = ()
    is_skipped: bool = False
    settled: anyio.Event = field(default_factory=anyio.Event)
    _judged: anyio.Event = field(default_factory=anyio.Event)
    _verdict: Delivery | DamagedPart | Doubt | None = None

    @classmethod
    def of_piece(cls, window: Window, depth: int, trial: Trial | None) -> Journey:
        """Return the journey of a piece of a split window."""
        return cls(window, depth=depth, evidence=Evidence(trial=trial))

    @property
    def is_exported(self) -> bool:
        """Whether an earlier run saw the newest export succeed, so that there is nothing to wait for."""
        return bool(self.past) and self.past[-1].has_succeeded

    async def hand_over(self) -> Delivery:
        """Hand the complete parts to the merge, and wait for its verdict.

        Raises:
            DamagedPart: A part cannot be read.
            Doubt: The rows may not be all there are.
        """
        self._judged, self._verdict = anyio.Event(), None
        self._settle()
        await self._judged.wait()
        if isinstance(self._verdict, Delivery):
            return self._verdict
        if self._verdict is None:
            raise cancelled_from_within()
        raise self._verdict

    def start_arriving(self, parts: Sequence[Part]) -> None:
        """Let the merge follow the download of the parts, unless there are others already."""
        self.arriving = () if self.parts else parts

    def record_stored(self, part: Part, size: int) -> None:
        """Record that the first `size` bytes of a part are on the disk."""
        if size < part.stored:
            self.stop_arriving()
        part.stored = size
        self.announce_change()

    def stop_arriving(self) -> None:
        """Let the merge remove what it has read of parts that are incomplete."""
        self.arriving = ()
        self.announce_change()

    def announce_change(self) -> None:
        """Let the merge look again at what has arrived."""
        self.changed.set()
        self.changed = anyio.Event()

    def drop_parts(self, export_id: str) -> None:
        """Drop the parts of an export that is of no use."""
        for part in self.parts:
            if part.record.export_id == export_id:
                part.is_done.set()
        self.parts = [part for part in self.parts if part.record.export_id != export_id]

    def split_into(self, pieces: Iterable[Journey]) -> None:
        """Give way to the pieces, after the journeys that come after this one anyway."""
        self._finish_parts()
        self.pieces = (*self.after, *pieces)
        self._settle()

    def skip(self) -> None:
        """Leave the window out."""
        self._finish_parts()
        self.is_skipped = True
        self.pieces = self.after
        self._settle()

    # Called by the merge

    def accept(self, delivery: Delivery) -> None:
        """Keep the rows of the parts."""
        self._finish_parts()
        self._verdict = delivery
        self._judged.set()

    def reject(self, reason: DamagedPart | Doubt) -> None:
        """Return the parts; the merge waits until the journey is settled again."""
        self.arriving = ()
        self.settled = anyio.Event()
        self._verdict = reason
        self._judged.set()

    def _settle(self) -> None:
        self.settled.set()
        self.announce_change()

    def _finish_parts(self) -> None:
        for part in self.parts:
            part.is_done.set()


def cancelled_from_within() -> BulkpullError:
    """Return the error for a task that was cancelled by something other than the pull, such as a closed session.

    A task group ends without an error then, which must not look like success.
    """
    return BulkpullError("the pull was cancelled from within: was its session closed, or a task of it cancelled?")
