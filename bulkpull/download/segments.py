"""Segments: a slow file is downloaded by several connections, since hosts often limit the speed of each.

The first transfer writes the file itself. The others write segments of it to files beside it, named by the byte they
start at, which are appended in the end. So the size of each file tells how far its segment came, and an interrupted
download resumes in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from bulkpull.download.file import Record, open_partial, remove_all
from bulkpull.download.memory_queue import MemoryQueue
from bulkpull.download.transfer import END_OF_FILE, Job, SegmentRefused, Transfer
from bulkpull.errors import BulkpullError
from bulkpull.threads import in_thread

CHECK_SECONDS = 2.0  # between two measurements of the speed
MIN_REMAINING_SECONDS = 5.0  # that the rest of a file must take to be divided
MIN_SEGMENT_BYTES = 512 * 1024


class Segments:
    """Runs the `first` transfer of a file, and adds segments if it is slow and `streams` has free places.

    The download holds one place of `streams` itself. It takes more only where nobody waits for them.
    """

    def __init__(
        self, job: Job, first: Transfer, record: Record, streams: anyio.CapacityLimiter, queue: MemoryQueue
    ) -> None:
        self._job = job
        self._first = first
        self._record = record
        self._streams = streams
        self._queue = queue
        self._ends: dict[int, int] = {}  # by the start of each segment
        self._waiting: list[int] = []  # starts of segments that no task downloads yet
        self._is_refused = False
        self._errors: list[Exception] = []

    async def resume(self) -> None:
        """Continue with the segments of an earlier run, unless it left nothing of the first."""
        if self._first.file.offset:
            self._divide(sorted(int(path.suffix[1:]) for path in self._paths()))
        else:
            await self.discard()

    async def discard(self) -> None:
        """Remove all segments: the first transfer downloads the whole file."""
        await in_thread(remove_all, self._paths())
        self._ends, self._waiting, self._errors = {}, [], []
        self._first.limit_to(END_OF_FILE)

    async def run(self) -> None:
        """Download the whole file. Raises what `Transfer.run` raises, except SegmentRefused."""
        while not await self._run_all():
            await self.discard()
        if self._ends:
            await self._first.file.flush()
        for start in self._ends:
            await self._first.file.append_file(self._path(start), start)
            await in_thread(remove_all, [self._path(start)])
        self._ends = {}

    async def _run_all(self) -> bool:
        """Run all transfers. Returns False if a segment was refused."""
        async with anyio.create_task_group() as watch:
            async with anyio.create_task_group() as group:
                group.start_soon(self._run_first, group)
                self._add_tasks(group)
                watch.start_soon(self._watch, group)
            watch.cancel_scope.cancel()
        if self._errors:
            self._is_refused = isinstance(self._errors[0], SegmentRefused)
            if not self._is_refused:
                raise self._errors[0]
            return False
        if self._waiting or not self._first.is_complete:
            # A task that somebody else cancelled ends without an error, which must not pass for success.
            raise BulkpullError("a download was cancelled: was its session closed, or one of its tasks cancelled?")
        return True

    async def _watch(self, group: TaskGroup) -> None:
        """Divide the rest of the file if one stream would take long."""
        file, started = self._first.file, anyio.current_time()
        before = file.offset
        while not self._ends and not self._is_refused:
            await anyio.sleep(CHECK_SECONDS)
            length, received = file.version.length, file.offset - before
            if self._first.is_complete or file.version.validator is None or length is None or received <= 0:
                continue
            remaining = length - file.offset
            places = min(int(self._streams.available_tokens), remaining // MIN_SEGMENT_BYTES)
            seconds = remaining / received * (anyio.current_time() - started)
            if places > 0 and seconds > MIN_REMAINING_SECONDS:
                self._divide([file.offset + remaining * number // (places + 1) for number in range(1, places + 1)])
                self._add_tasks(group)

    def _divide(self, starts: list[int]) -> None:
        """Let segments start at these bytes; each ends where the next one starts."""
        self._ends = dict(zip(starts, [*starts[1:], END_OF_FILE], strict=False))
        self._waiting = starts
        if starts:
            self._first.limit_to(starts[0])

    def _add_tasks(self, group: TaskGroup) -> None:
        """Take as many places as there are waiting segments and free places."""
        for _ in self._waiting:
            place = object()
            try:
                self._streams.acquire_on_behalf_of_nowait(place)
            except anyio.WouldBlock:
                return
            group.start_soon(self._run_others, group, place)

    async def _run_first(self, group: TaskGroup) -> None:
        with self._ending_all(group):
            await self._first.run()
            await self._run_waiting()

    async def _run_others(self, group: TaskGroup, place: object) -> None:
        try:
            with self._ending_all(group):
                await self._run_waiting()
        finally:
            self._streams.release_on_behalf_of(place)

    async def _run_waiting(self) -> None:
        while self._waiting:
            start = self._waiting.pop(0)
            version = self._first.file.version
            async with open_partial(self._path(start), self._record, self._queue, start=start, resume=version) as file:
                await Transfer(self._job, file, self._ends[start]).run()

    @contextmanager
    def _ending_all(self, group: TaskGroup) -> Iterator[None]:
        """Let an error of one transfer end all."""
        try:
            yield
        except Exception as error:
            self._errors.append(error)
            group.cancel_scope.cancel()

    def _path(self, start: int) -> Path:
        path = self._first.file.path
        return path.with_name(f"{path.name}.{start}")

    def _paths(self) -> list[Path]:
        path = self._first.file.path
        return [beside for beside in path.parent.glob(f"{path.name}.*") if beside.suffix[1:].isdecimal()]
