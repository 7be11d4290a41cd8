"""Export tasks: a pool of workers that turns filters into CSV files on the disk."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from operator import itemgetter
from pathlib import Path

import anyio
from anyio import to_thread

from bulkpull.sandbox.data import FIELDS, Activities
from bulkpull.sandbox.faults import Fault, Faults
from bulkpull.sandbox.filters import Selection, select
from bulkpull.sandbox.storage import Storage

_OF_FILES = frozenset({"purged", "damaged"})
_PART_OF_AN_ID = 12  # bytes


@dataclass(frozen=True, slots=True)
class File:
    """A finished CSV file."""

    path: Path
    size: int
    etag: str


@dataclass(slots=True)
class Task:
    """One export."""

    id: str
    filter: str
    fields: tuple[str, ...]
    selection: Selection
    created: datetime
    status: str = "pending"
    message: str | None = None
    files: list[File] = field(default_factory=list)
    fault: str | None = None  # the kind of what befell it

    @property
    def running(self) -> bool:
        return self.status not in ("success", "failed")


class Exports:
    """All exports of a sandbox.

    `workers` of them are worked on at a time; each takes about `seconds`, and longer the more rows it has. The files
    of the same filter and fields are made once.
    """

    def __init__(
        self,
        activities: Activities,
        directory: Path,
        *,
        workers: int,
        seconds: float,
        rows_per_file: int,
        seed: int,
        faults: Faults,
        storage: Storage | None = None,
    ) -> None:
        self.tasks: dict[str, Task] = {}
        self.peak_running = 0
        self.worked = self.longest = 0.0  # seconds
        self._activities = activities
        self._directory = directory
        self._workers = anyio.CapacityLimiter(workers)
        self._seconds = seconds
        self._rows_per_file = rows_per_file
        self._random = random.Random(seed)
        self._faults = faults
        self._storage = storage
        self._made: dict[tuple[str, tuple[str, ...]], list[File]] = {}

    def start(self, filter: str, fields: tuple[str, ...]) -> Task:
        """A new task, pending; raises FilterError. `work` must then be called with it."""
        task = Task(
            id=f"{self._random.getrandbits(96):024x}",
            filter=filter,
            fields=fields,
            selection=select(self._activities, filter),
            created=datetime.now(UTC),
        )
        self.tasks[task.id] = task
        self.peak_running = max(self.peak_running, sum(task.running for task in self.tasks.values()))
        return task

    def find(self, id: str) -> Task | None:
        """The task, unless there is none, or none any more."""
        task = self.tasks.get(id)
        return None if task is None or task.fault == "export-vanishes" else task

    async def work(self, task: Task) -> None:
        """Takes the task through its statuses."""
        rows = len(task.selection.numbers)
        duration = self._seconds * self._random.uniform(0.5, 1.5) * (1 + rows / 100_000)
        task.status = "scheduled"
        async with self._workers:
            task.status = "started"
            key = (task.filter, task.fields)
            began = anyio.current_time()
            try:
                if key not in self._made:
                    self._made[key] = await to_thread.run_sync(self._make, task)
            except OSError as error:
                task.status, task.message = "failed", str(error)
                return
            await anyio.sleep_until(began + duration)
            took = anyio.current_time() - began
            self.worked += took
            self.longest = max(self.longest, took)
        task.files = self._made[key]
        fault = self._faults.strike("export", task.filter, without=() if rows else _OF_FILES)
        task.fault = fault.kind if fault else None
        match fault:
            case Fault("export-fails" | "export-always-fails"):
                task.status, task.message = "failed", "Export failed"
                return
            case Fault("export-never-ends"):
                return
            case Fault("damaged"):
                task.files = await to_thread.run_sync(self._damaged, task, fault.draw)
        task.status = "success"

    def distinct_ids(self) -> int:
        """How many different ids the files of all finished exports hold."""
        selections = {task.filter: task.selection for task in self.tasks.values() if task.status == "success"}
        return len(
            {
                row[0]
                for selection in selections.values()
                for row in self._activities.delivered(selection.numbers, selection.wanted)
            }
        )

    def _make(self, task: Task) -> list[File]:
        lines = self._lines(task)
        header = ",".join(task.fields) + "\n"
        files: list[File] = []
        # Of the exports that match nothing, some have no file and some have one with a header alone.
        while (chunk := list(islice(lines, self._rows_per_file))) or (not files and int(task.id, 16) % 2):
            files.append(self._file(f"{task.id}-{len(files):04d}.csv", header + "".join(chunk)))
        return files

    def _damaged(self, task: Task, draw: random.Random) -> list[File]:
        """The task's files, one of them cut within a record for good."""
        lines = list(self._lines(task))
        number = draw.randrange(len(task.files))
        chunk = lines[number * self._rows_per_file :][: self._rows_per_file]
        cut = draw.randrange(len(chunk))
        content = "".join((",".join(task.fields), "\n", *chunk[:cut], chunk[cut][:_PART_OF_AN_ID]))
        damaged = self._file(f"{task.id}-damaged.csv", content)
        return [*task.files[:number], damaged, *task.files[number + 1 :]]

    def _file(self, name: str, content: str) -> File:
        data, path = content.encode(), self._directory / name
        path.write_bytes(data)
        if self._storage:
            self._storage.put(path)
        return File(path, len(data), f'"{hashlib.blake2b(data, digest_size=16).hexdigest()}"')

    def _lines(self, task: Task) -> Iterator[str]:
        known = [FIELDS.index(name) for name in task.fields if name in FIELDS]
        rows = self._activities.delivered(task.selection.numbers, task.selection.wanted)
        if len(known) == len(task.fields) > 1:
            pick = itemgetter(*known)
            for row in rows:
                yield ",".join(pick(row)) + "\n"
        else:  # a field that no activity has is an empty column
            for row in rows:
                yield ",".join(row[FIELDS.index(name)] if name in FIELDS else "" for name in task.fields) + "\n"
