"""Export tasks: a pool of workers that writes CSV files."""

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

from bulkpull.record import record
from bulkpull.sandbox.faults import Fault, Faults
from bulkpull.sandbox.filters import Selection
from bulkpull.sandbox.storage import Storage

_FILE_FAULTS = frozenset({"purged", "damaged"})
_ID_PREFIX_CHARS = 12  # bytes
_EMPTY_FILES = {"empty-file-zero": "", "empty-file-newline": "\n", "empty-file-bom": "\ufeff"}


@record
class File:
    """A finished CSV file."""

    path: Path
    size: int
    etag: str


@dataclass(slots=True, eq=False)
class Task:
    """One export task.

    `number` counts all launches from 0, `repetition` those of the same filter. `polls` is the number of polls,
    `successes` of which found the task succeeded.
    """

    id: str
    serial: str  # identifies the task in the links of its files
    number: int
    repetition: int
    filter: str
    fields: tuple[str, ...]
    selection: Selection
    created: datetime
    status: str = "pending"
    message: str | None = None
    files: list[File] = field(default_factory=list)
    fault: str | None = None  # the kind of the fault that makes another export necessary
    polls: int = 0
    successes: int = 0
    damaged: tuple[int, Path] | None = None  # the number of a file, and the damaged version to serve instead
    deliveries_of_damaged: int = 0

    @property
    def running(self) -> bool:
        return self.status not in ("success", "failed")


