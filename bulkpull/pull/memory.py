"""Divide a pull's target memory: what the process takes in any case, and what is left for ids."""

from __future__ import annotations

from bulkpull.errors import UsageError
from bulkpull.rows.format import Format

DEFAULT_BYTES = 256_000_000  # more where the format leaves less than USUAL_IDS_BYTES of it
BASE_BYTES = 140_000_000  # the interpreter, its libraries, and data in flight
PARTS_BYTES = 96 * 2**20  # downloaded, and not written yet
MIN_IDS_BYTES = 10_000_000
USUAL_IDS_BYTES = 64_000_000
_SORTING_FACTOR = 6  # sorting and joining ids takes several times their size


def default_memory(format: Format) -> int:
    """Return the target peak memory in bytes if none is given."""
    return max(DEFAULT_BYTES, _fixed(format) + USUAL_IDS_BYTES)


def memory_for_ids(memory: int | None, format: Format) -> int:
    """Return how many bytes of ids may be kept in memory, for a target peak. Raises UsageError if it is too low."""
    fixed = _fixed(format)
    memory = default_memory(format) if memory is None else memory
    if memory < fixed + MIN_IDS_BYTES:
        raise UsageError(
            f"{memory:,} bytes of memory are too few: a pull to {format.name} needs {fixed + MIN_IDS_BYTES:,} bytes "
            "or more"
        )
    return (memory - fixed) // _SORTING_FACTOR


def _fixed(format: Format) -> int:
    from bulkpull.store import memory_to_render  # imports the event loop; the command line needs only the options

    return BASE_BYTES + memory_to_render(format)
