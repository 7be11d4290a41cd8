"""A data set by month that is kept up to date, on the local disk or in object storage. See Table.

Its files are never changed. What a delivery touches is written to new files, and the manifest switches from the former
files to the new ones in one step. Former files stay for a day, for readers of the former manifest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bulkpull.disk import disk_errors, replacing
from bulkpull.errors import OutputError
from bulkpull.source import Columns
from bulkpull.tables.current import CurrentFile, CurrentFiles, read_current, retired_files
from bulkpull.tables.place import OWN_FILE, RETIRED_FOR, Place
from bulkpull.tables.spool import Spool, check_columns, confirm_installed, count_between
from bulkpull.tables.table import DELETED_COLUMN, Changes, Delivery, Policy
from bulkpull.window import Window, instant

if TYPE_CHECKING:  # pyarrow is optional
    from bulkpull.tables.arrow import ParquetFiles, Written

ROWS_PER_FILE = 1_000_000
SMALL_FILE_ROWS = 250_000
MAX_SMALL_FILES = 16  # of a month
_CACHED_FILES = 32  # whose times are in memory: 8 MB for each million rows


class DataSetTable:
    """A data set by month. See Table.

    Args:
        place: Where it is.
        columns: The columns that have a meaning.
    """

    def __init__(self, place: Place, columns: Columns) -> None:
        confirm_installed()
        self._place, self._columns = place, columns
        self._current = CurrentFiles()
        self._times: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return self._place.name

    def open(self, *, create: bool) -> None:
        self._place.open(create=create)
        try:
            self._read()
        except BaseException:
            self._place.close()
            raise

    def close(self) -> None:
        self._place.close()

    def state(self) -> str | None:
        return self._current.state

    def columns(self) -> tuple[str, ...]:
        return self._current.columns

    def check(self, columns: Sequence[str]) -> None:
        check_columns(columns, self._columns, self.name)
        if "month" in columns:
            raise OutputError(
                f"a column cannot be called month in {self.name}, whose directories are called so: leave it out with "
                "--fields"
            )

    def count(self, windows: Sequence[Window]) -> list[int]:
        return [self._count(instant(window.start), instant(window.end)) for window in windows]

    def replace(self, delivery: Delivery, policy: Policy) -> Changes:
        self._read()
        delivery.confirm_state(self._current.state, self.name)
        self.check(delivery.columns)
        before = CurrentFiles() if delivery.rebuild else self._current
        columns = before.columns + tuple(one for one in delivery.columns if one not in before.columns)
        work = delivery.rows.with_name(f"{delivery.rows.name}.spool")
        with (
            Spool(work, name=self.name, columns=self._columns, names=columns) as spool,
            replacing(delivery.changes) if delivery.changes else nullcontext() as listed,
        ):
            changes, after = self._replaced(spool, before, delivery, policy, columns)
            if listed:
                spool.write_changes(delivery, listed)
            self._switch(after)
        return changes

    # How a delivery is applied

    def _replaced(
        self, spool: Spool, old: CurrentFiles, delivery: Delivery, policy: Policy, columns: tuple[str, ...]
    ) -> tuple[Changes, CurrentFiles]:
        """Write the files that a delivery to the old ones needs. Return what changes, and the data set with them."""
        from bulkpull.tables.arrow import read_csv

        spool.add_delivered(read_csv(lambda: delivery.rows.open("rb", buffering=0), self._columns, keeps_text=False))
        before = {number: file for number, file in enumerate(old.files) if file.rows}
        added = self._add_concerned(spool, before, delivery.windows)
        spool.judge(delivery, policy)
        changes, touched = spool.apply(delivery, policy)
        has_marks = old.has_marks or policy.deleted == "mark"
        if (columns, has_marks) != (old.columns, old.has_marks):
            touched = set(before)  # all files have the same columns
        self._add(spool, before, touched - added)
        compacted = _to_compact(before, touched, spool.months(touched))
        self._add(spool, before, compacted - added)
        touched |= compacted

        kept = spool.kept()
        after = [
            _with_kept(file, kept.get(number, ())) if number in added else file
            for number, file in before.items()
            if number not in touched
        ]
        files = self._files(spool.path, columns, spool.values, has_marks=has_marks)
        rewritten = changes.rewritten
        for written in self._written(files, spool.sorted_rows(touched)):
            after.append(self._put(written, f"month={(written.first_time or '')[:7]}/{_compact(written.first_time)}"))
            rewritten += written.rows
        if not after:
            after.append(self._put_none(files))
        after.sort(key=lambda file: file.path)
        retired = retired_files(self._current, after, delivery.at, RETIRED_FOR.days)
        return replace(changes, rewritten=rewritten), CurrentFiles(
            columns=columns, has_marks=has_marks, state=delivery.state, files=tuple(after), retired=retired
        )

    def _add_concerned(self, spool: Spool, files: Mapping[int, CurrentFile], windows: Sequence[Window]) -> set[int]:
        """Add the files with rows in the windows, and those with ids that were delivered; return their numbers."""
        spans = [(instant(window.start), instant(window.end)) for window in windows]
        added = {
            number
            for number, file in files.items()
            if any(start <= (file.last_time or "") and (file.first_time or "") < end for start, end in spans)
        }
        self._add(spool, files, added)
        spool.find_unknown()
        for number, file in files.items():
            if number not in added and spool.has_unknown(file.first_id or "", file.last_id or ""):
                from bulkpull.tables.arrow import read_columns

                if spool.has_any(read_columns(self._opened(file), self._place_of(file), [self._columns.key])):
                    self._add(spool, files, {number})
                    added.add(number)
        return added

    def _add(self, spool: Spool, files: Mapping[int, CurrentFile], numbers: Iterable[int]) -> None:
        from bulkpull.tables.arrow import read_parquet

        for number in sorted(numbers):
            file = files[number]
            spool.add_file(number, read_parquet(self._opened(file), self._place_of(file), self._columns), file.kept)

    # Files

    def _read(self) -> None:
        """Read the manifest. Raises OutputError if the place is not a data set that a sync keeps up to date."""
        manifest = self._place.read_manifest()
        self._times.clear()
        if manifest is not None:
            self._current = read_current(manifest, self.name)
            return
        self._current = CurrentFiles()
        for path in self._place.files():
            if not OWN_FILE.fullmatch(path):
                raise OutputError(
                    f"{self.name} holds {path}, and is no data set that a sync keeps up to date: choose another output"
                )

    def _switch(self, after: CurrentFiles) -> None:
        """Make other files the current ones, then remove those that are in no manifest."""
        self._place.write_manifest(after.to_bytes())
        self._current = after
        self._times.clear()
        with suppress(OutputError):  # the next run removes them
            self._place.remove(after.paths)

    def _files(self, work: Path, columns: Sequence[str], values: Sequence[str], *, has_marks: bool) -> ParquetFiles:
        from bulkpull.tables.arrow import ParquetFiles

        return ParquetFiles(self._place.drafts(work), self._columns, columns, values, has_marks=has_marks)

    def _written(self, files: ParquetFiles, rows: Iterable[Any]) -> Iterator[Written]:
        with disk_errors(f"write files of {self.name}", at=files.directory):
            yield from files.write(rows, rows_per_file=ROWS_PER_FILE, by_month=True)

    def _put_none(self, files: ParquetFiles) -> CurrentFile:
        with disk_errors(f"write files of {self.name}", at=files.directory):
            written = files.write_none()
        return self._put(written, "empty")

    def _put(self, written: Written, name: str) -> CurrentFile:
        """Add a file whose path starts with a name."""
        with disk_errors(f"read {written.path}"), written.path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = written.path.stat().st_size
        path = f"{name}-{sha256[:16]}.parquet"
        self._place.put(written.path, path)
        return CurrentFile(
            path=path,
            rows=written.rows,
            bytes=size,
            sha256=sha256,
            gone=written.gone,
            first_time=written.first_time,
            last_time=written.last_time,
            first_id=written.first_id,
            last_id=written.last_id,
            kept=tuple(written.kept),
        )

    def _opened(self, file: CurrentFile) -> Any:
        return self._place.opened(file.path, file.bytes)

    def _place_of(self, file: CurrentFile) -> str:
        return f"{self.name}/{file.path}"

    def _count(self, start: str, end: str) -> int:
        """Count the rows from one instant to another. Only files on the edges are read."""
        count = 0
        for file in self._current.files:
            if file.first_time is None or file.last_time is None or file.last_time < start or file.first_time >= end:
                continue
            if start <= file.first_time and file.last_time < end:
                count += file.rows - file.gone
            else:
                count += count_between(self._present_times(file), start, end)
        return count

    def _present_times(self, file: CurrentFile) -> Any:
        from bulkpull.tables.arrow import present_times, read_columns

        if file.path not in self._times:
            names = [self._columns.key, self._columns.time, *([DELETED_COLUMN] if self._current.has_marks else [])]
            found = present_times(
                read_columns(self._opened(file), self._place_of(file), names), self._columns, file.kept
            )
            if len(self._times) >= _CACHED_FILES:
                self._times.pop(next(iter(self._times)))
            self._times[file.path] = found
        return self._times[file.path]


def _to_compact(files: Mapping[int, CurrentFile], touched: Collection[int], months: Collection[str]) -> set[int]:
    """Return the small files of the months that have too many of them, once more files are written."""
    small: dict[str, set[int]] = {month: set() for month in months}
    for number, file in files.items():
        month = file.path.partition("/")[0].removeprefix("month=")
        if number not in touched and file.rows < SMALL_FILE_ROWS and month in small:
            small[month].add(number)
    return {number for numbers in small.values() if len(numbers) >= MAX_SMALL_FILES for number in numbers}


def _with_kept(file: CurrentFile, kept: Sequence[str]) -> CurrentFile:
    """Return a file of which other rows are gone at the source, but not marked."""
    return replace(file, kept=tuple(kept), gone=file.gone - len(file.kept) + len(kept))


def _compact(moment: str | None) -> str:
    """Return an instant for the name of a file, such as 20240131T123456Z."""
    return re.sub(r"[-:]|\.\d+", "", moment or "")
