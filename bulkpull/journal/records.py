"""What the journal records, as dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from bulkpull.record import record
from bulkpull.window import Window

Verdict = Literal["confirmed", "refuted", "open"]  # whether exports are truncated at a number of records


@record
class PartRecord:
    """One file of the export `export_id`. `name` identifies it among the export's files, whatever its link is.

    `validator` and `length` are set while an incomplete file can be resumed at its last byte, `size` (bytes) and
    `checksum` once it is complete.
    """

    number: int
    name: str
    export_id: str
    validator: str | None = None
    length: int | None = None
    size: int | None = None
    checksum: str | None = None


@record
class ExportRecord:
    """One of a window's exports, launched `age` seconds ago and not known to have failed. Once it has succeeded, these
    are its parts."""

    id: str
    age: float
    has_succeeded: bool
    parts: tuple[PartRecord, ...]


@record
class Figures:
    """The figures of one merged window, or the sums of several."""

    parts: int = 0
    rows: int = 0
    duplicates: int = 0
    conflicts: int = 0
    outside: int = 0

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            self.parts + other.parts,
            self.rows + other.rows,
            self.duplicates + other.duplicates,
            self.conflicts + other.conflicts,
            self.outside + other.outside,
        )


@record
class Outcome:
    """The outcome of a window.

    Once it is merged, `records` is how many its newest export delivered, `ids` how many different ids all its exports
    did, and `rows` how many of them are its rows in the output. If it `is_split`, `ids_before_split` is how many
    different ids its exports had delivered until then.
    """

    window: Window
    parent: int | None
    ids_before_split: int | None
    records: int | None
    ids: int | None
    rows: int | None
    is_skipped: bool
    is_split: bool


@record
class PlacedConflict:
    """A conflict to be reported, of a pull on a cluster: the index of the later row's window, the place of its part in
    the merge, the id, and the rows: the one that is kept, and the later one."""

    window: int
    place: int
    id: str
    kept: Mapping[str, str | None]
    other: Mapping[str, str | None]


@record
class Progress:
    """The progress of a window. `export_id`, `has_succeeded`, `failure` and `launched` (an instant) are those of its
    last launch; `merged` is None until it is merged."""

    window: Window
    launches: int
    export_id: str | None
    has_succeeded: bool
    failure: str | None
    parts: int
    complete_parts: int
    merged: Figures | None
    skip_reason: str | None
    launched: str | None = None


@record
class Frontier:
    """How far the merge has come: the rows of `windows` windows are the first `offset` bytes of the merged CSV, whose
    header is `columns`."""

    windows: int
    offset: int
    columns: tuple[str, ...]
    figures: Figures