class Exports:
    """All exports of a sandbox.

    Up to `workers` exports are processed at the same time; each takes about `seconds`, and longer if it has many rows.
    Files of the same filter and fields are written once, and uploaded if there is a `storage`.
    """

    def __init__(
        self,
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
        self._directory = directory
        self._workers = anyio.CapacityLimiter(workers)
        self._seconds = seconds
        self._rows_per_file = rows_per_file
        self._random = random.Random(seed)
        self._faults = faults
        # By activities, filter, fields, and what is wrong with the rows.
        self._cache: dict[tuple[object, str, tuple[str, ...], bool, bool], list[File]] = {}
        self._launches: Counter[str] = Counter()  # by filter

    def start(self, selection: Selection, filter: str, fields: tuple[str, ...]) -> Task:
        """Create a pending task, which the caller must pass to `run`."""
        serial = f"{self._random.getrandbits(96):024x}"
        task = Task(
            id=self.id_of(serial),
            serial=serial,
            number=len(self.tasks),
            repetition=self._launches[filter],
            filter=filter,
            fields=fields,
            selection=selection,
            created=datetime.now(UTC),
        )
        self.tasks[task.id] = task
        self._launches[filter] += 1
        self._faults.note_launch(filter)
        self.peak_running = max(self.peak_running, sum(task.running for task in self.tasks.values()))
        return task

    def id_of(self, serial: str) -> str:
        """Return the id of the task with this serial."""
        return f"gid://shop/BulkOperation/{serial}?x=1" if self._faults.has("odd-ids") else serial

    @property
    def in_flight(self) -> int:
        """The number of exports that are queued or running, without those that never end."""
        return sum(task.running and task.fault is None for task in self.tasks.values())

    def find(self, id: str) -> Task | None:
        """Return the task with this id; None if there is none, or if it has vanished."""
        task = self.tasks.get(id)
        return None if task is None or task.fault == "export-vanishes" else task

    async def run(self, task: Task) -> None:
        """Process a task to its end."""
        for kind, applies in (("export-pending-all", True), ("export-pending-first", task.number == 0)):
            if applies and self._faults.has(kind):
                self._mark_faulty(task, kind)
                return
        rows = len(task.selection.numbers)
        duration = self._seconds * self._random.uniform(0.5, 1.5) * (1 + rows / 100_000)
        task.status = "scheduled"
        async with self._workers:
            task.status = "started"
            key = (task.selection.activities, task.filter, task.fields, self._is_late(task), self._is_mistaken(task))
            started = anyio.current_time()
            try:
                if key not in self._cache:
                    self._cache[key] = await to_thread.run_sync(self._write_files, task)
            except OSError as error:
                task.status, task.message = "failed", str(error)
                return
            await anyio.sleep_until(started + duration)
            elapsed = anyio.current_time() - started
            self.worked += elapsed
            self.longest = max(self.longest, elapsed)
        task.files = self._cache[key]
        if reason := self._failure(task):
            task.status, task.message = "failed", reason
            return
        fault = self._faults.draw_fault("export", task.filter, without=() if rows else _FILE_FAULTS)
        task.fault = fault.kind if fault else None
        match fault:
            case Fault("export-fails" | "export-always-fails"):
                task.status, task.message = "failed", "Export failed"
                return
            case Fault("export-never-ends"):
                return
            case Fault("damaged"):
                task.files = await to_thread.run_sync(self._truncated_files, task, fault.draw)
        if task.files and rows and fault is None:
            if self._faults.has("links-never") and task.number < self._faults.value("links-never"):
                self._mark_faulty(task, "links-never")
            if task.number == 0 and (self._faults.has("damaged-once") or self._faults.has("damaged-always")):
                task.damaged = await to_thread.run_sync(self._damaged_in_transit, task)
        task.status = "success"

    def file_to_serve(self, task: Task, number: int, *, from_start: bool) -> File:
        """Return the file to serve for a download; `from_start` says that it starts with the first byte."""
        file = task.files[number]
        if task.damaged is None or number != task.damaged[0]:
            return file
        task.deliveries_of_damaged += from_start
        if self._faults.has("damaged-always"):
            self._mark_faulty(task, "damaged-always")
        elif task.deliveries_of_damaged > 1:
            return file
        else:
            self._faults.note("damaged-once")
        return replace(file, path=task.damaged[1])

    def _mark_faulty(self, task: Task, kind: str) -> None:
        """Note that a mode makes another export of the task's filter necessary."""
        if task.fault is None:
            task.fault = kind
            self._faults.note(kind)

    def _failure(self, task: Task) -> str | None:
        """Return the message with which the task fails because of a mode, if it does."""
        faults, numbers = self._faults, task.selection.numbers
        reason = "Export failed"
        if faults.has("too-many-records") and len(numbers) > faults.value("too-many-records"):
            kind, reason = "too-many-records", "too many records"
        elif faults.has("poisoned-instant") and task.selection.activities.rows // 2 in numbers:
            kind = "poisoned-instant"
        elif faults.has("export-fails-once") and task in self._first_exports(faults.value("export-fails-once")):
            kind = "export-fails-once"
        else:
            return None
        self._mark_faulty(task, kind)
        return reason

    def _first_exports(self, count: int) -> list[Task]:
        """Return the first export of each of the first `count` filters."""
        return [task for task in self.tasks.values() if task.repetition == 0][:count]

    def distinct_ids(self) -> int:
        """Count the distinct ids in the files of all finished exports."""
        tasks = [task for task in self.tasks.values() if task.status == "success"]
        selections = {(task.selection.activities, task.filter): task.selection for task in tasks}
        return len(
            {
                row[0]
                for selection in selections.values()
                for row in selection.activities.export_rows(selection.numbers, selection.matches)
            }
        )

    def _write_files(self, task: Task) -> list[File]:
        lines = self._lines(task)
        header = ",".join(task.fields) + "\n"
        files: list[File] = []
        # Half of the exports without rows have no file, the others one with only a header.
        while (chunk := list(islice(lines, self._rows_per_file))) or (not files and int(task.serial, 16) % 2):
            files.append(self._write_file(f"{task.serial}-{len(files):04d}.csv", header + "".join(chunk)))
        for kind, content in _EMPTY_FILES.items():
            if self._faults.has(kind) and not task.selection.numbers:
                self._faults.note(kind)
                return [self._write_file(f"{task.serial}-empty.csv", content)]
        return files

    def _truncated_files(self, task: Task, draw: random.Random) -> list[File]:
        """Return the task's files, one of them truncated within a record."""
        lines = list(self._lines(task))
        number = draw.randrange(len(task.files))
        chunk = lines[number * self._rows_per_file :][: self._rows_per_file]
        cut = draw.randrange(len(chunk))
        content = "".join((",".join(task.fields), "\n", *chunk[:cut], chunk[cut][:_ID_PREFIX_CHARS]))
        damaged = self._write_file(f"{task.serial}-damaged.csv", content)
        return [*task.files[:number], damaged, *task.files[number + 1 :]]

    def _damaged_in_transit(self, task: Task) -> tuple[int, Path]:
        """Write a damaged version of one file, of the same size, in which two records are joined; return both."""
        number = len(task.files) // 2
        records = list(islice(self._lines(task), number * self._rows_per_file, (number + 1) * self._rows_per_file))
        middle = len(records) // 2
        records[middle] = records[middle].removesuffix("\n") + ","
        return number, self._write_file(
            f"{task.serial}-spoiled.csv", ",".join(task.fields) + "\n" + "".join(records)
        ).path

    def _is_late(self, task: Task) -> bool:
        """Return whether the export runs before all of its activities are visible."""
        return self._faults.has("late-rows") and task.repetition == 0

    def _is_mistaken(self, task: Task) -> bool:
        """Return whether the export has the rows of another one."""
        if not self._faults.has("rows-of-another"):
            return False
        return task in self._first_exports(1 + self._faults.value("rows-of-another"))[1:]

    def _write_file(self, name: str, content: str) -> File:
        data, path = content.encode(), self._directory / name
        path.write_bytes(data)
        if self.storage:
            self.storage.put(path)
        return File(path, len(data), f'"{hashlib.blake2b(data, digest_size=16).hexdigest()}"')

    def _lines(self, task: Task) -> Iterator[str]:
        """Yield the records of the task's files, as lines."""
        selection = task.selection
        if self._is_mistaken(task):
            self._faults.note("rows-of-another")
            selection = self._first_exports(1)[0].selection
        activities, numbers = selection.activities, selection.numbers
        if self._is_late(task) and numbers:
            self._faults.note("late-rows")
            numbers = numbers[: -self._faults.value("late-rows")]
        lines = _formatted(activities.export_rows(numbers, selection.matches), activities.fields, task.fields)
        if self._faults.has("rows-capped"):
            if len(numbers) > self._faults.value("rows-capped"):
                self._faults.note("rows-capped")
            lines = islice(lines, self._faults.value("rows-capped"))
        return lines


def _formatted(rows: Iterator[tuple[str, ...]], known: tuple[str, ...], fields: tuple[str, ...]) -> Iterator[str]:
    """Yield the `fields` of rows that have the `known` ones."""
    found = [known.index(name) for name in fields if name in known]
    if len(found) == len(fields) > 1:
        pick = itemgetter(*found)
        for row in rows:
            yield ",".join(pick(row)) + "\n"
    else:  # an unknown field becomes an empty column
        for row in rows:
            yield ",".join(row[known.index(name)] if name in known else "" for name in fields) + "\n"
