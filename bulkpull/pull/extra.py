"""Extra exports: launches beyond one per window of the plan. Each sends somebody an email, so they are limited."""

from __future__ import annotations

from bulkpull.record import record

EXTRA = 100  # exports, plus
EXTRA_SHARE = 0.5  # exports per window of the plan


def default_extra(windows: int) -> int:
    """The default limit of extra exports, for a plan of so many windows."""
    return EXTRA + int(EXTRA_SHARE * windows)


@record(frozen=False)
class ExtraExports:
    """The budget of extra exports over all runs of a pull: `used` out of `limit`."""

    limit: int
    used: int = 0

    @property
    def left(self) -> int:
        """How many more are allowed."""
        return max(0, self.limit - self.used)

    def take(self) -> bool:
        """Use one; returns false if none is left."""
        if not self.left:
            return False
        self.used += 1
        return True

    def __str__(self) -> str:
        return (
            f"all {self.limit:,} exports allowed beyond the plan are used; allow more with --max-extra-exports, or "
            "pull a shorter range"
        )
