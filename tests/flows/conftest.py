"""What all flows share: a sandbox catches up at once, so that none waits long for it."""

from __future__ import annotations

import pytest

from bulkpull import patience


@pytest.fixture(autouse=True)
def short_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backends that have not caught up are waited for in a second."""
    monkeypatch.setattr(patience, "LAG", 1.0)
