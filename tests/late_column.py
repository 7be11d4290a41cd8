"""A column that only a later part of a pull has."""

from __future__ import annotations

from pathlib import Path

import pytest

from bulkpull.download import verify_csv
from bulkpull.pull import collect


def add_a_late_column(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first part of window 8 have the column `late`, with the value x in every row, once it is downloaded."""

    def verify_and_add(path: Path, *, key: str) -> None:
        verify_csv(path, key=key)
        if path.name == "window-000008-part-0001.csv":
            lines = path.read_bytes().split(b"\n")
            lines = [line and line + (b",late" if not number else b",x") for number, line in enumerate(lines)]
            path.write_bytes(b"\n".join(lines))

    monkeypatch.setattr(collect, "verify_csv", verify_and_add)
