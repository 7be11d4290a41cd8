"""A consumer that must not be left behind gets all rows of windows that are merged while their files arrive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

import bulkpull
from bulkpull import Clickwrap
from bulkpull.pull import ahead
from bulkpull.pull.ahead import Ahead
from bulkpull.pull.journey import Journey
from bulkpull.rows import scan
from bulkpull.sandbox import Sandbox
from tests.flows.test_resume import CONFIG, PATIENT

OPTIONS: dict[str, Any] = {"start": "2024-01-01", "end": "2024-07-01", "window": "2mo"}


async def test_streams_windows_that_are_merged_while_they_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge, merged = Ahead.merge, []

    async def recorded(self: Ahead, journey: Journey) -> bool:
        merged.append(await merge(self, journey))
        return merged[-1]

    monkeypatch.setattr(Ahead, "merge", recorded)
    monkeypatch.setattr(ahead, "STEP_BYTES", 1)
    monkeypatch.setattr(scan, "BLOCK_BYTES", 4096)
    monkeypatch.setattr("bulkpull.download.file.WRITE_SECONDS", -1.0)
    monkeypatch.setattr("bulkpull.store.stream._MAX_LEAD_BYTES", 1)
    async with (
        Sandbox(CONFIG) as sandbox,
        Clickwrap(sandbox.config.token, base_url=sandbox.url, retry=PATIENT) as clickwrap,
    ):
        await bulkpull.pull(clickwrap, out=tmp_path / "a.csv", **OPTIONS)
        with anyio.fail_after(30):
            async with bulkpull.stream(clickwrap, **OPTIONS) as rows:
                found = [row["id"] async for batch in rows for row in batch.to_pylist()]
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert found == [line.partition(",")[0] for line in lines[1:]]
    assert any(merged)
