"""The links to the files of a finished export, renewed when they expire."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import anyio

from bulkpull import patience
from bulkpull.errors import PartError
from bulkpull.journal import PartRecord
from bulkpull.pull.journey import ExportFailure
from bulkpull.pull.poll import known
from bulkpull.source import Export, Source


class Links:
    """The links of one finished export.

    They are requested when the first is needed, and again, all together, when one has expired. `parts` are the files
    of the export, numbered in order.
    """

    def __init__(self, source: Source, export: Export, parts: Sequence[PartRecord]) -> None:
        self._source = source
        self._export = export
        self._names = [part.name for part in parts]
        self._first = parts[0].number if parts else 1
        self._requesting = anyio.Lock()

    @property
    def export_id(self) -> str:
        return self._export.id

    async def get(self, number: int, expired: str | None = None) -> str:
        """Return the current link of part `number`, after renewing all links if it is `expired`.

        Raises:
            ExportFailure: The export no longer has a link to the part.
        """
        async with self._requesting:
            if not self._export.links or expired in self._export.links:
                await self._request()
            return self._export.links[number - self._first]

    async def _request(self) -> None:
        # A backend that lags behind may not know the export, its success, or all of its files.
        export = await patience.until(
            lambda: known(self._source, self._export.id),
            lambda found: found is not None and len(found.links) >= len(self._names),
        )
        if export is None:
            raise ExportFailure(self._export.id, "it vanished: the API does not know it (404)", PartError)
        # Links may be reordered or added, but the file that a link names does not change.
        by_name = {link_name(link): link for link in export.links}
        if set(self._names) <= by_name.keys() and len(set(self._names)) == len(self._names):
            self._export = replace(export, links=tuple(by_name[name] for name in self._names))
        elif len(export.links) == len(self._names):
            self._export = export
        else:
            reason = f"it had {len(self._names)} links and now has {len(export.links)}"
            raise ExportFailure(export.id, reason, PartError)


@dataclass(frozen=True, slots=True)
class PartLink:
    """The link of one part, as `bulkpull.download.Link`."""

    links: Links
    number: int

    async def get(self, expired: str | None = None) -> str:
        """Return the current link, after renewing it if it is `expired`. Raises ExportFailure."""
        return await self.links.get(self.number, expired)


def part_records(export: Export, first: int = 1) -> tuple[PartRecord, ...]:
    """Return what the journal records of the files of an export that succeeded, numbered from `first`."""
    return tuple(
        PartRecord(number, link_name(link), export.id) for number, link in enumerate(export.links, start=first)
    )


def link_name(link: str) -> str:
    """Return what identifies the file of a link: a digest, since links are secrets, without the query, which changes
    with every signature."""
    return hashlib.blake2b(link.partition("?")[0].encode(), digest_size=16).hexdigest()
