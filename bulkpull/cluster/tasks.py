"""Running tasks on the workers of a cluster: again if they are lost, as long as there are workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import anyio

from bulkpull.cluster.bucket import Bucket
from bulkpull.cluster.connection import Connection, not_installed, other_versions
from bulkpull.cluster.run import Failure, SealedTask, run_sealed, versions
from bulkpull.cluster.scatter import Scattered
from bulkpull.errors import ClusterError, OutputError
from bulkpull.events import OnEvent, Retried, TaskEnded, WorkersChanged
from bulkpull.pacing import FixedLimit
from bulkpull.record import record
from bulkpull.retry import RetryPolicy

if TYPE_CHECKING:
    from distributed import Future

_TASKS_PER_THREAD = 2  # one that runs, and one that waits, whose link is still fresh
_MAX_ATTEMPTS = 6  # at a task that fails, or kills its worker
_WATCH_S = 1.0
_FIRST_WORKER_S = 0.1  # between looks whether it is there
_RESULT_S = 3.0  # for the result of a task that has finished, before it is asked for again
_TASK_S = 4 * 3600.0  # for one attempt at a task

T = TypeVar("T")


@record(frozen=False)
class Tasks:
    """The tasks of one pull. `limit` follows the number of workers, `retry` says how long there may be none."""

    connection: Connection
    retry: RetryPolicy
    limit: FixedLimit
    on_event: OnEvent

    async def run(self, function: Callable[[Any], T | Failure], task: object, key: str, what: str) -> T | Failure:
        """Run a task on a worker, again if it is lost, or its storage fails. Raises ClusterError and OutputError."""
        from distributed import CancelledError, KilledWorker
        from distributed.protocol import pickle

        sealed = SealedTask(versions(), pickle.dumps((function, task)))  # type: ignore[no-untyped-call]
        failed_on = ""
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            client = await self.connection.client()
            others = [worker for worker in await self.connection.workers() if worker != failed_on] if failed_on else []
            future = None
            try:
                # A key of its own: the scheduler would give the result of another pull's task that has the same one.
                future = client.submit(
                    run_sealed,
                    sealed,
                    key=f"{key}-{uuid4().hex}",
                    pure=False,
                    workers=others or None,
                    allow_other_workers=bool(others),
                )
                with anyio.fail_after(_TASK_S):
                    outcome: T | Failure = await _result(future)
            except CancelledError:  # the scheduler is gone, and with it all tasks
                reason: str = "the scheduler has forgotten the task"
                if attempt == _MAX_ATTEMPTS:
                    raise ClusterError(
                        f"{what}: {reason}, {attempt} times. Run the same command again to resume"
                    ) from None
            except KilledWorker:
                reason = "workers died of it, one after another: is their memory too small?"
            except TimeoutError:
                reason = f"it did not end within {_TASK_S:,.0f} s"
            except ImportError as error:  # of a worker that joined after the start
                raise not_installed("a worker", error) from None
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
            else:
                if isinstance(outcome, Failure) and outcome.kind == "versions":
                    raise other_versions(outcome.worker, outcome.message)
                if not isinstance(outcome, Failure) or outcome.kind not in ("storage", "closed"):
                    if isinstance(outcome, Scattered | Bucket):
                        self.on_event(TaskEnded(key, outcome.worker, outcome.seconds))
                    return outcome
                reason, failed_on = f"{outcome.message} (on the worker {outcome.worker})", outcome.worker
                if attempt == _MAX_ATTEMPTS:
                    raise OutputError(f"{what}: {reason}. Run the same command again to resume")
            finally:
                if future is not None:
                    with suppress(Exception):
                        future.release()  # type: ignore[no-untyped-call]
            if attempt < _MAX_ATTEMPTS:
                wait = self.retry.backoff(attempt)
                self.on_event(Retried(what, attempt, wait, reason))
                await anyio.sleep(wait)
        raise ClusterError(
            f"{what}: its task failed {_MAX_ATTEMPTS} times: {reason}. Run the same command again to resume"
        )

    async def wait_for_workers(self) -> None:
        """Wait for the first worker. Raises ClusterError if there is none in time."""
        until = anyio.current_time() + self.retry.seconds
        while not (workers := await self.connection.workers()):
            if anyio.current_time() > until:
                raise self._no_workers()
            await anyio.sleep(_FIRST_WORKER_S)
        self._follow(workers)

    async def watch(self) -> None:
        """Follow how many workers there are. Raises ClusterError if there is none for long."""
        without_since: float | None = None
        known: dict[str, int] = {}
        while True:
            await anyio.sleep(_WATCH_S)
            workers = await self.connection.workers()
            if workers != known:
                known = workers
                self._follow(workers)
            if workers:
                without_since = None
                continue
            without_since = without_since or anyio.current_time()
            if anyio.current_time() - without_since > self.retry.seconds:
                raise self._no_workers()

    def _no_workers(self) -> ClusterError:
        return ClusterError(
            f"the cluster has had no worker for {self.retry.seconds:,.0f} s (--retry-for). Start some, and run "
            "the same command again to resume"
        )

    def _follow(self, workers: dict[str, int]) -> None:
        threads = sum(workers.values())
        if workers:
            self.limit.change(max(1, threads * _TASKS_PER_THREAD))
        self.on_event(WorkersChanged(len(workers), threads))


async def _result(future: Future[Any]) -> Any:
    """Return the result of a task.

    If a worker dies whose task has finished, the scheduler may try for 30 seconds to get the result from there, and
    others of the same request with it. Meanwhile another worker runs the task again, so the result is asked for again.
    A cancellation must not reach what asks for results: Dask shares it among tasks.
    """
    asking = set[asyncio.Future[Any]]()
    while True:
        if not asking or future.status == "finished":
            asked = asyncio.ensure_future(future.result())
            asked.add_done_callback(lambda done: done.cancelled() or done.exception())
            asking.add(asked)
        done, _ = await asyncio.wait(asking, timeout=_RESULT_S, return_when=asyncio.FIRST_COMPLETED)
        if done:
            return done.pop().result()
