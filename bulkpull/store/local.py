"""Local destinations: a file or a directory at the output's path, published atomically and synced."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from bulkpull.disk import discard, disk_errors, sync_directory
from bulkpull.errors import OutputError
from bulkpull.rows.format import DATA_SET_FILE
from bulkpull.rows.growing_file import GrowingFile
from bulkpull.store.render import Renderer
from bulkpull.store.work import WorkDirectory


@dataclass(slots=True)
class LocalFile:
    """A file: the merged CSV itself, which is moved, or what `renderer` makes of it. See Destination."""

    path: Path
    work: WorkDirectory
    renderer: Renderer
    overwrite: bool
    _finished: Path = field(init=False)

    def check(self) -> None:
        """Raise OutputError if the output exists and must not be replaced, or cannot be published by a rename."""
        with disk_errors(f"write to {self.path}"):
            if self.work.path.stat().st_dev != self.path.parent.stat().st_dev:
                raise OutputError(
                    f"{self.work.path} is on another file system than {self.path}, so the output cannot be published "
                    "atomically. Unmount it"
                )
            if self.path.exists():
                self._check_kind()
                if not self.overwrite:
                    raise self._exists()

    def holds(self, receipt: str) -> bool:
        """Whether the output is the one that `finish` returned `receipt` for."""
        with disk_errors(f"read {self.path}"):
            try:
                return self._receipt(self.path.stat()) == receipt
            except FileNotFoundError:
                return False

    def take(self, merged: GrowingFile) -> None:
        """Render the merged CSV, from its start. A no-op for plain CSV."""
        if self.renderer.is_needed:
            self.renderer.render(merged)

    def finish(self, merged: Path) -> str:
        """Return the receipt of the finished output."""
        self._finished = self.renderer.path if self.renderer.is_needed else merged
        with disk_errors(f"read {self._finished}"):
            return self._receipt(self._finished.stat())

    def publish(self) -> None:
        """Move the finished output to its path in one step that survives a power cut."""
        with disk_errors(f"write to {self.path}"):
            self._publish()
            sync_directory(self.path.parent)

    def discard(self) -> None:
        """Remove what earlier runs have rendered."""
        with disk_errors(f"remove {self.renderer.path}"):
            discard(self.renderer.path)

    def close(self) -> None:
        """A no-op."""

    def _receipt(self, found: os.stat_result) -> str:
        """The format as well: a rerun that asks for another one must not take this output for its own."""
        return f"{self.renderer.format} {found.st_ino}"

    def _check_kind(self) -> None:
        if not self.path.is_file():
            raise OutputError(f"the output {self.path} is a directory or a device")

    def _publish(self) -> None:
        if self.overwrite:
            self._finished.replace(self.path)
            return
        try:
            self.path.hardlink_to(self._finished)  # unlike a rename, never replaces a file that has appeared meanwhile
        except FileExistsError:
            raise self._exists() from None
        except OSError:  # a file system without hard links
            if self.path.exists():
                raise self._exists() from None
            self._finished.rename(self.path)

    def _exists(self) -> OutputError:
        return OutputError(f"the output {self.path} exists; choose another, or overwrite it with --overwrite")


class LocalDirectory(LocalFile):
    """A data set by month: a directory of files. See Destination."""

    __slots__ = ()

    def _check_kind(self) -> None:
        if not _is_data_set(self.path):
            raise OutputError(f"the output {self.path} exists and is no data set by month: choose another")

    def _publish(self) -> None:
        """No rename replaces a directory that is not empty, so the former data set is moved away first."""
        self.check()
        if self.path.exists():
            replaced = self.work.path / "replaced"
            discard(replaced)
            self.path.rename(replaced)
        self._finished.rename(self.path)


def _is_data_set(path: Path) -> bool:
    """Whether a directory holds nothing but a data set by month, so that it may be replaced."""
    if not path.is_dir():
        return False
    months = {entry for entry in path.glob("month=*") if entry.is_dir()}
    return {entry.name for entry in path.rglob("*") if entry not in months} <= {DATA_SET_FILE}
