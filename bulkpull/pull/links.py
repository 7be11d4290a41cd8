"""Links: where the files of a finished export are at the moment."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import anyio

from bulkpull import patience
from bulkpull.errors import PartError
from bulkpull.journal import PartRecord
from bulkpull.pull.journey import ExportFailure, Part
from bulkpull.pull.poll import known
from bulkpull.source import Export, Source


class Links:
    """The links of one finished export: asked for when the first is needed, and again, for all, when one expired.

    `parts` are its files, whose numbers follow one another.
    """

    def __init__(self, source: Source, export: Export, parts: Sequence[PartRecord]) -> None:
        self._source = source
        self._export = export
        self._names = [part.name for part in parts]
        self._first = parts[0].number if parts else 1
        self._asking = anyio.Lock()

    @property
    def export_id(self) -> str:
        return self._export.id

    async def get(self, part: Part, *, expired: str | None = None) -> str:
        """The part's link, another one than `expired` where that is given. Raises ExportFailure where it has none."""
        async with self._asking:
            if not self._export.links or expired in self._export.links:
                await self._ask()
            return self._export.links[part.number - self._first]

    async def _ask(self) -> None:
        """A backend that has not caught up may not know the export, or its success, or all of its files."""
        export = await patience.until(
            lambda: known(self._source, self._export.id),
            lambda found: found is not None and len(found.links) >= len(self._names),
        )
        if export is None:
            raise ExportFailure(self._export.id, "it vanished: the API does not know it (404)", PartError)
        # The order may change, and files may come to it; the file that a link names does not change.
        by_name = {link_name(link): link for link in export.links}
        if set(self._names) <= by_name.keys() and len(set(self._names)) == len(self._names):
            self._export = replace(export, links=tuple(by_name[name] for name in self._names))
        elif len(export.links) == len(self._names):
            self._export = export
        else:
            reason = f"it had {len(self._names)} links and now has {len(export.links)}"
            raise ExportFailure(export.id, reason, PartError)


def part_records(export: Export, first: int = 1) -> tuple[PartRecord, ...]:
    """What the journal knows of the files of an export that succeeded; `first` is the number of the first."""
    return tuple(
        PartRecord(number, link_name(link), export.id) for number, link in enumerate(export.links, start=first)
    )


def link_name(link: str) -> str:
    """What tells a link's file from others: a digest of the link without what changes when it is signed anew, since
    links are secrets."""
    return hashlib.blake2b(link.partition("?")[0].encode(), digest_size=16).hexdigest()
