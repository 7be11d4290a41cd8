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

    A symbolic link is followed. The methods touch the disk and block; all raise OutputError.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool) -> None:
        with disk_errors(f"write to {os.fspath(path)!r}"):
            try:
                self.path = Path(path).resolve()
            except (ValueError, RuntimeError) as error:  # a null character, a circle of links
                raise OutputError(f"cannot write to {os.fspath(path)!r}: {error}") from None
        if not self.path.name:
            raise OutputError(f"the output {self.path} is a directory")
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
        with disk_errors(f"write to {self.path}"):
            if self.path.exists() and not self.path.is_file():
                raise OutputError(f"the output {self.path} is a directory or a device")
            if self.path.exists() and not self._overwrite:
                raise self._exists()
        with disk_errors(f"write beside {self.path}"):
            while self._lock is None:
                self._directory.mkdir(mode=0o700, exist_ok=True)
                self._lock = self._locked()
            for left in self._directory.iterdir():
                left.unlink()

    def publish(self) -> None:
        """Lets the whole and synced rows appear at `path`, in one step, and survive a power cut."""
        with disk_errors(f"write to {self.path}"):
            if self._overwrite:
                self.partial.replace(self.path)
            else:
                self._publish_new()
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

    def _locked(self) -> int | None:
        """The locked directory, or None where another pull, just ending, has removed it meanwhile."""
        try:
            lock = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), self._directory.stat()):
                return lock
        except BlockingIOError:
            os.close(lock)
            raise OutputError(f"another pull is writing {self.path}") from None
        except FileNotFoundError:
            pass
        os.close(lock)
        return None

    def _publish_new(self) -> None:
        """A hard link, unlike a rename, never replaces what came to stand at `path` while we worked."""
        try:
            self.path.hardlink_to(self.partial)
        except FileExistsError:
            raise self._exists() from None
        except OSError:  # a file system without hard links
            if self.path.exists():
                raise self._exists() from None
            self.partial.rename(self.path)

    def _exists(self) -> OutputError:
        return OutputError(f"the output {self.path} exists; choose another, or overwrite it with --overwrite")
