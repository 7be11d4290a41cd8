"""Shared by all syncs: a short wait for stale replicas, since the sandbox has none."""

from __future__ import annotations

import pytest

from bulkpull import patience
from tests.tables.conftest import place, postgres

__all__ = ["place", "postgres"]


@pytest.fixture(autouse=True)
def short_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for stale replicas."""
    monkeypatch.setattr(patience, "LAG", 0.1)
