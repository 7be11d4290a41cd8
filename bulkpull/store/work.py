"""The work directory: where a pull keeps its journal and its files until the output is published."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import struct
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Self

from bulkpull.disk import discard, disk_errors, sync_directory
from bulkpull.errors import OutputError
from bulkpull.store.address import ObjectUrl

_FLOCK = "qqihh" if sys.platform == "darwin" else "hhqqi"  # struct flock; the order of its fields differs
_SET_LOCK = getattr(fcntl, "F_OFD_SETLK", 90)  # not every Python on macOS has these names
_GET_LOCK = getattr(fcntl, "F_OFD_GETLK", 92)


class WorkDirectory:
    """The directory at `path`, for a pull to `output`. The methods block on the disk. All raise OutputError.

    Args:
        path: The directory. Its parent exists.
        output: What is written, for messages: a path, a URL or a description.
        is_temporary: Whether the directory serves a single run, so that nothing in it needs to survive that run.
        is_kept: Whether it stays after the pull has ended.
    """

    def __init__(self, path: Path, output: Path | str, *, is_temporary: bool = False, is_kept: bool = False) -> None:
        self.path = path
        self.output = output
        self.is_temporary = is_temporary
        self.is_kept = is_kept
        self._lock: int | None = None

    @classmethod
    def beside(cls, output: str | os.PathLike[str]) -> Self:
        """The directory `<output>.bulkpull`, on the same file system as the local `output`, so that a rename can
        publish. A symbolic link is followed."""
        path = resolved(output)
        return cls(path.with_name(f"{path.name}.bulkpull"), path)

    @classmethod
    @contextmanager
    def temporary(cls, output: Path | str) -> Iterator[Self]:
        """A directory for a single run, among the system's temporary files (`TMPDIR`); removed at the end."""
        with disk_errors(f"create a directory in {tempfile.gettempdir()}"):
            path = Path(tempfile.mkdtemp(prefix="bulkpull-"))
        try:
            yield cls(path, output, is_temporary=True)
        finally:
            shutil.rmtree(path, ignore_errors=True)  # if no run has claimed and released it

    @classmethod
    def of(cls, output: str | os.PathLike[str], state: str | os.PathLike[str] | None = None) -> Self:
        """The directory for an output: `beside` a local one; for one in object storage `<key's last part>.bulkpull`
        in the directory `state`, or in the current one."""
        url = ObjectUrl.of(output)
        return (
            cls.beside(output) if url is None else cls(resolved(Path(state or ".", f"{url.name}.bulkpull")), str(url))
        )

    @property
    def journal(self) -> Path:
        """The journal's database."""
        return self.path / "journal.sqlite"

    @property
    def journal_files(self) -> tuple[Path, ...]:
        """The journal's database, its write-ahead log and its shared memory: those that exist and those that may."""
        return tuple(self.path / f"{self.journal.name}{suffix}" for suffix in ("", "-wal", "-shm"))

    @property
    def merged(self) -> Path:
        """The merged CSV, which grows until the last window is merged."""
        return self.path / "output"

    @property
    def rendered(self) -> Path:
        """The merged rows in the output's format, if that is not plain CSV: a file or a directory."""
        return self.path / "rendered"

    def part(self, window: int, number: int) -> Path:
        """The file that holds part `number`, from 1, of the window with the index `window`."""
        return self.path / f"window-{window + 1:06d}-part-{number:04d}.csv"

    def discard_parts(self, window: int) -> None:
        """Remove all parts of a window, complete or not."""
        with disk_errors(f"remove files from {self.path}"):
            for part in self.path.glob(f"window-{window + 1:06d}-part-*"):
                part.unlink(missing_ok=True)

    def claim(self) -> None:
        """Create the directory if needed, and lock it for this pull until `release`, or until the process ends.

        From then on it is private and holds nothing that another user created, so no file opened in it later can be a
        link that leads elsewhere.
        """
        with disk_errors(f"write to {self.path}"):
            while self._lock is None:
                with suppress(FileExistsError):
                    self.path.mkdir(mode=0o700)
                self._lock = self._locked()
            sync_directory(self.path.parent)

    def is_claimed(self) -> bool | None:
        """Whether a pull has claimed the directory; None if the file system cannot tell.

        Takes no lock itself: a pull that starts at this moment would mistake it for another pull's.
        """
        with disk_errors(f"read {self.path}"):
            directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                return _lock_kind(fcntl.fcntl(directory, _GET_LOCK, _whole_file(fcntl.F_WRLCK))) != fcntl.F_UNLCK
            except OSError:
                return None
            finally:
                os.close(directory)

    def clear(self) -> None:
        """Remove everything in the directory: the progress of earlier runs."""
        with disk_errors(f"empty {self.path}"):
            for left in self.path.iterdir():
                discard(left)

    def release(self, *, remove: bool) -> None:
        """Unlock the directory for other pulls; with `remove`, delete it first. A published output is not affected.
        A no-op if the directory is not claimed."""
        if self._lock is None:
            return
        if remove:
            # The journal last: as long as it exists, the next run knows that this one has published.
            with suppress(OSError):
                for left in self.path.iterdir():
                    if not left.name.startswith(self.journal.name):
                        discard(left)
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)
        self._lock = None

    def _locked(self) -> int | None:
        """A descriptor of the locked directory; None if another pull, which was just ending, has removed it."""
        try:
            # Before it is opened, for a clear error: another user's may not be readable, and a link not a directory.
            self._check_owner(self.path, self.path.lstat(), stat.S_IFDIR)
            lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._make_private(lock)
            # A second lock, which `is_claimed` can test without taking it; flock has no such test.
            with suppress(OSError):
                fcntl.fcntl(lock, _SET_LOCK, _whole_file(fcntl.F_RDLCK))
            if os.path.samestat(os.fstat(lock), self.path.lstat()):
                return lock
        except BlockingIOError:
            os.close(lock)
            raise OutputError(f"another pull is writing {self.output}") from None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
        return None

    def _make_private(self, directory: int) -> None:
        """Restrict the directory to its owner. Raises OutputError for entries that another user may have created."""
        found = os.fstat(directory)
        self._check_owner(self.path, found, stat.S_IFDIR)
        if found.st_mode & 0o077:
            with suppress(OSError):  # some file systems have no permissions
                os.fchmod(directory, 0o700)
            if os.fstat(directory).st_mode & 0o022:
                raise OutputError(
                    f"{self.path} may be written by other users, and its file system cannot change its permissions. "
                    "Choose an output on another file system"
                )
        was_shared = bool(found.st_mode & 0o022)
        for at, directories, files in os.walk(self.path):
            for name in (*directories, *files):
                path = Path(at, name)
                with suppress(FileNotFoundError):
                    entry = path.lstat()
                    self._check_owner(path, entry, stat.S_IFDIR if name in directories else stat.S_IFREG)
                    if was_shared and stat.S_ISREG(entry.st_mode) and entry.st_nlink > 1:
                        raise self._foreign(path, "has a second hard link, so another user may have created it")

    def _check_owner(self, path: Path, found: os.stat_result, kind: int) -> None:
        """Raise OutputError for an entry of another user or of another kind, above all a symbolic link."""
        if stat.S_ISLNK(found.st_mode):
            raise self._foreign(path, "is a symbolic link")
        if stat.S_IFMT(found.st_mode) != kind:
            raise self._foreign(path, "is not a directory" if kind == stat.S_IFDIR else "is not a file")
        if found.st_uid != os.geteuid() and found.st_uid != self._uid_here:
            raise self._foreign(path, f"belongs to another user (uid {found.st_uid})")

    def _foreign(self, path: Path, what: str) -> OutputError:
        return OutputError(
            f"cannot write to {self.output}: {path} {what}. Remove {self.path}, or choose another output"
        )

    @cached_property
    def _uid_here(self) -> int:
        """The owner of files that this process creates here: network file systems may map our user to another."""
        with tempfile.TemporaryFile(dir=self.path.parent) as file:
            return os.fstat(file.fileno()).st_uid


def resolved(output: str | os.PathLike[str]) -> Path:
    """Return the path of a local output, with symbolic links followed. Raises OutputError if it cannot be a file."""
    with disk_errors(f"write to {os.fspath(output)!r}"):
        try:
            path = Path(output).resolve()
        except (ValueError, RuntimeError) as error:  # a null character; a loop of symbolic links
            raise OutputError(f"cannot write to {os.fspath(output)!r}: {error}") from None
    if not path.name:
        raise OutputError(f"the output {path} is a directory")
    return path


def _whole_file(kind: int) -> bytes:
    """A `struct flock` for a lock on a whole file, of a kind such as F_RDLCK."""
    return struct.pack(_FLOCK, *((0, 0, 0, kind, 0) if sys.platform == "darwin" else (kind, 0, 0, 0, 0)))


def _lock_kind(lock: bytes) -> int:
    return int(struct.unpack(_FLOCK, lock)[3 if sys.platform == "darwin" else 0])
