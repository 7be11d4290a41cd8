"""The output and the directory beside it, where a pull works until the output can appear whole."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bulkpull.errors import OutputError


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turns what the disk says into an OutputError that names `what` was tried."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot {what}: {error.strerror or error}") from error


class Output:
    """`path`, and the directory `<path>.bulkpull` beside it: on the same file system, so that a rename suffices.

    All methods touch the disk and block; all raise OutputError.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool) -> None:
        self.path = Path(path).absolute()
        self._overwrite = overwrite
        self._directory = self.path.with_name(f"{self.path.name}.bulkpull")
        self._lock: int | None = None

    @property
    def partial(self) -> Path:
        """Where the rows go until the output is whole."""
        return self._directory / "output"

    def part(self, window: int, number: int) -> Path:
        """Where a part is spooled: `number` counts from 1 in the window with the index `window`."""
        return self._directory / f"window-{window + 1:06d}-part-{number:04d}.csv"

    def prepare(self) -> None:
        """Checks that the output may and can appear, and makes the directory; what a killed pull left goes."""
        if self.path.is_dir():
            raise OutputError(f"the output {self.path} is a directory")
        self._check_absent()
        with disk_errors(f"write beside {self.path}"):
            self._directory.mkdir(mode=0o700, exist_ok=True)
            lock = os.open(self._directory, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                raise OutputError(f"another pull is writing {self.path}") from None
            self._lock = lock
            for left in self._directory.iterdir():
                left.unlink()

    def publish(self) -> None:
        """Lets the whole and synced rows appear at `path`, in one step, and survive a power cut."""
        with disk_errors(f"write {self.path}"):
            if self._overwrite:
                self.partial.replace(self.path)
            else:
                self._check_absent()  # it may have come while we worked
                self.partial.rename(self.path)
            parent = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(parent)
            finally:
                os.close(parent)

    def discard(self) -> None:
        """Removes the directory and all in it; the output, where it was published, stays."""
        if self._lock is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            os.close(self._lock)
            self._lock = None

    def _check_absent(self) -> None:
        if not self._overwrite and os.path.lexists(self.path):
            raise OutputError(f"the output {self.path} exists; choose another, or overwrite it with --overwrite")
