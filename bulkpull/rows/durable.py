"""Durability: bytes that survive a power cut."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress


def sync_file(file: int) -> None:
    """Brings a file's bytes, or a directory's entries, to the disk itself. Raises OSError.

    On macOS fsync(2) stops at the cache of the disk, which a power cut empties; `F_FULLFSYNC` does not. File systems
    that do not know it (network shares, FAT) have fsync.
    """
    if hasattr(fcntl, "F_FULLFSYNC"):
        with suppress(OSError):
            fcntl.fcntl(file, fcntl.F_FULLFSYNC)
            return
    os.fsync(file)
