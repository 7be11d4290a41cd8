"""A destination that keeps the merged rows of a pull, until they are in a table."""

from __future__ import annotations

from pathlib import Path

from bulkpull.disk import disk_errors, sync_directory
from bulkpull.rows.growing_file import GrowingFile
from bulkpull.store import WorkDirectory


class KeptFile:
    """The merged CSV, in the pull's work directory. See Destination."""

    def __init__(self, work: WorkDirectory) -> None:
        self.path = work.path / "delivery.csv"
        self._merged = self.path

    def check(self) -> None:
        """A no-op: nothing can be in the way."""

    def holds(self, receipt: str) -> bool:
        """Whether the file is the one that `finish` returned `receipt` for."""
        with disk_errors(f"read {self.path}"):
            return self.path.exists() and str(self.path.stat().st_ino) == receipt

    def take(self, merged: GrowingFile) -> None:
        """A no-op: the rows are kept where they are merged."""

    def finish(self, merged: Path) -> str:
        """Return the receipt of the merged file."""
        self._merged = merged
        with disk_errors(f"read {merged}"):
            return str(merged.stat().st_ino)

    def publish(self) -> None:
        """Rename the merged file."""
        with disk_errors(f"write to {self.path}"):
            self._merged.replace(self.path)
            sync_directory(self.path.parent)

    def discard(self) -> None:
        """A no-op: the work directory is cleared."""

    def close(self) -> None:
        """A no-op."""
