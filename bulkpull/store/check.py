"""Comparing an output with its manifest."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath

from bulkpull.disk import disk_errors
from bulkpull.record import record
from bulkpull.store.manifest import Manifest, ManifestFile, path_text, sha256_of

_ID_MEMORY_BYTES = 16_000_000  # about six times that at the peak
_MAX_NAMED = 10  # ids
_MAX_ID_CHARS = 100


@record
class Difference:
    """A difference between an output and its manifest.

    Args:
        path: The file, relative to the manifest.
        problem: What is wrong with it.
    """

    path: str
    problem: str


def compare(output: Path, manifest: Manifest, checkpoint: Callable[[], None]) -> Iterator[Difference]:
    """Yield the differences between a local output and its manifest.

    Compared are the files that there are, and their sizes, checksums and numbers of rows; and ids must be unique. Each
    file is read twice, in bounded memory. `checkpoint` is called often and may raise to stop. Blocks on the disk.
    Raises OutputError for a file that cannot be read.
    """
    from bulkpull.rows.output import RepeatedIds, id_blocks  # imports NumPy: not in the event loop's thread

    readable: dict[str, Path] = {}
    with closing(RepeatedIds(Path(tempfile.gettempdir()), _ID_MEMORY_BYTES)) as ids:
        for file in manifest.files:
            path = output.joinpath(*PurePosixPath(file.path).parts[1:])  # the output may have another name now
            with disk_errors(f"verify {path}"):
                if not path.is_file():
                    yield Difference(file.path, "is missing")
                    continue
                yield from _differences(path, file, checkpoint)
                try:
                    rows = ids.add(id_blocks(path, manifest.written_as, manifest.key, checkpoint))
                except ValueError as error:
                    yield Difference(file.path, f"cannot be read as {manifest.written_as.name}: {error}")
                    continue
                if rows != file.rows:
                    yield Difference(file.path, f"has {rows:,} rows instead of {file.rows:,}")
                readable[file.path] = path
        if manifest.written_as.is_data_set:
            yield from _unnamed(output, manifest)
        if ids.keys:
            found: Counter[bytes] = Counter()
            last: dict[bytes, str] = {}
            for name, path in readable.items():
                with disk_errors(f"verify {path}"):
                    for id in ids.repeated(id_blocks(path, manifest.written_as, manifest.key, checkpoint)):
                        found[id] += 1
                        last[id] = name
            repeated = [(id, count) for id, count in found.items() if count > 1]
            for id, count in repeated[:_MAX_NAMED]:
                text = id.decode("utf-8", "replace")[:_MAX_ID_CHARS]
                yield Difference(last[id], f"the id {text} occurs {count:,} times")
            if len(repeated) > _MAX_NAMED:
                more = f"at least {len(repeated) - _MAX_NAMED:,} more ids occur more than once"
                yield Difference(last[repeated[_MAX_NAMED][0]], more)


def _differences(path: Path, file: ManifestFile, checkpoint: Callable[[], None]) -> Iterator[Difference]:
    size = path.stat().st_size
    if size != file.bytes:
        yield Difference(file.path, f"has {size:,} bytes instead of {file.bytes:,}")
        return
    with path.open("rb", buffering=0) as opened:
        checksum = sha256_of(opened, checkpoint)
    if checksum != file.sha256:
        yield Difference(file.path, f"has the SHA-256 {checksum} instead of {file.sha256}")


def _unnamed(output: Path, manifest: Manifest) -> Iterator[Difference]:
    """Yield the files of a data set that its manifest does not name."""
    named = {PurePosixPath(file.path).parts[1:] for file in manifest.files}
    with disk_errors(f"read {output}"):
        found = sorted(path.relative_to(output) for path in output.rglob("*") if not path.is_dir())
    for path in found:
        if path.parts not in named:
            yield Difference(path_text(output.name / path), "is not in the manifest")
