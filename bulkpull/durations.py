"""Durations as users write them: `90s`, `15m`, `1h30m`, or a number of seconds."""

from __future__ import annotations

import re

from bulkpull.errors import UsageError

_NUMBER = re.compile(r"(\d{1,12})(?:\.(\d{1,9}))?")
_DURATION = re.compile(
    r"(?=\S)(?:(\d{1,9})d)?\s*(?:(\d{1,9})h)?\s*(?:(\d{1,9})m(?:in)?)?\s*(?:(\d{1,12})(?:\.(\d{1,9}))?s)?",
    re.IGNORECASE,
)
_UNITS = (("d", 86_400), ("h", 3600), ("m", 60))


def seconds_of(duration: float | str) -> float:
    """Return a duration in seconds: a number is one, a text has units (d, h, m, s) or is a number of seconds.

    Raises UsageError for a text that is neither.
    """
    if not isinstance(duration, str):
        return duration
    text = duration.strip()
    if match := _NUMBER.fullmatch(text):
        whole, fraction = int(match[1]), match[2]
    elif match := _DURATION.fullmatch(text):
        *counts, seconds, fraction = match.groups()
        whole = int(seconds or 0) + sum(
            int(count or 0) * length for count, (_, length) in zip(counts, _UNITS, strict=True)
        )
    else:
        raise UsageError(f"{duration!r} is not a duration such as 90s, 15m or 1h30m")
    return float(f"{whole}.{fraction or 0}")  # the nearest number, which a sum of fractions need not be


def duration_text(seconds: float) -> str:
    """Return a duration, to the microsecond, as `seconds_of` reads it."""
    digits, _, fraction = f"{seconds:.6f}".partition(".")
    rest = int(digits)
    text = ""
    for unit, length in _UNITS:
        count, rest = divmod(rest, length)
        text += f"{count}{unit}" if count else ""
    fraction = fraction.rstrip("0")
    if fraction:
        return f"{text}{rest}.{fraction}s"
    return f"{text}{rest}s" if rest or not text else text
