"""What the stages of one window hand on to each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from bulkpull.errors import BulkpullError, ExportError
from bulkpull.pull.journal import ExportRecord, PartRecord
from bulkpull.window import Window


class ExportFailure(Exception):  # noqa: N818 - never leaves the pull: it turns into `kind` once no launch is left
    """An export that will not do, so that its window needs another: it failed, vanished, outlived its timeout, or its
    files are gone or damaged. `kind` is the error that it comes to in the end; `too_large` says that it was worked on
    for as long as is allowed, so that another one would fare no better."""

    def __init__(
        self, export_id: str, reason: str, kind: type[BulkpullError] = ExportError, *, too_large: bool = False
    ) -> None:
        super().__init__(reason)
        self.export_id = export_id
        self.kind = kind
        self.too_large = too_large


@dataclass(slots=True)
class Part:
    """One file of a window's export; `number` counts from 1. `record` is what the journal knew of it at first.

    `size` is its bytes, once all of it stands at `path`.
    """

    window: Window
    number: int
    path: Path
    record: PartRecord
    size: int | None = None

    def __str__(self) -> str:
        return f"{self.window}, part {self.number}"


@dataclass(slots=True, eq=False)
class Journey:
    """A window on its way to the merge, which may turn it back: then it needs another export.

    `past` is the export that an earlier run left, `place` the one in flight that the journey holds, if any. Once
    `settled` is set, either `parts` is complete, or the window was cut in two `halves`, which are journeys of their
    own, or it is `skipped`.
    """

    window: Window
    past: ExportRecord | None = None
    export_id: str = ""
    place: object = None
    launched: anyio.Event = field(default_factory=anyio.Event)
    parts: list[Part] = field(default_factory=list)
    halves: tuple[Journey, ...] = ()
    skipped: bool = False
    settled: anyio.Event = field(default_factory=anyio.Event)
    _judged: anyio.Event = field(default_factory=anyio.Event)
    _damage: ExportFailure | None = None

    @property
    def exported(self) -> bool:
        """Whether an earlier run saw the export succeed, so that nothing has to be waited for."""
        return self.past is not None and self.past.exported

    async def hand_over(self) -> None:
        """All parts are whole: waits until the merge has them. Raises the ExportFailure that it found in them."""
        self._judged, self._damage = anyio.Event(), None
        self.settled.set()
        await self._judged.wait()
        if self._damage:
            raise self._damage

    def split(self, halves: Iterable[Window]) -> None:
        """The window is cut in two."""
        self.halves = tuple(map(Journey, halves))
        self.settled.set()

    def skip(self) -> None:
        """The window is left out."""
        self.skipped = True
        self.settled.set()

    def accept(self) -> None:
        """The merge has taken the parts in, and for good."""
        self._judged.set()

    def reject(self, damage: ExportFailure) -> None:
        """The merge cannot take the parts; it awaits others."""
        self.settled = anyio.Event()
        self._damage = damage
        self._judged.set()


def cancelled_from_within() -> BulkpullError:
    """A task group ends without an error where one of its tasks was cancelled by somebody else, for example by a
    session that was closed under it. That must not pass for success."""
    return BulkpullError("the pull was cancelled from within: was its session closed, or a task of it cancelled?")
