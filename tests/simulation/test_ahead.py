"""Files are merged while they arrive, also from odd servers: here they arrive in small pieces, each written at once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import anyio
import pytest

from bulkpull.download.file import PartialFile
from bulkpull.pull import ahead
from bulkpull.pull.ahead import Ahead
from bulkpull.pull.journey import Journey
from bulkpull.rows import scan
from tests.simulation.odd_pulls import check, followed

SEEDS = int(os.environ.get("BULKPULL_ODD_SEEDS", "3"))
SEEDS_AT_ONCE = 5


@pytest.fixture
def merged_ahead(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[bool]]:
    """Count the windows that were merged ahead, and those for which that was tried in vain."""
    found: Counter[bool] = Counter()
    merge = Ahead.merge

    async def counted(self: Ahead, journey: Journey) -> bool:
        is_merged = await merge(self, journey)
        found[is_merged] += 1
        return is_merged

    append = PartialFile.append

    async def append_slowly(self: PartialFile, chunk: bytes | memoryview) -> None:
        for at in range(0, len(chunk), 100):
            await append(self, chunk[at : at + 100])
            await anyio.sleep(0.01)

    monkeypatch.setattr(Ahead, "merge", counted)
    monkeypatch.setattr(PartialFile, "append", append_slowly)
    monkeypatch.setattr("bulkpull.download.file.WRITE_SECONDS", -1.0)
    monkeypatch.setattr(ahead, "STEP_BYTES", 1)
    monkeypatch.setattr(scan, "BLOCK_BYTES", 64)
    yield found


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_AT_ONCE))
def test_no_rows_are_wrong_if_they_are_merged_before_their_file_is_complete(
    first: int, merged_ahead: Counter[bool]
) -> None:
    for seed in range(first, first + SEEDS_AT_ONCE):
        check(followed(seed))
        check(followed(seed, tolerable=True))
    assert merged_ahead[True] > SEEDS_AT_ONCE
