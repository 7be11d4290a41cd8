"""Where the files of a data set are: a local directory, or a prefix in object storage."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from bulkpull.disk import discard, disk_errors, replace_file, sync_directory
from bulkpull.errors import OutputError
from bulkpull.store import MANIFEST, AlreadyExists, Bucket, ObjectUrl, Upload
from bulkpull.tables.lock import LockFile
from bulkpull.tables.spool import checkpoint

OWN_FILE = re.compile(r"(?:month=\d{4}-\d\d/)?(?:\d{8}T\d{6}Z-|empty-)[0-9a-f]{16}\.parquet")
RETIRED_FOR = timedelta(days=1)  # how long readers of a former manifest find its files, at least
_STAGING = "_staging"  # a directory within the data set
_LOCK = "_lock"  # a file within a local one
_READ_BYTES = 1024 * 1024  # by each request


class Place(Protocol):
    """The files of a data set and its manifest, which names those that make it up. All methods block, and raise
    OutputError."""

    name: str

    def open(self, *, create: bool) -> None:
        """Lock the place, if it can be locked. Raises OutputError if it cannot be written to."""

    def close(self) -> None:
        """Unlock the place."""

    def read_manifest(self) -> bytes | None:
        """Return the manifest; None if there is none."""

    def write_manifest(self, manifest: bytes) -> None:
        """Replace the manifest that was read last, in one step. Raises OutputError if there is another by now."""

    def drafts(self, work: Path) -> Path:
        """Return an empty directory for files that `put` takes; `work` is a directory that the caller removes."""

    def put(self, draft: Path, path: str) -> None:
        """Add a file, durably. One of the same path has the same contents."""

    def opened(self, path: str, size: int) -> Any:
        """Open a file for reading."""

    def files(self) -> Iterator[str]:
        """Yield the paths of all files but the manifest."""

    def remove(self, named: Collection[str]) -> None:
        """Remove files whose names are of a data set's pattern, except for those that are named. Those that another
        sync may be about to name stay."""


class LocalPlace:
    """A local directory. See Place."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._lock = LockFile(path / _LOCK)

    def open(self, *, create: bool) -> None:
        with disk_errors(f"write to {self._path}"):
            if create:
                with suppress(FileExistsError):
                    self._path.mkdir()
            if not self._path.exists():
                return
            if not self._path.is_dir():
                raise OutputError(f"{self._path} is a file, not the directory of a data set: choose another output")
        self._lock.claim(self.name)

    def close(self) -> None:
        self._lock.release()

    def read_manifest(self) -> bytes | None:
        with disk_errors(f"read {self._path / MANIFEST}"):
            try:
                return (self._path / MANIFEST).read_bytes()
            except FileNotFoundError:
                return None

    def write_manifest(self, manifest: bytes) -> None:
        path = self._path / MANIFEST
        with disk_errors(f"write {path}", at=path):
            staging = self._path / _STAGING
            staging.mkdir(exist_ok=True)
            sync_directory(self._path)
            replace_file(path, manifest, staging / MANIFEST)

    def drafts(self, work: Path) -> Path:
        """On the file system of the data set, so that a rename adds a file."""
        staging = self._path / _STAGING
        with disk_errors(f"write to {self._path}"):
            discard(staging)
            staging.mkdir()
        return staging

    def put(self, draft: Path, path: str) -> None:
        target = self._path / path
        with disk_errors(f"write {target}", at=target):
            target.parent.mkdir(exist_ok=True)
            draft.replace(target)
            sync_directory(target.parent)

    def opened(self, path: str, size: int) -> Any:
        with disk_errors(f"read {self._path / path}"):
            return (self._path / path).open("rb")

    def files(self) -> Iterator[str]:
        with disk_errors(f"read {self._path}"):
            if not self._path.exists():
                return
            for path in sorted(self._path.rglob("*")):
                found = path.relative_to(self._path)
                if path.is_file() and found.parts[0] not in (MANIFEST, _STAGING, _LOCK):
                    yield found.as_posix()

    def remove(self, named: Collection[str]) -> None:
        with disk_errors(f"remove files from {self._path}"):
            discard(self._path / _STAGING)
            for path in self.files():
                if OWN_FILE.fullmatch(path) and path not in named:
                    (self._path / path).unlink()
            for month in self._path.glob("month=*"):
                if not any(month.iterdir()):
                    month.rmdir()


class RemotePlace:
    """A prefix in object storage. It cannot be locked: of two syncs, the one that writes its manifest first wins. See
    Place."""

    def __init__(self, url: ObjectUrl) -> None:
        self.name = str(url)
        self._url, self._bucket = url, Bucket(url)
        self._key = f"{url.key}/{MANIFEST}"
        self._version: Mapping[str, str] | None = None

    def open(self, *, create: bool) -> None:
        if create:
            self._bucket.confirm_writable(self._key)

    def close(self) -> None:
        pass

    def read_manifest(self) -> bytes | None:
        found = self._bucket.read_version(self._key)
        self._version = found[1] if found else None
        return found[0] if found else None

    def write_manifest(self, manifest: bytes) -> None:
        try:
            self._bucket.put(self._key, manifest, mode=self._version or "create")
        except AlreadyExists:
            if self.read_manifest() != manifest:  # the answer to our own request may have been lost
                raise OutputError(
                    f"another sync has written to {self.name} meanwhile: nothing was changed, run the sync again"
                ) from None

    def drafts(self, work: Path) -> Path:
        drafts = work / _STAGING
        with disk_errors(f"write to {work}"):
            discard(drafts)
            drafts.mkdir(parents=True)
        return drafts

    def put(self, draft: Path, path: str) -> None:
        size = draft.stat().st_size
        key = f"{self._url.key}/{path}"
        upload = Upload(self._bucket, key, draft, lambda: size, receipt=Path(path).stem, content="parquet")
        try:
            upload.send_rest(checkpoint)
            upload.complete(overwrite=True, checkpoint=checkpoint)
        except BaseException:
            upload.abort()
            raise

    def opened(self, path: str, size: int) -> Any:
        return io.BufferedReader(self._bucket.open(f"{self._url.key}/{path}", size), _READ_BYTES)

    def files(self) -> Iterator[str]:
        for key in self._bucket.keys(self._url.key):
            if key != self._key:
                yield key.removeprefix(f"{self._url.key}/")

    def remove(self, named: Collection[str]) -> None:
        long_ago = datetime.now(UTC) - RETIRED_FOR
        paths = (key.removeprefix(f"{self._url.key}/") for key in self._bucket.keys(self._url.key, before=long_ago))
        orphans = [path for path in paths if OWN_FILE.fullmatch(path) and path not in named]
        for at in range(0, len(orphans), 1000):
            self._bucket.delete([f"{self._url.key}/{path}" for path in orphans[at : at + 1000]])
