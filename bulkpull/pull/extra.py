"""Extra exports: launches beyond one for each window of the plan. Each mails somebody, so they are bounded."""

from __future__ import annotations

from dataclasses import dataclass

EXTRA = 100  # exports, and
EXTRA_SHARE = 0.5  # for each window of the plan


def default_extra(windows: int) -> int:
    """How many exports a pull may launch beyond the plan's, unless it is told."""
    return EXTRA + int(EXTRA_SHARE * windows)


@dataclass(slots=True)
class ExtraExports:
    """`used` of the `most` that are allowed, over all runs of a pull."""

    most: int
    used: int = 0

    @property
    def left(self) -> int:
        return max(0, self.most - self.used)

    def take(self) -> bool:
        """Takes one, if one is left."""
        if not self.left:
            return False
        self.used += 1
        return True

    def __str__(self) -> str:
        return (
            f"all {self.most:,} exports that are allowed beyond the plan were made; allow more on purpose "
            "(--max-extra-exports), or pull fewer activities at a time"
        )
