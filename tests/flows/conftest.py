"""Shared by all flows: a short wait for stale replicas, since the sandbox has none."""

from __future__ import annotations

import pytest

from bulkpull import patience


@pytest.fixture(autouse=True)
def short_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait at most one second for stale replicas."""
    monkeypatch.setattr(patience, "LAG", 1.0)
