"""The output and the directory beside it, where a pull works until the output can appear whole."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import struct
import sys
import tempfile
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from bulkpull.disk import discard, disk_errors, sync_directory
from bulkpull.errors import OutputError
from bulkpull.rows.format import DATA_SET_FILE

_FLOCK = "qqihh" if sys.platform == "darwin" else "hhqqi"  # struct flock: its fields' order differs
_SET_LOCK = getattr(fcntl, "F_OFD_SETLK", 90)  # not every Python on macOS has the names
_GET_LOCK = getattr(fcntl, "F_OFD_GETLK", 92)


def _is_data_set(path: Path) -> bool:
    """Whether nothing stands there but a data set by month, which may be replaced."""
    if not path.is_dir():
        return False
    months = {entry for entry in path.glob("month=*") if entry.is_dir()}
    return {entry.name for entry in path.rglob("*") if entry not in months} <= {DATA_SET_FILE}


class Output:
    """`path`, and the directory `<path>.bulkpull` beside it: on the same file system, so that a rename suffices.

    A symbolic link is followed. The methods touch the disk and block; all raise OutputError.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        with disk_errors(f"write to {os.fspath(path)!r}"):
            try:
                self.path = Path(path).resolve()
            except (ValueError, RuntimeError) as error:  # a null character, a circle of links
                raise OutputError(f"cannot write to {os.fspath(path)!r}: {error}") from None
        if not self.path.name:
            raise OutputError(f"the output {self.path} is a directory")
        self._overwrite = overwrite
        self.directory = self.path.with_name(f"{self.path.name}.bulkpull")
        self._lock: int | None = None

    @property
    def journal(self) -> Path:
        """Where the journal is."""
        return self.directory / "journal.sqlite"

    @property
    def journal_files(self) -> tuple[Path, ...]:
        """The journal, and what SQLite may have beside it."""
        return tuple(self.directory / f"{self.journal.name}{suffix}" for suffix in ("", "-wal", "-shm"))

    @property
    def partial(self) -> Path:
        """Where the rows go until the output is whole."""
        return self.directory / "output"

    @property
    def rendered(self) -> Path:
        """Where what was merged goes in another format, a file or a directory."""
        return self.directory / "rendered"

    def part(self, window: int, number: int) -> Path:
        """Where a part is spooled: `number` counts from 1 in the window with the index `window`."""
        return self.directory / f"window-{window + 1:06d}-part-{number:04d}.csv"

    def discard_parts(self, window: int) -> None:
        """Removes the parts of a window, whole or half."""
        with disk_errors(f"remove files from {self.directory}"):
            for part in self.directory.glob(f"window-{window + 1:06d}-part-*"):
                part.unlink(missing_ok=True)

    def claim(self) -> None:
        """Makes the directory, and claims it for this pull as long as its process lives.

        It is private from then on, and holds nothing that others made: whatever is opened in it later is no link that
        leads elsewhere.
        """
        with disk_errors(f"write beside {self.path}"):
            while self._lock is None:
                with suppress(FileExistsError):
                    self.directory.mkdir(mode=0o700)
                self._lock = self._locked()
            if os.fstat(self._lock).st_dev != self.path.parent.stat().st_dev:
                raise OutputError(
                    f"{self.directory} is on another file system than {self.path}, so that the output could not appear "
                    "in one step: unmount it"
                )
            sync_directory(self.path.parent)

    def is_claimed(self) -> bool | None:
        """Whether a pull works in the directory, None where the file system does not tell.

        Takes no lock itself, which a pull that starts at this moment would take for another pull.
        """
        with disk_errors(f"read {self.directory}"):
            directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                return _lock_kind(fcntl.fcntl(directory, _GET_LOCK, _whole_file(fcntl.F_WRLCK))) != fcntl.F_UNLCK
            except OSError:
                return None
            finally:
                os.close(directory)

    def clear(self) -> None:
        """Forgets all that was done."""
        with disk_errors(f"empty {self.directory}"):
            for left in self.directory.iterdir():
                discard(left)

    def check(self, *, data_set: bool = False) -> None:
        """Whether the output, a file or a data set, may appear."""
        with disk_errors(f"write to {self.path}"):
            if not self.path.exists():
                return
            if data_set and not _is_data_set(self.path):
                raise OutputError(f"the output {self.path} exists and is no data set by month: choose another")
            if not data_set and not self.path.is_file():
                raise OutputError(f"the output {self.path} is a directory or a device")
            if not self._overwrite:
                raise self._exists()

    def holds(self, inode: int | None) -> bool:
        """Whether the output is the file or directory `inode`."""
        with disk_errors(f"read {self.path}"):
            try:
                return self.path.stat().st_ino == inode
            except FileNotFoundError:
                return False

    def publish(self, finished: Path) -> None:
        """Lets the whole and synced file or data set appear at `path`, in one step, and survive a power cut. A data set
        that is replaced goes a step before."""
        with disk_errors(f"write to {self.path}"):
            if finished.is_dir():
                self.check(data_set=True)
                if self.path.exists():
                    replaced = self.directory / "replaced"
                    discard(replaced)
                    self.path.rename(replaced)
                finished.rename(self.path)
            elif self._overwrite:
                finished.replace(self.path)
            else:
                self._publish_new(finished)
            sync_directory(self.path.parent)

    def release(self, *, remove: bool) -> None:
        """Lets another pull claim the directory; with `remove` it goes, and all in it. The output, where it was
        published, stays."""
        if self._lock is None:
            return
        if remove:
            # The journal goes last: as long as it is there, the next run knows what this one came to.
            with suppress(OSError):
                for left in self.directory.iterdir():
                    if not left.name.startswith(self.journal.name):
                        discard(left)
            shutil.rmtree(self.directory, ignore_errors=True)
        os.close(self._lock)
        self._lock = None

    def _locked(self) -> int | None:
        """The locked directory, or None where another pull, just ending, has removed it meanwhile."""
        try:
            # Before it is opened: what another user made may not let us, and a link would fail as no directory.
            self._check_owner(self.directory, self.directory.lstat(), stat.S_IFDIR)
            lock = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._make_private(lock)
            # A lock that status can see without taking one; flock cannot be asked for.
            with suppress(OSError):
                fcntl.fcntl(lock, _SET_LOCK, _whole_file(fcntl.F_RDLCK))
            if os.path.samestat(os.fstat(lock), self.directory.lstat()):
                return lock
        except BlockingIOError:
            os.close(lock)
            raise OutputError(f"another pull is writing {self.path}") from None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
        return None

    def _make_private(self, directory: int) -> None:
        """Refuses what others may have put into the directory, and lets nobody else in from now on."""
        found = os.fstat(directory)
        self._check_owner(self.directory, found, stat.S_IFDIR)
        if found.st_mode & 0o077:
            with suppress(OSError):  # some file systems have no modes
                os.fchmod(directory, 0o700)
            if os.fstat(directory).st_mode & 0o022:
                raise OutputError(
                    f"{self.directory} may be written by other users, and its file system does not let that be "
                    "changed. Choose an output on another file system"
                )
        was_shared = bool(found.st_mode & 0o022)
        for at, directories, files in os.walk(self.directory):
            for name in (*directories, *files):
                path = Path(at, name)
                with suppress(FileNotFoundError):
                    entry = path.lstat()
                    self._check_owner(path, entry, stat.S_IFDIR if name in directories else stat.S_IFREG)
                    if was_shared and stat.S_ISREG(entry.st_mode) and entry.st_nlink > 1:
                        raise self._foreign(path, "has a second name, and may have been put there by another user")

    def _check_owner(self, path: Path, found: os.stat_result, kind: int) -> None:
        """Raises OutputError for what is another user's, or of another kind, above all a symbolic link."""
        if stat.S_ISLNK(found.st_mode):
            raise self._foreign(path, "is a symbolic link")
        if stat.S_IFMT(found.st_mode) != kind:
            raise self._foreign(path, "is not a directory" if kind == stat.S_IFDIR else "is not a file")
        if found.st_uid != os.geteuid() and found.st_uid != self._uid_here:
            raise self._foreign(path, f"belongs to another user (uid {found.st_uid})")

    def _foreign(self, path: Path, what: str) -> OutputError:
        return OutputError(
            f"cannot write beside {self.path}: {path} {what}. Remove {self.directory}, or choose another output"
        )

    @cached_property
    def _uid_here(self) -> int:
        """The owner of what we make beside the output. Network file systems may map our user to another."""
        with tempfile.TemporaryFile(dir=self.path.parent) as file:
            return os.fstat(file.fileno()).st_uid

    def _publish_new(self, finished: Path) -> None:
        """A hard link, unlike a rename, never replaces what came to stand at `path` while we worked."""
        try:
            self.path.hardlink_to(finished)
        except FileExistsError:
            raise self._exists() from None
        except OSError:  # a file system without hard links
            if self.path.exists():
                raise self._exists() from None
            finished.rename(self.path)

    def _exists(self) -> OutputError:
        return OutputError(f"the output {self.path} exists; choose another, or overwrite it with --overwrite")


def _whole_file(kind: int) -> bytes:
    """The `struct flock` of a lock on all of a file, of a kind such as F_RDLCK."""
    return struct.pack(_FLOCK, *((0, 0, 0, kind, 0) if sys.platform == "darwin" else (kind, 0, 0, 0, 0)))


def _lock_kind(lock: bytes) -> int:
    return int(struct.unpack(_FLOCK, lock)[3 if sys.platform == "darwin" else 0])
