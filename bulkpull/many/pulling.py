"""Several pulls side by side: a few at a time, in one task group."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

import anyio

from bulkpull.cluster import pull, shared_cluster
from bulkpull.errors import ClusterError, OutputError, UsageError
from bulkpull.events import Event, check_listener, tell
from bulkpull.logs import job_name
from bulkpull.many.checks import check, finished
from bulkpull.many.job import Job, JobResult, errors_of
from bulkpull.many.receipts import discard_receipt, write_receipt
from bulkpull.pull import PullOptions, Result, plain, shared_memory
from bulkpull.sizes import bytes_of
from bulkpull.source import Source
from bulkpull.sync import LoadOptions, load
from bulkpull.threads import in_thread


def _ignore(*_values: object) -> None:
    """No-op listener."""


async def pull_many(
    jobs: Iterable[Job],
    *,
    limit: int = 4,
    memory: int | str | None = None,
    fail_fast: bool = False,
    on_event: Callable[[str, Event], object] = _ignore,
    on_result: Callable[[JobResult], object] = _ignore,
) -> dict[str, JobResult]:
    """Pull several jobs into one output or table each, some of them at a time.

    All jobs are checked before the first one starts: their options, that no two write the same file or table, and that
    no output exists. A job that fails does not stop the others. The same call resumes what failed or was cancelled; an
    output that is finished, as its manifest says, is not pulled again, unless the job's `overwrite` is true. Nor is a
    table filled again, until a call has finished all jobs. Jobs on a cluster `local:N` share its workers.

    Args:
        jobs: The jobs. Those with the same token must share one client, which keeps them within one request budget.
        limit: Maximum jobs at a time. They start in their order.
        memory: Target peak memory of all jobs together, in bytes, or a text such as 1GB. Defaults to that of each job.
        fail_fast: Stop all jobs when one has failed.
        on_event: Function called in the event loop with the name of a job and each event of its pull.
        on_result: Function called in the event loop with what became of a job, as soon as it has ended.

    Returns:
        What became of each job, by name, in the order of the jobs: the result of its pull, or the error.

    Raises:
        UsageError: A job makes no sense, or cannot run beside another one. Nothing was started.
        OutputError: The output of a job exists, and is not what it would pull. Nothing was started.
    """
    if limit < 1:
        raise UsageError(f"the limit of jobs is {limit}: it must be at least 1")
    for listener in (on_event, on_result):
        check_listener(partial(listener, ""))  # type: ignore[arg-type]
    chosen = list(jobs)
    await in_thread(check, chosen)
    results: dict[str, JobResult] = {}

    def end(result: JobResult) -> None:
        results[result.name] = result
        tell(on_result, result)  # type: ignore[arg-type]

    before = await in_thread(finished, chosen)
    left = [job for job in chosen if job.name not in before]
    prepared = _prepared(left, limit, memory, on_event)
    for result in before.values():
        end(result)
    limiter = anyio.CapacityLimiter(limit)

    async def run(job: Job, options: PullOptions | LoadOptions) -> None:
        async with limiter:
            job_name.set(job.name)
            try:
                await in_thread(discard_receipt, job)
                result = JobResult.of(job.name, await _pull(job, options, clusters))
            except Exception as error:
                result = JobResult(job.name, job.output, "failed", error=error)
            if result.error is None:
                with anyio.CancelScope(shield=True):  # the table is filled
                    await in_thread(write_receipt, job, result)
            end(result)
            if fail_fast and result.error:
                group.cancel_scope.cancel()

    try:
        async with (
            _shared_clusters(left, [job.source for job in chosen]) as clusters,
            anyio.create_task_group() as group,
        ):
            for job, options in zip(left, prepared, strict=True):
                group.start_soon(run, job, options)
    except BaseExceptionGroup as errors:
        error = plain(errors)
        raise error from error.__cause__
    for job in left:
        if job.name not in results:
            end(JobResult(job.name, job.output, "stopped"))
    if not any(result.state in ("failed", "stopped") for result in results.values()):
        for job in chosen:
            with suppress(OutputError):  # the tables are filled all the same
                await in_thread(discard_receipt, job)
    return {job.name: results[job.name] for job in chosen}


async def _pull(job: Job, options: PullOptions | LoadOptions, clusters: Mapping[str, object]) -> Result:
    if isinstance(options, LoadOptions):
        return await load(job.source, options)
    shared = clusters.get(options.cluster) if isinstance(options.cluster, str) else None
    if isinstance(shared, Exception):
        raise shared
    return await pull(job.source, options if shared is None else replace(options, cluster=shared))


@asynccontextmanager
async def _shared_clusters(jobs: Sequence[Job], sources: Sequence[Source]) -> AsyncIterator[Mapping[str, object]]:
    """Start the workers of each address that stands for worker processes on this machine. Yield the option `cluster`
    for it, or the error of workers that do not start."""
    patience: dict[str, float] = {}
    for job in jobs:
        cluster = job.options.cluster if isinstance(job.options, PullOptions) else None
        if isinstance(cluster, str) and cluster.startswith("local:"):
            patience[cluster] = max(patience.get(cluster, 0.0), job.source.retry.seconds)
    async with AsyncExitStack() as stack:
        found: dict[str, object] = {}
        for address, seconds in patience.items():
            try:
                found[address] = await stack.enter_async_context(shared_cluster(address, sources, patience=seconds))
            except (ClusterError, UsageError) as error:
                found[address] = error
        yield found


def _prepared(
    jobs: Sequence[Job], limit: int, memory: int | str | None, on_event: Callable[[str, Event], object]
) -> list[PullOptions | LoadOptions]:
    """The options of each job, with its share of the memory. Raises UsageError if that is too little."""
    at_a_time = min(limit, len(jobs))
    share = None if memory is None or not jobs else shared_memory(bytes_of(memory), at_a_time)
    prepared: list[PullOptions | LoadOptions] = []
    for job in jobs:
        options = job.options
        memories = [size for size in (options.memory_bytes, share) if size is not None]
        with errors_of(job.name):
            try:
                prepared.append(
                    replace(
                        options,
                        memory=min(memories, default=None),
                        on_event=partial(_both, options.on_event, partial(on_event, job.name)),
                    )
                )
            except UsageError as error:
                if share is None:
                    raise
                raise UsageError(
                    f"its share of the memory, with {at_a_time:,} jobs at a time, is too small: {error}. Allow more "
                    "memory, or fewer jobs at a time"
                ) from None
    return prepared


def _both(first: Callable[[Event], object], second: Callable[[Event], object], event: Event) -> None:
    tell(first, event)
    tell(second, event)
