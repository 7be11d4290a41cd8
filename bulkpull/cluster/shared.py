"""Worker processes on this machine that several pulls share."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from bulkpull.cluster.connection import check_address, connected
from bulkpull.cluster.pulling import SharedSource
from bulkpull.source import Source


@asynccontextmanager
async def shared_cluster(address: str, sources: Iterable[Source], *, patience: float) -> AsyncIterator[Any]:
    """Start the workers of an address such as `local:2`, and stop them at the end.

    Args:
        address: The address.
        sources: Those of all pulls, on this cluster or not. The workers have no token of any of them.
        patience: Seconds that the scheduler may be unreachable.

    Yields:
        The option `cluster` of the pulls.

    Raises:
        UsageError: It is no address, or Dask is missing.
        ClusterError: No worker started.
    """
    check_address(address)
    environment = dict(os.environ)
    for source in sources:
        if isinstance(source, SharedSource):
            environment = dict(environment.items() & source.environment().items())
    async with connected(address, patience=patience, environment=environment) as connection:
        yield await connection.client()
