"""Export tasks: a pool of workers that turns filters into CSV files on the disk."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
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
_EMPTY_FILES = {"empty-file-zero": "", "empty-file-newline": "\n", "empty-file-bom": "\ufeff"}


@dataclass(frozen=True, slots=True)
class File:
    """A finished CSV file."""

    path: Path
    size: int
    etag: str


@dataclass(slots=True, eq=False)
class Task:
    """One export: `number` counts all launches from 0, `repetition` those of the same filter. `polls` have asked for
    it, and `successes` of them were told that it has succeeded."""

    id: str
    serial: str  # its place in the links of its files
    number: int
    repetition: int
    filter: str
    fields: tuple[str, ...]
    selection: Selection
    created: datetime
    status: str = "pending"
    message: str | None = None
    files: list[File] = field(default_factory=list)
    fault: str | None = None  # the kind of what befell it, so that another export is needed
    polls: int = 0
    successes: int = 0
    spoiled: tuple[int, Path] | None = None  # which of its files may go out damaged, and as what
    deliveries_of_spoiled: int = 0

    @property
    def running(self) -> bool:
        return self.status not in ("success", "failed")


class Exports:
    """All exports of a sandbox.

    `workers` of them are worked on at a time; each takes about `seconds`, and longer the more rows it has. The files
    of the same filter and fields are made once, and uploaded where there is a `storage`.
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
        self.storage = storage
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
        self._made: dict[tuple[str, tuple[str, ...], bool], list[File]] = {}
        self._launches: Counter[str] = Counter()  # by filter

    def start(self, filter: str, fields: tuple[str, ...]) -> Task:
        """A new task, pending; raises FilterError. `work` must then be called with it."""
        serial = f"{self._random.getrandbits(96):024x}"
        task = Task(
            id=self.id_of(serial),
            serial=serial,
            number=len(self.tasks),
            repetition=self._launches[filter],
            filter=filter,
            fields=fields,
            selection=select(self._activities, filter),
            created=datetime.now(UTC),
        )
        self.tasks[task.id] = task
        self._launches[filter] += 1
        self._faults.launched(filter)
        self.peak_running = max(self.peak_running, sum(task.running for task in self.tasks.values()))
        return task

    def id_of(self, serial: str) -> str:
        """The id of the task with this serial."""
        return f"gid://shop/BulkOperation/{serial}?x=1" if self._faults.has("odd-ids") else serial

    @property
    def in_flight(self) -> int:
        """How many exports are waited for or worked on; those that are lost do not count."""
        return sum(task.running and task.fault is None for task in self.tasks.values())

    def find(self, id: str) -> Task | None:
        """The task, unless there is none, or none any more."""
        task = self.tasks.get(id)
        return None if task is None or task.fault == "export-vanishes" else task

    async def work(self, task: Task) -> None:
        """Takes the task through its statuses."""
        for kind, pends in (("export-pending-all", True), ("export-pending-first", task.number == 0)):
            if pends and self._faults.has(kind):
                self._befall(task, kind)
                return
        rows = len(task.selection.numbers)
        duration = self._seconds * self._random.uniform(0.5, 1.5) * (1 + rows / 100_000)
        task.status = "scheduled"
        async with self._workers:
            task.status = "started"
            key = (task.filter, task.fields, self._is_late(task))
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
        if reason := self._fails(task):
            task.status, task.message = "failed", reason
            return
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
        if task.files and rows and fault is None:
            if self._faults.has("links-never") and task.number < self._faults.value("links-never"):
                self._befall(task, "links-never")
            if task.number == 0 and (self._faults.has("damaged-once") or self._faults.has("damaged-always")):
                task.spoiled = await to_thread.run_sync(self._spoiled, task)
        task.status = "success"

    def served(self, task: Task, number: int, *, anew: bool) -> File:
        """The file of a task as it goes out; `anew` says from its beginning."""
        file = task.files[number]
        if task.spoiled is None or number != task.spoiled[0]:
            return file
        task.deliveries_of_spoiled += anew
        if self._faults.has("damaged-always"):
            self._befall(task, "damaged-always")
        elif task.deliveries_of_spoiled > 1:
            return file
        else:
            self._faults.note("damaged-once")
        return replace(file, path=task.spoiled[1])

    def _befall(self, task: Task, kind: str) -> None:
        """A mode makes another export necessary."""
        if task.fault is None:
            task.fault = kind
            self._faults.note(kind)

    def _fails(self, task: Task) -> str | None:
        """Why the task fails, where a mode has it so."""
        faults, numbers = self._faults, task.selection.numbers
        reason = "Export failed"
        if faults.has("too-many-records") and len(numbers) > faults.value("too-many-records"):
            kind, reason = "too-many-records", "too many records"
        elif faults.has("poisoned-instant") and self._activities.rows // 2 in numbers:
            kind = "poisoned-instant"
        elif faults.has("export-fails-once") and task in self._first_ones(faults.value("export-fails-once")):
            kind = "export-fails-once"
        else:
            return None
        self._befall(task, kind)
        return reason

    def _first_ones(self, most: int) -> list[Task]:
        """The first exports of the first filters."""
        return [task for task in self.tasks.values() if task.repetition == 0][:most]

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
        while (chunk := list(islice(lines, self._rows_per_file))) or (not files and int(task.serial, 16) % 2):
            files.append(self._file(f"{task.serial}-{len(files):04d}.csv", header + "".join(chunk)))
        for kind, content in _EMPTY_FILES.items():
            if self._faults.has(kind) and not task.selection.numbers:
                self._faults.note(kind)
                return [self._file(f"{task.serial}-empty.csv", content)]
        return files

    def _damaged(self, task: Task, draw: random.Random) -> list[File]:
        """The task's files, one of them cut within a record for good."""
        lines = list(self._lines(task))
        number = draw.randrange(len(task.files))
        chunk = lines[number * self._rows_per_file :][: self._rows_per_file]
        cut = draw.randrange(len(chunk))
        content = "".join((",".join(task.fields), "\n", *chunk[:cut], chunk[cut][:_PART_OF_AN_ID]))
        damaged = self._file(f"{task.serial}-damaged.csv", content)
        return [*task.files[:number], damaged, *task.files[number + 1 :]]

    def _spoiled(self, task: Task) -> tuple[int, Path]:
        """One of the task's files, and the path of the same with two records run together in the same length."""
        number = len(task.files) // 2
        records = list(islice(self._lines(task), number * self._rows_per_file, (number + 1) * self._rows_per_file))
        middle = len(records) // 2
        records[middle] = records[middle].removesuffix("\n") + ","
        return number, self._file(f"{task.serial}-spoiled.csv", ",".join(task.fields) + "\n" + "".join(records)).path

    def _is_late(self, task: Task) -> bool:
        """Whether the export comes before all of its activities are known."""
        return self._faults.has("late-rows") and task.repetition == 0

    def _file(self, name: str, content: str) -> File:
        data, path = content.encode(), self._directory / name
        path.write_bytes(data)
        if self.storage:
            self.storage.put(path)
        return File(path, len(data), f'"{hashlib.blake2b(data, digest_size=16).hexdigest()}"')

    def _lines(self, task: Task) -> Iterator[str]:
        """The records that an export of the task delivers, as lines."""
        numbers = task.selection.numbers
        if self._is_late(task) and numbers:
            self._faults.note("late-rows")
            numbers = numbers[: -self._faults.value("late-rows")]
        lines = self._formatted(self._activities.delivered(numbers, task.selection.wanted), task.fields)
        if self._faults.has("rows-capped"):
            if len(numbers) > self._faults.value("rows-capped"):
                self._faults.note("rows-capped")
            lines = islice(lines, self._faults.value("rows-capped"))
        return lines

    def _formatted(self, rows: Iterator[tuple[str, ...]], fields: tuple[str, ...]) -> Iterator[str]:
        known = [FIELDS.index(name) for name in fields if name in FIELDS]
        if len(known) == len(fields) > 1:
            pick = itemgetter(*known)
            for row in rows:
                yield ",".join(pick(row)) + "\n"
        else:  # a field that no activity has is an empty column
            for row in rows:
                yield ",".join(row[FIELDS.index(name)] if name in FIELDS else "" for name in fields) + "\n"
