"""A column that only a later part of a pull has."""

from __future__ import annotations

from typing import Any

import pytest

from bulkpull.pull.collect import Collector
from bulkpull.pull.journey import Journey, Part
from bulkpull.rows.held_file import BLOCK_BYTES, HeldFile, Memory, open_file


def held(data: bytes) -> HeldFile:
    """Return a file in memory."""
    blocks = [memoryview(bytearray(data[at : at + BLOCK_BYTES])) for at in range(0, len(data), BLOCK_BYTES)]
    return HeldFile(blocks, len(data), Memory(0))


def add_a_late_column(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first part of window 8 have the column `late`, with the value x in every row, once it is downloaded."""
    download = Collector._download_part

    async def download_and_add(self: Collector, journey: Journey, part: Part, *arguments: Any) -> None:
        await download(self, journey, part, *arguments)
        if part.window.index == 7 and part.number == 1:
            with open_file(part.held or part.path) as file:
                lines = (file.read() or b"").split(b"\n")
            lines = [line and line + (b",late" if not number else b",x") for number, line in enumerate(lines)]
            part.held = held(b"\n".join(lines))

    monkeypatch.setattr(Collector, "_download_part", download_and_add)
