"""Modes: what a server does all the time, where a fault of `KINDS` happens now and then."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mode:
    """What a mode means. Where that speaks of N, a profile may give N as `kind:N`; else N is `default`."""

    meaning: str
    default: int | None = None


MODES: dict[str, dict[str, Mode]] = {
    "counts": {
        "counts-capped": Mode("total_count never says more than N", 10_000),
    },
}

# What `everything` and `odd` draw, with values to choose from; at most one mode of a group. A mode that they never draw
# stands in ENDS. A new mode must be in exactly one of these three.
COMES: dict[str, tuple[int, ...]] = {  # a pull gets every row, with no more exports than without the mode
    "counts-capped": (100, 1000),
}
COSTS: dict[str, tuple[int, ...]] = {}  # every row too, but some exports must be made again: drawn by `odd` alone
ENDS: frozenset[str] = frozenset()  # a pull ends with an error, or says that its output is incomplete
