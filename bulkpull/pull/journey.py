"""What the stages of one window hand on to each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from bulkpull.errors import BulkpullError, ExportError, MalformedPartError
from bulkpull.journal import ExportRecord, PartRecord
from bulkpull.pull.doubts import Delivery, Doubt, Trial
from bulkpull.window import Window


class ExportFailure(Exception):  # noqa: N818 - never leaves the pull: it turns into `kind` once no launch is left
    """An export that will not do, so that its window needs another: it failed, vanished, outlived its timeout, or its
    files are gone or damaged. `kind` is the error that it comes to in the end; `too_large` says that another of the
    same window would fare no better; `is_size_related` that a smaller window might; `is_explained` that the API said
    so."""

    def __init__(
        self,
        export_id: str,
        reason: str,
        kind: type[BulkpullError] = ExportError,
        *,
        too_large: bool = False,
        is_size_related: bool = True,
        is_explained: bool = False,
    ) -> None:
        super().__init__(reason)
        self.export_id = export_id
        self.kind = kind
        self.too_large = too_large
        self.is_size_related = is_size_related and kind is ExportError
        self.is_explained = is_explained


class DamagedPart(Exception):  # noqa: N818 - never leaves the pull: the part is downloaded again, then exported again
    """The merge cannot read a part."""

    def __init__(self, part: Part, reason: str) -> None:
        super().__init__(reason)
        self.part = part

    def as_failure(self) -> ExportFailure:
        """What it comes to where another download brings the same."""
        return ExportFailure(self.part.record.export_id, str(self), MalformedPartError)


@dataclass(slots=True)
class Part:
    """One file of a window's export; `number` counts from 1, over all exports of the window. `record` is what the
    journal knew of it at first.

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
    """A window on its way to the merge, which may turn it back: then a part has to be downloaded again, or the window
    needs another export, or its rows are in doubt.

    `past` are the exports that an earlier run left, in the order of their launches; `place` is the one in flight that
    the journey holds, if any. Once `settled` is set, either `parts` is complete (of all exports that are of use, the
    newest first), or the window was cut into `pieces`, which are journeys of their own, or it is `skipped`. Behind its
    own rows the merge takes in those of the journeys `after`.

    `depth` is how many cuts it came of, as far as this run knows. `is_exported_again` says that a second export was
    asked for, as `ids_before` different ids came of the first; `is_resolved` that no doubt about the window is left
    that asking could resolve, `is_empty` that the API agrees that it is empty. `trial` is what the window's rows help
    to find out.
    """

    window: Window
    past: tuple[ExportRecord, ...] = ()
    export_id: str = ""
    place: object = None
    launched: anyio.Event = field(default_factory=anyio.Event)
    parts: list[Part] = field(default_factory=list)
    pieces: tuple[Journey, ...] = ()
    after: tuple[Journey, ...] = ()
    skipped: bool = False
    depth: int = 0
    is_resolved: bool = False
    is_empty: bool = False
    is_uncountable: bool = False
    is_exported_again: bool = False
    ids_before: int = 0
    late_links: int = 0  # times that more of them came
    cannot_be_cut: bool = False
    trial: Trial | None = None
    settled: anyio.Event = field(default_factory=anyio.Event)
    _judged: anyio.Event = field(default_factory=anyio.Event)
    _verdict: Delivery | DamagedPart | Doubt | None = None

    @property
    def exported(self) -> bool:
        """Whether an earlier run saw the last export succeed, so that nothing has to be waited for."""
        return bool(self.past) and self.past[-1].has_succeeded

    async def hand_over(self) -> Delivery:
        """All parts are whole: waits until the merge has them. Raises the DamagedPart or Doubt that it found."""
        self._judged, self._verdict = anyio.Event(), None
        self.settled.set()
        await self._judged.wait()
        if isinstance(self._verdict, Delivery):
            return self._verdict
        if self._verdict is None:
            raise cancelled_from_within()
        raise self._verdict

    def cut(self, pieces: Iterable[Journey]) -> None:
        """The window gives way to these, behind those that were to come after it."""
        self.pieces = (*self.after, *pieces)
        self.settled.set()

    def skip(self) -> None:
        """The window is left out."""
        self.skipped = True
        self.pieces = self.after
        self.settled.set()

    def accept(self, delivery: Delivery) -> None:
        """The merge has taken the parts in, and for good."""
        self._verdict = delivery
        self._judged.set()

    def reject(self, reason: DamagedPart | Doubt) -> None:
        """The merge cannot take the parts as they are; it awaits others, or that they are handed over again."""
        self.settled = anyio.Event()
        self._verdict = reason
        self._judged.set()


def cancelled_from_within() -> BulkpullError:
    """A task group ends without an error where one of its tasks was cancelled by somebody else, for example by a
    session that was closed under it. That must not pass for success."""
    return BulkpullError("the pull was cancelled from within: was its session closed, or a task of it cancelled?")
