"""Remote destinations: an object, or a data set of several, in object storage. See Destination."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import field, replace
from pathlib import Path
from secrets import token_hex

import orjson
from anyio import from_thread

from bulkpull.disk import discard, disk_errors
from bulkpull.errors import OutputError
from bulkpull.record import record
from bulkpull.rows.growing_file import GrowingFile
from bulkpull.store.address import ObjectUrl
from bulkpull.store.bucket import AlreadyExists, Bucket, Found
from bulkpull.store.dataset import MANIFEST, DataSetFile, files_in_manifest
from bulkpull.store.manifest import (
    MANIFEST_SUFFIX,
    Manifest,
    ManifestFile,
    manifest_bytes,
    parse_manifest,
    sha256_of,
)
from bulkpull.store.render import Renderer
from bulkpull.store.upload import Upload
from bulkpull.store.work import WorkDirectory

OPEN = "open"  # an object among the parts of a pull on a cluster, which exists until the pull has ended


@record(frozen=False)
class RemoteFile:
    """An object: the merged CSV itself, or what `renderer` makes of it, which is uploaded while it grows."""

    url: ObjectUrl
    work: WorkDirectory
    renderer: Renderer
    overwrite: bool
    bucket: Bucket = field(init=False)
    _upload: Upload | None = field(default=None, init=False)
    _checksum: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.bucket = Bucket(self.url)

    def check(self) -> None:
        """Raise OutputError if the object exists and must not be replaced, or the bucket cannot be written to."""
        self.bucket.confirm_writable(self.url.key)
        self._refuse_existing()
        found = None if self.overwrite else self.bucket.find(self._manifest_key)
        if found and not found.receipt:
            raise OutputError(
                f"{self.url}{MANIFEST_SUFFIX}, where the output's manifest belongs, exists and is not a manifest: move "
                "it away, or overwrite it with --overwrite"
            )

    def holds(self, receipt: str) -> bool:
        """Whether the object is the one that `finish` returned `receipt` for."""
        if not receipt:
            return False
        found = self.bucket.find(self.url.key)
        return found is not None and found.receipt == receipt

    def take(self, merged: GrowingFile) -> None:
        """Upload the output while it grows, all but the last parts."""
        if not self.renderer.is_needed:
            self._follow(
                merged.path,
                lambda: merged.available,
                lambda: {"": merged.sha256(from_thread.check_cancelled)},
            )
            return
        rendered = self.renderer.path
        with disk_errors(f"remove {rendered}"):
            discard(rendered)
        self._follow(rendered, lambda: _size(rendered), lambda: self.renderer.render(merged))

    def finish(self, merged: Path) -> str:
        """Return the receipt, which is in the object's metadata."""
        return self._receipt()

    def publish(self) -> None:
        """Complete the upload."""
        assert self._upload
        self._refuse_existing()
        self.bucket.delete([self._manifest_key])  # a new output is never beside an old manifest for long
        try:
            self._upload.complete(overwrite=self.overwrite)
        except AlreadyExists:
            raise self._exists() from None

    def write_manifest(self, manifest: Manifest) -> str:
        """Write the manifest of the published output as an object beside it. See ManifestWriter."""
        described = replace(manifest, files=tuple(self._files(manifest.rows)))
        self.bucket.put(self._manifest_key, manifest_bytes(described), mode="overwrite", receipt=self._receipt())
        return f"{self.url}{MANIFEST_SUFFIX}"

    def discard(self) -> None:
        """Remove what earlier runs have rendered, and what workers of a cluster have written for them."""
        with disk_errors(f"remove {self.renderer.path}"):
            discard(self.renderer.path)
        if self._has_token():
            self._remove_parts()

    def close(self) -> None:
        """Abort the upload, unless it is complete."""
        if self._upload:
            self._upload.abort()

    def _follow(self, path: Path, size: Callable[[], int], grow: Callable[[], dict[str, str]]) -> None:
        """Upload the file at `path` while `grow` extends it, and returns its checksum."""
        self._upload = upload = Upload(
            self.bucket, self.url.key, path, size, receipt=self._receipt(), content=self.renderer.format.name
        )
        try:
            self._checksum = grow()[""]
            upload.send_rest(from_thread.check_cancelled)
        except BaseException:
            upload.abort()
            raise

    @property
    def _manifest_key(self) -> str:
        return f"{self.url.key}{MANIFEST_SUFFIX}"

    def _files(self, rows: int) -> Iterator[ManifestFile]:
        """Yield the files of the published output, which has `rows` rows. What an earlier run has published is read."""
        if self._upload and self._checksum:
            yield ManifestFile(self.url.name, rows, self._upload.size, self._checksum)
            return
        found = self.bucket.find(self.url.key)
        if found is None:
            raise OutputError(f"the output {self.url} was removed since it was published")
        checksum = sha256_of(self.bucket.open(self.url.key, found.size), from_thread.check_cancelled)
        yield ManifestFile(self.url.name, rows, found.size, checksum)

    def _refuse_existing(self) -> None:
        if not self.overwrite and self.bucket.find(self.url.key):
            raise self._exists()

    def _exists(self) -> OutputError:
        return OutputError(f"the output {self.url} exists; choose another, or overwrite it with --overwrite")

    @property
    def _parts_key(self) -> str:
        """Where the workers of a cluster write what is needed until the output is published: beside it."""
        return f"{self.url.key}.bulkpull/{self._token()}"

    def _remove_parts(self) -> None:
        """Remove what workers have written. OPEN goes first: tasks that still run then remove what they write."""
        self.bucket.delete([f"{self._parts_key}/{OPEN}"])
        self.bucket.delete(list(self.bucket.keys(self._parts_key)))

    def _has_token(self) -> bool:
        return (self.work.path / "upload").exists()

    def _token(self) -> str:
        """Some characters that no other pull has, the same in all runs of this one."""
        path = self.work.path / "upload"
        with disk_errors(f"write {path}"):
            with suppress(FileNotFoundError):
                return path.read_text()
            token = token_hex(8)
            path.write_text(token)
            return token

    def _receipt(self) -> str:
        """The format as well: a rerun that asks for another one must not take this output for its own."""
        return hashlib.sha256(f"{self._token()} {self.url} {self.renderer.format}".encode()).hexdigest()[:32]


