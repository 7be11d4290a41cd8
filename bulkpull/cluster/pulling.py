"""A pull on a cluster: launching, polling and the quota stay here, downloads and the merge go to workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from bulkpull.errors import UsageError
from bulkpull.pull import PullOptions, Result
from bulkpull.pull import pull as pull_here
from bulkpull.source import Source

if TYPE_CHECKING:
    from bulkpull.download import LinkSettings


@runtime_checkable
class SharedSource(Source, Protocol):
    """A source whose links other processes can open, without what it knows of the API."""

    @property
    def link_settings(self) -> LinkSettings: ...

    def environment(self) -> Mapping[str, str]:
        """Return the environment of this process without what holds the token."""
        ...


async def pull(source: Source, options: PullOptions) -> Result:
    """Pull the activity of `[start, end)` into one output at `out`, each id once.

    The output appears only when it is complete, a local one with a manifest beside it (see `verify`). A pull that
    fails, is cancelled or is killed leaves its progress in the directory `<out>.bulkpull`, if it made any, or in
    `state` if the output is in object storage; the same call resumes it, or starts over if `resume` is false. A
    cancellation may take some seconds while an export is being launched.

    Standard output (`-`), a pipe or a device gets the rows as windows are merged. Such a pull is never resumed.

    On a `cluster`, its workers download and merge, and the output is a data set of Parquet files. They never learn the
    token.

    Args:
        source: The API.
        options: The options, by name.

    Returns:
        The figures of the pull, over all its runs.

    Raises:
        UsageError: An option makes no sense, or differs from those of the pull that is to be resumed.
        AuthenticationError: The API does not accept the token.
        ApiError: The API refused or failed.
        ClusterError: The cluster cannot be reached, has no workers, or they cannot do the work.
        PartError: A file could not be downloaded or read.
        OutputError: The output exists, or the disk does not take it.
        ReaderGoneError: The reader of a pipe has exited.
    """
    if options.cluster is None:
        return await pull_here(source, options)
    return await _pull_on_cluster(source, options)


async def _pull_on_cluster(source: Source, options: PullOptions) -> Result:
    from bulkpull.cluster.connection import check_address, connected
    from bulkpull.cluster.destination import cluster_destination
    from bulkpull.cluster.workers import ClusterWorkers
    from bulkpull.pull import run
    from bulkpull.store import Destination, WorkDirectory

    if not isinstance(source, SharedSource):
        raise UsageError("this source cannot be pulled on a cluster: only its own process can open its links")
    check_address(options.cluster)
    directory = WorkDirectory.of(options.out, options.state)

    def destination(work: WorkDirectory, provenance: Callable[[], Mapping[str, str]]) -> Destination:
        workers.destination = cluster_destination(
            options.out,
            work,
            options.output_format,
            overwrite=options.overwrite,
            columns=source.columns,
            provenance=provenance,
        )
        return workers.destination

    async with connected(
        options.cluster, patience=source.retry.seconds, environment=source.environment()
    ) as connection:
        workers = ClusterWorkers(connection, source, options, source.link_settings)
        return await run(source, options, directory, destination, workers=workers)
