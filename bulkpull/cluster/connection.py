"""The connection to a cluster: a scheduler's address, workers on this machine, or a client of the caller's."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio

from bulkpull import __version__
from bulkpull.cluster.local import local_cluster
from bulkpull.cluster.run import Facts, differences, facts, versions
from bulkpull.cluster.storage import Storage
from bulkpull.errors import ClusterError, UsageError

if TYPE_CHECKING:
    from distributed import Client, Security

    Connect = Callable[[], Awaitable[Client]]

_LOCAL = re.compile(r"local:([1-9]\d{0,2})")
_SCHEMES = ("tcp", "tls", "ws", "wss", "ucx")
_CONNECT_S = 10.0  # for one attempt to connect
_FACTS_S = 60.0  # for all workers to answer
_MAX_ASKED = 5  # times, if the scheduler is lost meanwhile
_PAUSE_S = 0.5


def check_address(cluster: object) -> None:
    """Raise UsageError for what is neither an address nor a client, and if Dask is missing."""
    if isinstance(cluster, str) and not _LOCAL.fullmatch(cluster):
        parts = urlsplit(cluster)
        if parts.scheme not in _SCHEMES or not parts.netloc:
            raise UsageError(
                f"{cluster!r} is no cluster: use the address of its scheduler, such as tcp://host:8786, or local:N for "
                "N worker processes on this machine"
            )
    try:
        import distributed
    except ImportError:
        raise UsageError("a cluster needs Dask: pip install 'bulkpull[cluster]'") from None
    if not isinstance(cluster, str | distributed.Client):
        raise UsageError(f"the cluster is a {type(cluster).__name__}: pass an address, or a distributed.Client")
    if isinstance(cluster, distributed.Client) and not cluster.asynchronous:
        raise UsageError("the cluster's client is synchronous: create it with asynchronous=True, and await it")


class Connection:
    """The connection to a scheduler, which is made anew when it is lost."""

    def __init__(self, client: Client, connect: Connect | None, patience: float) -> None:
        self._client = client
        self._connect = connect  # if the connection is ours
        self._patience = patience
        self._connecting = anyio.Lock()

    async def client(self) -> Client:
        """Return a client that is connected, after connecting anew if need be. Raises ClusterError."""
        async with self._connecting:
            until = anyio.current_time() + self._patience
            while self._client.status != "running":
                if anyio.current_time() > until:
                    raise ClusterError(
                        f"the scheduler has not been reachable for {self._patience:,.0f} s (--retry-for). Run the same "
                        "command again to resume, once it is back"
                    )
                if self._client.status == "closed":
                    if self._connect is None:
                        raise ClusterError("the cluster's client is closed. Run the pull again, with another client")
                    with suppress(OSError, TimeoutError):
                        self._client = await self._connect()
                        continue
                await anyio.sleep(_PAUSE_S)
            return self._client

    async def close(self) -> None:
        """Close the connection, if it is ours."""
        if self._connect is not None:
            with anyio.CancelScope(shield=True), anyio.move_on_after(_CONNECT_S):
                await self._client.close()  # type: ignore[no-untyped-call]

    async def workers(self) -> dict[str, int]:
        """Return the threads of each worker, by its address. Raises ClusterError."""
        client = await self.client()
        try:
            with anyio.fail_after(_CONNECT_S):
                return dict(await client.nthreads())  # type: ignore[no-untyped-call]
        except (OSError, TimeoutError):  # the next call connects anew
            return {}


@asynccontextmanager
async def connected(cluster: object, *, patience: float, environment: Mapping[str, str]) -> AsyncIterator[Connection]:
    """Connect to a cluster.

    Args:
        cluster: The address of a scheduler, `local:N`, or a `distributed.Client`, which stays open.
        patience: Seconds that a scheduler may be unreachable.
        environment: That of workers which are started here.

    Raises:
        ClusterError: The scheduler cannot be reached, or no worker started.
    """
    if not isinstance(cluster, str):
        yield Connection(cluster, None, patience)  # type: ignore[arg-type]
    elif local := _LOCAL.fullmatch(cluster):
        async with (
            local_cluster(int(local[1]), environment) as (address, security),
            _opened(address, security, patience) as opened,
        ):
            yield opened
    else:
        async with _opened(cluster, None, patience) as opened:
            yield opened


@asynccontextmanager
async def _opened(address: str, security: Security | None, patience: float) -> AsyncIterator[Connection]:
    """A connection of our own. Without `security`, Dask's configuration says which certificates there are."""
    from distributed import Client

    async def connect() -> Client:
        client: Client = await Client(  # type: ignore[no-untyped-call]
            address, security=security, asynchronous=True, set_as_default=False, timeout=_CONNECT_S, name="bulkpull"
        )
        return client

    try:
        client = await connect()
    except (OSError, TimeoutError):
        raise ClusterError(f"the scheduler at {address} does not answer. Check the address, and that it runs") from None
    except (TypeError, ValueError) as error:  # such as tls:// without certificates
        raise ClusterError(f"the scheduler at {address} cannot be connected to: {error}") from None
    connection = Connection(client, connect, patience)
    try:
        yield connection
    finally:
        await connection.close()


async def check_workers(connection: Connection, storage: Storage, output: Storage, suffix: str) -> None:
    """Raise ClusterError if a worker cannot run tasks, or cannot write to one of the storages. See `facts`."""
    answers = await _facts_of_workers(connection, storage, output, suffix)
    for address, found in answers.items():
        if isinstance(found, OSError):  # the worker has gone; those that come later are not asked either
            continue
        if not isinstance(found, Facts):
            raise not_installed(f"the worker {address}", found)
        _check_facts(address, found, storage)


def other_versions(worker: str, different: str) -> ClusterError:
    """Return the error for a worker with other versions."""
    return ClusterError(f"the worker {worker} has {different}: install the same versions")


def not_installed(worker: str, error: Exception) -> ClusterError:
    """Return the error for a worker that cannot import what tasks need."""
    return ClusterError(
        f"{worker} cannot run bulkpull: {type(error).__name__}: {error}. Install the same version there, "
        f"{__version__}, with its extra: pip install 'bulkpull[cluster]'"
    )


async def _facts_of_workers(
    connection: Connection, storage: Storage, output: Storage, suffix: str
) -> dict[str, Facts | Exception]:
    """Return what each worker says about itself, or why it does not. Raises ClusterError."""
    for _ in range(_MAX_ASKED):
        client = await connection.client()
        try:
            with anyio.fail_after(_FACTS_S):
                return dict(await client.run(facts, storage, output, suffix, on_error="return"))
        except TimeoutError:
            raise ClusterError(f"some workers do not answer within {_FACTS_S:.0f} s") from None
        except OSError:  # the scheduler has gone, and may come back
            await anyio.sleep(_PAUSE_S)
    raise ClusterError(f"the scheduler was lost {_MAX_ASKED} times. Run the same command again, once it is back")


def _check_facts(address: str, found: Facts, storage: Storage) -> None:
    if different := differences(found.versions, versions()):
        raise other_versions(address, different)
    if found.problem:
        raise ClusterError(f"the worker {address} cannot use the storage {storage}: {found.problem}")
