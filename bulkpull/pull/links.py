"""Links: where the files of a finished export are at the moment."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import anyio

from bulkpull.clickwrap import Export
from bulkpull.errors import NotFoundError, PartError
from bulkpull.pull.api import Api
from bulkpull.pull.journal import PartRecord
from bulkpull.pull.journey import ExportFailure, Part


class Links:
    """The links of one finished export: asked for when the first is needed, and again, for all, when one expired."""

    def __init__(self, api: Api, export: Export, parts: Sequence[PartRecord]) -> None:
        self._api = api
        self._export = export
        self._names = [part.name for part in parts]
        self._asking = anyio.Lock()

    @property
    def export_id(self) -> str:
        return self._export.id

    async def get(self, part: Part, *, expired: str | None = None) -> str:
        """The part's link, another one than `expired` where that is given. Raises ExportFailure where it has none."""
        async with self._asking:
            if not self._export.links or expired in self._export.links:
                await self._ask()
            return self._export.links[part.number - 1]

    async def _ask(self) -> None:
        try:
            export = await self._api.get_export(self._export.id)
        except NotFoundError as error:
            raise ExportFailure(self._export.id, f"it vanished: {error}", PartError) from error
        if len(export.links) != len(self._names):
            reason = f"it had {len(self._names)} links and now has {len(export.links)}"
            raise ExportFailure(export.id, reason, PartError)
        # The order may change; the file that a link names does not.
        by_name = {_name(link): link for link in export.links}
        if by_name.keys() == set(self._names) and len(by_name) == len(self._names):
            self._export = Export(export.id, export.status, links=tuple(by_name[name] for name in self._names))
        else:
            self._export = export


def part_records(export: Export) -> tuple[PartRecord, ...]:
    """What the journal knows of the files of an export that succeeded."""
    return tuple(PartRecord(number, _name(link)) for number, link in enumerate(export.links, start=1))


def _name(link: str) -> str:
    """What tells a link's file from others: a digest of the link without what changes when it is signed anew, since
    links are secrets."""
    return hashlib.blake2b(link.partition("?")[0].encode(), digest_size=16).hexdigest()
