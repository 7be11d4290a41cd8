"""Links of an export are renewed together, and keep their files apart."""

from __future__ import annotations

import anyio
import pytest

from bulkpull import Export, patience
from bulkpull.pull.journey import ExportFailure
from bulkpull.pull.links import Links, PartLink, part_records


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "LAG", 0.2)


class Api:
    """Answers with these links, and counts how often."""

    def __init__(self, *links: str) -> None:
        self.links = links
        self.asked = 0

    async def get_export(self, export_id: str) -> Export:
        self.asked += 1
        await anyio.sleep(0.01)
        return Export(export_id, "succeeded", links=self.links)


EXPORT = Export("e", "succeeded", links=("https://f/a?1", "https://f/b?1"))
RECORDS = part_records(EXPORT)


@pytest.mark.parametrize("export", [EXPORT, Export("e", "succeeded")], ids=["known", "resumed"])
async def test_links_are_renewed_once_for_all_parts_and_matched_by_their_file(export: Export) -> None:
    api = Api("https://f/b?2", "https://f/a?2")  # another order
    links = Links(api, export, RECORDS)  # type: ignore[arg-type]
    found: dict[int, str] = {}

    async def get(number: int, expired: str) -> None:
        found[number] = await PartLink(links, number).get(expired=expired)

    async with anyio.create_task_group() as group:
        group.start_soon(get, 1, "https://f/a?1")
        group.start_soon(get, 2, "https://f/b?1")
    assert api.asked == 1
    assert found == {1: "https://f/a?2", 2: "https://f/b?2"}


async def test_links_that_did_not_expire_cost_no_request() -> None:
    api = Api()
    link = PartLink(Links(api, EXPORT, RECORDS), 2)  # type: ignore[arg-type]
    assert [await link.get(), await link.get(expired="https://f/b?0")] == ["https://f/b?1"] * 2
    assert api.asked == 0


async def test_an_export_with_fewer_links_than_before_fails() -> None:
    link = PartLink(Links(Api("https://f/a?2"), EXPORT, RECORDS), 1)  # type: ignore[arg-type]
    with pytest.raises(ExportFailure, match="had 2 links and now has 1"):
        await link.get(expired="https://f/a?1")
