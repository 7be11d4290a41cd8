"""Sizes as users write them: `4GB`, `1GiB`, `500MB`, or a number of bytes."""

from __future__ import annotations

import re

from bulkpull.errors import UsageError

_SIZE = re.compile(r"(\d{1,18})(?:\.(\d{1,9}))?\s*(?:([kMGT])(i)?)?B?", re.IGNORECASE)
_PREFIXES = "kMGT"
_UNITS = tuple(
    (f"{prefix.upper() if infix else prefix}{infix}B", base**power)
    for base, infix in ((1000, ""), (1024, "i"))
    for power, prefix in reversed(list(enumerate(_PREFIXES, 1)))
)


def bytes_of(size: int | str) -> int:
    """Return a size in bytes: a number is one, a text has a unit (kB, MB, GB, TB, KiB, MiB, GiB, TiB) or is a number.

    Raises UsageError for a text that is neither, for a fraction of a byte, and for a text that means 0.
    """
    if not isinstance(size, str):
        return size
    match = _SIZE.fullmatch(size.strip())
    if match:
        whole, fraction, prefix, binary = match.groups(default="")
        factor: int = (1024 if binary else 1000) ** (f" {_PREFIXES.lower()}".index(prefix.lower()) if prefix else 0)
        number, rest = divmod(int(whole + fraction) * factor, int(10 ** len(fraction)))
        if number and not rest:
            return number
    raise UsageError(f"{size!r} is not a size such as 500MB, 4GB or 1GiB")


def size_text(size: int) -> str:
    """Return the shortest text that `bytes_of` reads as `size` bytes."""
    exact = [f"{size // length}{unit}" for unit, length in _UNITS if size and size % length == 0]
    return min((*exact, f"{size}B"), key=len)
