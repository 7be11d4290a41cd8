"""The destinations of a pull on a cluster: data sets whose files workers have written already.

What `finish` is given is no CSV but the list of these files; see `ClusterWorkers.merge`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from pathlib import Path, PurePosixPath

import orjson

from bulkpull.cluster.storage import Storage
from bulkpull.disk import discard, disk_errors, sync_directory
from bulkpull.rows.format import DATA_SET_FILE, Format
from bulkpull.rows.growing_file import GrowingFile
from bulkpull.source import Columns
from bulkpull.store import (
    OPEN,
    DataSetFile,
    LocalDirectory,
    ObjectUrl,
    RemoteDataSet,
    Renderer,
    WorkDirectory,
    resolved,
)

_BUCKET = re.compile(r"bucket-\d{4}")


class ClusterDirectory(LocalDirectory):
    """A directory that all workers see. See Destination."""

    __slots__ = ()

    @property
    def parts(self) -> Storage:
        """Where the workers write what is needed until the output is published."""
        return Storage(self.work.path / "parts")

    @property
    def output(self) -> Storage:
        """Where they write the files of the data set."""
        return Storage(self.work.path / "files")

    @property
    def suffix(self) -> str:
        """What the names of files end with."""
        return ""

    def open(self) -> None:
        """Let workers write. Blocks. Raises OutputError."""
        with disk_errors(f"write to {self.work.path}"):
            for storage in (self.parts, self.output):
                Path(str(storage)).mkdir(exist_ok=True)
        self.parts.write(OPEN, b"")

    def has_file(self, name: str, written: Container[str]) -> bool:
        """Whether a file is among those that are `written`, or a run that was killed has moved it already. Blocks."""
        return name in written or (self.renderer.path / final_name(name)).exists()

    def take(self, merged: GrowingFile) -> None:
        """A no-op: the workers write."""

    def finish(self, merged: Path) -> str:
        """Move the files that count to their names in the data set. Returns the receipt."""
        files = _read_files(merged)
        with disk_errors(f"write to {self.renderer.path}"):
            self.renderer.path.mkdir(exist_ok=True)
            for file in files:
                name = final_name(file.path)
                written, target = self.work.path / "files" / file.path, self.renderer.path / name
                target.parent.mkdir(exist_ok=True)
                if written.exists() or not target.exists():  # else a run that was killed has moved it
                    written.replace(target)
                self._checksums[name] = file.sha256 or ""
            for directory in (
                *{(self.renderer.path / final_name(file.path)).parent for file in files},
                self.renderer.path,
            ):
                sync_directory(directory)
            self._finished = self.renderer.path
            return self._receipt(self._finished.stat())

    def holds(self, receipt: str) -> bool:
        """Whether the data set is the one that `finish` returned `receipt` for; if so, removes what else there is."""
        if not LocalDirectory.holds(self, receipt):
            return False
        self._clear()
        return True

    def publish(self) -> None:
        """Move the data set to its path, then remove what else tasks have written."""
        LocalDirectory.publish(self)
        self._clear()

    def discard(self) -> None:
        """Remove what earlier runs have written."""
        self._clear()
        with disk_errors(f"remove {self.renderer.path}"):
            discard(self.renderer.path)

    def _clear(self) -> None:
        for storage in (self.parts, self.output):
            storage.clear()


class ClusterDataSet(RemoteDataSet):
    """A prefix in object storage. See Destination."""

    __slots__ = ()

    @property
    def parts(self) -> Storage:
        """Where the workers write what is needed until the output is published."""
        return Storage(ObjectUrl(self.url.bucket, self._parts_key))

    @property
    def output(self) -> Storage:
        """Where they write the files of the data set."""
        return Storage(self.url)

    @property
    def suffix(self) -> str:
        """What the names of files end with: they are unique to this pull."""
        return f"-{self._token()}"

    def open(self) -> None:
        """Let workers write. Blocks. Raises OutputError."""
        self.parts.write(OPEN, b"")

    def has_file(self, name: str, written: Container[str]) -> bool:
        """Whether a file is among those that are `written`."""
        return name in written

    def holds(self, receipt: str) -> bool:
        """Whether the data set is the one that `finish` returned `receipt` for; if so, removes what else there is."""
        if not RemoteDataSet.holds(self, receipt):
            return False
        self._remove_rest()
        return True

    def take(self, merged: GrowingFile) -> None:
        """A no-op: the workers write."""

    def finish(self, merged: Path) -> str:
        """Return the receipt."""
        self._manifest = orjson.dumps(
            {"version": 1, "receipt": self._receipt(), "files": _read_files(merged)}, option=orjson.OPT_INDENT_2
        )
        return self._receipt()

    def publish(self) -> None:
        """Write the manifest, then remove the former data set, and what tasks have written in vain."""
        RemoteDataSet.publish(self)
        self._remove_rest()

    def _remove_rest(self) -> None:
        """Remove all that this pull has written, except for the published files."""
        self._remove_parts()
        self._remove_all_but(self.published())


def cluster_destination(
    output: object,
    work: WorkDirectory,
    format: Format,
    *,
    overwrite: bool,
    columns: Columns,
    provenance: Callable[[], Mapping[str, str]],
) -> ClusterDirectory | ClusterDataSet:
    """Return the destination at a path or a URL of object storage. See `bulkpull.store.destination_for`."""
    renderer = Renderer(work.rendered, format, columns, provenance)
    if (url := ObjectUrl.of(output)) is not None:  # type: ignore[arg-type]
        return ClusterDataSet(url, work, renderer, overwrite)
    return ClusterDirectory(resolved(output), work, renderer, overwrite)  # type: ignore[arg-type]


def final_name(name: str) -> str:
    """Return the name of a file in a local data set, without what makes it unique among the runs of its task."""
    path = PurePosixPath(name)
    bucket = _BUCKET.match(path.name)
    return (path.parent / (f"{bucket[0]}.parquet" if bucket else DATA_SET_FILE)).as_posix()


def _read_files(path: Path) -> list[DataSetFile]:
    with disk_errors(f"read {path}"):
        return [DataSetFile(**file) for file in orjson.loads(path.read_bytes())]