@record(frozen=False)
class RemoteDataSet(RemoteFile):
    """A data set by month: objects whose names are unique, and a manifest that names those that make up the data set.

    Writing the manifest switches readers from the former data set to the new one.
    """

    _manifest: bytes = field(default=b"", init=False)

    @property
    def _key(self) -> str:
        return f"{self.url.key}/{MANIFEST}"

    @property
    def _replaced(self) -> Path:
        """The keys of the former data set that are still to be removed."""
        return self.work.path / "replaced.json"

    def holds(self, receipt: str) -> bool:
        """Whether the data set is the one that `finish` returned `receipt` for. If so, removes the former one, for
        an earlier run that was killed before it could."""
        if not receipt or (data := self.bucket.read(self._key)) is None or _receipt_in(data) != receipt:
            return False
        self._remove_replaced()
        return True

    def take(self, merged: GrowingFile) -> None:
        """Render all months, and upload their files."""
        self.renderer.render(merged)
        files = [
            self._take_file(path, path.relative_to(self.renderer.path).parent)
            for path in sorted(self.renderer.path.rglob("*.parquet"))
        ]
        self._manifest = orjson.dumps(
            {"version": 1, "receipt": self._receipt(), "files": files}, option=orjson.OPT_INDENT_2
        )

    def publish(self) -> None:
        """Write the manifest, then remove the former data set."""
        found = self._former()
        new = {f"{self.url.key}/{file.path}" for file in files_in_manifest(self._manifest, str(self.url))}
        former = self.bucket.read(self._key) if found else None
        self.bucket.delete([self._manifest_key])
        old = {f"{self.url.key}/{file.path}" for file in files_in_manifest(former, str(self.url))} if former else set()
        with disk_errors(f"write {self._replaced}"):
            self._replaced.write_bytes(orjson.dumps(sorted(old - new)))
        try:
            self.bucket.put(
                self._key, self._manifest, mode=found.version if found else "create", receipt=self._receipt()
            )
        except AlreadyExists:
            if not self.holds(self._receipt()):  # the answer to our own request may have been lost
                raise OutputError(f"the output {self.url} was written by another pull meanwhile") from None
        self._remove_replaced()

    def published(self) -> tuple[DataSetFile, ...]:
        """Return the files of the published data set. Raises OutputError."""
        return files_in_manifest(self.bucket.read(self._key) or b"", str(self.url))

    def _files(self, rows: int) -> Iterator[ManifestFile]:
        for file in self.published():
            yield ManifestFile(f"{self.url.name}/{file.path}", file.rows, file.bytes, file.sha256 or "")

    def discard(self) -> None:
        """Remove what earlier runs have rendered and uploaded."""
        RemoteFile.discard(self)  # super() fails in a dataclass with slots before Python 3.14
        if self._has_token():
            data = self.bucket.read(self._key)
            is_ours = data is not None and _receipt_in(data) == self._receipt()
            self._remove_all_but(self.published() if is_ours else ())

    def _remove_all_but(self, files: Iterable[DataSetFile]) -> None:
        """Remove the files that this pull has written, except for some."""
        kept = {f"{self.url.key}/{file.path}" for file in files}
        written = [key for key in self.bucket.keys(self.url.key) if f"-{self._token()}." in key]
        self.bucket.delete([key for key in written if key not in kept])

    def _take_file(self, path: Path, partition: Path) -> DataSetFile:
        name = partition / f"{path.stem}-{self._token()}{path.suffix}"
        self._upload = upload = Upload(
            self.bucket,
            f"{self.url.key}/{name}",
            path,
            lambda: _size(path),
            receipt=self._receipt(),
            content=self.renderer.format.name,
        )
        try:
            upload.send_rest(from_thread.check_cancelled)
            upload.complete(overwrite=True, checkpoint=from_thread.check_cancelled)
        except BaseException:
            upload.abort()
            raise
        return DataSetFile.of(path, name.as_posix())

    def _former(self) -> Found | None:
        """The manifest of the data set that is to be replaced; None if there is none."""
        found = self.bucket.find(self._key)
        if found and not self.overwrite:
            raise self._exists()
        return found

    def _refuse_existing(self) -> None:
        """Objects of other kinds stay, so they must not be in the way."""
        if self._former():
            data = self.bucket.read(self._key) or b""
            files_in_manifest(data, str(self.url))
        elif any(f"-{self._token()}." not in key for key in self.bucket.keys(self.url.key)):
            raise OutputError(f"there are objects at {self.url}, which are no data set: choose another output")

    def _remove_replaced(self) -> None:
        try:
            keys = orjson.loads(self._replaced.read_bytes())
        except FileNotFoundError:
            return
        self.bucket.delete(keys)
        with disk_errors(f"remove {self._replaced}"):
            self._replaced.unlink()


def read_remote_manifest(url: ObjectUrl) -> Manifest | None:
    """Return the manifest of an output in object storage; None if there is none. Blocks on the network.

    Raises:
        OutputError: It is damaged, another version of bulkpull has written it, or the bucket cannot be read.
    """
    text = Bucket(url).read(f"{url.key}{MANIFEST_SUFFIX}")
    return None if text is None else parse_manifest(text, f"{url}{MANIFEST_SUFFIX}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _receipt_in(manifest: bytes) -> str | None:
    with suppress(orjson.JSONDecodeError, AttributeError):
        return str(orjson.loads(manifest).get("receipt"))
    return None
