"""What a complete output is, as the manifest beside it says."""

from __future__ import annotations

import os
from pathlib import PurePosixPath

from bulkpull.disk import disk_errors
from bulkpull.errors import OutputError
from bulkpull.store.address import ObjectUrl
from bulkpull.store.bucket import Bucket
from bulkpull.store.dataset import MANIFEST
from bulkpull.store.manifest import Manifest, manifest_path, read_manifest
from bulkpull.store.remote import read_remote_manifest
from bulkpull.store.work import resolved


def published_manifest(out: str | os.PathLike[str]) -> Manifest | None:
    """Return the manifest of a complete output; None if there is no output, or none with a manifest.

    Blocks on the disk or on object storage. The files of a local output are not read: they are there, and have their
    sizes (see `compare`).

    Args:
        out: The output.

    Raises:
        OutputError: The manifest cannot be read, or the files differ from it.
    """
    if url := ObjectUrl.of(out):
        manifest = read_remote_manifest(url)
        if manifest is None:
            return None
        is_there = Bucket(url).find(f"{url.key}/{MANIFEST}" if manifest.written_as.is_data_set else url.key)
        return manifest if is_there else None
    path = resolved(out)
    with disk_errors(f"read {path}"):
        if not (path.exists() and manifest_path(path).exists()):
            return None
        manifest = read_manifest(manifest_path(path))
        for file in manifest.files:
            found = path.joinpath(*PurePosixPath(file.path).parts[1:])  # the output may have another name now
            if not found.is_file() or found.stat().st_size != file.bytes:
                raise OutputError(f"the output {path} exists, but {found} is not what its manifest describes")
    return manifest
