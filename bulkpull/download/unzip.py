"""Unzip: from a file that came as a zip to the one file in it."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from anyio import from_thread

from bulkpull.disk import disk_errors
from bulkpull.download.encoding import BOMB_RATIO, BOMB_SIZE
from bulkpull.errors import PartError
from bulkpull.rows.records import CsvError

_BLOCK = 1024 * 1024
_ENCRYPTED = 1  # a flag
_BESIDES = "__MACOSX/"  # what macOS adds to its zips


def unzip(path: Path) -> int:
    """Puts the file that is in a zip in its place; returns its size. Blocks on the disk.

    No name in the zip is used. Raises PartError where there is no such file, several, or one that cannot be unpacked,
    CsvError where the zip is damaged.
    """
    beside = path.with_name(f"{path.name}.unzipped")
    with disk_errors(f"unpack {path.name}", at=path):
        try:
            size = _unpack(path, beside)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    return size


def _unpack(path: Path, beside: Path) -> int:
    size = 0
    try:
        zipped = path.stat().st_size
        most = max(BOMB_SIZE, BOMB_RATIO * zipped)
        with zipfile.ZipFile(path) as archive, archive.open(_only_file(archive)) as file, beside.open("wb") as out:
            while block := file.read(_BLOCK):
                from_thread.check_cancelled()
                size += len(block)
                if size > most:
                    raise PartError(f"the file host sends a zip of {zipped} bytes that expand to more than {size}")
                out.write(block)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise CsvError(1, f"a damaged zip: {error}") from None
    except NotImplementedError as error:
        raise PartError(f"the file host sends a zip that cannot be unpacked: {error}") from None
    return size


def _only_file(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    files = [entry for entry in archive.infolist() if not entry.is_dir() and not entry.filename.startswith(_BESIDES)]
    if len(files) != 1:
        raise PartError(f"the file host sends a zip with {len(files)} files, where one CSV was expected")
    if files[0].flag_bits & _ENCRYPTED:
        raise PartError("the file host sends an encrypted zip, where a CSV was expected")
    return files[0]
