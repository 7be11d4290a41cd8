"""Bodies of any size are received as only large ones are otherwise: the flows have small ones."""

from __future__ import annotations

import pytest

from bulkpull.download import receive


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receive, "MIN_DIRECT_BYTES", 1)
