"""Worker processes on this machine that several pulls share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import reduce
from typing import Any

from bulkpull.cluster.connection import check_address, connected
from bulkpull.cluster.pulling import SharedSource
from bulkpull.errors import UsageError
from bulkpull.source import Source


@asynccontextmanager
async def shared_cluster(address: str, sources: Sequence[Source]) -> AsyncIterator[Any]:
    """Start the workers of an address such as `local:2`, and stop them at the end.

    Args:
        address: The address.
        sources: Those of the pulls. The workers have no token of any of them.

    Yields:
        The option `cluster` of the pulls.

    Raises:
        UsageError: It is no address, Dask is missing, or a source cannot be pulled on a cluster.
        ClusterError: No worker started.
    """
    check_address(address)
    shared = [source for source in sources if isinstance(source, SharedSource)]
    if len(shared) < len(sources):
        raise UsageError("this source cannot be pulled on a cluster: only its own process can open its links")
    environment = reduce(lambda found, more: dict(found.items() & more.items()), (one.environment() for one in shared))
    async with connected(address, patience=sources[0].retry.seconds, environment=environment) as connection:
        yield await connection.client()
