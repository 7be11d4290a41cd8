"""Divide a pull's target memory: what the process takes in any case, downloaded parts, and ids."""

from __future__ import annotations

from typing import NamedTuple

from bulkpull.errors import UsageError
from bulkpull.rows.format import Format

DEFAULT_BYTES = 256_000_000  # more where the format leaves less than USUAL_BYTES of it
BASE_BYTES = 100_000_000  # the interpreter, its libraries, and buffers
USUAL_BYTES = 104_000_000  # for parts and ids
MIN_BYTES = 20_000_000
_MAX_PARTS_BYTES = 128_000_000  # as much as downloads run ahead of the merge
_IDS_FACTOR = 6  # sorting ids, and the filters of those on the disk, take several times their size


class MemoryLimits(NamedTuple):
    """Bytes of memory: for parts that are not written yet, and for ids."""

    parts: int
    ids: int


def default_memory(format: Format) -> int:
    """Return the target peak memory in bytes if none is given."""
    return max(DEFAULT_BYTES, _fixed(format) + USUAL_BYTES)


def divided(memory: int | None, format: Format) -> MemoryLimits:
    """Divide a target peak of `memory` bytes, by default the usual one. Raises UsageError if it is too low."""
    fixed = _fixed(format)
    memory = default_memory(format) if memory is None else memory
    if memory < fixed + MIN_BYTES:
        raise UsageError(
            f"{memory:,} bytes of memory are too few: a pull to {format.name} needs {fixed + MIN_BYTES:,} bytes or more"
        )
    parts = min((memory - fixed) // 2, _MAX_PARTS_BYTES)
    return MemoryLimits(parts, (memory - fixed - parts) // _IDS_FACTOR)


def shared_memory(memory: int, pulls: int) -> int:
    """Return the target peak memory of each of several pulls in one process, which together take `memory` bytes: what
    the process takes in any case is there once."""
    return BASE_BYTES + max(0, memory - BASE_BYTES) // pulls


def _fixed(format: Format) -> int:
    from bulkpull.store import memory_to_render  # imports the event loop; the command line needs only the options

    return BASE_BYTES + memory_to_render(format)
