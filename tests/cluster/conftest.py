"""Shared by all tests of clusters: a cluster within the process, and a short wait for stale replicas."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from distributed import Client

from bulkpull import patience
from tests.cluster.both import client_of_threads


@pytest.fixture(autouse=True)
def short_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait at most half a second for stale replicas."""
    monkeypatch.setattr(patience, "LAG", 0.5)


@pytest_asyncio.fixture
async def client() -> AsyncIterator[Client]:
    async with client_of_threads() as found:
        yield found
