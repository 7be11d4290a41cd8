"""Worker processes on this machine: `python -m bulkpull.cluster.local N`, started by the coordinator.

The scheduler and its workers live below a process of their own. So they do not have the token, which the coordinator's
environment may hold, and take nothing of the caller's event loop. They listen on loopback only, with certificates made
for this run: without them, other users of the machine could run code on the workers.

The process writes one line of JSON, the address and the certificates, and ends when its standard input does: with the
coordinator, however that ends.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from subprocess import DEVNULL
from typing import TYPE_CHECKING

import anyio
import orjson
from anyio.streams.buffered import BufferedByteReceiveStream

from bulkpull.errors import ClusterError

if TYPE_CHECKING:
    from anyio.abc import Process
    from distributed import Security

_START_S = 120.0
_END_S = 15.0
_MAX_LINE_BYTES = 64 * 1024
_NO_PROFILER = {"DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False"}  # on Python 3.11 it can deadlock
_CERTIFICATES = ("tls_ca_file", "tls_client_cert", "tls_client_key")


@asynccontextmanager
async def local_cluster(workers: int, environment: Mapping[str, str]) -> AsyncIterator[tuple[str, Security]]:
    """Start a scheduler and workers; yield the address, and what a client needs to connect.

    Args:
        workers: How many processes.
        environment: Their environment, without secrets that are not theirs.

    Raises:
        ClusterError: They do not start.
    """
    from distributed import Security

    command = [sys.executable, "-m", "bulkpull.cluster.local", str(workers)]
    try:
        # A session of its own: an interrupt from the terminal is the coordinator's to handle.
        environment = {**environment, **_NO_PROFILER}
        process = await anyio.open_process(command, stderr=DEVNULL, env=environment, start_new_session=True)
    except OSError as error:
        raise ClusterError(f"worker processes cannot be started: {error.strerror or error}") from None
    try:
        assert process.stdout is not None
        try:
            with anyio.fail_after(_START_S):
                line = await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", _MAX_LINE_BYTES)
        except (TimeoutError, anyio.IncompleteRead):
            raise ClusterError(
                f"worker processes do not start. Run {' '.join(command[1:])} to see why, or use fewer"
            ) from None
        found = orjson.loads(line)
        yield found["address"], Security(require_encryption=True, **found["security"])  # type: ignore[no-untyped-call]
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)


async def _end(process: Process) -> None:
    assert process.stdin is not None
    with anyio.move_on_after(_END_S):
        with suppress(OSError, anyio.ClosedResourceError):
            await process.stdin.aclose()
        await process.wait()
    if process.returncode is None:
        process.kill()
    await process.aclose()


async def _main(workers: int) -> None:
    """Run the scheduler and the workers until standard input ends."""
    from distributed import LocalCluster, Security

    security = Security.temporary()  # type: ignore[no-untyped-call]
    async with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        protocol="tls://",
        security=security,
        dashboard_address="127.0.0.1:0",  # any port: two pulls at once would warn of the default one
        worker_dashboard_address="127.0.0.1:0",
        memory_limit=0,  # tasks bound their own: a worker that is killed for it would only do the same work again
        silence_logs=logging.CRITICAL,
        asynchronous=True,
    ) as cluster:
        certificates = {name: getattr(security, name) for name in _CERTIFICATES}
        line = orjson.dumps({"address": cluster.scheduler_address, "security": certificates})
        print(line.decode(), flush=True)
        await anyio.to_thread.run_sync(sys.stdin.buffer.read, abandon_on_cancel=True)


if __name__ == "__main__":
    anyio.run(_main, int(sys.argv[1]))
