"""Local destinations: a file or a directory at the output's path, published atomically and synced."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import field, replace
from pathlib import Path

from anyio import from_thread

from bulkpull.disk import discard, disk_errors, replace_file, sync_directory
from bulkpull.errors import OutputError
from bulkpull.record import record
from bulkpull.rows.growing_file import GrowingFile
from bulkpull.store.manifest import (
    Manifest,
    ManifestFile,
    check_replaceable,
    manifest_bytes,
    manifest_path,
    path_text,
    sha256_of,
)
from bulkpull.store.render import Renderer
from bulkpull.store.work import WorkDirectory

_PARTITION = re.compile(r"(month|bucket)=.+")
_FILE = re.compile(r"(activity|bucket-\d{4})\.parquet")


@record(frozen=False)
class LocalFile:
    """A file: the merged CSV itself, which is moved, or what `renderer` makes of it. See Destination, and
    ManifestWriter."""

    path: Path
    work: WorkDirectory
    renderer: Renderer
    overwrite: bool
    _finished: Path = field(init=False)
    _checksums: dict[str, str] = field(init=False, default_factory=dict)  # see Renderer.render

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
            check_replaceable(manifest_path(self.path), overwrite=self.overwrite)

    def holds(self, receipt: str) -> bool:
        """Whether the output is the one that `finish` returned `receipt` for."""
        with disk_errors(f"read {self.path}"):
            try:
                return self._receipt(self.path.stat()) == receipt
            except FileNotFoundError:
                return False

    def take(self, merged: GrowingFile) -> None:
        """Render the merged CSV, from its start, or only compute its checksum if it is the output itself."""
        self._checksums.clear()
        if self.renderer.is_needed:
            self._checksums = self.renderer.render(merged)
        else:
            with disk_errors(f"read {self.work.merged}"):
                self._checksums[""] = merged.sha256(from_thread.check_cancelled)

    def finish(self, merged: Path) -> str:
        """Return the receipt of the finished output."""
        self._finished = self.renderer.path if self.renderer.is_needed else merged
        with disk_errors(f"read {self._finished}"):
            return self._receipt(self._finished.stat())

    def publish(self) -> None:
        """Move the finished output to its path in one step that survives a power cut.

        The manifest of what is replaced is removed before: a new output is never beside an old manifest.
        """
        with disk_errors(f"write to {self.path}"):
            self.check()
            manifest_path(self.path).unlink(missing_ok=True)
            self._publish()
            sync_directory(self.path.parent)

    def write_manifest(self, manifest: Manifest) -> Path:
        """Write the manifest of the published output, whose rows are those of the whole pull. See ManifestWriter."""
        path = manifest_path(self.path)
        with disk_errors(f"write the manifest {path}", at=path):
            check_replaceable(path, overwrite=self.overwrite)
            files = tuple(self._files(manifest.rows))
            replace_file(path, manifest_bytes(replace(manifest, files=files)), self.work.path / "manifest")
        return path

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

    def _files(self, rows: int) -> Iterator[ManifestFile]:
        """Yield the files of the published output, which has `rows` rows."""
        yield self._described(self.path, "", rows)

    def _described(self, path: Path, checksum_of: str, rows: int) -> ManifestFile:
        """What the manifest says of a published file. What an earlier run has published is read again."""
        checksum = self._checksums.get(checksum_of)
        if checksum is None:
            with path.open("rb", buffering=0) as file:
                checksum = sha256_of(file, from_thread.check_cancelled)
        name = path_text(path.relative_to(self.path.parent))
        return ManifestFile(name, rows, path.stat().st_size, checksum)

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
    """A data set: a directory of files, by month or by bucket. See Destination, and ManifestWriter."""

    __slots__ = ()

    def _files(self, rows: int) -> Iterator[ManifestFile]:
        from bulkpull.rows.parquet import count_rows  # pyarrow is optional

        files = {path: count_rows(path) for path in sorted(self.path.rglob("*.parquet"))}
        if sum(files.values()) != rows:
            raise OutputError(f"{self.path} was changed since it was published: it does not have {rows:,} rows")
        for path, of_file in files.items():
            yield self._described(path, path.relative_to(self.path).as_posix(), of_file)

    def _check_kind(self) -> None:
        if not _is_data_set(self.path):
            raise OutputError(f"the output {self.path} exists and is no data set: choose another")

    def _publish(self) -> None:
        """No rename replaces a directory that is not empty, so the former data set is moved away first."""
        if self.path.exists():
            replaced = self.work.path / "replaced"
            discard(replaced)
            self.path.rename(replaced)
        self._finished.rename(self.path)


def _is_data_set(path: Path) -> bool:
    """Whether a directory holds nothing but a data set, so that it may be replaced."""
    if not path.is_dir():
        return False
    partitions = {entry for entry in path.iterdir() if _PARTITION.fullmatch(entry.name) and entry.is_dir()}
    return all(_FILE.fullmatch(entry.name) for entry in path.rglob("*") if entry not in partitions)
