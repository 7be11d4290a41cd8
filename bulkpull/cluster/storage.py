"""Shared storage: a folder that all workers see, or a prefix in object storage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from shutil import copyfile
from uuid import uuid4

from bulkpull.disk import discard, disk_errors, replacing
from bulkpull.errors import OutputError
from bulkpull.store import Bucket, ObjectUrl

_PART_BYTES = 16 * 1024 * 1024  # of an upload, and of each read
# Uploads in parts leave these behind if their worker is killed. So they are for files only that take more memory than
# what was done before.
_MAX_PUT_BYTES = 128 * 1024 * 1024


class DamagedError(OutputError):
    """The object `name` is not what was written."""

    def __init__(self, storage: Storage, name: str) -> None:
        super().__init__(f"{storage}/{name} was changed since it was written")
        self.name = name


class Storage:
    """What is below `place`, by names with slashes. It can be sent to workers: it holds no credentials.

    All methods block, and raise OutputError. Those that read raise DamagedError if an object has fewer bytes.
    """

    def __init__(self, place: Path | ObjectUrl) -> None:
        self.place = place

    def __reduce__(self) -> tuple[type[Storage], tuple[Path | ObjectUrl]]:
        return Storage, (self.place,)

    def __str__(self) -> str:
        return str(self.place)

    def put(self, name: str, file: Path) -> None:
        """Write an object from a file, in one step."""
        if isinstance(self.place, Path):
            with self._replacing(self.place / name) as draft:
                copyfile(file, draft)
            return
        with disk_errors(f"read {file}"):
            bucket, size = self._bucket, file.stat().st_size
            if size > _MAX_PUT_BYTES:
                bucket.put_parts(self._key(name), _parts(file), receipt="", content="")
            else:
                bucket.put(self._key(name), file.read_bytes(), mode="overwrite", content="")

    def write(self, name: str, data: bytes) -> None:
        """Write a small object."""
        if isinstance(self.place, Path):
            with self._replacing(self.place / name) as draft:
                draft.write_bytes(data)
            return
        self._bucket.put(self._key(name), data, mode="overwrite", content="")

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Return `size` bytes of an object from `offset` on."""
        return b"".join(self.pieces(name, offset, size))

    def pieces(self, name: str, offset: int, size: int) -> Iterator[bytes]:
        """Yield `size` bytes of an object from `offset` on, in pieces."""
        end = offset + size
        try:
            for data in self._pieces(name, offset, size):
                offset += len(data)
                yield data
        except OutputError:
            found = self.size(name)
            if found is not None and found >= end:
                raise
        if offset < end:
            raise DamagedError(self, name)

    def _pieces(self, name: str, offset: int, size: int) -> Iterator[bytes]:
        """Yield `size` bytes, or fewer at the end of the object."""
        if isinstance(self.place, Path):
            path = self.place / name
            with disk_errors(f"read {path}"), path.open("rb") as file:
                file.seek(offset)
                while size and (data := file.read(min(size, _PART_BYTES))):
                    size -= len(data)
                    yield data
            return
        bucket = self._bucket
        while size:
            data = bucket.read_range(self._key(name), offset, min(size, _PART_BYTES))
            yield data
            offset, size = offset + len(data), size - len(data)
            if len(data) < _PART_BYTES:  # beyond its end, a server answers with an error
                return

    def exists(self, name: str) -> bool:
        """Return whether there is an object of this name."""
        return self.size(name) is not None

    def size(self, name: str) -> int | None:
        """Return the bytes of an object; None if there is none."""
        if isinstance(self.place, Path):
            with disk_errors(f"read {self.place}"), suppress(FileNotFoundError):
                return (self.place / name).stat().st_size
            return None
        found = self._bucket.find(self._key(name))
        return None if found is None else found.size

    def names(self) -> set[str]:
        """Return the names of all objects."""
        if isinstance(self.place, Path):
            with disk_errors(f"read {self.place}"):
                return {path.relative_to(self.place).as_posix() for path in self.place.rglob("*") if not path.is_dir()}
        return {key.removeprefix(f"{self.place.key}/") for key in self._bucket.keys(self.place.key)}

    def delete(self, names: Sequence[str]) -> None:
        """Remove objects, which need not exist."""
        if isinstance(self.place, Path):
            with disk_errors(f"remove files from {self.place}"):
                for name in names:
                    (self.place / name).unlink(missing_ok=True)
            return
        self._bucket.delete([self._key(name) for name in names])

    def clear(self) -> None:
        """Remove all objects."""
        if isinstance(self.place, Path):
            with disk_errors(f"remove {self.place}"):
                removed = self.place.with_name(f"{self.place.name}-{uuid4().hex}")
                with suppress(FileNotFoundError):  # away first: what a task writes meanwhile would be left over
                    self.place.rename(removed)
                discard(removed)
            return
        self.delete(sorted(self.names()))

    @contextmanager
    def _replacing(self, target: Path) -> Iterator[Path]:
        """Yield where to write a file. Its directory is made, but not the storage itself, which a pull that has ended
        removes."""
        with disk_errors(f"write {target}", at=target):
            if target.parent != self.place:
                target.parent.mkdir(exist_ok=True)
            with replacing(target) as draft:
                yield draft

    @cached_property
    def _bucket(self) -> Bucket:
        """One connection for all operations: each would ask for credentials of its own otherwise."""
        assert isinstance(self.place, ObjectUrl)
        return Bucket(self.place)

    def _key(self, name: str) -> str:
        assert isinstance(self.place, ObjectUrl)
        return f"{self.place.key}/{name}"


def _parts(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while data := opened.read(_PART_BYTES):
            yield data
