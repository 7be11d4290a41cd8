"""Streams: the rows of a pull in this process, while exports still run."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio
from anyio import from_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from bulkpull.background import cancelled, require_asyncio
from bulkpull.errors import UsageError
from bulkpull.options import documented, option
from bulkpull.pull.options import RunOptions
from bulkpull.pull.orchestrator import run
from bulkpull.pull.result import Result
from bulkpull.record import record
from bulkpull.rows.format import Format
from bulkpull.source import Source
from bulkpull.store import Destination, Stream, WorkDirectory, resolved

if TYPE_CHECKING:
    from bulkpull.rows.batch import Batch
    from bulkpull.rows.columns import Shape

_ROWS_PER_DICTS = 2048  # rows that become dicts at a time, in a thread
_ROWS_PER_TURN = 256  # rows after which other tasks have their turn
_NOT_ENTERED = "the stream was not entered: use async with"

T = TypeVar("T")


@documented
@dataclass(frozen=True, kw_only=True, slots=True)
class StreamOptions(RunOptions):
    """The options of a stream. Raises UsageError for values that make no sense."""

    all_strings: bool = field(default=False, metadata=option("Keep times as text.", in_cli=False))
    state: str | os.PathLike[str] | None = field(
        default=None,
        metadata=option(
            "Directory that keeps the progress, so that a later stream resumes.",
            details="It holds all merged rows as CSV, and stays when the stream has ended. Without it nothing is kept.",
            in_cli=False,
        ),
    )
    max_batch_rows: int = field(default=65_536, metadata=option("Maximum rows in a batch.", minimum=1, in_cli=False))

    @property
    def output_format(self) -> Format:
        """Batches of Arrow, in memory."""
        return Format("arrow", all_strings=self.all_strings)


@record
class RowBatch:
    """Consecutive rows of a stream, in the order of the plan.

    Libraries that speak Arrow take it as it is, by `__arrow_c_array__`, without a copy; that needs nanoarrow.
    """

    _batch: Batch
    _rows: RowStream

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return self._batch.num_rows

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return self._batch.shape.names

    def to_pylist(self) -> list[dict[str, str | datetime | None]]:
        """Return the rows as dicts: texts, and the time as a datetime in UTC. Empty cells are None.

        Takes about a microsecond for each value, so that large batches are better converted in a thread.
        """
        return self._batch.to_pylist()

    async def ack(self) -> None:
        """Record durably that this batch, and all before it, need not come again. See `RowStream.commit`."""
        await self._rows._commit(self._batch.end)

    def __arrow_c_schema__(self) -> object:
        return self._batch.__arrow_c_schema__()

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        return self._batch.__arrow_c_array__(requested_schema)


class RowStream:
    """The rows of a pull, as an asynchronous iterator of batches. Made by `bulkpull.stream`.

    The pull runs in a task of its own, which ends with the `async with` block: it may be entered and left in different
    tasks. A consumer that is slow slows the pull; when it leaves early, the pull is cancelled.
    """

    def __init__(self, source: Source, options: StreamOptions) -> None:
        self._source = source
        self._options = options
        self._task: asyncio.Task[Result] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._destination: Stream | None = None
        self._shape: Shape | None = None
        self._has_header = anyio.Event()
        self._batches: MemoryObjectReceiveStream[Batch] | None = None
        self._end = 0  # of the last batch that the consumer got
        self._result: Result | None = None
        # Not anyio's own, whose tokens may be held by threads that wait for this stream.
        self._limiter = anyio.CapacityLimiter(1)

    @property
    def result(self) -> Result:
        """The figures of the pull, once the stream has ended. Raises UsageError before."""
        if self._result is None:
            raise UsageError("the stream has not ended: its result is not known yet")
        return self._result

    async def __aenter__(self) -> Self:
        if self._task:
            raise UsageError("a stream can be entered once: call bulkpull.stream again")
        require_asyncio()
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        send: MemoryObjectSendStream[Batch]
        send, self._batches = anyio.create_memory_object_stream(1)
        self._task = self._loop.create_task(self._pull(send), name="bulkpull stream")
        self._task.add_done_callback(lambda _: send.close())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._task
        assert self._batches
        self._batches.close()
        await cancelled(self._task)  # it needs a moment to save its progress
        if not self._task.cancelled():
            self._task.exception()  # the consumer's loop has raised it, or it came too late for the consumer

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RowBatch:
        assert self._task, _NOT_ENTERED
        assert self._batches
        try:
            batch = await self._batches.receive()
        except anyio.ClosedResourceError:
            raise UsageError("the stream was left: its rows are read inside the async with block") from None
        except anyio.EndOfStream:
            self._result = await asyncio.shield(self._task)
            raise StopAsyncIteration from None
        self._end = batch.end
        return RowBatch(batch, self)

    async def commit(self) -> None:
        """Record durably that the batches so far need not come again.

        The next stream with the same `state` starts behind them, and delivers everything after them: each row at least
        once. Raises UsageError without a `state`, and OutputError.
        """
        await self._commit(self._end)

    async def _commit(self, end: int) -> None:
        if self._options.state is None:
            raise UsageError("nothing can be committed: the stream has no state directory")
        assert self._destination
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._destination.record_taken, end, limiter=self._limiter)

    def __arrow_c_schema__(self) -> object:
        """Return the schema. Blocks until it is known, so it must be called in another thread."""
        return self._schema().__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return all batches as a stream of Arrow's C interface. It blocks, so it must be used in another thread."""
        arro3 = _arro3()
        reader = arro3.RecordBatchReader.from_batches(arro3.Schema.from_arrow(self._schema()), self._blocking())
        capsule: object = reader.__arrow_c_stream__(requested_schema)
        return capsule

    def _schema(self) -> Any:
        from bulkpull.rows.batch import arrow_schema

        return arrow_schema(self._in_loop(self._header))

    def _blocking(self) -> Iterator[Any]:
        arro3 = _arro3()
        while batch := self._in_loop(self._next):
            yield arro3.RecordBatch.from_arrow(batch)

    def _in_loop(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        assert self._loop, _NOT_ENTERED
        if threading.get_ident() == self._thread:
            raise UsageError(
                "reading the stream here would block the event loop: pass it to a thread, as in "
                "await asyncio.to_thread(polars.DataFrame, rows)"
            )
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result()

    async def _next(self) -> RowBatch | None:
        return await anext(self, None)

    async def _header(self) -> Shape:
        """Return the columns once they are known. Raises what the pull raises before."""
        assert self._task, _NOT_ENTERED
        has_header = asyncio.ensure_future(self._has_header.wait())
        await asyncio.wait([has_header, self._task], return_when=asyncio.FIRST_COMPLETED)
        if not self._shape:
            has_header.cancel()
            await asyncio.shield(self._task)
        assert self._shape
        return self._shape

    async def _pull(self, batches: MemoryObjectSendStream[Batch]) -> Result:
        def destination(directory: WorkDirectory, _: Callable[[], Mapping[str, str]]) -> Destination:
            self._destination = Stream(
                directory.path,
                self._source.columns,
                all_strings=self._options.all_strings,
                max_rows=self._options.max_batch_rows,
                on_header=lambda shape: from_thread.run_sync(self._set_shape, shape),
                hand_over=lambda batch: from_thread.run(batches.send, batch),
            )
            return self._destination

        state = self._options.state
        with (
            WorkDirectory.temporary("the stream")
            if state is None
            else nullcontext(WorkDirectory(resolved(state), f"the stream of {os.fspath(state)}", is_kept=True))
        ) as directory:
            return await run(self._source, self._options, directory, destination)

    def _set_shape(self, shape: Shape) -> None:
        self._shape = shape
        self._has_header.set()


def stream(source: Source, options: StreamOptions) -> RowStream:
    """Stream the activity of `[start, end)` in batches, each id once, while exports still run.

    Use it as `async with stream(...) as rows:` and `async for batch in rows:`. Rows come in the order of the plan, the
    same rows in the same order as in a file. A slow consumer slows the pull, in bounded memory. Leaving the block early
    ends everything. The merged rows wait in a temporary directory, which takes as much disk as a CSV of them, or in
    `state`.

    Args:
        source: The API.
        options: The options, by name.

    Returns:
        The stream. Iterating over it raises what `pull` raises.
    """
    return RowStream(source, options)


async def rows(source: Source, options: StreamOptions) -> AsyncGenerator[dict[str, str | datetime | None]]:
    """Iterate over the activity of `[start, end)` row by row, each id once, while exports still run.

    For simple code, and up to some million rows: `stream` takes a fraction of the time.

    Args:
        source: The API.
        options: The options, by name.

    Yields:
        A dict for each row: texts, the time as a datetime in UTC, and None for empty cells.
    """
    options = replace(options, max_batch_rows=min(options.max_batch_rows, _ROWS_PER_DICTS))
    limiter = anyio.CapacityLimiter(1)
    async with RowStream(source, options) as batches:
        async for batch in batches:
            values = await anyio.to_thread.run_sync(batch.to_pylist, limiter=limiter)
            for at, row in enumerate(values):
                if at % _ROWS_PER_TURN == 0:
                    await asyncio.sleep(0)
                yield row


async def table(source: Source, options: StreamOptions) -> Any:
    """Pull the activity of `[start, end)` into memory, each id once.

    Args:
        source: The API.
        options: The options, by name.

    Returns:
        An `arro3.core.Table`, which other libraries take as it is, by `__arrow_c_stream__`: `pyarrow.table(table)`,
        `polars.DataFrame(table)`.

    Raises:
        UsageError: nanoarrow or arro3-core is missing; an option makes no sense.
        BulkpullError: See `pull`.
    """
    arro3 = _arro3()
    from bulkpull.rows.batch import arrow_schema

    async with RowStream(source, options) as batches:
        found = [arro3.RecordBatch.from_arrow(batch) async for batch in batches]
        schema = arro3.Schema.from_arrow(arrow_schema(await batches._header()))
    return arro3.Table.from_batches(found, schema=schema)


def _arro3() -> Any:
    try:
        import arro3.core
        import nanoarrow  # noqa: F401 - batches are made with it
    except ImportError as error:
        raise UsageError(f"Arrow streams need {error.name}: pip install 'bulkpull[arrow]'") from None
    return arro3.core
