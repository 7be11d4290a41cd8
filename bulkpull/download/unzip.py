"""Unpacking of a file that arrived as a zip archive."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from anyio import from_thread

from bulkpull.disk import disk_errors
from bulkpull.download.encoding import MAX_EXPANSION, MIN_EXPANSION_BYTES, ZIP_MAGIC
from bulkpull.errors import MalformedPartError, PartError
from bulkpull.rows.held_file import HeldFile, open_file
from bulkpull.rows.records import File

_BLOCK_BYTES = 1024 * 1024
_ENCRYPTED_FLAG = 1
_MACOS_METADATA = "__MACOSX/"


def is_zip(source: Path | HeldFile) -> bool:
    """Return whether a file begins as a zip archive. Blocks on the disk."""
    with disk_errors("read a downloaded file"), open_file(source) as file:
        return (file.read(4) or b"").startswith(ZIP_MAGIC)


def unzip(path: Path, verify: Callable[[File], None]) -> None:
    """Replace an archive by the only file in it, if that passes `verify`. Blocks on the disk.

    No name in the archive is used for a path.

    Raises:
        MalformedPartError: The archive is corrupt, or its file does not pass `verify`.
        PartError: It holds no file, several, one that cannot be unpacked, or another archive.
    """
    unpacked = path.with_name(f"{path.name}.unzipped")
    with disk_errors(f"unpack {path.name}", at=path):
        try:
            _unpack(path, unpacked)
            if is_zip(unpacked):
                raise PartError("the file host sent a zip within a zip; expected a CSV")
            with unpacked.open("rb") as file:
                verify(file)
            unpacked.replace(path)
        finally:
            unpacked.unlink(missing_ok=True)


def _unpack(path: Path, unpacked: Path) -> None:
    size = 0
    try:
        zipped = path.stat().st_size
        limit = max(MIN_EXPANSION_BYTES, MAX_EXPANSION * zipped)
        with zipfile.ZipFile(path) as archive, archive.open(_only_file(archive)) as file, unpacked.open("wb") as out:
            while block := file.read(_BLOCK_BYTES):
                from_thread.check_cancelled()
                size += len(block)
                if size > limit:
                    raise PartError(f"the file host sent a zip of {zipped} bytes that expands to more than {limit}")
                out.write(block)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise MalformedPartError(f"corrupt zip: {error}") from None
    except NotImplementedError as error:
        raise PartError(f"the file host sent a zip that cannot be unpacked: {error}") from None


def _only_file(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    entries = (entry for entry in archive.infolist() if not entry.is_dir())
    files = [entry for entry in entries if not entry.filename.startswith(_MACOS_METADATA)]
    if len(files) != 1:
        raise PartError(f"the file host sent a zip with {len(files)} files; expected one CSV")
    if files[0].flag_bits & _ENCRYPTED_FLAG:
        raise PartError("the file host sent an encrypted zip; expected a CSV")
    return files[0]
